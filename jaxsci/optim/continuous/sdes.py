"""Stochastic differential equations that optimisers follow for small learning rates.

    SGD        dX = −∇f dt + η^½ Σ^½ dW,                                            t = k η
    RMSprop    dX = −P⁻¹ (∇f dt + σ₀ Σ^½ dW),   du = c₂ (diag Σ − u) dt,            t = k η²
               P = σ₀ u^½ + ε₀
    Adam       dX = −(γ₂^½/γ₁) P⁻¹ m dt,   dm = c₁ (∇f − m) dt + σ₀ c₁ Σ^½ dW,      t = k η²
               du = c₂ (diag Σ − u) dt,   P = σ₀ u^½ + ε₀ γ₂^½
    SAM        dX = −(ḡ + ρ h̄) dt + η^½ (Σ + ρ (S + Sᵀ))^½ dW,                         t = k η

with σ₀ = σ η, ε₀ = ε η, c_i = (1 − b_i)/η², γ_i = 1 − exp(−c_i t), u = v/σ², for the gradient
∇f + σ z with Cov z = Σ (SAM: see `usam_sde`). A step of RMSprop and Adam takes the time η², not η:
their noise, divided by its own size, does not vanish with the rate. All are of weak order 1.
(Malladi et al., arXiv:2205.10287; Compagnoni et al., arXiv:2301.08203.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

Vector = Float[Array, " d"]
Gradient = Callable[[Vector], Vector]


class SDE(NamedTuple):
    """An equation for diffrax, and what its time means.

    - `drift(t, y) -> dy/dt`, `noise(t, y, dW) -> dy`: the two parts. `dimension`: of dW.
    - `y0(x)`: the state at weights x. `x(y)`: the weights in a state.
    - `t0`: where time starts. `step`: the time that a step of the optimiser takes.
    """

    drift: Callable[[Any, PyTree], PyTree]
    noise: Callable[[Any, PyTree, Array], PyTree]
    dimension: Callable[[PyTree], int]
    y0: Callable[[Vector], PyTree]
    x: Callable[[PyTree], Vector]
    t0: float
    step: float

    def terms(self, y: PyTree, motion: diffrax.AbstractBrownianPath | PRNGKeyArray):
        """The `diffrax.MultiTerm`, for any of its solvers for Itô equations (such as `Euler`).

        **Arguments:** `y`: a state, for its shapes; `motion`: a path of that dimension, or a key
        for independent increments, which is enough for fixed steps.
        """
        x = self.x(y)
        shape = jax.ShapeDtypeStruct((self.dimension(y),), x.dtype)
        if not isinstance(motion, diffrax.AbstractBrownianPath):
            motion = diffrax.UnsafeBrownianPath(shape, motion)

        def field(t, y, args):
            return lineax.FunctionLinearOperator(lambda dw: self.noise(t, y, dw), shape)

        drift = diffrax.ODETerm(lambda t, y, args: self.drift(t, y))
        return diffrax.MultiTerm(drift, diffrax.ControlTerm(field, motion))


def simulate(
    sde: SDE,
    x0: Vector,
    steps: int,
    key: PRNGKeyArray,
    *,
    paths: int = 1,
    substeps: int = 1,
    saves: int = 1,
) -> Float[Array, "paths saves d"]:
    """Weights on many paths by the Euler-Maruyama method of diffrax.

    **Arguments:**

    - `x0`: where all paths start. `steps`: the end, in steps of the optimiser.
    - `substeps`: Euler steps in one of them. `saves`: evenly spaced times, the last is the end.

    **Raises:** `ValueError` if `steps`, `paths`, `substeps` or `saves` is not positive.
    """
    for name, value in (("steps", steps), ("paths", paths), ("substeps", substeps)):
        if value < 1:
            raise ValueError(f"{name} = {value}: expected an integer >= 1")
    if not 1 <= saves <= steps * substeps:
        raise ValueError(f"saves = {saves}: expected 1 to {steps * substeps}")
    x0 = jnp.asarray(x0)
    y0 = sde.y0(x0)
    t1 = sde.t0 + steps * sde.step
    # Saved times are those of Euler steps, so that nothing is interpolated.
    grid = sde.t0 + (t1 - sde.t0) * jnp.linspace(0, 1, steps * substeps + 1, dtype=x0.dtype)
    index = jnp.round(jnp.linspace(0, steps * substeps, saves + 1)[1:]).astype(int)

    def one(key: PRNGKeyArray) -> Array:
        solution = diffrax.diffeqsolve(
            sde.terms(y0, key),
            diffrax.Euler(),
            grid[0],
            grid[-1],
            None,
            y0,
            saveat=diffrax.SaveAt(ts=grid[index], fn=lambda t, y, args: sde.x(y)),
            stepsize_controller=diffrax.StepTo(grid),
            max_steps=steps * substeps,
            adjoint=diffrax.ForwardMode(),
        )
        return cast(Array, solution.ys)

    return jax.vmap(one)(jax.random.split(key, paths))


def weak_error(
    discrete: Float[Array, "paths d"],
    sde: SDE,
    tests: Callable[[Vector], Array],
    x0: Vector,
    steps: int,
    key: PRNGKeyArray,
    *,
    paths: int = 10_000,
    substeps: int = 8,
) -> Array:
    """|E φ(x_k) − E φ(X(t_k))| for test functions φ: the error of an SDE model of an optimiser.

    **Arguments:**

    - `discrete`: weights after `steps` steps of the optimiser, on many paths.
    - `tests`: φ, of one point, may have several components.
    - others: as for `simulate`. The Monte Carlo error is std φ / paths^½, on both sides.
    """
    end = simulate(sde, x0, steps, key, paths=paths, substeps=substeps)[:, -1]
    means = (jnp.mean(jax.vmap(tests)(jnp.asarray(points)), 0) for points in (discrete, end))
    first, second = means
    return jnp.abs(first - second)


def _check(positive: dict[str, Any], momentum: dict[str, Any], covariance: Any) -> None:
    for name, value in positive.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} = {value}: expected a positive number")
    for name, value in momentum.items():
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: expected a number in [0, 1)")
    if not callable(covariance) and not hasattr(covariance, "shape"):
        raise TypeError(f"covariance: expected an array or a function of x, got {covariance!r}")


def psd_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric root of a positive semidefinite matrix; eigenvalues below 0 count as 0."""
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


