"""jaxsci: purely functional, differentiable scientific computing on JAX.

Everything is a pytree and every action is a pure function: a model, a solver, a schedule or a
grid is an immutable `equinox.Module`, random keys are passed in, and the types of the ecosystem
(diffrax, lineax, optimistix, optax, orbax, jaxtyping) are the types here.

The rooms are submodules that load on first use, so `import jaxsci` costs next to nothing:

- `jaxsci.autodiff`: differential operators, their estimators, and curvature.
- `jaxsci.manifolds`: Riemannian manifolds behind one protocol.
- `jaxsci.dynamics`: solvers for differential equations, on diffrax.
- `jaxsci.optim`: optimisers as optax transformations.
- `jaxsci.pde`: grids, equations, classical solvers, benchmark problems.
- `jaxsci.nn`: layers that all models share.
- `jaxsci.operators`: neural operators and neural PDE solvers.
- `jaxsci.fields`: implicit neural representations.
- `jaxsci.pinn`: residual losses, collocation points, hard constraints.
- `jaxsci.train`: the training loop, data, checkpoints.
- `jaxsci.experiment`: configurations, claims, results, and what runs them.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "autodiff",
    "dynamics",
    "experiment",
    "fields",
    "manifolds",
    "nn",
    "operators",
    "optim",
    "pde",
    "pinn",
    "train",
)


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"jaxsci.{name}")
    raise AttributeError(f"module 'jaxsci' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
