"""What convergence theorems ask for: hyperparameters from them, and tests of their assumptions.

RMSProp and Adam (arXiv:2404.01436) for steps  v ← b2 v + (1 − b2) g²,  x ← x − η m / (v + ζ)^½

    η = c / T^½,   1 − b2 = 1 / T^½,   ζ = O(1)    ⇒    (1/T) Σ E ‖∇f‖ = O(T^(−1/4))

if for every coordinate  |∂_i f(x) − ∂_i f(y)| ≤ (L0_i + L1_i |∂_i f(x)|) ‖x − y‖  nearby, and
E g_i² ≤ D0_i + D1_i (∂_i f)². Strong growth (arXiv:2404.02378): E ‖g‖² ≤ ρ ‖∇f‖².
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from .post import check_adam


class RMSInsideState(NamedTuple):
    """First moment (`None` without momentum) and second moment."""

    mu: PyTree
    nu: PyTree


def scale_by_rms_inside(
    b2: Any, zeta: Any = 1e-8, b1: Any = 0.0
) -> optax.GradientTransformationExtraArgs:
    """The analysed direction m / (v + ζ)^½: ζ inside the root, no bias correction, v from zero.

    For b1 = 0 it is `optax.scale_by_rms(b2, ζ, 0.0, eps_in_sqrt=True)`.

    **Arguments:** `b2`, `zeta`: see above. `b1`: of m ← b1 m + (1 − b1) g; 0: m = g (RMSProp).

    **Returns:** an optax transformation. **Raises:** `ValueError` for b1, b2 outside [0, 1), ζ ≤ 0.
    """
    check_adam(b1, b2, 0.0)
    if isinstance(zeta, int | float) and not zeta > 0:
        raise ValueError(f"zeta = {zeta}: expected a positive number")
    momentum = not (isinstance(b1, int | float) and b1 == 0)

    def init(params: PyTree) -> RMSInsideState:
        mu = jax.tree.map(jnp.zeros_like, params) if momentum else None

        def second(p: Array) -> Array:
            # In bfloat16 an average over 1/(1 − b2) steps would not move.
            return jnp.zeros(jnp.shape(p), jnp.promote_types(jnp.real(p).dtype, jnp.float32))

        return RMSInsideState(mu, jax.tree.map(second, params))

    def update(
        updates: PyTree, state: RMSInsideState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, RMSInsideState]:
        mu, m = None, updates
        if momentum:
            mu = m = jax.tree.map(
                lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mu, updates
            )
        nu = jax.tree.map(
            lambda v, g: (b2 * v + (1 - b2) * jnp.real(g * jnp.conj(g))).astype(v.dtype),
            state.nu,
            updates,
        )
        new = jax.tree.map(lambda m, v: (m / jnp.sqrt(v + zeta)).astype(m.dtype), m, nu)
        return new, RMSInsideState(mu, nu)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def rmsprop_schedule(
    T: int, c: float = 1.0, zeta: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """RMSProp with the hyperparameters of the theorem for T steps.

    **Arguments:** `T`: the number of steps. `c`: η T^½, the one constant to tune. `zeta`: ζ.

    **Returns:** an optax transformation. **Raises:** `ValueError` for T < 1, c ≤ 0, ζ ≤ 0.
    """
    return adam_schedule(T, c, 0.0, zeta)


def adam_schedule(
    T: int, c: float = 1.0, b1: float = 0.9, zeta: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam (without bias corrections) with the hyperparameters of the theorem for T steps.

    **Arguments:** as for `rmsprop_schedule`, and `b1`. **Returns, Raises:** as there.
    """
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"T = {T!r}: expected an integer >= 1")
    if isinstance(c, int | float) and not c > 0:
        raise ValueError(f"c = {c}: expected a positive number")
    b2 = 1 - T**-0.5
    return optax.chain(scale_by_rms_inside(b2, zeta, b1), optax.scale_by_learning_rate(c * T**-0.5))


