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
`jacobian_fn`, `loss_grads`.

- Second order: `lazy_newton` (one factorised Hessian for m steps), `lazy_lbfgs` (the same,
  corrected by secants, with a line search), `damped_newton` (a step size
  from the Newton decrement), `mfac` (the inverse Fisher matrix of a window of gradients;
  `obs_prune` removes weights by it), `tngd` (the natural gradient at the end of a process), `psgd`
  (a preconditioner fitted on a Lie group as the training goes).
- `levenberg_marquardt`: sums of squares, with Jacobians by the point.
- `ScaledTrustRegion`: nonlinear systems with bounds, for `optimistix.root_find`.
- Known curvature: `poly_gradient`, `poly_fast_gradient` (outliers hidden by a polynomial of a
  matrix), `krylov_gradient` (the best polynomial); `symmetric_preconditioner`,
  `chebyshev_preconditioner` are operators.
- Steps that set their own size: `sania` (from the loss and its lowest value), `oasis` (from the
  change of the gradient, with the Hessian's diagonal), `smb` (SGD that mends its failed steps).
- First order: `adabound`, `diffgrad`, `adamp`, `sgdp`, `innaprop`, `gravity`; `paper_adafactor`
  (little memory), `multiadam` (several losses); `post` builds such corrections.
- On manifolds: `riemannian_adam`, `riemannian_amsgrad`, `riemannian_sgd`.
- Schedules: `sgdr` (warm restarts) with `snapshots` for an ensemble.
- From theory: `accelerated` (Nesterov for interpolation), `rmsprop_schedule`, `adam_schedule`, and
  tests of assumptions: `strong_growth`, `estimate_affine_noise`, `estimate_generalised_smoothness`.
- Many workers: `powersgd` and `ef_sgd` (compressed gradients), `local_updates` with `qsr` (averages
  now and then); `Workers` and `data_parallel` run them on a mesh.
- Around another optimiser: `sam`, `usam`, `amp`, `gradient_regularisation`, `flooding`; all are
  rows of `perturbed`.
- Batch sizes: `HyperScale` (all hyperparameters for another one), `progressive` (switched in a
  run). Averages: `param_ema`, read by `ema_of`.
- In continuous time: `sgd_sde`, `rmsprop_sde`, `adam_sde`, `sam_sde` and kin for diffrax; `svag`.
- `minimise_lazy`: lazy Newton as one program. `trajectory`: all iterates of any optimiser.
- `on_subset`: an optimiser for a part of the weights.
- `DenseEigh`, `Ritz`, `Diagonal`, `Cholesky`, `factorise`: factorised matrices to build on.
"""

from .averaging.ema import ParamEmaState as ParamEmaState
from .averaging.ema import ema_of as ema_of
from .averaging.ema import param_ema as param_ema
from .continuous.sdes import SDE as SDE
from .continuous.sdes import adam_sde as adam_sde
from .continuous.sdes import dnsam_sde as dnsam_sde
from .continuous.sdes import rmsprop_sde as rmsprop_sde
from .continuous.sdes import saddle_radius as saddle_radius
from .continuous.sdes import sam_sde as sam_sde
from .continuous.sdes import sgd_sde as sgd_sde
from .continuous.sdes import simulate as simulate
from .continuous.sdes import usam_sde as usam_sde
from .continuous.sdes import weak_error as weak_error
from .continuous.svag import svag as svag
from .continuous.svag import svag_gradient as svag_gradient
from .distributed.local_sgd import LocalState as LocalState
from .distributed.local_sgd import LocalUpdates as LocalUpdates
from .distributed.local_sgd import local_updates as local_updates
from .distributed.local_sgd import mean_params as mean_params
from .distributed.powersgd import PowerSGDState as PowerSGDState
from .distributed.powersgd import Traffic as Traffic
from .distributed.powersgd import bytes_per_step as bytes_per_step
from .distributed.powersgd import ef_sgd as ef_sgd
from .distributed.powersgd import powersgd as powersgd
from .distributed.workers import DataParallel as DataParallel
from .distributed.workers import Workers as Workers
from .distributed.workers import data_parallel as data_parallel
from .distributed.workers import mean_gradients as mean_gradients
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
from .first_order.accelerated import AcceleratedState as AcceleratedState
from .first_order.accelerated import accelerated as accelerated
from .first_order.accelerated import accelerated_eval_params as accelerated_eval_params
from .first_order.adabound import AdaBoundState as AdaBoundState
from .first_order.adabound import adabound as adabound
from .first_order.adabound import scale_by_adabound as scale_by_adabound
from .first_order.adafactor import b2_cap as b2_cap
from .first_order.adafactor import paper_adafactor as paper_adafactor
from .first_order.adafactor import relative_step as relative_step
from .first_order.adafactor import state_bytes as state_bytes
from .first_order.adamp import adamp as adamp
from .first_order.adamp import project_scale_invariant as project_scale_invariant
from .first_order.adamp import sgdp as sgdp
from .first_order.diffgrad import diffgrad as diffgrad
from .first_order.diffgrad import scale_by_diffgrad as scale_by_diffgrad
from .first_order.gravity import GravityState as GravityState
from .first_order.gravity import gravity as gravity
from .first_order.innaprop import INNApropState as INNApropState
from .first_order.innaprop import innaprop as innaprop
from .first_order.multiadam import MultiAdamState as MultiAdamState
from .first_order.multiadam import grouped_value_and_grad as grouped_value_and_grad
from .first_order.multiadam import multiadam as multiadam
from .first_order.multiadam import scale_by_multiadam as scale_by_multiadam
from .first_order.post import post as post
from .first_order.theory import GaussianLSQ as GaussianLSQ
from .first_order.theory import RMSInsideState as RMSInsideState
from .first_order.theory import accelerated_matrices as accelerated_matrices
from .first_order.theory import adam_schedule as adam_schedule
from .first_order.theory import estimate_affine_noise as estimate_affine_noise
from .first_order.theory import estimate_generalised_smoothness as estimate_generalised_smoothness
from .first_order.theory import rmsprop_schedule as rmsprop_schedule
from .first_order.theory import scale_by_rms_inside as scale_by_rms_inside
from .first_order.theory import strong_growth as strong_growth
from .riemannian.points import apply_riemannian_updates as apply_riemannian_updates
from .riemannian.radam import RiemannianAdamState as RiemannianAdamState
from .riemannian.radam import riemannian_adam as riemannian_adam
from .riemannian.radam import riemannian_amsgrad as riemannian_amsgrad
from .riemannian.rsgd import RiemannianSGDState as RiemannianSGDState
from .riemannian.rsgd import riemannian_sgd as riemannian_sgd
from .schedules.qsr import SyncSchedule as SyncSchedule
from .schedules.qsr import constant_sync as constant_sync
from .schedules.qsr import qsr as qsr
from .schedules.scaling import HyperScale as HyperScale
from .schedules.scaling import Progressive as Progressive
from .schedules.scaling import progressive as progressive
from .schedules.scaling import scale_ema as scale_ema
from .schedules.sgdr import Cycle as Cycle
from .schedules.sgdr import SnapshotState as SnapshotState
from .schedules.sgdr import cycle_ends as cycle_ends
from .schedules.sgdr import sgdr as sgdr
from .schedules.sgdr import sgdr_cycle as sgdr_cycle
from .schedules.sgdr import snapshots as snapshots
from .schedules.sgdr import snapshots_of as snapshots_of
from .second_order.damped_newton import AICN as AICN
from .second_order.damped_newton import Backtracking as Backtracking
from .second_order.damped_newton import DampedNewtonState as DampedNewtonState
from .second_order.damped_newton import RootNewton as RootNewton
from .second_order.damped_newton import SelfConcordant as SelfConcordant
from .second_order.damped_newton import damped_newton as damped_newton
from .second_order.damped_newton import scale_by_damped_newton as scale_by_damped_newton
from .second_order.lazy_lbfgs import LazyLBFGSState as LazyLBFGSState
from .second_order.lazy_lbfgs import lazy_lbfgs as lazy_lbfgs
from .second_order.lazy_lbfgs import scale_by_lazy_lbfgs as scale_by_lazy_lbfgs
from .second_order.lazy_newton import LazyNewtonState as LazyNewtonState
from .second_order.lazy_newton import Regulariser as Regulariser
from .second_order.lazy_newton import lazy_newton as lazy_newton
from .second_order.lazy_newton import scale_by_lazy_newton as scale_by_lazy_newton
from .second_order.levenberg import LevenbergMarquardtState as LevenbergMarquardtState
from .second_order.levenberg import levenberg_marquardt as levenberg_marquardt
from .second_order.levenberg import (
    scale_by_levenberg_marquardt as scale_by_levenberg_marquardt,
)
from .second_order.mfac import Gram as Gram
from .second_order.mfac import MFACState as MFACState
from .second_order.mfac import mfac as mfac
from .second_order.mfac import obs_prune as obs_prune
from .second_order.mfac import obs_scores as obs_scores
from .second_order.mfac import scale_by_mfac as scale_by_mfac
from .second_order.oasis import OasisState as OasisState
from .second_order.oasis import oasis as oasis
from .second_order.oasis import scale_by_oasis as scale_by_oasis
from .second_order.polynomial import PolynomialState as PolynomialState
from .second_order.polynomial import chebyshev_preconditioner as chebyshev_preconditioner
from .second_order.polynomial import elementary_symmetric as elementary_symmetric
from .second_order.polynomial import krylov_gradient as krylov_gradient
from .second_order.polynomial import poly_fast_gradient as poly_fast_gradient
from .second_order.polynomial import poly_gradient as poly_gradient
from .second_order.polynomial import symmetric_preconditioner as symmetric_preconditioner
from .second_order.psgd import LRA as LRA
from .second_order.psgd import AbstractLieGroup as AbstractLieGroup
from .second_order.psgd import Dense as Dense
from .second_order.psgd import Diag as Diag
from .second_order.psgd import PSGDState as PSGDState
from .second_order.psgd import XMat as XMat
from .second_order.psgd import psgd as psgd
from .second_order.psgd import scale_by_psgd as scale_by_psgd
from .second_order.sania import SaniaState as SaniaState
from .second_order.sania import polyak_step as polyak_step
from .second_order.sania import sania as sania
from .second_order.sania import scale_by_sania as scale_by_sania
from .second_order.smb import AutoSchedule as AutoSchedule
from .second_order.smb import SmbState as SmbState
from .second_order.smb import smb as smb
from .second_order.tngd import OUSolve as OUSolve
from .second_order.tngd import TNGDState as TNGDState
from .second_order.tngd import ou_euler as ou_euler
from .second_order.tngd import ou_exact as ou_exact
from .second_order.tngd import scale_by_tngd as scale_by_tngd
from .second_order.tngd import tngd as tngd
from .second_order.trust_region import CL as CL
from .second_order.trust_region import HMZ as HMZ
from .second_order.trust_region import HUU as HUU
from .second_order.trust_region import KK as KK
from .second_order.trust_region import AbstractScaling as AbstractScaling
from .second_order.trust_region import Mix as Mix
from .second_order.trust_region import ScaledTrustRegion as ScaledTrustRegion
from .second_order.trust_region import strictly_inside as strictly_inside
from .subset import on_subset as on_subset
from .wrappers.perturbed import AbstractPerturbation as AbstractPerturbation
from .wrappers.perturbed import Ascent as Ascent
from .wrappers.perturbed import FullyNormalisedAscent as FullyNormalisedAscent
from .wrappers.perturbed import NormalisedAscent as NormalisedAscent
from .wrappers.perturbed import ProjectedAscent as ProjectedAscent
from .wrappers.perturbed import amp as amp
from .wrappers.perturbed import dnsam as dnsam
from .wrappers.perturbed import flooding as flooding
from .wrappers.perturbed import gradient_regularisation as gradient_regularisation
from .wrappers.perturbed import perturbed as perturbed
from .wrappers.perturbed import sam as sam
from .wrappers.perturbed import usam as usam
