"""Derivatives beyond the gradient: differential operators, curvature, and their estimators.

One interface for the matrices of second-order methods, on any pytree of weights:

```python
import jax, jax.numpy as jnp
from jaxsci.autodiff import Hessian, lanczos, materialise

f = lambda x: jnp.sum(jnp.cos(x) ** 2)
operator = Hessian().at(jnp.arange(3.0), value_fn=f)  # a lineax operator
matrix = materialise(operator)  # (3, 3)
```

- `DiffOp`: a differential operator as data, of the terms `Partial`, `PowerSum`, `Polylaplacian`,
  `Diffusion`, `GradientSquare`; `exact` and `estimate` (stochastic) take one and a function.
- `jet`, `mixed_jet`: Taylor mode, with `OneHot` directions; `forward_laplacian`, `laplacian`,
  `derivatives`; `unbiased_square`. `JetPlan`, `faa_di_bruno`, `partitions`: what a jet contains.
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
from .diffop import DiffOp as DiffOp
from .diffop import derivatives as derivatives
from .diffop import estimate as estimate
from .diffop import exact as exact
from .diffop import laplacian as laplacian
from .diffop import unbiased_square as unbiased_square
from .forward_laplacian import ValueGradientLaplacian as ValueGradientLaplacian
from .forward_laplacian import forward_laplacian as forward_laplacian
from .jets import OneHot as OneHot
from .jets import jet as jet
from .jets import mixed_jet as mixed_jet
from .krylov import Lanczos as Lanczos
from .krylov import hutchinson_diag as hutchinson_diag
from .krylov import lanczos as lanczos
from .krylov import materialise as materialise
from .partitions import JetPlan as JetPlan
from .partitions import faa_di_bruno as faa_di_bruno
from .partitions import partitions as partitions
from .terms import AbstractTerm as AbstractTerm
from .terms import Diffusion as Diffusion
from .terms import GradientSquare as GradientSquare
from .terms import Partial as Partial
from .terms import Polylaplacian as Polylaplacian
from .terms import PowerSum as PowerSum
