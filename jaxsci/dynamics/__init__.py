"""Differential equations on diffrax: its terms, controllers and adjoints, with more solvers.

- Stiff equations: `Rodas4` (start here), `Rodas5P`, `ROS3P`; with a rough Jacobian the TASE family
  `MSRKTASE2`, `MSRKTASE3`, `SinglyRKTASE`, `RKTASE`. One factorisation a step, no Newton iteration,
  constant mass matrices. Large ones: `banded_jacobian`, `BandedOperator`, `BlockCyclicReduction`.
- Control: `closed_loop`, `mpc`, `IntegralCost`; `HyperSolver`, a cheap step corrected by a network.
- Bodies under gravity: `NBody`, `Hermite4`; steps that a network chooses (`PolicyController`),
  trained by `DQN`.
- Long times: `Yoshida4`, `Yoshida6`, `Yoshida8`, `BlanesMoan4`, `BlanesMoan6`, symplectic.
- Gradients in constant memory: `reversible_solve`, with any explicit solver (`Reversible`).
- Sampling: `ula`, `mala`, `underdamped`, and exact laws (`stationary_law_1d`, `w2_1d`, …).
- Value functions of diffusions: `martingale_loss`, `ctd_lambda`, `clstd`, `cgtd2`, on a `Path`.
- Models: `NeuralODE`, `AugmentedNODE`, `CNF`, `LatentODE`, `NeuralCDE`, `LogODE`, `LatentSDE`,
  `NeuralSDE` (trained as an `SDEGAN`), `DEQ` (layers at equilibrium).
- Formulas: `discover` evolves them from a field, `refit` fits their constants to series.
- `ScaledResNet`: residual networks as Euler steps of a neural ODE, trained by `depth_flow`.
- Their regularisers, as values: `LocalError`, `GlobalError`, `GlobalStiffness`, `STEER`,
  `TaylorReg`, `Kinetic`.
- Signals: `Prophecy` (derivative and next value by fixed state-space matrices), `hippo`.
- `WTableau`, `tase_tableau`, `w_order_conditions`: methods of your own, checked when made.
- `stiff_problems`: van der Pol, Robertson, HIRES, OREGO, Allen-Cahn, Brusselator, with references.

Any of these goes where diffrax takes a solver: `diffrax.diffeqsolve(term, Rodas4(), …)`.
"""

