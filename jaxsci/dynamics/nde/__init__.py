"""Models whose forward pass is a differential equation, and how they are solved."""

from .cde import CDEField as CDEField
from .cde import NeuralCDE as NeuralCDE
from .cde import control_path as control_path
from .cnf import CNF as CNF
from .deq import DEQ as DEQ
from .gan import SDEGAN as SDEGAN
from .gan import NeuralSDE as NeuralSDE
from .gan import clip_linear as clip_linear
from .gan import lipswish as lipswish
from .latent import BackwardGRU as BackwardGRU
from .latent import GaussianEncoder as GaussianEncoder
from .latent import LatentODE as LatentODE
from .log_ode import LogODE as LogODE
from .log_ode import log_signature as log_signature
from .ode import AugmentedNODE as AugmentedNODE
from .ode import NeuralODE as NeuralODE
from .problem import AbstractNDE as AbstractNDE
from .problem import AbstractRegulariser as AbstractRegulariser
from .problem import InitialValueProblem as InitialValueProblem
from .problem import NDEOutput as NDEOutput
from .problem import ReversibleAdjoint as ReversibleAdjoint
from .sde import LatentSDE as LatentSDE
