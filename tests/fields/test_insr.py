"""Steppers on weights: symbols of the integrators, an exact projection, a moving pulse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.fields import (
    ImplicitMidpointAdvection,
    INSRState,
    INSRStepper,
    SemiLagrangianAdvection,
    SemiLagrangianFluid,
    Siren,
    Stage,
)
from jaxsci.optim import levenberg_marquardt
from jaxsci.pde import Box, Grid, Interval, rollout

LM = levenberg_marquardt(damping=1e-6)


class Wave(eqx.Module):
    """a cos kx + b sin kx: what a step does to it is known, and a fit is linear."""

    weights: jax.Array
    k: float = eqx.field(static=True)

    def __call__(self, x):
        return self.weights @ jnp.stack([jnp.cos(self.k * x[0]), jnp.sin(self.k * x[0])])


@pytest.mark.parametrize("kind", ["midpoint", "semi-Lagrangian"])
def test_a_wave_turns_by_the_integrators_angle(kind):
    """The implicit midpoint rule multiplies exp(ikx) by (1 − iz/2)/(1 + iz/2), z = kvΔt: an angle
    of 2 atan(z/2); the semi-Lagrangian step is exact, z. float64; fits end at 1e-9."""
    with jax.enable_x64(True):
        k, velocity, dt = 3.0, 0.5, 0.4
        v, domain = jnp.array([velocity]), Interval(-jnp.pi, jnp.pi)
        scheme, angle = {
            "midpoint": (
                ImplicitMidpointAdvection(v, dt, walls=False),
                2 * np.arctan(k * velocity * dt / 2),
            ),
            "semi-Lagrangian": (
                # Far from the walls, where paths would be cut.
                SemiLagrangianAdvection(v, dt, Interval(-9.0, 9.0), walls=False),
                k * velocity * dt,
            ),
        }[kind]
        start = Wave(jnp.array([1.0, 0.0]), k)
        stepper = INSRStepper(
            scheme, {"u": start}, domain, Grid(-3.0, 3.0, 8), LM, points=16, target=1e-9
        )
        grid = jnp.cos(k * stepper.grid.coords()[0])[None]
        state = eqx.filter_jit(stepper.init)(grid)
        np.testing.assert_allclose(state.weights["u"].weights, [1, 0], atol=1e-8)
        state = eqx.filter_jit(stepper.step)(state, key=jr.key(1))
        wanted = [np.cos(angle), np.sin(angle)]
        np.testing.assert_allclose(state.weights["u"].weights, wanted, atol=1e-7)


class Potential(eqx.Module):
    """c cos πx cos πy, without a slope across the walls of [−1, 1]²."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight * jnp.cos(jnp.pi * x[0]) * jnp.cos(jnp.pi * x[1])


class Flow(eqx.Module):
    """A vortex and a gradient, neither of which crosses a wall."""

    weights: jax.Array

    def __call__(self, x):
        s, c = jnp.sin(jnp.pi * x), jnp.cos(jnp.pi * x)
        vortex = jnp.stack([s[0] * c[1], -c[0] * s[1]])
        gradient = jnp.stack([s[0] * c[1], c[0] * s[1]])
        return self.weights @ jnp.stack([vortex, gradient])