def _covariance(covariance: Any, x: Vector) -> Array:
    """Σ(x) as a vector (its diagonal) or a matrix."""
    value = jnp.asarray(covariance(x) if callable(covariance) else covariance, x.dtype)
    return value if value.ndim == 2 else jnp.broadcast_to(value, x.shape)


def _noise(covariance: Any, x: Vector, dw: Vector) -> Vector:
    """Σ(x)^½ dW."""
    value = _covariance(covariance, x)
    return psd_root(value) @ dw if value.ndim == 2 else jnp.sqrt(value) * dw


def _variances(covariance: Any, x: Vector) -> Vector:
    value = _covariance(covariance, x)
    return jnp.diagonal(value) if value.ndim == 2 else value


def sgd_sde(grad_fn: Gradient, covariance: Any, *, eta: float, sigma: float = 1.0) -> SDE:
    """The SDE of x ← x − η (∇f + σ z), Cov z = Σ.

    **Arguments:**

    - `grad_fn`: x ↦ ∇f(x).
    - `covariance`: Σ as an array (a diagonal, or a matrix) or a function of x that gives one.
    - `eta`: η. `sigma`: σ; a batch κ times as large has σ / κ^½.

    **Returns:** an `SDE`, whose state is x. **Raises:** `ValueError` for η or σ ≤ 0, `TypeError`
    for a covariance that is neither an array nor a function.
    """
    _check(dict(eta=eta, sigma=sigma), {}, covariance)

    def noise(t: Any, x: Vector, dw: Array) -> Vector:
        return eta**0.5 * sigma * _noise(covariance, x, dw)

    return SDE(lambda t, x: -grad_fn(x), noise, jnp.size, lambda x: x, lambda x: x, 0.0, eta)


