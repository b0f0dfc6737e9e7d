"""Exponential time differencing for semi-linear periodic equations, dispersive ones included."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from .stepper import AbstractStepper

_CONTOUR = np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)


class ETDRK4(AbstractStepper):
    """û_t = ℓ(k) û + 𝒩(û)^, by the fourth-order exponential Runge-Kutta method of Cox and Matthews.

        a = e^{z/2} û + φ h 𝒩(û),    b = e^{z/2} û + φ h 𝒩(a),    c = e^{z/2} a + φ h (2𝒩(b) - 𝒩(û))
        û(t + h) = e^z û + h (f₁ 𝒩(û) + 2 f₂ (𝒩(a) + 𝒩(b)) + f₃ 𝒩(c)),        z = ℓ h

        φ = (e^{z/2} - 1)/z
        f₁ = (-4 - z + e^z (4 - 3z + z²))/z³
        f₂ = (2 + z + e^z (z - 2))/z³
        f₃ = (-4 - 3z - z² + e^z (4 - z))/z³

    The four functions cancel near z = 0 and are computed as means over a circle around each z. They
    are complex where ℓ is: `exponax` 0.2.0 keeps their real parts alone, which is right for
    diffusion, and makes its method first-order for dispersion (Korteweg-de Vries).

    The state is the real Fourier transform of the field.

    **Arguments:**

    - `linear`: ℓ at the wavenumbers of `jnp.fft.rfftn`, "*modes".
    - `nonlinear`: û ↦ 𝒩(û)^, both "c *modes"; it has to take care of aliasing itself.
    - `dt`: h.
    - `shape`: the grid's shape.

    **Raises:** `ValueError` if `linear` has another shape than the grid's transform, or the field
    another one than the grid.

    References: Cox & Matthews 2002, doi:10.1006/jcph.2002.6995; Kassam & Trefethen 2005,
    doi:10.1137/S1064827502410633.
    """

    decay: Complex[Array, "*modes"]
    half_decay: Complex[Array, "*modes"]
    weights: Complex[Array, "4 *modes"]
    nonlinear: Callable[[Array], Array]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        linear: Complex[Array, "*modes"],
        nonlinear: Callable[[Array], Array],
        dt: float | Float[Array, ""],
        shape: tuple[int, ...],
    ):
        modes = (*shape[:-1], shape[-1] // 2 + 1)
        if linear.shape != modes:
            raise ValueError(f"ETDRK4: linear must have shape {modes}, got {linear.shape}")
        z = jnp.asarray(linear, jnp.result_type(linear, 1j)) * dt
        self.decay, self.half_decay = jnp.exp(z), jnp.exp(z / 2)
        circle = z[..., None] + jnp.asarray(_CONTOUR, z.dtype)
        e = jnp.exp(circle)
        functions = (
            (jnp.exp(circle / 2) - 1) / circle,
            (-4 - circle + e * (4 - 3 * circle + circle**2)) / circle**3,
            (2 + circle + e * (circle - 2)) / circle**3,
            (-4 - 3 * circle - circle**2 + e * (4 - circle)) / circle**3,
        )
        self.weights = dt * jnp.stack([jnp.mean(f, -1) for f in functions])
        self.nonlinear, self.shape = nonlinear, tuple(shape)

    def init(self, u0: Float[Array, "c *grid"], args: Any = None) -> Complex[Array, "c *modes"]:
        """The field's transform."""
        del args
        if u0.shape[1:] != self.shape:
            raise ValueError(f"ETDRK4: u0 must have the grid {self.shape}, got shape {u0.shape}")
        return jnp.fft.rfftn(u0, axes=range(1, u0.ndim)).astype(self.decay.dtype)

    def step(
        self,
        state: Complex[Array, "c *modes"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Complex[Array, "c *modes"]:
        """The transform one step later; `args` and `key` are not used."""
        del args, key
        half, (q, f1, f2, f3) = self.half_decay, self.weights
        n = self.nonlinear(state)
        a = half * state + q * n
        n_a = self.nonlinear(a)
        n_b = self.nonlinear(half * state + q * n_a)
        n_c = self.nonlinear(half * a + q * (2 * n_b - n))
        return self.decay * state + f1 * n + 2 * f2 * (n_a + n_b) + f3 * n_c

    def output(self, state: Complex[Array, "c *modes"]) -> Float[Array, "c *grid"]:
        """The field in physical space."""
        return jnp.fft.irfftn(state, s=self.shape, axes=range(1, state.ndim))


def korteweg_de_vries_step(
    length: float, n: int, dt: float | Float[Array, ""], dispersion: float | Float[Array, ""] = 1.0
) -> ETDRK4:
    """u_t + 6 u u_x + δ u_xxx = 0 on a circle, 2/3 rule: ℓ = i δ κ³, 𝒩^ = -3 i κ (u²)^.

    **Arguments:** `length`, `n`: of the circle, points on it. `dt`: the step; h |u| κ below about 2
    is stable. `dispersion`: δ.

    **Raises:** `ValueError` for fewer than 4 points.
    """
    if n < 4:
        raise ValueError(f"korteweg_de_vries_step: n must be 4 or more, got {n}")
    k = np.arange(n // 2 + 1)
    kappa = 2 * np.pi / length * k
    # The Nyquist mode has no odd derivative.
    odd = np.where(2 * k == n, 0.0, kappa)
    # 1j κ³ δ and the factor -3j κ, cut by the 2/3 rule.
    factor = -3j * odd * (3 * k < n)

    def nonlinear(u_hat):
        kept = u_hat * jnp.asarray(3 * k < n, u_hat.real.dtype)
        u = jnp.fft.irfft(kept, n, axis=-1)
        return jnp.asarray(factor, u_hat.dtype) * jnp.fft.rfft(u**2, axis=-1)

    return ETDRK4(1j * dispersion * jnp.asarray(odd**3), nonlinear, dt, (n,))
