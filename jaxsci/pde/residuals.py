"""Defects of time schemes: how far two consecutive frames are from satisfying an equation.

    R(u⁰, u¹) = u¹ - u⁰ - Δt f((u⁰ + u¹)/2)

the implicit midpoint rule, multiplied by Δt (without it its conditioning grows as 1/Δt). For an
exact trajectory R = O(Δt³). A network whose predictions have small residuals has learned the
equation without any data: `jaxsci.operators.physics_residual`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .problems.dataset import check_positive

Residual = Callable[
    [Float[Array, "c *grid"], Float[Array, "c *grid"], Any], Float[Array, "c *grid"]
]


def burgers_residual(dt: float, viscosity: float | None = None, length: float = 1.0) -> Residual:
    """The midpoint defect of u_t + (u²/2)_x = ν u_xx on a circle, by Fourier derivatives.

    **Arguments:** `dt`: between the frames. `viscosity`: ν; `None`: `cond[0]`, the parameter that
    comes with each trajectory. `length`: of the circle.

    **Returns:** `residual(previous, following, cond)`, of fields "1 n".

    **Raises:** `ValueError` for numbers that are not positive, or fields of another shape.
    """
    _check_numbers("burgers_residual", dt=dt, viscosity=viscosity, length=length)

    def residual(previous, following, cond=None):
        _check_fields("burgers_residual", previous, following, 1)
        n = previous.shape[-1]
        nu = _viscosity("burgers_residual", viscosity, cond)
        kappa = 2 * np.pi / length * np.arange(n // 2 + 1)
        odd = jnp.asarray(1j * np.where(2 * np.arange(n // 2 + 1) == n, 0, kappa), _kind(previous))
        u = (previous + following) / 2
        flux = jnp.fft.rfft(u**2 / 2)
        change = odd * flux + nu * jnp.asarray(kappa**2, u.dtype) * jnp.fft.rfft(u)
        return following - previous + dt * jnp.fft.irfft(change, n)

    return residual


def vorticity_residual(
    dt: float,
    viscosity: float | None = None,
    length: float = 1.0,
    forcing: Float[Array, "1 x y"] | None = None,
) -> Residual:
    """The midpoint defect of w_t + v·∇w = ν Δw + f, v = (ψ_y, -ψ_x), -Δψ = w, on a torus.

    **Arguments:** as `burgers_residual`; `length`: of both sides; `forcing`: f.

    **Returns:** `residual(previous, following, cond)`, of fields "1 x y".

    **Raises:** `ValueError` for numbers that are not positive, or fields of another shape.
    """
    _check_numbers("vorticity_residual", dt=dt, viscosity=viscosity, length=length)

    def residual(previous, following, cond=None):
        _check_fields("vorticity_residual", previous, following, 2)
        n, m = previous.shape[1:]
        nu = _viscosity("vorticity_residual", viscosity, cond)
        k, q = np.fft.fftfreq(n, 1 / n)[:, None], np.arange(m // 2 + 1)[None]
        square = (2 * np.pi / length) ** 2 * (k**2 + q**2)
        kind = _kind(previous)
        dx = jnp.asarray(2j * np.pi / length * np.where(2 * np.abs(k) == n, 0, k), kind)
        dy = jnp.asarray(2j * np.pi / length * np.where(2 * q == m, 0, q), kind)
        w_hat = jnp.fft.rfft2((previous + following) / 2)
        psi = w_hat / jnp.asarray(np.where(square == 0, 1, square), previous.dtype)

        def field(coef):
            return jnp.fft.irfft2(coef, s=(n, m))

        convection = field(dy * psi) * field(dx * w_hat) - field(dx * psi) * field(dy * w_hat)
        diffusion = field(-nu * jnp.asarray(square, previous.dtype) * w_hat)
        change = convection - diffusion - (0.0 if forcing is None else forcing)
        return following - previous + dt * change

    return residual


def _kind(u: Array) -> Any:
    return jnp.result_type(u.dtype, jnp.complex64)


def _viscosity(name: str, viscosity: float | None, cond: Any) -> Any:
    if viscosity is not None:
        return viscosity
    if cond is None:
        raise ValueError(f"{name}: viscosity was not given, so cond must hold it")
    return cond[0]


def _check_numbers(name: str, **values: float | None) -> None:
    for what, value in values.items():
        if value is not None:
            check_positive(f"{name}: {what}", value)


def _check_fields(name: str, previous: Array, following: Array, n_dims: int) -> None:
    expected = previous.ndim == n_dims + 1 and previous.shape[0] == 1
    if not expected or previous.shape != following.shape:
        raise ValueError(
            f"{name}: expected two fields of one channel and {n_dims} axes, got "
            f"{previous.shape} and {following.shape}"
        )