from .adjoints import ReversibleSolution as ReversibleSolution
from .adjoints import reversible_solve as reversible_solve
from .control import IntegralCost as IntegralCost
from .control import Trajectory as Trajectory
from .control import closed_loop as closed_loop
from .control import hold as hold
from .control import mpc as mpc
from .controllers import PolicyController as PolicyController
from .langevin import SamplingAlgorithm as SamplingAlgorithm
from .langevin import langevin_terms as langevin_terms
from .langevin import mala as mala
from .langevin import stationary_law_1d as stationary_law_1d
from .langevin import ula as ula
from .langevin import ula_gaussian_law as ula_gaussian_law
from .langevin import underdamped as underdamped
from .langevin import w2_1d as w2_1d
from .langevin import w2_gaussian as w2_gaussian
from .nbody import NBody as NBody
from .nde import CNF as CNF
from .nde import DEQ as DEQ
from .nde import SDEGAN as SDEGAN
from .nde import AbstractNDE as AbstractNDE
from .nde import AbstractRegulariser as AbstractRegulariser
from .nde import AugmentedNODE as AugmentedNODE
from .nde import BackwardGRU as BackwardGRU
from .nde import CDEField as CDEField
from .nde import GaussianEncoder as GaussianEncoder
from .nde import InitialValueProblem as InitialValueProblem
from .nde import LatentODE as LatentODE
from .nde import LatentSDE as LatentSDE
from .nde import LogODE as LogODE
from .nde import NDEOutput as NDEOutput
from .nde import NeuralCDE as NeuralCDE
from .nde import NeuralODE as NeuralODE
from .nde import NeuralSDE as NeuralSDE
from .nde import ReversibleAdjoint as ReversibleAdjoint
from .nde import clip_linear as clip_linear
from .nde import control_path as control_path
from .nde import lipswish as lipswish
from .nde import log_signature as log_signature
from .policy_eval import Path as Path
from .policy_eval import PolicyEvaluation as PolicyEvaluation
from .policy_eval import cgtd2 as cgtd2
from .policy_eval import clstd as clstd
from .policy_eval import ctd0 as ctd0
from .policy_eval import ctd_lambda as ctd_lambda
from .policy_eval import martingale_loss as martingale_loss
from .policy_eval import mean_square_td as mean_square_td
from .problems import StiffProblem as StiffProblem
from .problems import allen_cahn as allen_cahn
from .problems import brusselator as brusselator
from .problems import hires as hires
from .problems import orego as orego
from .problems import robertson as robertson
from .problems import stiff_problems as stiff_problems
from .problems import van_der_pol as van_der_pol
from .regularize import STEER as STEER
from .regularize import GlobalError as GlobalError
from .regularize import GlobalStiffness as GlobalStiffness
from .regularize import Kinetic as Kinetic
from .regularize import LocalError as LocalError
from .regularize import TaylorReg as TaylorReg
from .regularize import local_penalty as local_penalty
from .regularize import total_derivative as total_derivative
from .resnet import ResNetODE as ResNetODE
from .resnet import ScaledResNet as ScaledResNet
from .resnet import depth_flow as depth_flow
from .resnet import depth_lipschitz as depth_lipschitz
from .resnet import depth_refine as depth_refine
from .rl import DQN as DQN
from .rl import AbstractEnv as AbstractEnv
from .rl import DQNState as DQNState
from .rl import greedy_episode as greedy_episode
from .solvers import MSRKTASE2 as MSRKTASE2
from .solvers import MSRKTASE3 as MSRKTASE3
from .solvers import RKTASE as RKTASE
from .solvers import ROS3P as ROS3P
from .solvers import AbstractHyperSolver as AbstractHyperSolver
from .solvers import AbstractSymplectic as AbstractSymplectic
from .solvers import AbstractWMethod as AbstractWMethod
from .solvers import BandedOperator as BandedOperator
from .solvers import BlanesMoan4 as BlanesMoan4
from .solvers import BlanesMoan6 as BlanesMoan6
from .solvers import BlockCyclicReduction as BlockCyclicReduction
from .solvers import Hermite4 as Hermite4
from .solvers import HyperSolver as HyperSolver
from .solvers import Leapfrog as Leapfrog
from .solvers import MultistageHyperSolver as MultistageHyperSolver
from .solvers import Reversible as Reversible
from .solvers import Rodas4 as Rodas4
from .solvers import Rodas5P as Rodas5P
from .solvers import SinglyRKTASE as SinglyRKTASE
from .solvers import WTableau as WTableau
from .solvers import Yoshida4 as Yoshida4
from .solvers import Yoshida6 as Yoshida6
from .solvers import Yoshida8 as Yoshida8
from .solvers import banded_jacobian as banded_jacobian
from .solvers import residual_loss as residual_loss
from .solvers import step_residual as step_residual
from .solvers import tase_tableau as tase_tableau
from .solvers import w_order_conditions as w_order_conditions
from .ssm import Discrete as Discrete
from .ssm import Prophecy as Prophecy
from .ssm import StateSpace as StateSpace
from .ssm import convolve_states as convolve_states
from .ssm import discretize as discretize
from .ssm import hippo as hippo
from .ssm import scan_states as scan_states
from .symbolic import Expression as Expression
from .symbolic import Front as Front
from .symbolic import SymbolicField as SymbolicField
from .symbolic import discover as discover
from .symbolic import refit as refit
from .symbolic import regularised_evolution as regularised_evolution
