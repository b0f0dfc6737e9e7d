"""SGDR: a cosine learning rate with warm restarts, without an end.

    η = η_min + (η_max cᵢ − η_min) (1 + cos(π T_cur/Tᵢ)) / 2,     Tᵢ = T₀ T_multⁱ

in cycle i, T_cur steps after its start; cᵢ = decayⁱ (Loshchilov, Hutter, arXiv:1608.03983).
`optax.sgdr_schedule` is the same for a finite list of cycles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

_LAST = 2**31 - 1


class Cycle(NamedTuple):
    """Where a step is: the cycle's number, its length, and how much of it is over, in [0, 1)."""

    index: Int[Array, ""]
    length: Array
    fraction: Float[Array, ""]


def sgdr_cycle(T0: int, T_mult: int = 1) -> Callable[[Any], Cycle]:
    """The cycles of `sgdr`: a function of the step.

    **Arguments:** as for `sgdr`. **Returns:** count ↦ `Cycle`. **Raises:** as `sgdr`.
    """
    _check(T0, T_mult)
    starts = np.array(_starts(T0, T_mult), np.int64)
    # The table ends where a 32-bit counter does; its last cycle is as long as it is.
    lengths = np.minimum(np.float64(T0) * float(T_mult) ** np.arange(len(starts)), _LAST)

    def cycle(count: Any) -> Cycle:
        count = jnp.asarray(count)
        if T_mult == 1:
            index, since, length = count // T0, count % T0, jnp.asarray(T0)
        else:
            table = jnp.asarray(starts.astype(np.int32))
            index = jnp.searchsorted(table, count.astype(jnp.int32), side="right") - 1
            since = count - table[index]
            length = jnp.asarray(lengths.astype(np.int32))[index]
        return Cycle(index, length, since.astype(float) / length)

    return cycle


def sgdr(
    eta_max: float,
    T0: int,
    T_mult: int = 1,
    eta_min: float = 0.0,
    warmup: int = 0,
    decay: float = 1.0,
) -> optax.Schedule:
    """Cosine decay over cycles of T₀, T₀ T_mult, T₀ T_mult², … steps.

    The rate falls with every step (mini-batch), and not from epoch to epoch. At the end of a cycle
    it is near `eta_min`: a good place for a snapshot, see `cycle_ends` and `snapshots`.

    **Arguments:**

    - `eta_max`: the rate after a restart; 0.05 or 0.1 with SGD of momentum 0.9.
    - `T0`: steps of the first cycle. `T_mult`: 1 or 2; ten epochs and 2 are a good choice.
    - `eta_min`: the rate at a cycle's end. `decay`: factor on `eta_max` from cycle to cycle.
    - `warmup`: steps of a linear rise from `eta_min` before the first cycle.

    **Returns:** a schedule for optax.

    **Raises:** `ValueError` for T0 < 1, a T_mult that is no integer >= 1, `eta_min` > `eta_max`,
    `warmup` < 0 or `decay` outside (0, 1].
    """
    _check(T0, T_mult)
    if isinstance(eta_max, int | float) and isinstance(eta_min, int | float):
        if not 0 <= eta_min <= eta_max:
            raise ValueError(f"eta_min = {eta_min}: expected a number in [0, eta_max = {eta_max}]")
    if warmup < 0:
        raise ValueError(f"warmup = {warmup}: expected an integer >= 0")
    if not 0 < decay <= 1:
        raise ValueError(f"decay = {decay}: expected a number in (0, 1]")
    cycle = sgdr_cycle(T0, T_mult)

    def schedule(count: Any) -> Array:
        count = jnp.asarray(count)
        now = cycle(jnp.maximum(count - warmup, 0))
        top = eta_max if decay == 1 else jnp.maximum(eta_max * decay**now.index, eta_min)
        # 1 + cos(πx) = 2 cos²(πx/2) keeps its digits at a cycle's end.
        rate = eta_min + (top - eta_min) * jnp.cos(jnp.pi / 2 * now.fraction) ** 2
        if warmup == 0:
            return rate
        rise = eta_min + (eta_max - eta_min) * count / warmup
        return jnp.where(count < warmup, rise, rate)

    return schedule


