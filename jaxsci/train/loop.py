"""The compiled loop: many steps in one dispatch, in one program whatever their number."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from jaxsci.experiment import process_count

from .data.sources import AbstractSource
from .sharding import Sharding, put
from .state import TrainState, weights_of
from .step import Metrics, Step

CAPACITY = 1024
"""The most steps of one dispatch from a pure source (the length of the metrics' buffers)."""


class Loop:
    """Runs many steps in one dispatch,

        while i < n and all finite:   batch, data = next(data);   state = step(state, batch).

    It is a `lax.while_loop` whose length n is an argument: one program serves every n, so how the
    host groups the steps changes neither a bit of the numbers nor the number of compilations. The
    state is donated: it is overwritten in place.

    The loop ends, and all later dispatches do nothing, with the first step whose loss is not finite
    or that makes a weight NaN or infinite. (The state is then that of the bad step: keeping the one
    before it as well would take the memory of a second one.)

    **Arguments:**

    - `step`: `(state, batch) -> (state, metrics)`.
    - `state`: the state to start from, whose arrays nobody else may hold (see `own_arrays`).
    - `source`: the pure source, or None if batches come from the host.
    - `capacity`: the most steps of one dispatch from a pure source. With 1 there is no loop in the
        program, which XLA wants on CPUs for convolutions: inside a loop they are ten times slower.
    - `sharding`: how it is spread over devices, or None for one device. The state must be placed
        accordingly.
    """

    def __init__(
        self,
        step: Step,
        state: TrainState,
        source: AbstractSource | None,
        sharding: Sharding | None = None,
        *,
        capacity: int = CAPACITY,
    ):
        self._step = step
        self._capacity = capacity
        self._sharding = sharding
        self._source, self._source_static = eqx.partition(source, eqx.is_array)
        dynamic, self._static = eqx.partition(state, eqx.is_array)
        # Flat lists of arrays pass through jit's fast path; modules would be flattened in Python
        # at every dispatch.
        self._leaves, self._treedef = jax.tree.flatten(dynamic)
        self._finite = jnp.array(True)
        # A weight that is infinite from the start, as a mask may be, is so on purpose.
        weights = jax.tree.leaves(weights_of(state.model))
        self._checked = [
            not w.is_fully_addressable or bool(np.isfinite(np.asarray(w)).all()) for w in weights
        ]
        where: dict[str, Any] = {}
        self._shardings: list[Any] | None = None
        if sharding is not None:
            whole = sharding.whole()
            self._shardings = [leaf.sharding for leaf in self._leaves]
            self._finite = put(self._finite, whole)
            self._source = put(self._source, sharding.of_source(self._source))
            where["out_shardings"] = (self._shardings, whole, whole, whole)
        self._run = jax.jit(self._steps, donate_argnums=(0,), **where)
        self._copy = jax.jit(lambda leaves: [jnp.copy(leaf) for leaf in leaves])

    def state(self) -> TrainState:
        """The state now. Its arrays die with the next dispatch: copy what is to be kept."""
        return self._build(self._leaves)

    def copy(self) -> TrainState:
        """The state now, in arrays of its own; returns at once."""
        return self._build(self._copy(self._leaves))

    def dispatch(
        self, n_steps: int, batches: PyTree = None
    ) -> tuple[Metrics, Int[Array, ""], Bool[Array, ""]]:
        """Starts `n_steps` steps and returns at once.

        **Arguments:**

        - `n_steps`: n, at most the capacity, or the length of `batches`.
        - `batches`: without a pure source, the batches, stacked to an always equal length.

        **Returns:** the metrics, each with a leading axis of the capacity; how many steps were
        tried, that is how many entries are valid; and whether all steps so far were finite. If
        not, the last one tried was the first that was not.
        """
        # Host data enter as an argument, so that one program serves all dispatches.
        if self._sharding is not None and batches is not None:
            where = self._sharding.of_stacked_batches(batches)
            if process_count() > 1:  # Each process has its own part of every batch.
                batches = jax.tree.map(
                    lambda b, w: jax.make_array_from_process_local_data(w, b), batches, where
                )
            else:
                batches = jax.device_put(batches, where)
        self._leaves, metrics, tried, self._finite = self._run(
            self._leaves, self._finite, self._source, batches, np.int32(n_steps)
        )
        return metrics, tried, self._finite

    def compiled(self, batches: PyTree = None) -> jax.stages.Compiled:
        """The compiled program, for its memory and its text; runs nothing."""
        arguments = (self._leaves, self._finite, self._source, batches, np.int32(1))
        return self._run.lower(*arguments).compile()

    def _build(self, leaves: list[Array]) -> TrainState:
        return eqx.combine(jax.tree.unflatten(self._treedef, leaves), self._static)

    def _steps(self, leaves, finite, source, batches, n_steps):
        @jax.jit  # Traced once, although its shapes are asked for first.
        def one(leaves, source, batch):
            state = self._build(leaves)
            source = eqx.combine(source, self._source_static)
            if source is not None:
                batch, data = source.next(state.data)
                batch = self._spread(batch)
                state = eqx.tree_at(lambda s: s.data, state, data, is_leaf=lambda x: x is None)
            new, metrics = self._step(state, batch)
            new_leaves, treedef = jax.tree.flatten(eqx.filter(new, eqx.is_array))
            self._require_same(leaves, new_leaves, treedef)
            if self._shardings is not None:
                new_leaves = jax.lax.with_sharding_constraint(new_leaves, self._shardings)
            return new_leaves, metrics, self._is_finite(new, metrics)

        def batch(i):
            return jax.tree.map(lambda leaf: leaf[i], batches)

        _, shapes, _ = jax.eval_shape(one, leaves, source, jax.eval_shape(batch, jnp.int32(0)))
        capacity = self._capacity if batches is None else jax.tree.leaves(batches)[0].shape[0]
        if capacity == 1:
            new, metrics, still = one(leaves, source, batch(0))
            leaves = [jnp.where(finite, b, a) for a, b in zip(leaves, new, strict=True)]
            metrics = jax.tree.map(lambda m: m[None], metrics)
            return leaves, metrics, finite.astype(jnp.int32), finite & still
        buffers = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)

        def unfinished(carry):
            i, _, _, finite = carry
            return (i < n_steps) & finite

        def body(carry):
            i, leaves, buffers, _ = carry
            leaves, metrics, finite = one(leaves, source, batch(i))
            buffers = jax.tree.map(lambda buffer, m: buffer.at[i].set(m), buffers, metrics)
            return i + 1, leaves, buffers, finite

        carry = (jnp.int32(0), leaves, buffers, finite)
        tried, leaves, buffers, finite = jax.lax.while_loop(unfinished, body, carry)
        return leaves, buffers, tried, finite

    def _spread(self, batch: PyTree) -> PyTree:
        if self._sharding is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._sharding.of_batch(batch))

    def _is_finite(self, new: TrainState, metrics: Metrics) -> Bool[Array, ""]:
        finite = jnp.isfinite(metrics["loss"]) if "loss" in metrics else jnp.array(True)
        weights = jax.tree.leaves(weights_of(new.model))
        for weight, checked in zip(weights, self._checked, strict=True):
            if checked:
                finite &= jnp.isfinite(weight).all()
        return finite

    def _require_same(self, old: list[Array], new: list[Array], treedef: Any) -> None:
        """A loop's state keeps its structure and types; says which array did not."""
        if treedef != self._treedef:
            raise TypeError(
                "the step changed the structure of the training state:\n"
                f"before: {self._treedef}\nafter:  {treedef}"
            )
        names = leaf_names(self._build(old))
        for name, before, after in zip(names, old, new, strict=True):
            if before.shape != after.shape or before.dtype != after.dtype:
                raise TypeError(
                    f"the step changed {name} from {before.dtype}{list(before.shape)} "
                    f"to {after.dtype}{list(after.shape)}"
                )


def leaf_names(tree: PyTree) -> list[str]:
    """The path of every array in the tree, such as `model.layers[0].weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return [jax.tree_util.keystr(path).lstrip(".") for path, _ in leaves]
