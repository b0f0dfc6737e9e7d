"""Residuals of time schemes: third order on exact trajectories, and what they refuse."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.pde import benchmarks, burgers_residual, rollout, vorticity_residual


def test_burgers_residual_is_third_order(x64):
    """On the exact solution of Cole and Hopf."""
    del x64
    nu, k = 0.02, 2 * jnp.pi
    x = jnp.arange(64) / 64

    def exact(t):
        decay = jnp.exp(-nu * k**2 * t)
        return (2 * nu * k * decay * jnp.sin(k * x) / (2 + decay * jnp.cos(k * x)))[None]

    def size(dt, viscosity, cond=None):
        return jnp.max(jnp.abs(burgers_residual(dt, viscosity)(exact(0.3), exact(0.3 + dt), cond)))

    assert np.log2(size(0.1, nu) / size(0.05, nu)) == pytest.approx(3, abs=0.2)
    np.testing.assert_allclose(size(0.1, None, jnp.array([nu])), size(0.1, nu), rtol=1e-12)
    assert size(0.05, 2 * nu) > 100 * size(0.05, nu)


def test_vorticity_residual_is_third_order(x64):
    """On a trajectory of the Kolmogorov flow's solver with a step that is much shorter."""
    del x64
    problem = benchmarks.kolmogorov_flow(resolution=32, oversample=1, n_modes=3)
    w0 = problem.initial(jr.key(0))
    frames = rollout(problem.stepper(jnp.array([0.05, 0.0]), 0.0025), w0, 16)
    y = 2 * jnp.pi * jnp.arange(32) / 32
    forcing = jnp.broadcast_to(-4 * jnp.cos(4 * y), (1, 32, 32))

    def size(steps, sign=1.0):
        residual = vorticity_residual(0.0025 * steps, 0.05, 2 * np.pi, sign * forcing)
        # Beyond the solver's 2/3 cut the two discretisations differ.
        coef = jnp.fft.rfft2(residual(w0, frames[steps - 1], None))[0]
        k = np.abs(np.fft.fftfreq(32, 1 / 32))
        low = (k[:, None] < 6) & (np.arange(17)[None] < 6)
        return jnp.max(jnp.abs(coef) * low)

    assert np.log2(size(16) / size(8)) == pytest.approx(3, abs=0.3)
    assert size(8, -1.0) > 10 * size(8)


U, W = jnp.ones((1, 8)), jnp.ones((1, 8, 8))
BAD: list[tuple[Any, str]] = [
    (lambda: burgers_residual(0.0), "dt must be positive"),
    (lambda: burgers_residual(0.1, -1.0), "viscosity must be positive"),
    (lambda: burgers_residual(0.1, 0.1)(W, W, None), "one channel and 1 axes"),
    (lambda: burgers_residual(0.1, 0.1)(U, U[:, :4], None), "one channel and 1 axes"),
    (lambda: burgers_residual(0.1)(U, U, None), "cond must hold it"),
    (lambda: vorticity_residual(0.1, 0.1, length=0.0), "length must be positive"),
    (lambda: vorticity_residual(0.1, 0.1)(U, U, None), "one channel and 2 axes"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
