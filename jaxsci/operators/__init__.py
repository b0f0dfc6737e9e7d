"""Neural operators: learned maps between functions, at any resolution.

```python
import jax
from jaxsci.operators import FNO, relative_l2

model = FNO(2, 1, 1, width=32, modes=12, key=jax.random.key(0))
u = jax.numpy.ones((1, 64, 64))
v = model(u)  # (1, 64, 64); a batch: jax.vmap(model)(batch); another resolution: same weights
```

An operator is called as `op(u, *, cond=None, out=None, key=None)` with one function `"c *grid"`.

- `FNO`, `TFNO`: the Fourier neural operator and its Tucker form; `from_neuralop` takes over
  weights of the neuraloperator library; `grow_modes_by_loss` and `grow_modes_by_gradient` add
  modes while training.
- `GNO`, `LNO`, `MGNO`: operators by kernel integrals, on grids and on scattered points.
- `DeepONet`: branch and trunk, outputs at any points, several input functions; `ModifiedMLP`,
  `fourier_features` for its trunk; `SelfAdaptive` weights of a loss with `self_adaptive`.
- `CORAL`: from functions on any points to functions at any points, by codes of
  `jaxsci.fields.CodedField`s.
- `MPPDE`: the message-passing solver, a stepper for grids and scattered points.
- `relative_l2`, `relative_h1`, `normalised_rmse`, `band_errors`: losses and metrics.
- `Normaliser`: shifts and scales that are part of the model.
- `DilatedResNet`: a convolutional baseline. `augment`: a solved problem in `RandomCoordinates` is
  one more training pair.
- `Closure`: a coarse model with a learned correction, for diffrax; `PolynomialClosure`,
  `unresolved`.
- `LearnedStencil`: a finite-volume solver with learned values at the faces, from the present frame
  or from a `HippoHistory` of the past too (temporal stencil modelling); `StencilNet` for it.
- `LearnedStepper`, `Bundled`: an operator as a time step, with histories and bundles of frames;
  `forecast` drives them. Training recipes for any stepper: `one_step`, `unrolled`, `pushforward`,
  `curriculum`, `denoise`, `diverted_chain`, `physics_residual`, and `pino`: data and an equation;
  `test_time_optimise` fits a trained operator to the equation on one input.
- `Refiner` with `refinement`: PDE-Refiner, a step that is predicted and then refined.
- `CAPE`: any operator made aware of an equation's parameters.
- `T1`: Transform Once, whose layers all act on cosine coefficients; `dct`, `relative_l2_coef`.
- `NSM`: neural spectral methods, from coefficients to coefficients in a `jaxsci.nn.TensorBasis`,
  trained by the exact norm of a residual.
- `NUNO`: a grid operator made one on a fixed cloud of points, by the boxes of a `partition`.
- `SPON`: maps between finite element spaces (`jaxsci.pde.fem`) with exact boundary values, by a
  `MeshProcessor` or `MultigridProcessor` of dofs.
- `Staggered`: NeuralStagger, a fine prediction as many coarse ones.
- `DPOT`: a transformer with Fourier mixing (`jaxsci.nn.AFNO`) for many equations at once, of the
  paper's `DPOT_SIZES`; trained with `denoise`.
- `PDEformer`: equations in, solutions out: `pde_graph` makes the graph of an equation (its terms
  by `equations.unknown`, `equations.dt`, …), a `jaxsci.nn.Graphormer` reads it, a
  `jaxsci.fields.PolyINR` is the answer; `recover` finds coefficients by it.
- `bench`: operators against a classical solver at equal error, and when training is paid back.
- Long rollouts: `accumulated_mse`, `error_growth`, `correlation_time`, `energy_spectrum`, and the
  pictures `plot_error_growth`, `plot_spectrum`; `jaxsci.pde.guarded_rollout` stops at divergence.
"""

