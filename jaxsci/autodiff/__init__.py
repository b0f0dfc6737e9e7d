"""Derivatives beyond the gradient: curvature operators and their estimators.

One interface for the matrices of second-order methods, on any pytree of weights:

```python
import jax, jax.numpy as jnp
from jaxsci.autodiff import Hessian, lanczos, materialise

f = lambda x: jnp.sum(jnp.cos(x) ** 2)
operator = Hessian().at(jnp.arange(3.0), value_fn=f)  # a lineax operator
matrix = materialise(operator)  # (3, 3)
```

- `Hessian`, `GaussNewton`, `EmpiricalFisher`: `.at(params, **extra)` gives a lineax operator.
- `value_gradient_hessian`: L, ∇L and the Hessian from one linearisation.
- `materialise`: the dense matrix, a few columns at a time. `hutchinson_diag`: its diagonal.
- `lanczos`: an orthonormal Krylov basis and the tridiagonal matrix in it.
"""

from .curvature import AbstractCurvature as AbstractCurvature
from .curvature import EmpiricalFisher as EmpiricalFisher
from .curvature import GaussNewton as GaussNewton
from .curvature import Hessian as Hessian
from .curvature import value_gradient_hessian as value_gradient_hessian
from .krylov import Lanczos as Lanczos
from .krylov import hutchinson_diag as hutchinson_diag
from .krylov import lanczos as lanczos
from .krylov import materialise as materialise
