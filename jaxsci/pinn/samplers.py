"""Where to put collocation points: rules that move a fixed number of them from step to step.

A sampler is `init` and `update`; the residuals that the loss has just computed are the score, so
that most rules cost nothing but a few uniform draws. All shapes are fixed, and all runs in a scan.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

Draw = Callable[[PRNGKeyArray, int], Float[Array, "n d"]]
Evaluate = Callable[[Float[Array, "n d"]], Float[Array, " n"]]


class SamplerState(eqx.Module):
    """The points in use, and what a rule remembers.

    - `x`: the points. `count`: updates so far. `memory`: of the rule.
    """

    x: Float[Array, "n d"]
    count: Int[Array, ""]
    memory: Any = None


class AbstractSampler(eqx.Module):
    """A rule for collocation points."""

    def init(self, key: PRNGKeyArray, draw: Draw, n: int) -> SamplerState:
        """The first points: uniform ones.

        **Arguments:** `draw(key, n)` gives n uniform points.
        """
        return SamplerState(draw(key, n), jnp.zeros((), jnp.int32))

    def weights(self, state: SamplerState, score: Float[Array, " n"]) -> Float[Array, " n"]:
        """What multiplies the residual of each point in the loss; 1 by default."""
        return jnp.ones_like(score)

    @abc.abstractmethod
    def update(
        self,
        state: SamplerState,
        score: Float[Array, " n"],
        key: PRNGKeyArray,
        draw: Draw,
        evaluate: Evaluate,
    ) -> SamplerState:
        """The points for the next step.

        **Arguments:**

        - `state`: with the points that were used.
        - `score`: |r| at these points. Points where it is not finite are drawn anew.
        - `key`: for random draws.
        - `draw`: uniform points. `evaluate`: |r| at any points, for rules that look elsewhere.

        **Raises:** `ValueError` if there is not one score for each point.
        """


class Uniform(AbstractSampler):
    """New uniform points in every step."""

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        return _next(state, draw(key, state.x.shape[0]))


class Fixed(AbstractSampler):
    """The same points in every step: the first uniform ones, or those that are given."""

    given: Float[Array, "n d"] | None = None

    def init(self, key, draw, n):
        if self.given is None:
            return SamplerState(draw(key, n), jnp.zeros((), jnp.int32))
        return SamplerState(jnp.asarray(self.given), jnp.zeros((), jnp.int32))

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        return _next(state, state.x)


class R3(AbstractSampler):
    """Retain, resample, release (arXiv:2207.02338):

        x_i ← x_i  if |r_i| > mean |r|,  else a uniform point.

    Points gather where residuals are large, and are released once these have fallen below the
    mean; a share of the points always explores.
    """

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        return _next(state, _retained(state.x, score, draw(key, state.x.shape[0])))


class CausalR3(AbstractSampler):
    """R3 with a gate that lets later times in as the earlier ones are solved,

        g(t) = (1 − tanh(α (t̂ − β)))/2,   β ← β + lr · min(exp(−tol · mean (|r| g)²), clip),

    where t̂ in [0, 1] is the last coordinate, scaled. The loss is mean (r g)², the score |r| g.

    - `t0`, `t1`: first and last time. `alpha`: steepness. `beta0`: first middle of the gate.
    - `lr`, `tol`, `clip`: how fast the gate moves.
    """

    t0: float = 0.0
    t1: float = 1.0
    alpha: float = 5.0
    beta0: float = -0.5
    lr: float = 1e-3
    tol: float = 20.0
    clip: float = 0.1

    def __check_init__(self):
        if not self.t0 < self.t1:
            raise ValueError(f"CausalR3: expected t0 < t1, got {self.t0} and {self.t1}")

    def init(self, key, draw, n):
        x = draw(key, n)
        return SamplerState(x, jnp.zeros((), jnp.int32), jnp.asarray(self.beta0, x.dtype))

    def weights(self, state, score):
        scaled = (state.x[:, -1] - self.t0) / (self.t1 - self.t0)
        return (1 - jnp.tanh(self.alpha * (scaled - state.memory))) / 2

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        gated = score * self.weights(state, score)
        x = _retained(state.x, gated, draw(key, state.x.shape[0]))
        finite = jnp.where(jnp.isfinite(gated), gated, 0)
        rate = jnp.minimum(jnp.exp(-self.tol * jnp.mean(finite**2)), self.clip)
        return SamplerState(x, state.count + 1, state.memory + self.lr * rate)


class RAD(AbstractSampler):
    """Residual-based adaptive distribution (arXiv:2207.10289): every `period` steps all points are
    drawn anew from a pool with probabilities

        p ∝ |r|ᵏ / mean |r|ᵏ + c.

    - `k`, `c`: 1 and 1 are good values. `pool`: uniform points at which residuals are evaluated.
    """

    k: float = 1.0
    c: float = 1.0
    pool: int = eqx.field(static=True, default=10_000)
    period: int = eqx.field(static=True, default=1000)

    def __check_init__(self):
        _check_pool(self)

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)

        def fresh() -> Array:
            pool_key, choice_key = jr.split(key)
            candidates = draw(pool_key, self.pool)
            density = _density(evaluate(candidates), self.k, self.c)
            chosen = jr.choice(choice_key, self.pool, (state.x.shape[0],), p=density)
            return candidates[chosen]

        due = (state.count + 1) % self.period == 0
        return _next(state, jax.lax.cond(due, fresh, lambda: state.x))


class RARD(AbstractSampler):
    """Residual-based adaptive refinement with a distribution (arXiv:2207.10289): `start` uniform
    points, and every `period` steps `add` more from a pool, with p ∝ |r|ᵏ / mean |r|ᵏ + c.

    With `greedy` (RAR-G) the points of the largest residuals are taken. Points that are not yet in
    use have weight zero; when all n are, the oldest added ones are replaced.

    - `k`, `c`: 2 and 0 are good values.
    """

    start: int = eqx.field(static=True)
    add: int = eqx.field(static=True, default=10)
    k: float = 2.0
    c: float = 0.0
    pool: int = eqx.field(static=True, default=10_000)
    period: int = eqx.field(static=True, default=1000)
    greedy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check_pool(self)
        if self.start < 1 or self.add < 1:
            raise ValueError(f"RARD: start = {self.start}, add = {self.add}: expected at least 1")

    def init(self, key, draw, n):
        if n < self.start + self.add:
            raise ValueError(f"RARD: n = {n}: expected at least start + add")
        return SamplerState(draw(key, n), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def weights(self, state, score):
        n = score.shape[0]
        used = jnp.minimum(self.start + state.memory, n)
        # Residuals are multiplied, and squared afterwards: the loss is the mean over those in use.
        return jnp.where(jnp.arange(n) < used, jnp.sqrt(n / used.astype(score.dtype)), 0)

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        room = state.x.shape[0] - self.start

        def grown() -> tuple[Array, Array]:
            pool_key, choice_key = jr.split(key)
            candidates = draw(pool_key, self.pool)
            values = evaluate(candidates)
            if self.greedy:
                chosen = jax.lax.top_k(jnp.nan_to_num(values), self.add)[1]
            else:
                density = _density(values, self.k, self.c)
                chosen = jr.choice(choice_key, self.pool, (self.add,), replace=False, p=density)
            slots = self.start + (state.memory + jnp.arange(self.add)) % room
            return state.x.at[slots].set(candidates[chosen]), state.memory + self.add

        due = (state.count + 1) % self.period == 0
        x, added = jax.lax.cond(due, grown, lambda: (state.x, state.memory))
        return SamplerState(x, state.count + 1, added)


class CausalWeights(AbstractSampler):
    """Uniform points whose residuals count only as the earlier times are solved
    (arXiv:2203.07404): with the mean square L_j of the time slices,

        w_i² = exp(−tol Σ_{j<i} L_j).

    - `slices`: of the last coordinate between `t0` and `t1`. `tol`: 10⁻² to 10².
    """

    t0: float = 0.0
    t1: float = 1.0
    slices: int = eqx.field(static=True, default=32)
    tol: float = 1.0

    def __check_init__(self):
        if not self.t0 < self.t1 or self.slices < 2:
            raise ValueError(
                f"CausalWeights: expected t0 < t1 and slices >= 2, got {self.t0}, {self.t1} and "
                f"{self.slices}"
            )

    def weights(self, state, score):
        scaled = (state.x[:, -1] - self.t0) / (self.t1 - self.t0)
        index = jnp.clip((scaled * self.slices).astype(jnp.int32), 0, self.slices - 1)
        sums = jnp.zeros(self.slices, score.dtype).at[index].add(score**2)
        counts = jnp.zeros(self.slices, score.dtype).at[index].add(1)
        losses = sums / jnp.maximum(counts, 1)
        before = jnp.cumsum(losses) - losses
        return jnp.exp(-self.tol * before / 2)[index]

    def update(self, state, score, key, draw, evaluate):
        check_scores(state, score)
        return _next(state, draw(key, state.x.shape[0]))


def _retained(x: Array, score: Array, fresh: Array) -> Array:
    finite = jnp.isfinite(score)
    mean = jnp.sum(jnp.where(finite, score, 0)) / jnp.maximum(jnp.sum(finite), 1)
    return jnp.where((finite & (score > mean))[:, None], x, fresh)


def _density(values: Array, k: float, c: float) -> Array:
    powers = jnp.nan_to_num(values, posinf=0.0) ** k
    density = powers / jnp.maximum(jnp.mean(powers), jnp.finfo(values.dtype).tiny) + c
    total = jnp.sum(density)
    return jnp.where(total > 0, density / total, 1 / values.shape[0])


def _next(state: SamplerState, x: Array) -> SamplerState:
    return SamplerState(x, state.count + 1, state.memory)


def check_scores(state: SamplerState, score: Array) -> None:
    """**Raises:** `ValueError` if there is not one score for each point."""
    if score.shape != state.x.shape[:1]:
        raise ValueError(
            f"score: expected one for each of the {state.x.shape[0]} points, got {score.shape}"
        )


def _check_pool(sampler: Any) -> None:
    name = type(sampler).__name__
    if sampler.pool < 1 or sampler.period < 1 or sampler.k < 0 or sampler.c < 0:
        raise ValueError(f"{name}: expected pool and period of at least 1, k and c not negative")


def skewness(values: Float[Array, "*n"]) -> Float[Array, ""]:
    """E (v − m)³ / σ³ of all entries: 0 for a symmetric distribution."""
    centred = values - jnp.mean(values)
    return jnp.mean(centred**3) / jnp.mean(centred**2) ** 1.5


def kurtosis(values: Float[Array, "*n"]) -> Float[Array, ""]:
    """E (v − m)⁴ / σ⁴ of all entries: 3 for a normal distribution, huge for a residual field with
    a few sharp peaks (a propagation failure)."""
    centred = values - jnp.mean(values)
    return jnp.mean(centred**4) / jnp.mean(centred**2) ** 2
