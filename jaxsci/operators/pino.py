"""Physics-informed operators: data where there are some, an equation everywhere.

    L = λ_d ‖û - u‖ / ‖u‖ + λ_f ‖R(û)‖ / ‖R(0)‖ + λ_b ‖B(û)‖

`pino` is this sum as a training recipe, with the residual on a grid finer than the data's;
`test_time_optimise` then fits a trained operator to the equation on one input, where nobody has a
solution.

What an equation teaches is the solution of its *discrete* defect R: a network trained with the
midpoint rule's has at best the error of the midpoint rule at these frames.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxsci.pde import AbstractStepper

from .metrics import relative_l2
from .recipes import Distance, Recipe, cut_window
from .stepping import check_count, predicted, start, window_sizes

# R(previous, following, cond) and B(frame, cond), of frames "c *grid".
Defect = Callable[[Array, Array, Any], Float[Array, "..."]]
BoundaryDefect = Callable[[Array, Any], Float[Array, "..."]]

# A norm below this is a zero, with a zero for its gradient instead of NaN.
_SMALLEST = 1e-12


def pino(
    residual: Defect | None = None,
    lam_data: float = 1.0,
    lam_pde: float = 1.0,
    lam_bc: float = 0.0,
    *,
    boundary: BoundaryDefect | None = None,
    refine: int = 1,
    distance: Distance = relative_l2,
) -> Recipe:
    """Data and an equation at once, for the b frames that one step of a stepper predicts.

        λ_d d(û, u) + λ_f ‖R(û)‖ / ‖R(0)‖ + λ_b ‖B(û)‖,
        ‖R(û)‖² = Σ_m ‖R(û^m, û^{m+1})‖²,   û⁰ the last true frame

    R(0) is the residual of frames that are zero, the worst that a network at rest can have; so the
    terms are of one size, whatever the units and the time step. ‖B‖ is a root mean square. The
    window holds k + b frames, or, with λ_d = 0, the k that the stepper is started from: inputs
    without solutions can be mixed in as `pino(R, 0)` of other windows. `aux` holds the terms.

    **Arguments:**

    - `residual`: R, the defect of a time scheme, as for `physics_residual`; not needed for
        λ_f = 0.
    - `lam_data`, `lam_pde`, `lam_bc`: λ_d, λ_f, λ_b. A term with 0 is not computed.
    - `boundary`: B, what a frame leaves of the boundary conditions.
    - `refine`: the residual is taken on a grid so many times as fine, on which the stepper is run
        from the Fourier interpolant of the k frames: periodic grids, and operators that accept any
        resolution. On the data's own grid, products alias, and what the network does between the
        points is free. Good values: 1 or 2.
    - `distance`: d, between bundles.

    **Raises:** `ValueError` for negative or only zero weights, a term without its function, or
    `refine` < 1; `TypeError` if a function is not callable.

    Reference: Li et al., arXiv:2111.03794.
    """
    weights = {"lam_data": lam_data, "lam_pde": lam_pde, "lam_bc": lam_bc}
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"pino: {name} must be 0 or more, got {value}")
    if not any(weights.values()):
        raise ValueError("pino: lam_data, lam_pde and lam_bc are all 0; nothing is asked for")
    for name, value, function in (("residual", lam_pde, residual), ("boundary", lam_bc, boundary)):
        if function is None and value > 0:
            raise ValueError(f"pino: {name} is missing, but its weight is {value}")
        if function is not None and not callable(function):
            raise TypeError(f"pino: {name} must be callable, got {function!r}")
    check_count("pino: refine", refine)

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        del progress
        k, b = window_sizes(stepper)
        window, key = cut_window(window, k + b if lam_data > 0 else k, key, "pino")
        history, target = window[:k], window[k:]

        def frames_from(history):
            return predicted(stepper, stepper.step(start(stepper, history, cond), cond, key=key))

        terms: dict[str, Array] = {}
        answer = None
        if lam_data > 0:
            answer = frames_from(history)
            terms["data"] = lam_data * distance(answer, target)
        if lam_pde > 0 or lam_bc > 0:
            if refine > 1:
                history, answer = _interpolated(history, refine), None
            frames = frames_from(history) if answer is None else answer
            if residual is not None and lam_pde > 0:
                terms["pde"] = lam_pde * _relative_residual(residual, history[-1], frames, cond)
            if boundary is not None and lam_bc > 0:
                defect = jax.vmap(boundary, (0, None))(frames, cond)
                terms["bc"] = lam_bc * optax.safe_norm(defect, _SMALLEST) / defect.size**0.5
        return jnp.sum(jnp.stack(list(terms.values()))), terms

    return recipe


class Optimised(NamedTuple):
    """The stepper fitted to one input, and the loss before every step."""

    stepper: Any
    losses: Float[Array, " steps"]


def test_time_optimise(
    stepper: AbstractStepper,
    residual: Defect,
    history: Float[Array, "k c *grid"],
    steps: int,
    anchor: float | Float[Array, ""] = 0.0,
    *,
    optimizer: optax.GradientTransformation,
    cond: Any = None,
    refine: int = 1,
) -> Optimised:
    """Fits the weights to an equation on one input, from those that were trained on many.

        min_θ  ‖R(û_θ)‖² / ‖R(0)‖² + α ‖û_θ - û_θ₀‖² / ‖û_θ₀‖²

    over the b frames of one step, without data. One `lax.scan`, so it may be jitted, and vmapped
    over inputs: every input then has weights of its own. It costs `steps` gradients for each
    answer, where the trained operator costs one evaluation; a solver of the same equation is what
    it has to be compared with (`jaxsci.operators.bench`).

    **Arguments:**

    - `stepper`: with the trained weights θ₀; all its inexact arrays are changed.
    - `residual`, `cond`, `refine`: as for `pino`.
    - `history`: the k frames that the stepper is started from.
    - `steps`: updates. Good values: 50 to 500.
    - `anchor`: α, a number or a traced one; keeps the answer near the first one where the residual
        says little.
    - `optimizer`: Adam with a rate of 1e-3.

    **Raises:** `ValueError` for steps or refine below 1, a negative anchor, or another number of
    frames than k; `TypeError` if it is no stepper or the residual is not callable.

    Reference: Li et al., arXiv:2111.03794.
    """
    check_count("test_time_optimise: steps", steps)
    check_count("test_time_optimise: refine", refine)
    if not isinstance(anchor, jax.Array) and not anchor >= 0:
        raise ValueError(f"test_time_optimise: anchor must be 0 or more, got {anchor}")
    if not callable(residual):
        raise TypeError(f"test_time_optimise: residual must be callable, got {residual!r}")
    k, _ = window_sizes(stepper)
    history = jnp.asarray(history)
    if history.ndim < 3 or history.shape[0] != k:
        raise ValueError(f"history: expected {k} frames (k, c, *grid), got shape {history.shape}")
    fine = history if refine == 1 else _interpolated(history, refine)
    weights, rest = eqx.partition(stepper, eqx.is_inexact_array)

    def frames_of(weights: PyTree) -> Float[Array, "b c *grid"]:
        model = eqx.combine(weights, rest)
        return predicted(model, model.step(start(model, fine, cond), cond))

    anchored = isinstance(anchor, jax.Array) or anchor > 0
    first = frames_of(weights) if anchored else None

    def loss(weights: PyTree) -> Float[Array, ""]:
        frames = frames_of(weights)
        value = _relative_residual(residual, fine[-1], frames, cond) ** 2
        if first is None:
            return value
        return value + anchor * jnp.sum((frames - first) ** 2) / jnp.sum(first**2)

    def update(carry: Any, _: None) -> tuple[Any, Array]:
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), value

    (weights, _), losses = jax.lax.scan(
        update, (weights, optimizer.init(weights)), None, length=steps
    )
    return Optimised(eqx.combine(weights, rest), losses)


def _relative_residual(
    residual: Defect, last: Float[Array, "c *grid"], frames: Float[Array, "b c *grid"], cond: Any
) -> Float[Array, ""]:
    """‖R(û)‖ / ‖R(0)‖, with û⁰ = `last`."""

    def defects(frames: Array) -> Array:
        previous = jnp.concatenate([last[None], frames[:-1]])
        return jax.vmap(lambda a, b: residual(a, b, cond))(previous, frames)

    scale = jnp.sqrt(jnp.sum(jnp.abs(defects(jnp.zeros_like(frames))) ** 2))
    return optax.safe_norm(defects(frames) / scale, _SMALLEST)


def _interpolated(history: Float[Array, "k c *grid"], times: int) -> Float[Array, "k c *fine"]:
    """The trigonometric polynomials through the values, on a grid `times` as fine."""
    for axis in range(2, history.ndim):
        n = history.shape[axis]
        coef = jnp.moveaxis(jnp.fft.rfft(history, axis=axis), axis, -1)
        if n % 2 == 0:
            # Nyquist's wave, cos(n π x), is two waves on the fine grid, half as high.
            coef = coef.at[..., -1].multiply(0.5)
        fine = times * jnp.fft.irfft(coef, times * n)
        history = jnp.moveaxis(fine, -1, axis).astype(history.dtype)
    return history
