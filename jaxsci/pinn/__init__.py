"""Physics-informed training: residuals, collocation points, hard constraints, conditioning.

A partial differential equation in ten lines:

```python
import equinox as eqx, jax, jax.numpy as jnp, optax
from jaxsci.autodiff import derivatives
from jaxsci.pde import Interval
from jaxsci.pinn import Constrained, Problem, Term, solve

poisson = lambda u, x: derivatives(u, x, [(0, 0)])[0, 0] + jnp.sin(x[0])
net = eqx.nn.MLP(1, "scalar", 16, 2, jnp.tanh, key=jax.random.key(0))
u = Constrained(net, lambda x: 0.0, lambda x: x[0] * (jnp.pi - x[0]))
problem = Problem(Term("poisson", poisson, Interval(0.0, jnp.pi), n=64))
solution = solve(problem, u, optax.adam(1e-2), steps=500, key=jax.random.key(1))
```

- `Term`, `Problem`: what shall vanish, where, and how much it counts. `dirichlet`: values on faces.
- `Constrained`: boundary conditions by construction. `WithParameters`: inverse problems.
- `Uniform`, `Fixed`, `R3`, `CausalR3`, `RAD`, `RARD`, `CausalWeights`: where points go.
- `solve`, and `Solver` with pure `init` and `step`; Gauss-Newton by `curvature=True`.
- `gram`, `spectrum`, `FourierModel`, `diag_precondition`, `precondition`: the conditioning of it.
- `kurtosis`, `skewness`: whether a residual field has sharp peaks.
- `SpectralFunction`, `Energy`, `variational_descent`, `to_two_layer`: nonlinear elliptic equations
  in many dimensions as sums of waves, with Barron norms.
"""

from .aas import AdversarialSampler as AdversarialSampler
from .aas import BoundedFlow as BoundedFlow
from .aas import neumann_poisson_density as neumann_poisson_density
from .barron import Descent as Descent
from .barron import Energy as Energy
from .barron import SpectralFunction as SpectralFunction
from .barron import TwoLayer as TwoLayer
from .barron import concatenate as concatenate
from .barron import descend_on_grid as descend_on_grid
from .barron import from_grid as from_grid
from .barron import merge as merge
from .barron import multiply as multiply
from .barron import to_two_layer as to_two_layer
from .barron import variational_descent as variational_descent
from .conditioning import FourierModel as FourierModel
from .conditioning import condition_number as condition_number
from .conditioning import diag_precondition as diag_precondition
from .conditioning import fourier_matrix as fourier_matrix
from .conditioning import fourier_symbol as fourier_symbol
from .conditioning import gram as gram
from .conditioning import precondition as precondition
from .conditioning import rate_bound as rate_bound
from .conditioning import spectrum as spectrum
from .problem import Constrained as Constrained
from .problem import Problem as Problem
from .problem import Term as Term
from .problem import WithParameters as WithParameters
from .problem import dirichlet as dirichlet
from .samplers import R3 as R3
from .samplers import RAD as RAD
from .samplers import RARD as RARD
from .samplers import AbstractSampler as AbstractSampler
from .samplers import CausalR3 as CausalR3
from .samplers import CausalWeights as CausalWeights
from .samplers import Fixed as Fixed
from .samplers import SamplerState as SamplerState
from .samplers import Uniform as Uniform
from .samplers import kurtosis as kurtosis
from .samplers import skewness as skewness
from .solve import Solution as Solution
from .solve import Solver as Solver
from .solve import SolverState as SolverState
from .solve import solve as solve
from .windows import Window as Window
from .windows import Windows as Windows
from .windows import march as march