def cycle_ends(T0: int, T_mult: int = 1, cycles: int = 1, warmup: int = 0) -> tuple[int, ...]:
    """How many steps have been made at the end of each of the first cycles.

    **Arguments:** as for `sgdr`; `cycles` >= 1.

    **Returns:** the numbers of steps, as Python integers.

    **Raises:** as `sgdr`, and `ValueError` for `cycles` < 1.
    """
    _check(T0, T_mult)
    if cycles < 1:
        raise ValueError(f"cycles = {cycles}: expected an integer >= 1")
    return tuple(warmup + T0 * sum(T_mult**j for j in range(i + 1)) for i in range(cycles))


class SnapshotState(NamedTuple):
    """Steps, and the last k snapshots along a leading axis, the newest last."""

    count: Int[Array, ""]
    kept: PyTree


def snapshots(
    T0: int, T_mult: int = 1, k: int = 3, warmup: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Keeps the weights of the last k ends of cycles, for an ensemble; the last part of a chain.

    Averaged are the members' *predictions* (softmax), not their weights:

        members = snapshots_of(state)
        probabilities = jax.vmap(lambda w: jax.nn.softmax(model(w, x)))(members).mean(0)

    Before k cycles are over, the rest are copies of the first weights.

    **Arguments:** `T0`, `T_mult`, `warmup`: as for `sgdr`. `k`: how many, >= 1.

    **Returns:** an optax transformation that leaves the updates alone, with k copies of the
    weights in its state.

    **Raises:** as `sgdr`, and `ValueError` for `k` < 1 or if `update` gets no params.
    """
    _check(T0, T_mult)
    if k < 1:
        raise ValueError(f"k = {k}: expected an integer >= 1")
    cycle = sgdr_cycle(T0, T_mult)

    def init(params: PyTree) -> SnapshotState:
        kept = jax.tree.map(lambda p: jnp.repeat(jnp.asarray(p)[None], k, 0), params)
        return SnapshotState(jnp.zeros((), jnp.int32), kept)

    def update(
        updates: PyTree, state: SnapshotState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SnapshotState]:
        if params is None:
            raise ValueError("snapshots: update needs params, got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        steps = count - warmup
        ended = (steps > 0) & (cycle(steps).fraction == 0)

        def push(kept: Array, theta: Array, step: Array) -> Array:
            new = (theta + step).astype(kept.dtype)
            return jnp.concatenate([kept[1:], new[None]])

        kept = jax.lax.cond(
            ended,
            lambda: jax.tree.map(push, state.kept, params, updates),
            lambda: state.kept,
        )
        return updates, SnapshotState(count, kept)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def snapshots_of(state: optax.OptState) -> PyTree:
    """The snapshots in the state of an optimiser: weights with a leading axis, the newest last.

    **Raises:** `ValueError` if there are none in the state, or more than one `snapshots`.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, SnapshotState))
    found = [leaf for leaf in leaves if isinstance(leaf, SnapshotState)]
    if len(found) != 1:
        raise ValueError(f"state: expected one SnapshotState in it, found {len(found)}")
    return found[0].kept


def _starts(T0: int, T_mult: int) -> list[int]:
    starts, length = [0], T0
    while T_mult > 1 and starts[-1] + length <= _LAST:
        starts.append(starts[-1] + length)
        length *= T_mult
    return starts


def _check(T0: Any, T_mult: Any) -> None:
    if not isinstance(T0, int) or T0 < 1:
        raise ValueError(f"T0 = {T0}: expected an integer >= 1")
    if not isinstance(T_mult, int) or T_mult < 1:
        raise ValueError(f"T_mult = {T_mult}: expected an integer >= 1")
