"""PowerSGD: workers exchange two thin factors of each gradient matrix instead of the matrix.

    M_w = g_w + E_w,    P = mean_w M_w Q,    P̂ = orth(P),    Q ← mean_w M_wᵀ P̂,
    M̂ = P̂ Qᵀ,           E_w ← M_w − P̂ P̂ᵀ M_w

g is n × m (first axis of a weight × the rest), P is n × r, Q is m × r. Both means are linear in M,
so W workers compute what one would with the mean of the M_w. Q of the last step is the start of
this one: over the steps this is a power iteration, which finds the best approximation of rank r
while the gradients change slowly. What it misses is not lost but comes back through E, which holds
what the worker's *own* matrix loses. (With E_w ← M_w − M̂, as in some implementations, the updates
are the same, but E_w also gathers g_w − ḡ from step to step and grows without bound.)
(Vogels, Karimireddy, Jaggi, arXiv:1905.13727.)
"""

from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..first_order.post import post
from .workers import Own, mean_over_workers


class PowerSGDState(NamedTuple):
    """Steps; each worker's own error E; the factors Q and (mode "alternating") P.

    Leaves that are not compressed have `None` in `error`, `q` and `p`.
    """

    count: Int[Array, ""]
    error: Own
    q: PyTree
    p: PyTree


class Traffic(NamedTuple):
    """Bytes that a worker sends into the averages in one step, with and without compression."""

    compressed: int
    plain: int

    @property
    def ratio(self) -> float:
        """How many times less is sent."""
        return self.plain / self.compressed


def _matrix_shape(leaf: Any, rank: int, min_compression: float) -> tuple[int, int, int] | None:
    """n, m and the rank for a leaf worth compressing, None for others."""
    shape = jnp.shape(leaf)
    if len(shape) < 2 or 0 in shape:
        return None
    n, m = shape[0], leaf.size // shape[0]
    r = min(rank, n, m)
    return (n, m, r) if (n + m) * r * min_compression < n * m else None


def _factor_dtype(leaf: Any) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def bytes_per_step(
    params: PyTree,
    rank: int = 2,
    *,
    iters: int = 1,
    min_compression: float = 2.0,
    mode: Literal["pq", "alternating"] = "pq",
) -> Traffic:
    """What `powersgd` with these options sends, from the shapes alone.

    A matrix costs (n + m) r numbers for each iteration instead of n m; in mode "alternating"
    the mean of n r and m r. Factors are sent in float32 (float64 for such weights), all else in
    its own format.

    **Arguments:** `params`: weights or their shapes; others as for `powersgd`.

    **Returns:** bytes with and without compression (`.ratio`), after `start_step`.
    """
    _check_options(rank, iters, min_compression, 0, mode)
    compressed, plain = 0, 0
    for leaf in jax.tree.leaves(params):
        size = leaf.size * jnp.result_type(leaf).itemsize
        plain += size
        shape = _matrix_shape(leaf, rank, min_compression)
        if shape is None:
            compressed += size
        else:
            n, m, r = shape
            numbers = (n + m) * r * iters if mode == "pq" else (n + m) * r // 2
            compressed += numbers * _factor_dtype(leaf).itemsize
    return Traffic(compressed, plain)