def rmsprop_sde(
    grad_fn: Gradient,
    covariance: Any,
    *,
    eta: float,
    sigma: float,
    b2: float = 0.99,
    eps: float = 1e-8,
    u0: Any = None,
) -> SDE:
    """The SDE of RMSprop, for noise that dominates: u follows the noise and not ∇f.

    The analysed method divides by v before its update with the new gradient (optax after it); the
    two differ by O(1 − b2).

    **Arguments:** as for `sgd_sde`, and `b2`, `eps` of RMSprop; `u0`: v / σ² at the start, by
    default its fixed point diag Σ.

    **Returns:** an `SDE` with the state {"x", "u"}. **Raises:** as `sgd_sde`, and `ValueError` for
    `b2` outside [0, 1).
    """
    _check(dict(eta=eta, sigma=sigma), dict(b2=b2), covariance)
    sigma0, eps0, c2 = sigma * eta, eps * eta, (1 - b2) / eta**2

    def drift(t: Any, y: dict[str, Vector]) -> dict[str, Vector]:
        scale = sigma0 * jnp.sqrt(y["u"]) + eps0
        du = c2 * (_variances(covariance, y["x"]) - y["u"])
        return {"x": -grad_fn(y["x"]) / scale, "u": du}

    def noise(t: Any, y: dict[str, Vector], dw: Array) -> dict[str, Vector]:
        scale = sigma0 * jnp.sqrt(y["u"]) + eps0
        dx = -sigma0 * _noise(covariance, y["x"], dw) / scale
        return {"x": dx, "u": jnp.zeros_like(dx)}

    def start(x: Vector) -> dict[str, Vector]:
        first = _variances(covariance, x) if u0 is None else u0
        return {"x": x, "u": jnp.broadcast_to(jnp.asarray(first, x.dtype), x.shape)}

    return SDE(drift, noise, lambda y: y["x"].size, start, lambda y: y["x"], 0.0, eta**2)


def adam_sde(
    grad_fn: Gradient,
    covariance: Any,
    *,
    eta: float,
    sigma: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    u0: Any = None,
    t0_steps: int = 1,
) -> SDE:
    """The SDE of Adam with bias corrections γ, for noise that dominates.

    The corrections are singular at t = 0; time starts after `t0_steps` steps, with m = γ₁ ∇f.

    **Arguments:** as for `rmsprop_sde`, and `b1`; `u0` by default γ₂ diag Σ, as for v = 0 at t = 0.

    **Returns:** an `SDE` with the state {"x", "m", "u"}. **Raises:** as `rmsprop_sde`, and
    `ValueError` for `t0_steps` < 1.
    """
    _check(dict(eta=eta, sigma=sigma, t0_steps=t0_steps), dict(b1=b1, b2=b2), covariance)
    sigma0, eps0 = sigma * eta, eps * eta
    c1, c2 = (1 - b1) / eta**2, (1 - b2) / eta**2
    t0 = t0_steps * eta**2

    def drift(t: Any, y: dict[str, Vector]) -> dict[str, Vector]:
        gamma1, gamma2 = -jnp.expm1(-c1 * t), -jnp.expm1(-c2 * t)
        scale = sigma0 * jnp.sqrt(y["u"]) + eps0 * jnp.sqrt(gamma2)
        return {
            "x": -jnp.sqrt(gamma2) / gamma1 * y["m"] / scale,
            "m": c1 * (grad_fn(y["x"]) - y["m"]),
            "u": c2 * (_variances(covariance, y["x"]) - y["u"]),
        }

    def noise(t: Any, y: dict[str, Vector], dw: Array) -> dict[str, Vector]:
        dm = sigma0 * c1 * _noise(covariance, y["x"], dw)
        return {"x": jnp.zeros_like(dm), "m": dm, "u": jnp.zeros_like(dm)}

    def start(x: Vector) -> dict[str, Vector]:
        gamma1, gamma2 = -jnp.expm1(-c1 * t0), -jnp.expm1(-c2 * t0)
        first = gamma2 * _variances(covariance, x) if u0 is None else u0
        u = jnp.broadcast_to(jnp.asarray(first, x.dtype), x.shape)
        return {"x": x, "m": gamma1 * grad_fn(x), "u": u}

    return SDE(drift, noise, lambda y: y["x"].size, start, lambda y: y["x"], t0, eta**2)


