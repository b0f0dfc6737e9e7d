"""Levenberg-Marquardt: Gauss-Newton steps on a sum of squares, damped until they go downhill.

    min_θ ‖r(θ)‖²,    s = −(JᵀJ + λ I)⁻¹ Jᵀ r = −Jᵀ (JJᵀ + λ I)⁻¹ r,    J = r'(θ)

The two forms are the same step: the smaller of the two matrices is factorised, so the cost is
O(n p min(n, p)) for n residuals and p weights. λ follows the ratio of the decrease to what the
linear model promises (Nielsen, IMM-REP-1999-05).
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int, PyTree

from ..flat import ravel, unraveller, work_dtype


class LevenbergMarquardtState(NamedTuple):
    """State of `scale_by_levenberg_marquardt`.

    - `count`: updates so far. `damping`: λ over the largest diagonal entry of JᵀJ or JJᵀ.
    - `metrics`: `step_norm`, the number of `tries` in the last update, for logs.
    """

    count: Int[Array, ""]
    damping: Float[Array, ""]
    metrics: dict[str, Array]


def scale_by_levenberg_marquardt(
    *, damping: float = 1e-3, max_tries: int = 12
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt's directions; see `levenberg_marquardt`, the same with −1.

    **Arguments, Raises:** as for `levenberg_marquardt`.
    """
    owner = "levenberg_marquardt"
    if isinstance(damping, int | float) and not damping > 0:
        raise ValueError(f"damping = {damping!r}: expected a positive number")
    if not isinstance(max_tries, int) or max_tries < 1:
        raise ValueError(f"max_tries = {max_tries!r}: expected an integer >= 1")

    def init(params: PyTree) -> LevenbergMarquardtState:
        dtype = work_dtype(params, owner)
        return LevenbergMarquardtState(
            count=jnp.zeros((), jnp.int32),
            damping=jnp.asarray(damping, dtype),
            metrics={"step_norm": jnp.zeros((), dtype), "tries": jnp.zeros((), jnp.int32)},
        )

    def update(
        updates: PyTree,
        state: LevenbergMarquardtState,
        params: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        if params is None:
            raise ValueError(f"{owner}: update needs params, got None")
        if not jax.tree.leaves(params):
            return updates, state._replace(count=state.count + 1)
        model_fn = extra.get("model_fn")
        if model_fn is None:
            raise ValueError(f"{owner}: update needs the keyword argument model_fn, θ ↦ residuals")
        dtype = work_dtype(params, owner)
        x, to_tree = ravel(params, dtype), unraveller(params, dtype)

        def residuals(x: Float[Array, " p"]) -> Float[Array, " n"]:
            return ravel(model_fn(to_tree(x)), dtype)

        r = residuals(x)
        jacobian_fn = extra.get("jacobian_fn")
        if jacobian_fn is None:
            by = jax.jacrev if r.size < x.size else jax.jacfwd
            jacobian = by(residuals)(x)
        else:
            jacobian = jax.vmap(lambda row: ravel(row, dtype))(jacobian_fn(params))
            if jacobian.shape != (r.size, x.size):
                raise ValueError(
                    f"{owner}: jacobian_fn gave {jacobian.shape[0]} rows, expected {r.size}, "
                    "one for each residual"
                )
        step, new_state = _damped_step(residuals, x, r, jacobian, state, max_tries)
        return to_tree(-step), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def levenberg_marquardt(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    damping: float = 1e-3,
    max_tries: int = 12,
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt's method for a sum of squares (formulas above).

    `update` needs `model_fn`, θ ↦ residuals (any pytree); the loss is the sum of their squares, or
    a multiple of it. With `jacobian_fn`, θ ↦ their derivatives (a pytree like θ, each leaf with an
    axis in front that runs over the residuals, all raveled in order), the Jacobian is not found by
    one derivative for each residual or weight: for residuals r(θ, x_i) that belong to points,
    `jax.vmap(jax.grad(r), (None, 0))` is min(n, p) times cheaper.

    Of every update, all is on one set of residuals: points may be drawn anew for the next one.
    In float32 the squared condition of J limits the last digits: λ is kept above the rounding.

    **Arguments:**

    - `learning_rate`: factor of the step; 1 is the method.
    - `damping`: the first λ, in units of the largest diagonal entry of the factorised matrix.
    - `max_tries`: factorisations in one update, with λ growing 2, 4, 8, … fold until the sum of
        squares falls; if it never does, the weights stay.

    **Returns:** an optax transformation; its state is a chain's, `state[0]` a
    `LevenbergMarquardtState`.

    **Raises:** `ValueError` for options out of range, a missing `model_fn` or a Jacobian of the
    wrong size; `TypeError` for parameters that are not real floating arrays.
    """
    return optax.chain(
        scale_by_levenberg_marquardt(damping=damping, max_tries=max_tries),
        optax.scale_by_learning_rate(learning_rate),
    )


class _Try(NamedTuple):
    """A step with its damping: was it taken, what was the next to be."""

    step: Float[Array, " p"]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    accepted: Array
    tries: Int[Array, ""]


def _damped_step(
    residuals: Any,
    x: Float[Array, " p"],
    r: Float[Array, " n"],
    jacobian: Float[Array, "n p"],
    state: LevenbergMarquardtState,
    max_tries: int,
) -> tuple[Float[Array, " p"], LevenbergMarquardtState]:
    few_residuals = r.size <= x.size
    gram = jacobian @ jacobian.T if few_residuals else jacobian.T @ jacobian
    right = r if few_residuals else jacobian.T @ r
    # A flat start, J = 0, has no scale of its own; every step is zero there.
    scale = jnp.max(jnp.diagonal(gram))
    scale = jnp.where(scale > 0, scale, 1)
    value = r @ r
    least = 4 * jnp.finfo(x.dtype).eps

    def attempt(last: _Try) -> _Try:
        shifted = gram + last.damping * scale * jnp.eye(right.size, dtype=x.dtype)
        solved = cho_solve(cho_factor(shifted), right)
        step = -(jacobian.T @ solved if few_residuals else solved)
        promised = value - jnp.sum((r + jacobian @ step) ** 2)
        gained = value - jnp.sum(residuals(x + step) ** 2)
        # NaN, from a matrix that is not positive or residuals that overflow, is no gain.
        accepted = (gained > 0) & (promised > 0)
        ratio = gained / promised
        shrunk = jnp.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
        return _Try(
            step=jnp.where(accepted, step, 0),
            damping=jnp.where(
                accepted, jnp.maximum(last.damping * shrunk, least), last.damping * last.growth
            ),
            growth=2 * last.growth,
            accepted=accepted,
            tries=last.tries + 1,
        )

    start = _Try(
        jnp.zeros_like(x),
        state.damping,
        jnp.asarray(2, x.dtype),
        jnp.zeros((), bool),
        jnp.zeros((), jnp.int32),
    )
    found = jax.lax.while_loop(
        lambda last: ~last.accepted & (last.tries < max_tries), attempt, start
    )
    # After a failure the next update starts from where this one did: its points may be others.
    kept = jnp.where(found.accepted, found.damping, jnp.minimum(2 * state.damping, 1e6))
    metrics = {"step_norm": jnp.linalg.norm(found.step), "tries": found.tries}
    return found.step, LevenbergMarquardtState(
        jnp.asarray(optax.safe_increment(state.count)), kept, metrics
    )
