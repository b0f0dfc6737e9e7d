"""Adversarial adaptive sampling: points from a density that is trained against the field.

    min_u max_p  ∫ r²(u) p dx − β ∫ |∇p|² dx + γ J_b(u),    p ≥ 0,  ∫ p dx = 1,

where r is the residual of a differential equation. The field lowers r² where p puts points, p puts
them where r² is large, and β keeps p smooth. p is a normalizing flow on a box, so that it can be
drawn from and evaluated. The maximum for a given field, as long as it is positive, is

    p* = 1/|Ω| + (−Δ)⁻¹(r² − mean r²)/(2β),   ∂p*/∂n = 0.

Tang, Zhai, Wan and Yang, arXiv:2305.18702.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.pde import Box, SpaceTime

from .samplers import AbstractSampler, SamplerState, check_scores

# The ordinates of a density and the width of a bin are at least this share of the uniform ones.
_LEAST = 1e-3

# Of Newton's method, safeguarded by bisection, for the roots of cubics: double precision needs some
# 10, where a density rises from its least value a few more.
_NEWTON_STEPS = 20


class BoundedFlow(eqx.Module):
    """A density on a box: an invertible map x ↦ z of the box to the unit cube,

        p(x) = |det ∂z/∂x|,   x = z⁻¹(uniform).

    The map is triangular (Knothe-Rosenblatt): in a stage, coordinates are changed in turns, each
    half given the other one, and then the last of them is left as it is for good; the first one
    ends with a map of its own. Each change is a distribution function of [0, 1] whose density is a
    quadratic spline, with knots and ordinates that a small network makes from the other
    coordinates. The box is never left.

    The density is once continuously differentiable. With kinks, as piecewise linear splines have,
    the integral of |∇p|² would change with their places by what no derivative at a point shows.

    At the start it is the uniform density.
    """

    layers: tuple["_Coupling", ...]
    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        domain: Box | SpaceTime,
        *,
        blocks: int = 2,
        bins: int = 16,
        width: int = 32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `domain`: a box, or `SpaceTime` of one.
        - `blocks`: pairs of changes in each stage. `bins`: of each distribution function.
        - `width`: of the networks' two hidden layers.

        **Raises:** `TypeError` for another domain: a flow cannot have holes; `ValueError` for
        numbers below 1.
        """
        box = domain.space if isinstance(domain, SpaceTime) else domain
        if not isinstance(box, Box):
            raise TypeError(f"BoundedFlow: expected a Box or SpaceTime of one, got {domain!r}")
        for name, value in (("blocks", blocks), ("bins", bins), ("width", width)):
            if value < 1:
                raise ValueError(f"BoundedFlow: {name} = {value}, expected at least 1")
        self.lower, self.upper = tuple(domain.lower.tolist()), tuple(domain.upper.tolist())
        layers = []
        for active in range(domain.dim, 1, -1):
            for _ in range(blocks):
                key, *keys = jr.split(key, 3)
                half = active // 2
                spans = ((half, active), (0, half)), ((0, half), (half, active))
                layers += [
                    _Coupling(moved, given, bins, width, k)
                    for (moved, given), k in zip(spans, keys, strict=True)
                ]
        layers.append(_Coupling((0, 1), (0, 0), bins, width, key))
        self.layers = tuple(layers)

    @property
    def dim(self) -> int:
        """The number d of coordinates."""
        return len(self.lower)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The logarithm of p at a point of the box."""
        lower, span = self.frame(x.dtype)
        z, total = (x - lower) / span, -jnp.sum(jnp.log(span))
        for layer in self.layers:
            z, log_slope = layer.forward(z)
            total = total + log_slope
        return total

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Independent points with density p."""
        z = jr.uniform(key, (n, self.dim))
        for layer in reversed(self.layers):
            z = jax.vmap(layer.inverse)(z)
        lower, span = self.frame(z.dtype)
        return lower + span * z

    def frame(self, dtype) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The box's lower corner and its sides."""
        lower, upper = np.array(self.lower), np.array(self.upper)
        return jnp.asarray(lower, dtype), jnp.asarray(upper - lower, dtype)


