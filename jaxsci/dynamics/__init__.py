"""Differential equations on diffrax: its terms, controllers and adjoints, with more solvers.

- Stiff equations: `Rodas4` (start here), `Rodas5P`, `ROS3P`; with a rough Jacobian the TASE family
  `MSRKTASE2`, `MSRKTASE3`, `SinglyRKTASE`, `RKTASE`. One factorisation a step, no Newton iteration,
  constant mass matrices. Large ones: `banded_jacobian`, `BandedOperator`, `BlockCyclicReduction`.
- `WTableau`, `tase_tableau`, `w_order_conditions`: methods of your own, checked when made.

Any of these goes where diffrax takes a solver: `diffrax.diffeqsolve(term, Rodas4(), …)`.
"""

from .solvers import MSRKTASE2 as MSRKTASE2
from .solvers import MSRKTASE3 as MSRKTASE3
from .solvers import RKTASE as RKTASE
from .solvers import ROS3P as ROS3P
from .solvers import AbstractWMethod as AbstractWMethod
from .solvers import BandedOperator as BandedOperator
from .solvers import BlockCyclicReduction as BlockCyclicReduction
from .solvers import Rodas4 as Rodas4
from .solvers import Rodas5P as Rodas5P
from .solvers import SinglyRKTASE as SinglyRKTASE
from .solvers import WTableau as WTableau
from .solvers import banded_jacobian as banded_jacobian
from .solvers import tase_tableau as tase_tableau
from .solvers import w_order_conditions as w_order_conditions
