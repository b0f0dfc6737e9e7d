"""Data sources on the device: pure functions that run inside the compiled training loop."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class AbstractSource(eqx.Module):
    """A pure source of batches.

        s₀ = init(key),   (batch_t, s_{t+1}) = next(s_t).

    Both functions are jittable and the state is a pytree of arrays, so a source runs inside the
    scan of the training loop and its state is part of the checkpoint.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> PyTree:
        """The state before the first batch."""

    @abc.abstractmethod
    def next(self, state: PyTree) -> tuple[PyTree, PyTree]:
        """The next batch and the state after it."""

    def describe(self) -> dict[str, Any]:
        """What must be the same when a run is resumed; kept in the checkpoint and compared."""
        return {"source": type(self).__name__}


class ArrayState(eqx.Module):
    """Where an `ArraySource` stands: epoch, position in it, and the epoch's order."""

    key: PRNGKeyArray
    epoch: Int[Array, ""]
    position: Int[Array, ""]
    order: Int[Array, " n"] | None


class ArraySource(AbstractSource):
    """Batches from arrays in memory, in a new random order each epoch.

    Epoch e visits the samples in the order of a uniformly random permutation drawn from
    `fold_in(key, e)`. A batch never spans two epochs: if the batch size does not divide the number
    of samples, the last n mod b samples of the epoch's order are left out of that epoch (without
    shuffling it is always the same ones). If the batch is the whole set, it comes in stored order
    and nothing is gathered.

    **Arguments:**

    - `arrays`: a pytree of arrays with one leading axis of n samples, e.g. `(inputs, outputs)`.
    - `batch_size`: b, between 1 and n.
    - `shuffle`: False visits the samples in stored order.
    - `check_finite`: refuse NaN and infinity in the data (one pass over them).

    **Raises:** `ValueError` for no arrays, an empty set, leading axes that differ, a batch size
    out of range, or data that are not finite (with the first bad sample).
    """

    arrays: PyTree
    batch_size: int = eqx.field(static=True)
    shuffle: bool = eqx.field(static=True)

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        shuffle: bool = True,
        *,
        check_finite: bool = True,
    ):
        named, _ = jax.tree_util.tree_flatten_with_path(arrays)
        if not named:
            raise ValueError("ArraySource: arrays is empty, expected at least one array")
        sizes = {}
        for path, leaf in named:
            name = "arrays" + jax.tree_util.keystr(path)
            if np.ndim(leaf) == 0:
                raise ValueError(f"ArraySource: {name} is a scalar, expected an axis of samples")
            sizes[name] = np.shape(leaf)[0]
            if check_finite:
                _require_finite(name, leaf)
        if len(set(sizes.values())) != 1:
            raise ValueError(f"ArraySource: the arrays have different numbers of samples: {sizes}")
        n = next(iter(sizes.values()))
        if n == 0:
            raise ValueError("ArraySource: the arrays have no samples (leading axis of length 0)")
        if not 1 <= batch_size <= n:
            raise ValueError(f"ArraySource: batch_size={batch_size}, expected 1 to {n} (samples)")
        self.arrays = jax.tree.map(jnp.asarray, arrays)
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)

    @property
    def n_samples(self) -> int:
        """The number of samples n."""
        return jax.tree.leaves(self.arrays)[0].shape[0]

    @property
    def batches_per_epoch(self) -> int:
        """The number of whole batches in an epoch, n // b."""
        return self.n_samples // self.batch_size

    def init(self, key: PRNGKeyArray) -> ArrayState:
        zero = jnp.zeros((), jnp.int32)
        shuffled = self.shuffle and self.batch_size < self.n_samples
        # The first call of `next` draws the order of epoch 0.
        order = jnp.zeros(self.n_samples, jnp.int32) if shuffled else None
        return ArrayState(key=key, epoch=zero, position=zero, order=order)

    def next(self, state: ArrayState) -> tuple[PyTree, ArrayState]:
        if self.batch_size == self.n_samples:
            return self.arrays, eqx.tree_at(lambda s: s.epoch, state, state.epoch + 1)
        start = state.position * self.batch_size
        order = state.order
        if order is None:
            batch = jax.tree.map(
                lambda a: jax.lax.dynamic_slice_in_dim(a, start, self.batch_size), self.arrays
            )
        else:
            order = jax.lax.cond(
                state.position == 0,
                lambda: jax.random.permutation(
                    jax.random.fold_in(state.key, state.epoch), self.n_samples
                ).astype(jnp.int32),
                lambda: order,
            )
            chosen = jax.lax.dynamic_slice_in_dim(order, start, self.batch_size)
            batch = jax.tree.map(lambda a: jnp.take(a, chosen, axis=0, mode="clip"), self.arrays)
        position = state.position + 1
        over = position == self.batches_per_epoch
        return batch, ArrayState(
            key=state.key,
            epoch=state.epoch + over,
            position=jnp.where(over, 0, position),
            order=order,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "source": "ArraySource",
            "samples": self.n_samples,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
        }