class _Coupling(eqx.Module):
    """Some coordinates through distribution functions, given some others."""

    knots: eqx.nn.MLP | Float[Array, "1 k"]
    moved: tuple[int, int] = eqx.field(static=True)
    given: tuple[int, int] = eqx.field(static=True)
    bins: int = eqx.field(static=True)

    def __init__(self, moved, given, bins: int, width: int, key: PRNGKeyArray):
        self.moved, self.given, self.bins = moved, given, bins
        size = (moved[1] - moved[0]) * (2 * bins + 2)
        if given[0] == given[1]:
            self.knots = jnp.zeros((1, size))
            return
        net = eqx.nn.MLP(given[1] - given[0], size, width, 2, jnp.tanh, key=key)
        # Equal knots, so that the first density is the uniform one.
        self.knots = eqx.tree_at(
            lambda m: (m.layers[-1].weight, m.layers[-1].bias), net, replace_fn=jnp.zeros_like
        )

    def forward(self, z: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        part = slice(*self.moved)
        moved, log_slope = jax.vmap(_distribution)(z[part], *self._table(z))
        return z.at[part].set(moved), jnp.sum(log_slope)

    def inverse(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        part = slice(*self.moved)
        return z.at[part].set(jax.vmap(_quantile)(z[part], *self._table(z)))

    def _table(self, z: Array) -> tuple[Array, Array, Array]:
        """For each moved coordinate: the bins' edges, the mass below them, and in each bin the
        three Bernstein ordinates of the density."""
        raw = self.knots(2 * z[slice(*self.given)] - 1) if callable(self.knots) else self.knots
        raw = raw.reshape(-1, 2 * self.bins + 2)
        widths = _LEAST / self.bins + (1 - _LEAST) * jax.nn.softmax(raw[:, : self.bins])
        heights = _LEAST + jnp.exp(raw[:, self.bins :])
        middle, left, right = heights[:, 1:-1], widths[:, :-1], widths[:, 1:]
        # Such values at the edges make the slopes on both sides equal.
        joints = (right * middle[:, :-1] + left * middle[:, 1:]) / (left + right)
        ends = jnp.concatenate([heights[:, :1], joints, heights[:, -1:]], 1)
        ordinates = jnp.stack([ends[:, :-1], middle, ends[:, 1:]], -1)
        masses = widths * jnp.mean(ordinates, -1)
        total = jnp.sum(masses, 1, keepdims=True)
        zero = jnp.zeros_like(total)
        edges = jnp.concatenate([zero, jnp.cumsum(widths, 1)], 1)
        below = jnp.concatenate([zero, jnp.cumsum(masses / total, 1)], 1)
        return edges, below, ordinates / total[..., None]


def _distribution(z: Array, edges: Array, below: Array, ordinates: Array) -> tuple[Array, Array]:
    """∫₀ᶻ h and log h(z) of a quadratic spline h."""
    i = _bin(z, edges)
    width = edges[i + 1] - edges[i]
    mass, density = _cubic((z - edges[i]) / width, ordinates[i])
    return jnp.clip(below[i] + width * mass, 0, 1), jnp.log(density)


def _quantile(y: Array, edges: Array, below: Array, ordinates: Array) -> Array:
    """The z with ∫₀ᶻ h = y."""
    i = _bin(y, below)
    width = edges[i + 1] - edges[i]
    wanted = (y - below[i]) / width
    # As exact as rounding lets it be.
    close = 2 * jnp.finfo(y.dtype).eps * jnp.max(ordinates[i])

    def improved(_, bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, s = bracket
        mass, density = _cubic(s, ordinates[i])
        low, high = jnp.where(mass < wanted, s, low), jnp.where(mass < wanted, high, s)
        newton = s - (mass - wanted) / density
        inside = (low <= newton) & (newton <= high)
        better = jnp.where(inside, newton, (low + high) / 2)
        return low, high, jnp.where(jnp.abs(mass - wanted) <= close, s, better)

    zero, one = jnp.zeros_like(y), jnp.ones_like(y)
    start = jnp.clip((y - below[i]) / (below[i + 1] - below[i]), 0, 1)
    s = jax.lax.fori_loop(0, _NEWTON_STEPS, improved, (zero, one, start))[2]
    return jnp.clip(edges[i] + width * s, 0, 1)


def _cubic(s: Array, ordinates: Array) -> tuple[Array, Array]:
    """∫₀ˢ q and q(s) of the quadratic q with three Bernstein ordinates."""
    a, b, c = ordinates
    bend = a - 2 * b + c
    return s * (a + s * (b - a + s * bend / 3)), a + s * (2 * (b - a) + s * bend)


def _bin(value: Array, edges: Array) -> Array:
    return jnp.sum(value >= edges[1:-1])


class AdversarialSampler(AbstractSampler):
    """Points from a `BoundedFlow` p_α that follows the residuals. In every update, with the points
    x of p_α' that the field's loss has just used, α' being the weights so far,

        α ← an optimiser's step up  mean [(r²(x) p_α(x) − β |∇p_α(x)|²) / p_α'(x)],

    and the next points are drawn from the new p_α. Residuals enter as numbers: no point is moved
    along the residual's gradient.

    - `flow`: the density, over the domain of the term.
    - `beta`: β > 0, in units of the mean of r² over the domain times its volume² and length², with
        the largest side as the length, so that one β serves every stage of a training; the
        method's own, with a fixed β, is `relative=False`.
    - `optimizer`: an optax transformation for α.
    - `inner_steps`: steps in each update, all on the same points; the ratio p_α/p_α' then drifts.

    **Raises:** `ValueError` for β that is not positive or fewer than one step; in `init` for points
    of another dimension than the flow's, and at run time for points outside its box.
    """

    flow: BoundedFlow
    beta: float = 0.01
    optimizer: optax.GradientTransformation = eqx.field(static=True, default=optax.adam(1e-3))
    inner_steps: int = eqx.field(static=True, default=1)
    relative: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if isinstance(self.beta, int | float) and not self.beta > 0:
            raise ValueError(f"AdversarialSampler: beta = {self.beta}, expected a positive number")
        if self.inner_steps < 1:
            raise ValueError(
                f"AdversarialSampler: inner_steps = {self.inner_steps}, expected at least 1"
            )

    def init(self, key, draw, n):
        domain_key, key = jr.split(key)
        inside = draw(domain_key, n)
        if inside.shape[1] != self.flow.dim:
            raise ValueError(
                f"AdversarialSampler: the domain's points have {inside.shape[1]} coordinates, the "
                f"flow has {self.flow.dim}"
            )
        x = self.flow.sample(key, n)
        lower, span = self.flow.frame(x.dtype)
        out = jnp.any(jnp.abs((inside - lower) / span - 0.5) > 0.5 + 1e-5)
        x = eqx.error_if(x, out, "AdversarialSampler: the flow's box does not hold the domain")
        params = eqx.filter(self.flow, eqx.is_inexact_array)
        memory = (params, self.optimizer.init(params))
        return SamplerState(x, jnp.zeros((), jnp.int32), memory)

    def density(self, state: SamplerState) -> BoundedFlow:
        """The flow with the weights of a state."""
        return self._with(state.memory[0])

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        params, opt_state = state.memory
        finite = jnp.isfinite(score)
        squared = jnp.where(finite, score, 0) ** 2
        old = jax.vmap(self.density(state).log_prob)(state.x)
        size, smoothness = self._units(squared, old)

        def objective(params: Any) -> Array:
            flow = self._with(params)
            logs, slopes = jax.vmap(jax.value_and_grad(flow.log_prob))(state.x)
            ratio = jnp.exp(logs - old)
            rough = self.beta * jnp.exp(logs) * jnp.sum(slopes**2, 1)
            return jnp.mean(ratio * (squared / size - smoothness * rough))

        for _ in range(self.inner_steps):
            grads = jax.grad(lambda p: -objective(p))(params)
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        x = self._with(params).sample(key, score.shape[0])
        return SamplerState(x, state.count + 1, (params, opt_state))

    def _with(self, params: Any) -> BoundedFlow:
        return eqx.combine(params, self.flow)

    def _units(self, squared: Array, log_density: Array) -> tuple[Array, Array]:
        """What r² is divided by, and β multiplied with."""
        one = jnp.ones((), squared.dtype)
        if not self.relative:
            return one, one
        _, span = self.flow.frame(squared.dtype)
        volume = jnp.prod(span)
        mean = jnp.mean(squared * jnp.exp(-log_density)) / volume
        return jnp.maximum(mean, jnp.finfo(squared.dtype).tiny), volume * jnp.max(span) ** 2


def neumann_poisson_density(
    squared_residual: Float[Array, "*grid"], beta: float, domain: Box
) -> Float[Array, "*grid"]:
    """p* = 1/|Ω| + (−Δ)⁻¹(r² − mean r²)/(2β), the density that `AdversarialSampler` is after.

    **Arguments:**

    - `squared_residual`: r² at the midpoints of a grid of cells of the box.
    - `beta`: as with `relative=False`.

    **Returns:** p* there, from a cosine series; where it is negative, β is too small for it to be
    a density.

    **Raises:** `ValueError` for β that is not positive or a grid of another dimension.
    """
    if not beta > 0:
        raise ValueError(f"neumann_poisson_density: beta = {beta}, expected a positive number")
    if squared_residual.ndim != domain.dim:
        raise ValueError(
            f"neumann_poisson_density: r² has {squared_residual.ndim} axes, the domain {domain.dim}"
        )
    sides = domain.upper - domain.lower
    shape = squared_residual.shape
    waves = [(np.pi * np.arange(n) / side) ** 2 for n, side in zip(shape, sides, strict=True)]
    symbol = np.sum(np.meshgrid(*waves, indexing="ij"), 0)
    symbol.flat[0] = np.inf
    coefficients = jax.scipy.fft.dctn(squared_residual, norm="ortho")
    rough = jax.scipy.fft.idctn(coefficients / jnp.asarray(symbol), norm="ortho")
    return 1 / domain.measure() + rough / (2 * beta)
