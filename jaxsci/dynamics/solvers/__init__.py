"""Solvers for diffrax: linearly implicit methods for stiff equations, and what they are made of."""

from .banded import BandedOperator as BandedOperator
from .banded import BlockCyclicReduction as BlockCyclicReduction
from .banded import banded_jacobian as banded_jacobian
from .rosenbrock import ROS3P as ROS3P
from .rosenbrock import Rodas4 as Rodas4
from .rosenbrock import Rodas5P as Rodas5P
from .stepper import AbstractWMethod as AbstractWMethod
from .tableau import WTableau as WTableau
from .tableau import w_order_conditions as w_order_conditions
from .tase import MSRKTASE2 as MSRKTASE2
from .tase import MSRKTASE3 as MSRKTASE3
from .tase import RKTASE as RKTASE
from .tase import SinglyRKTASE as SinglyRKTASE
from .tase import tase_tableau as tase_tableau
