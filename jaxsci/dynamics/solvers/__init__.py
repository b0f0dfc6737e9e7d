"""Solvers for diffrax: linearly implicit, reversible, symplectic, and what they are made of."""

from .banded import BandedOperator as BandedOperator
from .banded import BlockCyclicReduction as BlockCyclicReduction
from .banded import banded_jacobian as banded_jacobian
from .reversible import Reversible as Reversible
from .rosenbrock import ROS3P as ROS3P
from .rosenbrock import Rodas4 as Rodas4
from .rosenbrock import Rodas5P as Rodas5P
from .stepper import AbstractWMethod as AbstractWMethod
from .symplectic import AbstractSymplectic as AbstractSymplectic
from .symplectic import BlanesMoan4 as BlanesMoan4
from .symplectic import BlanesMoan6 as BlanesMoan6
from .symplectic import Leapfrog as Leapfrog
from .symplectic import Yoshida4 as Yoshida4
from .symplectic import Yoshida6 as Yoshida6
from .symplectic import Yoshida8 as Yoshida8
from .tableau import WTableau as WTableau
from .tableau import w_order_conditions as w_order_conditions
from .tase import MSRKTASE2 as MSRKTASE2
from .tase import MSRKTASE3 as MSRKTASE3
from .tase import RKTASE as RKTASE
from .tase import SinglyRKTASE as SinglyRKTASE
from .tase import tase_tableau as tase_tableau
