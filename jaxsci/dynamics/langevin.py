"""Langevin samplers in blackjax's shape, and exact laws to judge them by.

    ULA          x' = x − h ∇U(x) + (2h)^½ ξ
    MALA         the same as a proposal, accepted or not
    underdamped  dx = v dt,  dv = −∇U dt − γ v dt + (2γ)^½ dW, split as OBABO or UBU

All have e^{−U} as their stationary law, the unadjusted ones up to an error of the step size: for a
U with smooth third derivatives W₂ ≤ C d^½ h (arXiv:2109.03839).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Potential = Callable[[Float[Array, " d"]], Float[Array, ""]]


class SamplingAlgorithm(NamedTuple):
    """`init(position) -> state` and `step(key, state) -> (state, info)`, as in blackjax."""

    init: Callable[..., Any]
    step: Callable[..., Any]


class LangevinState(NamedTuple):
    """A position with U and ∇U there."""

    position: Float[Array, " d"]
    value: Float[Array, ""]
    gradient: Float[Array, " d"]


class UnderdampedState(NamedTuple):
    """A position and a velocity."""

    position: Float[Array, " d"]
    velocity: Float[Array, " d"]


class AcceptanceInfo(NamedTuple):
    """What MALA did: the probability of acceptance, and whether it accepted."""

    acceptance_rate: Float[Array, ""]
    is_accepted: Array


def _check_step(h: float, smoothness: float | None = None) -> None:
    if not h > 0:
        raise ValueError(f"h = {h}: expected a positive step size")
    if smoothness is not None and not h < 2 / smoothness:
        raise ValueError(f"h = {h}: the chain diverges from 2/L = {2 / smoothness:g} on")


def _langevin_init(potential: Potential) -> Callable[[Float[Array, " d"]], LangevinState]:
    def init(position: Float[Array, " d"]) -> LangevinState:
        shape = jax.eval_shape(potential, position)
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"potential: expected it to return a number, got {shape}")
        return LangevinState(position, *jax.value_and_grad(potential)(position))

    return init


def ula(potential: Potential, h: float, smoothness: float | None = None) -> SamplingAlgorithm:
    """The unadjusted Langevin algorithm, x' = x − h ∇U(x) + (2h)^½ ξ.

    **Arguments:**

    - `potential`: U. `h`: step size; good: 0.1/L.
    - `smoothness`: L, the largest eigenvalue of ∇²U, if known; only to refuse steps ≥ 2/L.

    **Returns:** a `SamplingAlgorithm`; its `info` is `None`.

    **Raises:** `ValueError` if h ≤ 0 or h ≥ 2/L, or (in `init`) if U returns no number.
    """
    _check_step(h, smoothness)

    def step(key: PRNGKeyArray, state: LangevinState) -> tuple[LangevinState, None]:
        noise = jr.normal(key, state.position.shape, state.position.dtype)
        position = state.position - h * state.gradient + jnp.sqrt(2 * h) * noise
        return LangevinState(position, *jax.value_and_grad(potential)(position)), None

    return SamplingAlgorithm(_langevin_init(potential), step)


def mala(potential: Potential, h: float) -> SamplingAlgorithm:
    """ULA's step, accepted with the probability that makes e^{−U} exactly stationary.

    **Arguments:** `potential`: U. `h`: step size; good: d^{−1/3}/L.

    **Returns:** a `SamplingAlgorithm` whose `info` is an `AcceptanceInfo`.

    **Raises:** `ValueError` if h ≤ 0, or (in `init`) if U returns no number.
    """
    _check_step(h)

    def transition(a: LangevinState, b: LangevinState) -> Float[Array, ""]:
        """Log density of the move from a to b, without its constant."""
        return -jnp.sum((b.position - a.position + h * a.gradient) ** 2) / (4 * h)

    def step(key: PRNGKeyArray, state: LangevinState) -> tuple[LangevinState, AcceptanceInfo]:
        noise_key, accept_key = jr.split(key)
        noise = jr.normal(noise_key, state.position.shape, state.position.dtype)
        position = state.position - h * state.gradient + jnp.sqrt(2 * h) * noise
        proposal = LangevinState(position, *jax.value_and_grad(potential)(position))
        log_ratio = (
            state.value - proposal.value + transition(proposal, state) - transition(state, proposal)
        )
        # A NaN far out is a rejection.
        rate = jnp.exp(jnp.minimum(jnp.nan_to_num(log_ratio, nan=-jnp.inf), 0.0))
        accepted = jr.uniform(accept_key, (), rate.dtype) < rate
        new = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), proposal, state)
        return new, AcceptanceInfo(rate, accepted)

    return SamplingAlgorithm(_langevin_init(potential), step)


def underdamped(
    potential: Potential, h: float, friction: float = 2.0, scheme: Literal["OBABO", "UBU"] = "UBU"
) -> SamplingAlgorithm:
    """Underdamped Langevin by splitting: O noise, B force, A motion, U = A and O together, exact.

    **Arguments:**

    - `potential`: U. `h`: step size; good: 0.3/L^½. `friction`: γ; good: 2 m^½ for ∇²U ≥ m.
    - `scheme`: `"UBU"` is of strong order 2, `"OBABO"` of strong order 1 (both of weak order 2).

    **Returns:** a `SamplingAlgorithm`. `init(position, velocity=None)` (zero); `info` is `None`.

    **Raises:** `ValueError` for h ≤ 0, friction ≤ 0, or an unknown scheme.
    """
    _check_step(h)
    if not friction > 0:
        raise ValueError(f"friction = {friction}: expected a positive number")
    if scheme not in ("OBABO", "UBU"):
        raise ValueError(f"scheme = {scheme!r}: expected 'OBABO' or 'UBU'")
    force = jax.grad(potential)
    half = h / 2
    decay = float(np.exp(-friction * half))
    # Covariance of (∫ velocity noise, velocity noise) over half a step of free motion.
    vv = -np.expm1(-2 * friction * half)
    xv = np.expm1(-friction * half) ** 2 / friction
    xx = (
        2 * half + (4 * np.expm1(-friction * half) - np.expm1(-2 * friction * half)) / friction
    ) / friction
    factor = np.linalg.cholesky(np.array([[vv, xv], [xv, xx]]) + np.diag([0.0, 1e-300]))

    def init(
        position: Float[Array, " d"], velocity: Float[Array, " d"] | None = None
    ) -> UnderdampedState:
        start = jnp.zeros_like(position) if velocity is None else velocity
        return UnderdampedState(position, start)

    def free(key: PRNGKeyArray, x: Array, v: Array) -> tuple[Array, Array]:
        noise = jr.normal(key, (2, *x.shape), x.dtype)
        shift = factor[1, 0] * noise[0] + factor[1, 1] * noise[1]
        moved = x + (1 - decay) / friction * v + shift
        return moved, decay * v + factor[0, 0] * noise[0]

    def kick(x: Array, v: Array, size: float) -> Array:
        return v - size * force(x)

    def rub(key: PRNGKeyArray, v: Array) -> Array:
        return decay * v + np.sqrt(vv) * jr.normal(key, v.shape, v.dtype)

    def step(key: PRNGKeyArray, state: UnderdampedState) -> tuple[UnderdampedState, None]:
        x, v = state
        first, second = jr.split(key)
        if scheme == "UBU":
            x, v = free(first, x, v)
            v = kick(x, v, h)
            x, v = free(second, x, v)
        else:
            v = kick(x, rub(first, v), half)
            x = x + h * v
            v = rub(second, kick(x, v, half))
        return UnderdampedState(x, v), None

    return SamplingAlgorithm(init, step)


def langevin_terms(potential: Potential, brownian: dfx.AbstractBrownianPath) -> dfx.MultiTerm:
    """DX = −∇U(X) dt + 2^½ dW as diffrax's terms; Euler's method on them is ULA.

    **Arguments:** `potential`: U. `brownian`: a path in as many dimensions as X has.
    """
    force = jax.grad(potential)
    drift = dfx.ODETerm(lambda t, x, args: -force(x))
    diffusion = dfx.ControlTerm(
        lambda t, x, args: lx.DiagonalLinearOperator(jnp.full_like(x, jnp.sqrt(2.0))), brownian
    )
    return dfx.MultiTerm(drift, diffusion)


def ula_gaussian_law(
    precisions: Float[Any, " d"], h: float, k: Any, start: Any = 0.0
) -> Float[np.ndarray, " d"]:
    """Variances of ULA's law after k steps for U = Σ aᵢ xᵢ²/2, exactly.

        s_k = r^{2k} s₀ + 2h (1 − r^{2k})/(1 − r²),    r = 1 − h a

    **Arguments:**

    - `precisions`: the eigenvalues aᵢ of the target's precision matrix; its variances are 1/aᵢ.
    - `h`, `k`: step size, number of steps (infinity: the stationary law).
    - `start`: variances s₀, in the same eigenvectors; 0 is a start at the mode.

    **Returns:** the variances.

    **Raises:** `ValueError` if h ≤ 0, an aᵢ is not positive, or h ≥ 2/max a.
    """
    a = np.asarray(precisions, float)
    if not np.all(a > 0):
        raise ValueError("precisions: expected positive numbers")
    _check_step(h, float(np.max(a)))
    power = np.abs(1 - h * a) ** (2.0 * k)
    return power * start + (1 - power) / (a * (1 - h * a / 2))


def w2_gaussian(left: Float[Any, " d"], right: Float[Any, " d"]) -> float:
    """W₂ of two centred normal laws with the same eigenvectors and the given variances."""
    return float(np.sqrt(np.sum((np.sqrt(left) - np.sqrt(right)) ** 2)))


def stationary_law_1d(
    derivative: Callable[[Any], Any], h: float, grid: Float[np.ndarray, " n"], tol: float = 1e-13
) -> Float[np.ndarray, " n"]:
    """The density of ULA's stationary law in one dimension, on an even grid.

    Repeated squaring of the transition density N(y; x − h U'(x), 2h), whose integrals by the
    trapezoidal rule are exact up to what lies outside the grid.

    **Arguments:**

    - `derivative`: U', on numpy arrays. `h`: step size.
    - `grid`: even points that cover the law and are closer than h^½.
    - `tol`: change at which to stop.

    **Returns:** the density at the points.

    **Raises:** `ValueError` if h ≤ 0, or for a grid that is not even or too coarse for h.
    """
    _check_step(h)
    spacing = np.diff(grid)
    if not np.allclose(spacing, spacing[0], rtol=1e-6):
        raise ValueError("grid: expected evenly spaced points")
    dx = float(spacing[0])
    if dx > np.sqrt(h):
        raise ValueError(
            f"grid: expected a spacing of at most h^(1/2) = {np.sqrt(h):g}, got {dx:g}"
        )
    mean = grid - h * derivative(grid)
    kernel = np.exp(-((grid[:, None] - mean[None]) ** 2) / (4 * h))
    kernel /= kernel.sum(0)
    law = np.full(len(grid), 1 / len(grid))
    for _ in range(60):
        kernel = kernel @ kernel
        kernel /= kernel.sum(0)
        new = kernel @ law
        if np.abs(new - law).max() < tol:
            break
        law = new
    return new / (new.sum() * dx)


def w2_1d(
    grid: Float[np.ndarray, " n"], left: Float[np.ndarray, " n"], right: Float[np.ndarray, " n"]
) -> float:
    """W₂ of two densities on an even grid: (∫₀¹ |F⁻¹(u) − G⁻¹(u)|² du)^½.

    **Arguments:** `grid`, and both densities there (scaled to one here).

    **Raises:** `ValueError` for densities that are negative or of another shape than the grid.
    """
    cumulative = []
    for name, density in (("left", left), ("right", right)):
        if np.shape(density) != grid.shape or np.any(density < 0):
            raise ValueError(f"{name}: expected a density on the grid")
        steps = (density[1:] + density[:-1]) / 2
        total = np.concatenate([[0.0], np.cumsum(steps)])
        cumulative.append(total / total[-1])
    # Between consecutive values of either distribution function both inverses are linear.
    u = np.union1d(*cumulative)
    gap = np.interp(u, cumulative[0], grid) - np.interp(u, cumulative[1], grid)
    a, b = gap[:-1], gap[1:]
    return float(np.sqrt(np.sum(np.diff(u) * (a * a + a * b + b * b) / 3)))
