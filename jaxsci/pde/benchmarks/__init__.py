"""Benchmark problems by name, and any of them as training, validation and test data in one call.

```python
from jaxsci.pde import benchmarks

data = benchmarks.trajectories(benchmarks.kuramoto_sivashinsky(), train=32, valid=8, test=8)
data.train.frames  # (32, 141, 1, 256)

pairs = benchmarks.pairs(DarcyFlow(resolution=33), train=1000, test=200)
pairs.train.inputs  # (1000, 1, 33, 33)
```

The splits are generated from different seeds, so that the size of one changes nothing in another,
and kept on disk (`jaxsci.pde.cached`). Periodic equations are solved by exponax.

`pinnacle`: boundary value problems for fields, each a `FieldProblem` with a `Reference` solution.
"""

from . import pinnacle as pinnacle
from .field_problem import Ansatz as Ansatz
from .field_problem import Condition as Condition
from .field_problem import Evolution as Evolution
from .field_problem import FieldProblem as FieldProblem
from .field_problem import Reference as Reference
from .problems import Splits as Splits
from .problems import advection as advection
from .problems import burgers as burgers
from .problems import fisher_kpp as fisher_kpp
from .problems import heat as heat
from .problems import kolmogorov_flow as kolmogorov_flow
from .problems import korteweg_de_vries as korteweg_de_vries
from .problems import kuramoto_sivashinsky as kuramoto_sivashinsky
from .problems import lorenz_96 as lorenz_96
from .problems import pairs as pairs
from .problems import trajectories as trajectories
from .problems import wave_box as wave_box