from . import bench as bench
from . import equations as equations
from .augment import RandomCoordinates as RandomCoordinates
from .augment import SmoothCoordinates as SmoothCoordinates
from .augment import augment as augment
from .cape import CAPE as CAPE
from .cape import ChannelAttention as ChannelAttention
from .cape import guess_loss as guess_loss
from .closures import Closure as Closure
from .closures import PolynomialClosure as PolynomialClosure
from .closures import no_closure as no_closure
from .closures import unresolved as unresolved
from .convert import from_neuralop as from_neuralop
from .coral import CORAL as CORAL
from .coral import CodeMLP as CodeMLP
from .deeponet import DeepONet as DeepONet
from .deeponet import ModifiedMLP as ModifiedMLP
from .deeponet import fourier_features as fourier_features
from .dilated_resnet import DilatedResNet as DilatedResNet
from .dpot import DPOT as DPOT
from .dpot import DPOT_SIZES as DPOT_SIZES
from .dpot import DPOTBlock as DPOTBlock
from .dpot import TemporalAggregate as TemporalAggregate
from .equations import Expression as Expression
from .equations import PDEGraph as PDEGraph
from .equations import pde_graph as pde_graph
from .fno import FNO as FNO
from .fno import TFNO as TFNO
from .fno import FNOBlock as FNOBlock
from .incremental import grow_modes_by_gradient as grow_modes_by_gradient
from .incremental import grow_modes_by_loss as grow_modes_by_loss
from .kernel_integral import KernelIntegral as KernelIntegral
from .kernel_integral import LowRankIntegral as LowRankIntegral
from .kernel_integral import Multilevel as Multilevel
from .kernel_integral import MultipoleVCycle as MultipoleVCycle
from .kernel_integral import grid_subsets as grid_subsets
from .kernel_integral import multilevel as multilevel
from .kernel_integral_operators import GNO as GNO
from .kernel_integral_operators import LNO as LNO
from .kernel_integral_operators import MGNO as MGNO
from .kernel_integral_operators import KernelDomain as KernelDomain
from .kernel_integral_operators import KernelOperator as KernelOperator
from .learned_stencil import HippoHistory as HippoHistory
from .learned_stencil import LearnedStencil as LearnedStencil
from .learned_stencil import StencilNet as StencilNet
from .learned_stencil import polynomial_constraints as polynomial_constraints
from .metrics import band_errors as band_errors
from .metrics import normalised_rmse as normalised_rmse
from .metrics import relative_h1 as relative_h1
from .metrics import relative_l2 as relative_l2
from .mp_pde import MPPDE as MPPDE
from .mp_pde import BundleDecoder as BundleDecoder
from .mp_pde import MPPDELayer as MPPDELayer
from .mp_pde import MPPDEPoints as MPPDEPoints
from .mp_pde import append_time as append_time
from .mp_pde import decoder_kernels as decoder_kernels
from .normalise import Normalised as Normalised
from .normalise import Normaliser as Normaliser
from .nsm import NSM as NSM
from .nuno import NUNO as NUNO
from .nuno import Partition as Partition
from .nuno import nonuniformity as nonuniformity
from .nuno import partition as partition
from .pdeformer import AbstractNumberEncoder as AbstractNumberEncoder
from .pdeformer import GridEncoder as GridEncoder
from .pdeformer import PatchEncoder as PatchEncoder
from .pdeformer import PDEformer as PDEformer
from .pdeformer import SetEncoder as SetEncoder
from .pdeformer import recover as recover
from .pino import Optimised as Optimised
from .pino import pino as pino
from .pino import test_time_optimise as test_time_optimise
from .recipes import Recipe as Recipe
from .recipes import add_noise as add_noise
from .recipes import autoregressive_steps as autoregressive_steps
from .recipes import curriculum as curriculum
from .recipes import denoise as denoise
from .recipes import diverted_chain as diverted_chain
from .recipes import mean_square as mean_square
from .recipes import one_step as one_step
from .recipes import physics_residual as physics_residual
from .recipes import pushforward as pushforward
from .recipes import unrolled as unrolled
from .refiner import Refiner as Refiner
from .refiner import refinement as refinement
from .refiner import refiner_loss as refiner_loss
from .rollout_metrics import accumulated_mse as accumulated_mse
from .rollout_metrics import correlation as correlation
from .rollout_metrics import correlation_time as correlation_time
from .rollout_metrics import energy_spectrum as energy_spectrum
from .rollout_metrics import error_growth as error_growth
from .rollout_report import plot_error_growth as plot_error_growth
from .rollout_report import plot_spectrum as plot_spectrum
from .self_adaptive import SelfAdaptive as SelfAdaptive
from .self_adaptive import self_adaptive as self_adaptive
from .spon import SPON as SPON
from .spon import MeshProcessor as MeshProcessor
from .spon import MultigridProcessor as MultigridProcessor
from .stagger import Staggered as Staggered
from .stagger import depth_to_space as depth_to_space
from .stagger import energy_above_tiles as energy_above_tiles
from .stagger import space_to_depth as space_to_depth
from .stepping import AbstractHistoryStepper as AbstractHistoryStepper
from .stepping import Bundled as Bundled
from .stepping import LearnedStepper as LearnedStepper
from .stepping import forecast as forecast
from .stepping import window_sizes as window_sizes
from .t1 import T1 as T1
from .t1 import T1Layer as T1Layer
from .t1 import dct as dct
from .t1 import idct as idct
from .t1 import modes_for as modes_for
from .t1 import relative_l2_coef as relative_l2_coef
from .t1 import variance_preserving_std as variance_preserving_std
