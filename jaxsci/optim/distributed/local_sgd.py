"""Local gradient methods: H steps of each worker for itself, then one average of the weights.

    θ_w ← θ_w − tx(∇L_w(θ_w))    H times on every worker w,      then    θ_w ← mean_w θ_w

With H = 1 and SGD this is data parallelism; `qsr` says how long H may be (arXiv:2310.14423).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from ..schedules.qsr import SyncSchedule, constant_sync
from .workers import Workers, mean_over_workers


class LocalState(NamedTuple):
    """Weights and optimiser states of all workers (leading axis W), and the steps made.

    A checkpoint keeps all of it: the optimiser states differ between workers.
    """

    params: PyTree
    opt_state: optax.OptState
    step: Int[Array, ""]


class LocalUpdates(NamedTuple):
    """What `local_updates` returns.

    - `init(params) -> LocalState`: the same weights for all workers.
    - `steps(state, batches, key) -> (state, losses)`: local steps without any communication;
        `batches` has the axes (steps, W · b, ...), `losses` (steps, W). Jitted; one program for
        each number of steps.
    - `average(state) -> state`: the one message of a round. Jitted.
    - `round(state, batches, key) -> (state, losses)`: both.
    - `run(state, batches, sync, key) -> (state, losses)`: all rounds of a schedule.
    """

    init: Callable[[PyTree], LocalState]
    steps: Callable[[LocalState, PyTree, PRNGKeyArray], tuple[LocalState, Array]]
    average: Callable[[LocalState], LocalState]
    round: Callable[[LocalState, PyTree, PRNGKeyArray], tuple[LocalState, Array]]
    run: Callable[..., tuple[LocalState, np.ndarray]]


def local_updates(
    loss: Callable[[PyTree, PyTree, PRNGKeyArray], Scalar],
    optimizer: optax.GradientTransformation,
    workers: Workers,
    average: Sequence[str] = ("params",),
) -> LocalUpdates:
    """Any optimiser as its local version: Local SGD, Local AdamW.

        local = local_updates(loss, optax.adamw(1e-3), Workers(mesh))
        state = local.init(params)
        state, losses = local.run(state, batches, qsr(rate, 0.01, 4, total_steps=1000), key)
        params = mean_params(state)

    **Arguments:**

    - `loss`: `(params, batch, key) -> scalar`, the mean over a worker's part of the batch.
    - `optimizer`: any optax transformation; it gets `value`, `grad` and `value_fn` of its worker.
    - `workers`: who computes.
    - `average`: what is averaged after a round: "params", and fields of the optimiser's state by
        name ("mu", "nu" for Adam's moments). The paper averages the weights alone. Counters stay.

    **Returns:** `LocalUpdates`. `run` takes a `SyncSchedule` or a constant H, and `batches` as
    `(start, n) -> (n, W · b, ...)` or as one tree of that form for all steps. It cuts a round into
    parts of 2ᵏ ≤ 64 steps, so that few programs are compiled and few batches are held at once.

    **Raises:** `ValueError` for names that are not in the state, or a batch that W does not divide.
    """
    transform = optax.with_extra_args_support(optimizer)
    fields = set(average) - {"params"}
    own, shared = workers.own, workers.shared
    specs = LocalState(own, own, cast(Any, shared))

    def chosen(path: tuple, leaf: Any) -> bool:
        names = {getattr(entry, "name", None) for entry in path}
        return bool(names & fields) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    def init(params: PyTree) -> LocalState:
        opt_state = transform.init(params)
        paths = jax.tree_util.tree_flatten_with_path(opt_state)[0]
        missing = fields - {getattr(entry, "name", None) for path, _ in paths for entry in path}
        if missing:
            raise ValueError(
                f"average = {tuple(average)}: the optimiser's state has no {sorted(missing)}"
            )
        state = LocalState(
            workers.repeat(params), workers.repeat(opt_state), jnp.zeros((), jnp.int32)
        )
        return workers.place(state, specs)

    def local_steps(state: LocalState, batches: PyTree, key: PRNGKeyArray):
        me = jax.lax.axis_index(workers.axis)

        def one(carry: tuple, entry: tuple):
            params, opt_state = carry
            batch, step = entry
            step_key = jax.random.fold_in(jax.random.fold_in(key, step), me)

            def value_fn(params: PyTree) -> Scalar:
                return loss(params, batch, step_key)

            value, grads = jax.value_and_grad(value_fn)(params)
            updates, opt_state = transform.update(
                grads, opt_state, params, value=value, grad=grads, value_fn=value_fn
            )
            return (optax.apply_updates(params, updates), opt_state), value

        n = jax.tree.leaves(batches)[0].shape[0]
        carry, values = jax.lax.scan(
            one, (state.params, state.opt_state), (batches, state.step + jnp.arange(n))
        )
        return LocalState(*carry, state.step + n), values

    @jax.jit
    def steps(state: LocalState, batches: PyTree, key: PRNGKeyArray):
        # (steps, W b, ...) -> (W, steps, b, ...)
        split = jax.vmap(workers.split)(batches)
        split = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), split)
        mapped = workers.map(local_steps, (specs, own, shared), (specs, own))
        state, values = mapped(state, split, key)
        return state, values.T

    def local_average(state: LocalState) -> LocalState:
        leaves, treedef = jax.tree.flatten_with_path(state.opt_state)
        moments = [leaf for path, leaf in leaves if chosen(path, leaf)]
        params = state.params if "params" in average else []
        params, moments = mean_over_workers((params, moments), workers.axis)
        found = iter(moments)
        new = [next(found) if chosen(path, leaf) else leaf for path, leaf in leaves]
        params = params if "params" in average else state.params
        return LocalState(params, jax.tree.unflatten(treedef, new), state.step)

    averaged = jax.jit(workers.map(local_average, (specs,), specs))

    def one_round(state: LocalState, batches: PyTree, key: PRNGKeyArray):
        state, values = steps(state, batches, key)
        return averaged(state), values

    def run(
        state: LocalState,
        batches: PyTree | Callable[[int, int], PyTree],
        sync: SyncSchedule | int,
        key: PRNGKeyArray,
    ) -> tuple[LocalState, Float[np.ndarray, "steps W"]]:
        if not callable(batches):
            available = jax.tree.leaves(batches)[0].shape[0]
            sync = constant_sync(sync, available) if isinstance(sync, int) else sync
            if sync.total_steps > available:
                raise ValueError(
                    f"sync has {sync.total_steps} steps, but there are {available} batches"
                )
        elif isinstance(sync, int):
            raise ValueError("sync: expected a SyncSchedule where batches come from a function")

        def part_of(start: int, n: int) -> PyTree:
            if callable(batches):
                return batches(start, n)
            return jax.tree.map(lambda x: x[start : start + n], batches)

        values = []
        for start, length in sync:
            done = 0
            while done < length:
                part = 1 << min(6, (length - done).bit_length() - 1)
                state, losses = steps(state, part_of(start + done, part), key)
                values.append(losses)
                done += part
            state = averaged(state)
        return state, np.concatenate([np.asarray(v) for v in values])

    return LocalUpdates(init, steps, averaged, one_round, run)


def mean_params(state: LocalState) -> PyTree:
    """The workers' mean weights, for evaluation; all are equal to it right after a round.

    Statistics of batch normalisations must be estimated anew for it.
    """
    return jax.tree.map(lambda x: jnp.mean(x, 0).astype(x.dtype), state.params)