def powersgd(
    rank: int = 2,
    iters: int = 1,
    error_feedback: bool = True,
    warm_start: bool = True,
    min_compression: float = 2.0,
    start_step: int = 0,
    axis_name: str | None = "data",
    mode: Literal["pq", "alternating"] = "pq",
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients over workers, matrices in compressed form. It goes before an optimiser:

        optax.chain(powersgd(rank=2), optax.adam(1e-3))

    and runs inside `jax.shard_map` (or `jax.vmap`) with an axis `axis_name`, on gradients that are
    each worker's own; `data_parallel` does that part. `ef_sgd` is the paper's optimiser. Weight
    decay belongs behind it: before it, it would pass through the error buffers.

    In `jaxsci.train.fit`, whose gradients are already averages over all devices, use
    `axis_name=None`: the same approximation of that average, with nothing saved.

    **Arguments:**

    - `rank`: r; 1 to 4 are good values.
    - `iters`: power iterations in one step; more traffic, better approximation.
    - `error_feedback`: keep what was missed for the next step. Without it training is biased.
    - `warm_start`: start from the last Q. Without it from new random numbers at each step.
    - `min_compression`: matrices that would not shrink by more than this factor are sent whole, as
        are vectors.
    - `start_step`: so many first steps send everything whole.
    - `axis_name`: the axis of workers; None for a single one.
    - `mode`: "pq": both factors at every step. "alternating": P at even and Q at odd steps, half
        the traffic; the other factor is the last step's.
    - `key`: for the first Q. It must be the same for all workers, so the extra argument `key` of
        `update` is not used.

    **Returns:** an optax transformation. Its error buffer is each worker's own, must not be
    averaged, and has the size of the compressed weights.

    **Raises:** `ValueError` for arguments out of range, in `update` if the axis is unbound or the
    gradients are already sums over the workers; `TypeError` for complex parameters.
    """
    _check_options(rank, iters, min_compression, start_step, mode)
    if mode == "alternating" and not (warm_start and iters == 1):
        raise ValueError(
            f"mode = 'alternating' with warm_start = {warm_start}, iters = {iters}: it keeps one "
            "factor from step to step, expected True and 1"
        )

    def fresh(count: Int[Array, ""], index: int, shape: tuple[int, int], dtype: Any) -> Array:
        """Random columns, the same on all workers."""
        root = jax.random.key(0) if key is None else key
        return jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(root, count), index), shape, dtype
        )

    def check_leaves(tree: PyTree) -> None:
        for leaf in jax.tree.leaves(tree):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    "powersgd: expected real floating parameters, got dtype "
                    f"{jnp.result_type(leaf)}"
                )

    def init(params: PyTree) -> PowerSGDState:
        check_leaves(params)
        count = jnp.zeros((), jnp.int32)
        leaves, treedef = jax.tree.flatten(params)
        shapes = [_matrix_shape(leaf, rank, min_compression) for leaf in leaves]

        def build(make: Any, wanted: bool) -> PyTree:
            found = [
                None if shape is None or not wanted else make(i, leaf, *shape)
                for i, (leaf, shape) in enumerate(zip(leaves, shapes, strict=True))
            ]
            return jax.tree.unflatten(treedef, found)

        error = build(lambda i, x, n, m, r: jnp.zeros(x.shape, _factor_dtype(x)), error_feedback)
        q = build(lambda i, x, n, m, r: fresh(count, i, (m, r), _factor_dtype(x)), warm_start)
        p = build(lambda i, x, n, m, r: jnp.zeros((n, r), _factor_dtype(x)), mode == "alternating")
        return PowerSGDState(count, Own(error), q, p)

    def compressed(
        leaves: list[Array], state: PowerSGDState, treedef: Any
    ) -> tuple[list[Array], PowerSGDState]:
        errors, qs, ps = (treedef.flatten_up_to(t) for t in (state.error.value, state.q, state.p))
        groups: dict[tuple, list[int]] = {}
        whole = []
        for i, leaf in enumerate(leaves):
            shape = _matrix_shape(leaf, rank, min_compression)
            if shape is None:
                whole.append(i)
            else:
                groups.setdefault((*shape, leaf.dtype), []).append(i)

        # One batched product for all matrices of a shape, one message for all factors.
        M, Q, P = [], [], []
        for (n, m, r, _), members in groups.items():
            dtype = _factor_dtype(leaves[members[0]])
            stack = [leaves[i].astype(dtype) for i in members]
            if error_feedback:
                stack = [a + errors[i] for a, i in zip(stack, members, strict=True)]
            M.append(jnp.stack([a.reshape(n, m) for a in stack]))
            Q.append(
                jnp.stack(
                    [qs[i] if warm_start else fresh(state.count, i, (m, r), dtype) for i in members]
                )
            )
            P.append(jnp.stack([ps[i] for i in members]) if mode == "alternating" else None)
        plain = [leaves[i] for i in whole]

        def half(factors: list, transposed: bool, more: list) -> tuple[list, list, list, list]:
            """orth(factor), the mean of M (or Mᵀ) times it, what of M is lost by projecting to it;
            `more` goes along with the message."""
            bases = [orthonormalise(f) for f in factors]
            if transposed:
                mine = [jnp.swapaxes(a, 1, 2) @ b for a, b in zip(M, bases, strict=True)]
                kept = [b @ jnp.swapaxes(f, 1, 2) for f, b in zip(mine, bases, strict=True)]
            else:
                mine = [a @ b for a, b in zip(M, bases, strict=True)]
                kept = [f @ jnp.swapaxes(b, 1, 2) for f, b in zip(mine, bases, strict=True)]
            means, more = mean_over_workers((mine, more), axis_name)
            return bases, means, [a - k for a, k in zip(M, kept, strict=True)], more

        lost: list[Array] = []
        if mode == "pq":
            sent = plain
            for _ in range(iters):
                products = [a @ q for a, q in zip(M, Q, strict=True)]
                P, mean = mean_over_workers((products, sent), axis_name)
                plain, sent = mean or plain, []
                P, Q, lost, _ = half(P, True, [])
        else:

            def even(P: list, Q: list, plain: list):
                Q, P, lost, plain = half(Q, False, plain)
                return P, Q, lost, plain

            def odd(P: list, Q: list, plain: list):
                return half(P, True, plain)

            first = (state.count - start_step) % 2 == 0
            P, Q, lost, plain = jax.lax.cond(first, even, odd, P, Q, plain)

        out: list[Any] = list(leaves)
        for i, mean in zip(whole, plain, strict=True):
            out[i] = mean
        for members, p, q, missed in zip(groups.values(), P, Q, lost, strict=True):
            exact = p @ jnp.swapaxes(q, 1, 2)
            low_rank = exact.astype(leaves[members[0]].dtype)
            missed = missed + (exact - low_rank.astype(exact.dtype))  # the rounding comes back too
            for j, i in enumerate(members):
                out[i] = low_rank[j].reshape(leaves[i].shape)
                if error_feedback:
                    errors[i] = missed[j].reshape(leaves[i].shape)
                if warm_start:
                    qs[i] = q[j]
                if mode == "alternating":
                    ps[i] = p[j]
        error, q, p = (jax.tree.unflatten(treedef, found) for found in (errors, qs, ps))
        return out, PowerSGDState(state.count, Own(error), q, p)

    def update(
        updates: PyTree, state: PowerSGDState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PowerSGDState]:
        check_leaves(updates)
        leaves, treedef = jax.tree.flatten(updates)
        if axis_name is not None:
            check_workers(leaves, axis_name)
        if start_step == 0:
            leaves, state = compressed(leaves, state, treedef)
        else:
            leaves, state = jax.lax.cond(
                state.count < start_step,
                lambda leaves, state: (mean_over_workers(leaves, axis_name), state),
                lambda leaves, state: compressed(leaves, state, treedef),
                leaves,
                state,
            )
        count = jnp.asarray(optax.safe_increment(state.count))
        return jax.tree.unflatten(treedef, leaves), state._replace(count=count)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def ef_sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    rank: int = 2,
    iters: int = 1,
    error_feedback: bool = True,
    warm_start: bool = True,
    min_compression: float = 2.0,
    start_step: int = 0,
    axis_name: str | None = "data",
    mode: Literal["pq", "alternating"] = "pq",
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with compressed gradients, error feedback and momentum, as in the paper:

        μ ← β μ + M̂,    x ← x − lr (M̂ + μ)

    The momentum is applied after decompression, and errors are in units of the gradient, so that
    a change of the rate does not rescale them.

    **Arguments:** `learning_rate`; `momentum`: β in [0, 1); others as for `powersgd`.

    **Returns:** an optax transformation. **Raises:** as `powersgd`, and `ValueError` for β.
    """
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum}: expected a number in [0, 1)")

    def add(update: PyTree, gradient: PyTree, params: PyTree, own: PyTree):
        return jax.tree.map(jnp.add, update, gradient), own

    return optax.chain(
        powersgd(
            rank,
            iters,
            error_feedback,
            warm_start,
            min_compression,
            start_step,
            axis_name,
            mode,
            key,
        ),
        post(optax.trace(momentum), add),
        optax.scale_by_learning_rate(learning_rate),
    )


