"""Training: a pure step, one compiled loop, a thin host loop, data, checkpoints.

    import equinox as eqx, jax, jax.numpy as jnp, optax
    from jaxsci.train import ArraySource, fit

    x = jnp.linspace(-1, 1, 256)[:, None]
    model = eqx.nn.MLP(1, 1, 32, 2, key=jax.random.key(0))

    def loss(model, batch, key):
        x, y = batch
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    data = ArraySource((x, jnp.sin(3 * x)), batch_size=64)
    result = fit(model, loss, optax.adam(1e-3), data, steps=2000, key=jax.random.key(1))

`fit` draws the batches, updates, averages, evaluates, logs and saves; `make_step`, `make_steps`
and `init_state` are its pure parts, for loops of one's own; `train` repeats any other step.
`ArraySource` and `OnlineSource` (a solver inside the step) run on the device; `pipeline` reads
files (`Windows` of `PDEBench` or `TheWell`) on the host through grain. `Checkpoints` says what is
kept on disk, and a run that was killed and resumed ends with the numbers of one that was not.
"""

from .checkpoint import CheckpointError as CheckpointError
from .checkpoint import CheckpointMismatch as CheckpointMismatch
from .checkpoint import Checkpoints as Checkpoints
from .checkpoint import load_model as load_model
from .data import AbstractSource as AbstractSource
from .data import AbstractTrajectories as AbstractTrajectories
from .data import ArraySource as ArraySource
from .data import OnlineSource as OnlineSource
from .data import PDEBench as PDEBench
from .data import PDEBenchDarcy as PDEBenchDarcy
from .data import TheWell as TheWell
from .data import Windows as Windows
from .data import WithProgress as WithProgress
from .data import digits as digits
from .data import pipeline as pipeline
from .fit import fit as fit
from .fit import train as train
from .host_loop import FitResult as FitResult
from .host_loop import NonFiniteLoss as NonFiniteLoss
from .precision import Precision as Precision
from .sharding import Sharding as Sharding
from .sharding import make_mesh as make_mesh
from .state import Trainable as Trainable
from .state import TrainState as TrainState
from .state import init_state as init_state
from .step import StepContext as StepContext
from .step import make_step as make_step
from .step import make_steps as make_steps
