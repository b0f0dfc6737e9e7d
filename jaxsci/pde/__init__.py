"""Domains, equations, classical solvers and benchmark problems.

A partial differential equation in ten lines:

```python
import exponax, jax, jax.numpy as jnp
from jaxsci.pde import ExponaxStepper, GaussianRandomField, Grid, rollout

grid = Grid(0.0, 1.0, 256, periodic=True)
u0 = GaussianRandomField(alpha=2.5, tau=7.0).sample(jax.random.key(0), grid)
burgers = ExponaxStepper(exponax.stepper.Burgers(1, 1.0, 256, dt=1e-3, diffusivity=0.01))
frames = rollout(burgers, u0, 1000, every=10)  # (100, 1, 256)
energy = jnp.sum(grid.weights() * frames**2, axis=(1, 2)) / 2
```

- `Grid`: equally spaced points on a box. `GaussianRandomField`: random functions on it.
- `Box`, `Ball`, `Simplex`, `SpaceTime`, `union`, `intersection`, `difference`: domains, with points
  inside and on the boundary, normals and signed distances.
- `AbstractStepper`, `FunctionStepper`, `ExponaxStepper`, `rollout`: one loop for every solver;
  `guarded_rollout`: the same, stopping at the step that diverges.
- `ETDRK4`, `WaveBox`, `SoundRoom`, `TwoScaleLorenz96`: steppers for dispersive equations, waves
  between walls, also absorbing ones, and Lorenz's model of weather.
- `BurgersFlux`, `StaggeredFlow` (incompressible): finite volumes whose values at faces can come
  from outside (`AbstractFluxForm`, `Face`).
- `solve_elliptic`: −∇·(a∇u) = f by conservative finite volumes, differentiable in a and f.
- `fem`: P1 and P2 finite element spaces on triangulations, their matrices and prolongations.
- `Elliptic`, `ConvectionDiffusion`, `Wave`: how linear equations change with the coordinates.
- `BurgersOperator`, `DarcyFlow`, `NavierStokesVorticity`: benchmark problems, each with
  `generate` and `accuracy`; `Dataset`: what they generate; `cached`: keeps it on disk.
- `PolynomialEquations`: trajectories of equations that are random themselves.
- `burgers_residual`, `vorticity_residual`: how far frames are from satisfying an equation.
- `benchmarks`: trajectories of heat, advection, Burgers, Korteweg-de Vries, Kuramoto-Sivashinsky,
  Fisher-KPP, waves in a box, Kolmogorov flow and Lorenz-96; train, valid and test in one call.
- `neuralop_darcy`: Darcy data made by others, fetched once; `read_torch_file`: without PyTorch.
"""

from . import benchmarks as benchmarks
from . import fem as fem
from .cache import cache_folder as cache_folder
from .cache import cache_path as cache_path
from .cache import cached as cached
from .covariance import AbstractCovariantLaw as AbstractCovariantLaw
from .covariance import ConvectionDiffusion as ConvectionDiffusion
from .covariance import Elliptic as Elliptic
from .covariance import Wave as Wave
from .datasets import FetchError as FetchError
from .datasets import neuralop_darcy as neuralop_darcy
from .datasets import read_torch_file as read_torch_file
from .domains import AbstractDomain as AbstractDomain
from .domains import Ball as Ball
from .domains import BoundaryPoints as BoundaryPoints
from .domains import Box as Box
from .domains import Combined as Combined
from .domains import Interval as Interval
from .domains import Simplex as Simplex
from .domains import SpaceTime as SpaceTime
from .domains import difference as difference
from .domains import intersection as intersection
from .domains import union as union
from .elliptic import FluxDifference as FluxDifference
from .elliptic import solve_elliptic as solve_elliptic
from .etdrk import ETDRK4 as ETDRK4
from .etdrk import korteweg_de_vries_step as korteweg_de_vries_step
from .flux_form import AbstractFluxForm as AbstractFluxForm
from .flux_form import BurgersFlux as BurgersFlux
from .flux_form import Face as Face
from .grid import Grid as Grid
from .guard import Guard as Guard
from .guard import GuardedRollout as GuardedRollout
from .guard import guarded_rollout as guarded_rollout
from .lorenz96 import TwoScaleLorenz96 as TwoScaleLorenz96
from .problems import BurgersOperator as BurgersOperator
from .problems import CombinedEquation as CombinedEquation
from .problems import DarcyFlow as DarcyFlow
from .problems import Dataset as Dataset
from .problems import Forcing as Forcing
from .problems import NavierStokesVorticity as NavierStokesVorticity
from .problems import PolynomialEquations as PolynomialEquations
from .problems import Problem as Problem
from .problems import Trajectories as Trajectories
from .problems import TrajectorySet as TrajectorySet
from .random_fields import GaussianRandomField as GaussianRandomField
from .residuals import burgers_residual as burgers_residual
from .residuals import vorticity_residual as vorticity_residual
from .sound import SoundRoom as SoundRoom
from .staggered import StaggeredFlow as StaggeredFlow
from .stepper import AbstractStepper as AbstractStepper
from .stepper import ExponaxStepper as ExponaxStepper
from .stepper import FunctionStepper as FunctionStepper
from .stepper import rollout as rollout
from .wave import WaveBox as WaveBox