def test_projection_takes_the_gradient_away():
    """At Δt → 0 a step is the projection: the gradient −π∇q/π² goes, the vortex stays; Δp = ∇·u
    gives p = −1/π of the potential. float64; linear fits, so to the size of Δt."""
    with jax.enable_x64(True):
        domain = Box((-1.0, -1.0), (1.0, 1.0))
        fields = {"u": Flow(jnp.array([1.0, 0.7])), "p": Potential(jnp.zeros(()))}
        stepper = INSRStepper(
            SemiLagrangianFluid(1e-9, domain),
            fields,
            domain,
            Grid(-1.0, 1.0, (4, 4)),
            LM,
            points=32,
            wall_points=8,
            target=1e-9,
        )
        state = INSRState(dict(fields), jnp.zeros(3), jnp.zeros(3, jnp.int32))
        assert jax.eval_shape(stepper.output, state).shape == (2, 4, 4)
        state = eqx.filter_jit(stepper.step)(state, key=jr.key(1))
        np.testing.assert_allclose(state.weights["u"].weights, [1, 0], atol=1e-7)
        # ∇·(0.7 (sin πx cos πy, cos πx sin πy)) = 1.4 π cos πx cos πy = −2π² c cos cos.
        np.testing.assert_allclose(state.weights["p"].weight, -0.7 / np.pi, atol=1e-7)
        assert np.all(np.asarray(state.residuals) < 1e-6)


def test_a_sirens_pulse_moves():
    """Three semi-Lagrangian steps in `rollout`, float32: errors add up, 3 steps at a root mean
    square of 1e-3 each; the largest error is allowed ten times that."""
    domain, grid = Interval(-1.0, 1.0), Grid(-1.0, 1.0, 41)
    velocity, dt = jnp.array([0.5]), 0.1
    field = Siren(1, "scalar", width=12, depth=1, omega0=8.0, key=jr.key(0))
    scheme = SemiLagrangianAdvection(velocity, dt, domain)
    stepper = INSRStepper(
        scheme, {"u": field}, domain, grid, LM, points=100, target=1e-3, limit=0.01
    )
    (x,) = grid.coords()

    def pulse(x):
        return jnp.exp(-0.5 * ((x + 0.1) / 0.2) ** 2)

    run = jax.jit(lambda u0: rollout(stepper, u0, 3, key=jr.key(1)))
    frames = run(pulse(x)[None])
    for n in range(3):
        assert jnp.max(jnp.abs(frames[n, 0] - pulse(x - (n + 1) * dt * 0.5))) < 0.03


def test_a_step_above_the_limit_raises():
    """One update ends with the residual that it began with."""
    wave = Wave(jnp.zeros(2), 1.0)
    scheme = ImplicitMidpointAdvection(jnp.ones(1), 0.1, walls=False)
    stepper = INSRStepper(
        scheme,
        {"u": wave},
        Interval(-1.0, 1.0),
        Grid(-1.0, 1.0, 8),
        LM,
        points=16,
        max_iterations=1,
        limit=1e-9,
    )
    state = INSRState({"u": Wave(jnp.ones(2), 1.0)}, jnp.zeros(1), jnp.zeros(1, jnp.int32))
    with pytest.raises(RuntimeError, match="limit"):
        jax.block_until_ready(eqx.filter_jit(stepper.step)(state, key=jr.key(2)).residuals)


def test_bad_input():
    domain, grid = Interval(-1.0, 1.0), Grid(-1.0, 1.0, 8)
    v, wave = jnp.ones(1), Wave(jnp.zeros(2), 1.0)
    for make in (
        lambda: ImplicitMidpointAdvection(v, 0.0),
        lambda: SemiLagrangianAdvection(v, -1.0, domain),
        lambda: SemiLagrangianFluid(0.0, domain),
    ):
        with pytest.raises(ValueError, match="dt"):
            make()
    scheme = ImplicitMidpointAdvection(v, 0.1)
    with pytest.raises(ValueError, match="fits 'u', fields has only"):
        INSRStepper(scheme, {"w": wave}, domain, grid, LM)
    with pytest.raises(ValueError, match="points = 0"):
        INSRStepper(scheme, {"u": wave}, domain, grid, LM, points=0)
    stepper = INSRStepper(scheme, {"u": wave}, domain, grid, LM)
    with pytest.raises(ValueError, match="shape"):
        stepper.init(jnp.zeros((1, 9)))
    with pytest.raises(ValueError, match="key"):
        stepper.step(None)
    assert Stage("u", scheme.stages[0].residual).scale == 1
