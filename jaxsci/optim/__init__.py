"""Optimisers as optax transformations: what optax has stays optax's, the rest is here.

Swap `optax.adam(1e-3)` for any of these and nothing else in the program changes:

```python
import jax, jax.numpy as jnp, optax
from jaxsci.optim import lazy_newton, trajectory

f = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
points, values = trajectory(lazy_newton(m=2, M="adaptive"), f, jnp.zeros(2), steps=40)
```

All take extra arguments with one meaning (unknown ones are ignored, missing ones raise): `value`,
`grad`, `value_fn` (which `jaxsci.train.fit` passes), `hvp_fn`, `model_fn`, `outer_fn`,
`loss_grads`.

- Second order: `lazy_newton` (one factorised Hessian for m steps), `damped_newton` (a step size
  from the Newton decrement).
- First order: `adabound`, `diffgrad`, `adamp`, `sgdp`; `post` builds such corrections.
- `minimise_lazy`: lazy Newton as one program. `trajectory`: all iterates of any optimiser.
- `on_subset`: an optimiser for a part of the weights.
- `DenseEigh`, `Ritz`, `Diagonal`, `Cholesky`, `factorise`: factorised matrices to build on.
"""

from .drive import LazyResult as LazyResult
from .drive import minimise_lazy as minimise_lazy
from .drive import trajectory as trajectory
from .factor import AbstractFactor as AbstractFactor
from .factor import AbstractSpectralFactor as AbstractSpectralFactor
from .factor import Cholesky as Cholesky
from .factor import DenseEigh as DenseEigh
from .factor import Diagonal as Diagonal
from .factor import Ritz as Ritz
from .factor import cubic_step as cubic_step
from .factor import factorise as factorise
from .first_order.adabound import AdaBoundState as AdaBoundState
from .first_order.adabound import adabound as adabound
from .first_order.adabound import scale_by_adabound as scale_by_adabound
from .first_order.adamp import adamp as adamp
from .first_order.adamp import project_scale_invariant as project_scale_invariant
from .first_order.adamp import sgdp as sgdp
from .first_order.diffgrad import diffgrad as diffgrad
from .first_order.diffgrad import scale_by_diffgrad as scale_by_diffgrad
from .first_order.post import post as post
from .second_order.damped_newton import AICN as AICN
from .second_order.damped_newton import Backtracking as Backtracking
from .second_order.damped_newton import DampedNewtonState as DampedNewtonState
from .second_order.damped_newton import RootNewton as RootNewton
from .second_order.damped_newton import SelfConcordant as SelfConcordant
from .second_order.damped_newton import damped_newton as damped_newton
from .second_order.damped_newton import scale_by_damped_newton as scale_by_damped_newton
from .second_order.lazy_newton import LazyNewtonState as LazyNewtonState
from .second_order.lazy_newton import Regulariser as Regulariser
from .second_order.lazy_newton import lazy_newton as lazy_newton
from .second_order.lazy_newton import scale_by_lazy_newton as scale_by_lazy_newton
from .subset import on_subset as on_subset
