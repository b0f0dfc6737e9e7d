"""Riemannian manifolds behind one protocol: geodesics, distances, transport, gradients.

A manifold is an immutable module whose methods act on one point; `jax.vmap` takes them to many:

```python
import jax
from jaxsci.manifolds import Sphere

M = Sphere(2)
x, y = jax.vmap(M.random_point)(jax.random.split(jax.random.key(0)))
v = M.log(x, y)  # tangent at x, with M.exp(x, v) = y and M.norm(x, v) = M.dist(x, y)
```

- `AbstractManifold`: exp, log, dist, inner, norm, transport, project, tangent, egrad_to_rgrad,
  retract, geodesic, random_point, random_tangent, brownian_step, heat_kernel, log_volume, checks.
- `Euclidean`, `Torus`: flat. `Sphere`: of any dimension.
- `Poincare`, `Hyperboloid`: hyperbolic space. `to_lorentz`, `to_poincare`, `to_klein`: its models.
- `Product`, `Power`: several manifolds as one, many copies of one.

Optimisers on manifolds are in `jaxsci.optim`.
"""

from .base import AbstractManifold as AbstractManifold
from .flat import Euclidean as Euclidean
from .flat import Torus as Torus
from .hyperbolic import Hyperboloid as Hyperboloid
from .hyperbolic import Poincare as Poincare
from .hyperbolic import to_klein as to_klein
from .hyperbolic import to_lorentz as to_lorentz
from .hyperbolic import to_poincare as to_poincare
from .product import Power as Power
from .product import Product as Product
from .sphere import Sphere as Sphere