def _fit_line(x: Float[Array, " n"], y: Float[Array, " n"]) -> tuple[Array, Array]:
    """Non-negative a, b with the least Σ (a + b x − y)²."""
    mx, my = jnp.mean(x), jnp.mean(y)
    spread = jnp.mean((x - mx) ** 2)
    b = jnp.mean((x - mx) * (y - my)) / jnp.where(spread > 0, spread, 1)
    square = jnp.mean(x**2)
    through = jnp.maximum(jnp.mean(x * y) / jnp.where(square > 0, square, 1), 0)
    free = (my - b * mx, b)
    origin, flat = (jnp.zeros_like(my), through), (jnp.maximum(my, 0), jnp.zeros_like(my))
    better = jnp.mean((through * x - y) ** 2) < jnp.mean((flat[0] - y) ** 2)
    inside = (free[0] >= 0) & (b >= 0)
    a, b = (
        jnp.where(inside, f, jnp.where(better, o, l))
        for f, o, l in zip(free, origin, flat, strict=True)
    )
    return a, b


def estimate_generalised_smoothness(
    value_fn: Callable[[Float[Array, " d"]], Scalar],
    path: Float[Array, "n d"],
    key: PRNGKeyArray,
    size: float = 0.1,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """L0 and L1 of every coordinate along a trajectory.

    Regresses max |∂_i f(x + h) − ∂_i f(x)| / ‖h‖ over small h on |∂_i f(x)|, with non-negative
    coefficients. h are steps along the axis i and one of a random direction.

    **Arguments:**

    - `value_fn`: f. `path`: points x, such as from `trajectory`. `key`: for the directions.
    - `size`: ‖h‖ in units of the path's own steps; at most 0.1 is local enough.

    **Returns:** L0 and L1. **Raises:** `ValueError` for fewer than two points or `size` ≤ 0.
    """
    if path.ndim != 2 or len(path) < 2:
        raise ValueError(f"path: expected at least two points (n, d), got shape {path.shape}")
    if not size > 0:
        raise ValueError(f"size = {size}: expected a positive number")
    gradient = jax.grad(value_fn)
    steps = jnp.linalg.norm(jnp.diff(path, axis=0), axis=1)
    lengths = size * jnp.concatenate([steps, steps[-1:]])
    tiny = jnp.sqrt(jnp.finfo(path.dtype).eps)
    lengths = jnp.maximum(lengths, tiny * (1 + jnp.linalg.norm(path, axis=1)))
    d = path.shape[1]

    def at(x: Array, length: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        g = gradient(x)
        direction = jax.random.normal(key, (d,))
        direction = direction / jnp.linalg.norm(direction)

        def slope(h: Array) -> Array:
            return jnp.abs(gradient(x + length * h) - g) / length

        along = jax.vmap(lambda i: slope(jnp.zeros(d).at[i].set(1.0))[i])(jnp.arange(d))
        return jnp.abs(g), jnp.maximum(along, slope(direction))

    sizes, slopes = jax.vmap(at)(path, lengths, jax.random.split(key, len(path)))
    return jax.vmap(_fit_line, (1, 1))(sizes, slopes)


def estimate_affine_noise(
    grads: Float[Array, "points samples d"],
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """D0 and D1 of every coordinate, from several stochastic gradients at each of several points.

    Regresses E g_i² on (E g_i)², both corrected for the finite number of samples, with
    non-negative coefficients.

    **Raises:** `ValueError` for fewer than two points or samples.
    """
    if grads.ndim != 3 or min(grads.shape[:2]) < 2:
        raise ValueError(
            "grads: expected (points, samples, d) with two points and samples at least, got shape "
            f"{grads.shape}"
        )
    n = grads.shape[1]
    variance = jnp.var(grads, 1, ddof=1)
    square = jnp.maximum(jnp.mean(grads, 1) ** 2 - variance / n, 0)
    return jax.vmap(_fit_line, (1, 1))(square, jnp.mean(grads**2, 1))


def strong_growth(
    grads: Float[Array, "samples d"], mean: Float[Array, " d"] | None = None
) -> Float[Array, ""]:
    """The ρ of E ‖g‖² = ρ ‖∇f‖² at a point, from all its stochastic gradients.

    **Arguments:** `grads`: one of each sample; `mean`: ∇f, by default their mean.

    **Returns:** ρ, infinite where ∇f = 0 and g is not.
    """
    mean = jnp.mean(grads, 0) if mean is None else mean
    return jnp.mean(jnp.sum(grads**2, 1)) / jnp.sum(mean**2)


class GaussianLSQ(eqx.Module):
    """Least squares with one Gaussian sample a step: g = a aᵀ y, a ~ N(0, diag s), optimum 0.

    It interpolates, E ‖g‖² = yᵀ diag(s) (tr s + 2 diag(s)) y, and the second moments of linear
    methods follow a linear recursion, so that their mean-square rate is exact, without sampling.
    Strong growth holds with ρ = tr s / min s + 2.

    **Arguments:** `spectrum`: s.
    """

    spectrum: Float[Array, " d"]

    @property
    def rho(self) -> Float[Array, ""]:
        """The strong-growth constant."""
        return jnp.sum(self.spectrum) / jnp.min(self.spectrum) + 2

    def propagate(
        self,
        moments: Float[Array, "d k k"],
        transition: Float[Array, "k k"],
        batch: Float[Array, " k"],
        full: Float[Array, " k"],
        at: Float[Array, " k"],
    ) -> Float[Array, "d k k"]:
        """E z zᵀ of each coordinate after  z ← F z + b (a aᵀ y) + b̄ (s y),  y = cᵀz.

        **Arguments:** `moments`: before; `transition`: F, `batch`: b, `full`: b̄, `at`: c, of a
        method whose state has k vectors.
        """
        s = self.spectrum
        F = transition + s[:, None, None] * jnp.outer(full, at)
        y = jnp.einsum("k,dkl,l->d", at, moments, at)
        force = s * jnp.sum(s * y) + 2 * s**2 * y
        mixed = jnp.einsum("d,dkl,dlm,m,n->dkn", s, F, moments, at, batch)
        return (
            jnp.einsum("dkl,dlm,dnm->dkn", F, moments, F)
            + mixed
            + jnp.swapaxes(mixed, 1, 2)
            + force[:, None, None] * jnp.outer(batch, batch)
        )

    def second_moment_rate(
        self,
        transition: Float[Array, "k k"],
        batch: Float[Array, " k"],
        full: Float[Array, " k"],
        at: Float[Array, " k"],
        steps: int = 4000,
    ) -> Float[Array, ""]:
        """The r of E‖y‖² ~ (1 − r)^t for large t; negative where it diverges.

        **Arguments:** as for `propagate`; `steps`: the rate is taken from the second half of them.
        """
        k = len(batch)

        def body(moments: Array, _: None) -> tuple[Array, Array]:
            moments = self.propagate(moments, transition, batch, full, at)
            size = jnp.sum(jnp.trace(moments, axis1=1, axis2=2))
            return moments / size, jnp.log(size)

        start = jnp.tile(jnp.ones((k, k)) / (k * len(self.spectrum)), (len(self.spectrum), 1, 1))
        logs = jax.lax.scan(body, start, length=steps)[1]
        return -jnp.expm1(jnp.mean(logs[steps // 2 :]))


def accelerated_matrices(eta: Any, mu: Any, alpha: Any, momentum_gradient: str) -> tuple:
    """F, b, b̄, c of `accelerated` with a constant α, for the state z = (w, v) of `GaussianLSQ`.

    **Raises:** `ValueError` for an unknown `momentum_gradient`.
    """
    if momentum_gradient not in ("batch", "full"):
        raise ValueError(f"momentum_gradient = {momentum_gradient!r}: expected 'batch' or 'full'")
    c = jnp.array([1.0, 0.0]) / (1 + alpha) + jnp.array([0.0, 1.0]) * alpha / (1 + alpha)
    F = jnp.stack([c, alpha * c + (1 - alpha) * jnp.array([0.0, 1.0])])
    in_w, in_v = jnp.array([-1.0, 0.0]) * eta, jnp.array([0.0, -1.0]) * alpha / mu
    if momentum_gradient == "batch":
        return F, in_w + in_v, jnp.zeros(2), c
    return F, in_w, in_v, c
