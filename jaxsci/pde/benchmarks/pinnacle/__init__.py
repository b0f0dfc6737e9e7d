"""The twenty problems of the PINNacle benchmark (arXiv:2306.08827) for physics-informed networks.

```python
from jaxsci.pde.benchmarks import pinnacle

problem = pinnacle.wave_1d_c()
x, values = problem.reference()  # (4000, 2), (4000, 1)
```

Names are PINNacle's. Each has a reference solution made here, held to an independent one by tests.
"""

from .elliptic import ns_2d_c as ns_2d_c
from .elliptic import poisson_2d_c as poisson_2d_c
from .elliptic import poisson_2d_cg as poisson_2d_cg
from .elliptic import poisson_nd as poisson_nd
from .evolution import burgers_1d as burgers_1d
from .evolution import burgers_2d as burgers_2d
from .evolution import heat_2d_ms as heat_2d_ms
from .evolution import heat_2d_vc as heat_2d_vc
from .evolution import heat_nd as heat_nd
from .evolution import ks as ks
from .evolution import wave_1d_c as wave_1d_c
from .geometry import heat_2d_cg as heat_2d_cg
from .geometry import ns_2d_cg as ns_2d_cg
from .geometry import poisson_3d_cg as poisson_3d_cg
from .heterogeneous import poisson_2d_ms as poisson_2d_ms
from .heterogeneous import wave_2d_cg as wave_2d_cg
from .long_time import gs as gs
from .long_time import heat_2d_lt as heat_2d_lt
from .long_time import ns_2d_lt as ns_2d_lt
from .long_time import wave_2d_ms as wave_2d_ms