def _sharpness_aware(
    loss: Callable[[Vector, PyTree], Array],
    data: PyTree,
    eta: float,
    rho: float,
    scale: Callable[[Vector, Vector], Array],
    hessian_noise: bool,
) -> SDE:
    """Drift −ḡ − ρ h̄ and C = Σ + ρ (S + Sᵀ), from g_i and h_i = s_i H_i g_i of every sample."""
    _check(dict(eta=eta), {}, jnp.zeros(()))
    if isinstance(rho, int | float) and not rho >= 0:
        raise ValueError(f"rho = {rho}: expected a number >= 0")

    def samples(x: Vector) -> tuple[Array, Array]:
        def gradient(x: Vector, sample: PyTree) -> Vector:
            return jax.grad(loss)(x, sample)

        g = jax.vmap(gradient, (None, 0))(x, data)
        mean = jnp.mean(g, 0)

        def product(sample: PyTree, gi: Vector) -> Vector:
            direction = (scale(gi, mean) * gi).astype(x.dtype)
            return jax.jvp(lambda x: gradient(x, sample), (x,), (direction,))[1]

        return g, jax.vmap(product)(data, g)

    def drift(t: Any, x: Vector) -> Vector:
        g, h = samples(x)
        return -jnp.mean(g, 0) - rho * jnp.mean(h, 0)

    def noise(t: Any, x: Vector, dw: Array) -> Vector:
        g, h = samples(x)
        g, h = g - jnp.mean(g, 0), h - jnp.mean(h, 0)
        covariance = g.T @ g / len(g)
        if hessian_noise:
            mixed = g.T @ h / len(g)
            covariance = covariance + rho * (mixed + mixed.T)
        return eta**0.5 * psd_root(covariance) @ dw

    return SDE(drift, noise, jnp.size, lambda x: x, lambda x: x, 0.0, eta)


def _inverse_norm(x: Vector) -> Array:
    """1/‖x‖, and 0 at 0."""
    square = jnp.sum(x**2)
    return jnp.where(square > 0, 1 / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def usam_sde(
    loss: Callable[[Vector, PyTree], Array],
    data: PyTree,
    eta: float,
    rho: float,
    hessian_noise: bool = True,
) -> SDE:
    """The SDE of USAM, x ← x − η ∇f_i(x + ρ ∇f_i): SGD on f + ρ/2 E‖∇f_i‖² with other noise.

    C = Σ + ρ (S + Sᵀ), S = E (∇f − ∇f_i)(E[H_i ∇f_i] − H_i ∇f_i)ᵀ. Of weak order 1 in η for
    ρ = O(η^½).

    **Arguments:**

    - `loss`: (x, sample) ↦ f_i(x). `data`: all samples, along a leading axis; each is drawn with
        equal probability. A sample may be a batch.
    - `eta`, `rho`: η and ρ.
    - `hessian_noise`: without it C = Σ, the noise of SGD, which is not enough for large ρ.

    **Returns:** an `SDE`, whose state is x. **Raises:** `ValueError` for η ≤ 0 or ρ < 0.
    """
    return _sharpness_aware(loss, data, eta, rho, lambda g, mean: jnp.ones(()), hessian_noise)


def dnsam_sde(
    loss: Callable[[Vector, PyTree], Array],
    data: PyTree,
    eta: float,
    rho: float,
    hessian_noise: bool = True,
) -> SDE:
    """The SDE of DNSAM, x ← x − η ∇f_i(x + ρ ∇f_i / ‖∇f‖); 0/0 counts as 0.

    **Arguments, Returns, Raises:** as for `usam_sde`.
    """
    return _sharpness_aware(
        loss, data, eta, rho, lambda g, mean: _inverse_norm(mean), hessian_noise
    )


def sam_sde(
    loss: Callable[[Vector, PyTree], Array],
    data: PyTree,
    eta: float,
    rho: float,
    hessian_noise: bool = True,
) -> SDE:
    """The SDE of SAM, x ← x − η ∇f_i(x + ρ ∇f_i / ‖∇f_i‖): SGD on f + ρ E‖∇f_i‖.

    **Arguments, Returns, Raises:** as for `usam_sde`.
    """
    return _sharpness_aware(loss, data, eta, rho, lambda g, mean: _inverse_norm(g), hessian_noise)


def saddle_radius(hessian: Float[Array, "d d"], rho: float) -> Float[Array, ""]:
    """The ‖Hx‖ below which a saddle attracts full-batch SAM (and DNSAM): ρ l, −l the least
    eigenvalue; 0 where there is no negative one.

    Along that direction dx/dt = l x − ρ l² x / ‖Hx‖.

    **Raises:** `ValueError` for ρ < 0.
    """
    if isinstance(rho, int | float) and not rho >= 0:
        raise ValueError(f"rho = {rho}: expected a number >= 0")
    least = jnp.linalg.eigvalsh(hessian)[0]
    return rho * jnp.maximum(-least, 0)