def orthonormalise(p: Float[Array, "k n r"]) -> Float[Array, "k n r"]:
    """Orthonormal columns that span those of each matrix, by Householder QR.

    Gram–Schmidt divides by zero for a rank below r (no gradient, dead units); QR completes the
    basis instead, and so lets the next iteration recover.
    """
    return jnp.linalg.qr(p)[0]


def check_workers(leaves: list[Array], axis_name: str) -> None:
    """Raises `ValueError` if the axis is unbound or the gradients are already sums over it."""
    try:
        index = jax.lax.axis_index(axis_name)
    except NameError:
        raise ValueError(
            f"powersgd: axis_name = {axis_name!r} is not bound; call update inside jax.shard_map "
            "or jax.vmap with that axis, or use axis_name=None for a single worker"
        ) from None

    def varies(x: Array) -> bool:
        kind = getattr(jax.typeof(x), "manual_axis_type", None)
        return axis_name in getattr(kind, "varying", ())

    # Outside of shard_map's checks the index itself looks the same for all workers.
    if varies(index) and not any(varies(leaf) for leaf in leaves) and leaves:
        raise ValueError(
            "powersgd: the gradients do not differ between workers: JAX has summed them, as it "
            "does for weights that are shared. Use jax.lax.pcast(params, axis_name, "
            "to='varying') before jax.grad, or data_parallel, which does it"
        )


def _check_options(rank: Any, iters: Any, min_compression: Any, start_step: Any, mode: Any) -> None:
    for name, value, least in (
        ("rank", rank, 1),
        ("iters", iters, 1),
        ("start_step", start_step, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} = {value!r}: expected an integer >= {least}")
    if not min_compression >= 0:
        raise ValueError(f"min_compression = {min_compression}: expected a number >= 0")
    if mode not in ("pq", "alternating"):
        raise ValueError(f"mode = {mode!r}: expected 'pq' or 'alternating'")
