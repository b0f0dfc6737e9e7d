"""What a training run is at one moment: one immutable pytree."""

from typing import TYPE_CHECKING, Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .data.sources import AbstractSource
from .precision import Precision

if TYPE_CHECKING:
    from .sharding import Sharding


def weights_of(model: PyTree) -> PyTree:
    """The trainable part of a model: its inexact arrays; every other leaf is None."""
    return eqx.filter(model, eqx.is_inexact_array)


def own_arrays(tree: PyTree) -> PyTree:
    """The tree with fresh copies of its arrays.

    A training step overwrites the memory of its input (donation). Copies keep the caller's model
    alive, give each leaf a buffer of its own where two leaves shared one, and make the types strong
    (a weakly typed scalar would change its type after the first step).
    """

    def copy(leaf):
        if not eqx.is_array(leaf):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return jnp.array(leaf, copy=True)
        return jnp.array(leaf, dtype=leaf.dtype, copy=True)

    return jax.tree.map(copy, tree)


class Trainable(Protocol):
    """What `train` asks of a state of another type: an Equinox module with

    - `step`: the number of updates made so far, which its step counts;
    - `model`: whose inexact arrays must stay finite;
    - `averaged()`: the model to evaluate.
    """

    @property
    def step(self) -> Int[Array, ""]: ...

    @property
    def model(self) -> Any: ...

    def averaged(self) -> Any: ...


class TrainState(eqx.Module):
    """The state of a training run.

    - `model`: the model; its inexact arrays are the weights θ, all other leaves are carried along
        unchanged.
    - `opt_state`: the optimiser's state.
    - `step`: the number of updates made so far.
    - `key`: the run's key. Step t draws its randomness from `fold_in(key, t)`, so a run depends on
        neither how steps are grouped nor where it was interrupted.
    - `ema`: the exponential moving average of the weights (None elsewhere), or None.
    - `data`: the state of a pure data source, or None.
    """

    model: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    key: PRNGKeyArray
    ema: Any = None
    data: Any = None

    def averaged(self) -> PyTree:
        """The model to use: with the averaged weights where an average is kept, else the model."""
        if self.ema is None:
            return self.model
        return eqx.combine(self.ema, self.model)


def init_state(
    model: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: PRNGKeyArray,
    source: AbstractSource | None = None,
    ema: bool = False,
    precision: Precision | None = None,
    sharding: "Sharding | None" = None,
) -> TrainState:
    """The state before the first step.

    **Arguments:**

    - `model`: any pytree with inexact arrays; its arrays are copied.
    - `optimizer`: an optax transformation.
    - `key`: the run's key; one half starts the source, the other drives the steps.
    - `source`: the pure data source whose state travels in the training state.
    - `ema`: whether an average of the weights is kept.
    - `precision`: its `params` format is that of the weights.
    - `sharding`: the model's arrays are split by its rules first, and the optimiser's state is made
        in parts, so that no device ever has all of it.

    **Returns:** a `TrainState` at step 0.

    **Raises:** `ValueError` if the model has no trainable array; `TypeError` if `key` is no key.
    """
    if not (eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"init_state: key must come from jax.random.key, got {key!r}")
    if not jax.tree.leaves(weights_of(model)):
        raise ValueError(
            f"init_state: model {type(model).__name__} has no floating-point or complex array "
            "to train"
        )
    if precision is not None:
        model = precision.cast_params(model)
    key_data, key_steps = jax.random.split(key)
    if sharding is None:
        weights = weights_of(own_arrays(model))
        opt_state = optimizer.init(weights)
    else:
        model = sharding.place_model(model)
        weights = weights_of(model)
        opt_state = sharding.init(optimizer.init, weights)
    state = TrainState(
        model=model,
        opt_state=opt_state,
        step=jnp.zeros((), jnp.int32),
        key=key_steps,
        ema=weights if ema else None,
        data=None if source is None else source.init(key_data),
    )
    return own_arrays(state)