class OnlineState(eqx.Module):
    """Where an `OnlineSource` stands: its key and the number of batches drawn."""

    key: PRNGKeyArray
    count: Int[Array, ""]


class OnlineSource(AbstractSource):
    """Samples that are made when they are needed: a solver inside the training step.

        batch_t = vmap(generate)( split( fold_in(key, t), b ) ).

    No sample is ever seen twice, nothing is stored, and nothing crosses from host to device.

    **Arguments:**

    - `generate`: `generate(key) -> sample`, pure; a sample is a pytree of arrays without a batch
        axis. A function, or an `equinox.Module` whose arrays (a solver's tables) stay arguments.
    - `batch_size`: b >= 1.

    **Raises:** `TypeError` if `generate` cannot be called; `ValueError` for a batch size below 1.
    """

    generate: Callable[[PRNGKeyArray], PyTree]
    batch_size: int = eqx.field(static=True)

    def __init__(self, generate: Callable[[PRNGKeyArray], PyTree], batch_size: int):
        if not callable(generate):
            raise TypeError(f"OnlineSource: generate must be a function of a key, got {generate!r}")
        if batch_size < 1:
            raise ValueError(f"OnlineSource: batch_size={batch_size}, expected at least 1")
        self.generate = generate
        self.batch_size = int(batch_size)

    def init(self, key: PRNGKeyArray) -> OnlineState:
        return OnlineState(key=key, count=jnp.zeros((), jnp.int32))

    def next(self, state: OnlineState) -> tuple[PyTree, OnlineState]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.count), self.batch_size)
        batch = jax.vmap(self.generate)(keys)
        return batch, OnlineState(key=state.key, count=state.count + 1)

    def describe(self) -> dict[str, Any]:
        return {"source": "OnlineSource", "batch_size": self.batch_size}


class WithProgress(AbstractSource):
    """Another source's batches, and with each the share p = t / steps of the training that is done.

        next(s) = ((batch_t, p_t repeated b times), …),   p from 0 to just below 1.

    For losses that change as training goes on: curricula, annealed weights, the recipes of
    `jaxsci.operators`. p is a traced number, so that nothing is compiled anew, and it is part of
    the state, so that a resumed run goes on from where it was. It has the batch's leading axis, and
    is spread over devices as the batch is.

    **Arguments:**

    - `source`: on the device, such as an `ArraySource`.
    - `steps`: those of the training; p stays 1 beyond them.

    **Raises:** `TypeError` if `source` is none, `ValueError` for `steps` below 1.
    """

    source: AbstractSource
    steps: int = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.source, AbstractSource):
            raise TypeError(f"WithProgress: source must be an AbstractSource, got {self.source!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"WithProgress: steps={self.steps!r}, expected an integer >= 1")

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, Int[Array, ""]]:
        return self.source.init(key), jnp.zeros((), jnp.int32)

    def next(self, state: tuple[PyTree, Int[Array, ""]]) -> tuple[PyTree, PyTree]:
        inner, count = state
        batch, inner = self.source.next(inner)
        share = jnp.minimum(count / self.steps, 1.0)
        progress = jnp.full(jax.tree.leaves(batch)[0].shape[0], share)
        return (batch, progress), (inner, count + 1)

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "progress_over": self.steps}


def _require_finite(name: str, leaf: Any) -> None:
    if isinstance(leaf, Tracer):
        return
    values = np.asarray(leaf)
    if not np.issubdtype(values.dtype, np.inexact) or np.isfinite(values).all():
        return
    bad = np.flatnonzero(~np.isfinite(values).reshape(values.shape[0], -1).all(axis=1))
    raise ValueError(
        f"ArraySource: {name} has NaN or infinity in {bad.size} of {values.shape[0]} samples, "
        f"the first is sample {bad[0]} (check_finite=False accepts them)"
    )
