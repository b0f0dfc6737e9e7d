"""Physics-informed training: Cole and Hopf's solution, exponax, and normal equations."""

import equinox as eqx
import exponax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from jaxsci import operators
from jaxsci.operators import Bundled, pino
from jaxsci.pde import ExponaxStepper, burgers_residual, rollout

NU, TIME, N = 0.05, 0.5, 64


class Frames(eqx.Module):
    """An operator that answers with frames of its own, whatever it is asked."""

    values: jax.Array

    def __call__(self, u, cond=None):
        return self.values + 0 * u


def cole_hopf(frames: int) -> np.ndarray:
    """U = -2ν φₓ/φ with φ = 1 + e^(-ν κ² t) cos(κ x)/2, at t = 0 and `frames` times up to TIME."""
    kappa, x = 2 * np.pi, np.arange(N) / N
    t = np.linspace(0, TIME, frames + 1)[:, None, None]
    decay = np.exp(-NU * kappa**2 * t) / 2
    return 2 * NU * kappa * decay * np.sin(kappa * x) / (1 + decay * np.cos(kappa * x))


def physics_term(window: jax.Array) -> jax.Array:
    frames = len(window) - 1
    recipe = pino(burgers_residual(TIME / frames, NU))
    loss, terms = recipe(Bundled(Frames(window[1:, 0]), 1, frames), window)
    return loss + jnp.where(terms["data"] == 0, 0, jnp.nan)  # they are the data


def test_exact_solutions_have_the_defect_of_the_midpoint_rule(x64):
    del x64
    counts = (16, 32)

    @jax.jit
    def terms(windows):
        solver = exponax.stepper.Burgers(
            1, 1.0, N, TIME / 512, diffusivity=NU, conservative=True, order=4
        )
        start = windows[0][0]
        frames = rollout(ExponaxStepper(solver), start, 512, every=32, include_initial=True)
        return jnp.stack([physics_term(window) for window in (*windows, frames)])

    coarse, fine, by_exponax = np.asarray(terms([cole_hopf(m) for m in counts]))
    # Each defect is O(Δt³); the root of the sum of 1/Δt squares is O(Δt^2.5).
    assert abs(np.log2(coarse / fine) - 2.5) < 0.1
    # A spectral solver's frames have the same defect, to that solver's error.
    assert abs(by_exponax - coarse) < 1e-6


def test_the_sum_by_numpy(x64, key):
    del x64
    m, n, dt = 3, 8, 0.1
    u = np.asarray(jr.normal(key, (m + 1, 1, n)))
    answer = np.asarray(jr.normal(jr.fold_in(key, 1), (m, n)))

    def defect(a, b):
        k = np.fft.fftfreq(n, 1 / n)
        middle = (a + b) / 2
        odd = np.where(np.abs(k) == n // 2, 0, 2j * np.pi * k)
        slope = np.fft.ifft(odd * np.fft.fft(middle**2 / 2)).real
        bend = np.fft.ifft(-((2 * np.pi * k) ** 2) * np.fft.fft(middle)).real
        return b - a + dt * (slope - NU * bend)

    def norm(frames):
        previous = [u[0, 0], *frames[:-1]]
        return np.sqrt(
            sum(np.sum(defect(a, b) ** 2) for a, b in zip(previous, frames, strict=True))
        )

    expected = {
        "data": 2 * np.linalg.norm(answer - u[1:, 0]) / np.linalg.norm(u[1:]),
        "pde": 3 * norm(answer) / norm(np.zeros((m, n))),
        "bc": 4 * np.sqrt(np.mean(answer[:, 0] ** 2)),
    }
    recipe = pino(burgers_residual(dt, NU), 2.0, 3.0, 4.0, boundary=lambda frame, cond: frame[:, 0])
    loss, terms = jax.jit(recipe)(Bundled(Frames(jnp.asarray(answer)), 1, m), jnp.asarray(u))
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-12)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-12)


def test_a_finer_grid_sees_what_aliasing_hides(x64):
    """(u²/2)ₓ of u = cos(2πkx) is -πk sin(4πkx); n points take it for the wavenumber n - 2k."""
    del x64
    k, sizes = 6, (16, 15)

    def residual(previous, following, cond):
        del cond
        m = previous.shape[-1]
        slope = 2j * jnp.pi * jnp.arange(m // 2 + 1) * jnp.fft.rfft(following**2 / 2)
        return previous + jnp.fft.irfft(slope, m)  # of the frame 0 it is the wave itself

    @jax.jit
    def terms():
        waves = [jnp.cos(2 * jnp.pi * k * jnp.arange(n) / n)[None, None] for n in sizes]
        stepper = Bundled(lambda u: u)
        losses = [[pino(residual, 0.0, refine=r)(stepper, u)[0] for u in waves] for r in (1, 2)]
        # On 2k points the wave is Nyquist's.
        nyquist = jnp.cos(jnp.pi * jnp.arange(2 * k))[None, None]
        return losses, pino(residual, 0.0, refine=3)(stepper, nyquist)[0]

    (coarse, fine), nyquist = jax.tree.map(float, terms())
    seen = np.pi * (np.asarray(sizes) - 2 * k) / 2
    np.testing.assert_allclose([*fine, nyquist], np.sqrt(1 + (np.pi * k) ** 2), rtol=1e-12)
    np.testing.assert_allclose(coarse, np.sqrt(1 + seen**2), rtol=1e-12)


def test_test_time_optimisation_finds_the_least_squares_solution(x64, key):
    """With free values for weights the minimiser is known; without an anchor: Crank-Nicolson."""
    del x64
    m, n, c = 2, 6, 0.7
    identity = np.eye(n)
    bend = np.roll(identity, 1, 0) + np.roll(identity, -1, 0) - 2 * identity
    ahead, behind = identity - c / 2 * bend, identity + c / 2 * bend

    def residual(previous, following, cond):
        return following @ ahead.T - cond * previous @ behind.T

    starts = jr.normal(key, (2, 1, 1, n))
    first = jr.normal(jr.fold_in(key, 1), (m, n))

    @jax.jit
    def optimise(start, anchor):
        found = operators.test_time_optimise(
            Bundled(Frames(first), 1, m),
            residual,
            start,
            1500,
            anchor,
            optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 1500)),
            cond=jnp.asarray(1.0),
        )
        return found.stepper.operator.values, found.losses

    matrix = np.zeros((m * n, m * n))
    for i in range(m):
        matrix[i * n : (i + 1) * n, i * n : (i + 1) * n] = ahead
        if i:
            matrix[i * n : (i + 1) * n, (i - 1) * n : i * n] = -behind
    anchors = jnp.asarray([0.0, 0.3])
    values, losses = jax.vmap(optimise)(starts, anchors)
    for start, anchor, found, loss in zip(starts, anchors, values, losses, strict=True):
        given = np.concatenate([behind @ np.asarray(start[0, 0]), np.zeros((m - 1) * n)])
        old = np.asarray(first).ravel()
        weight = anchor * (given @ given) / (old @ old)
        normal = matrix.T @ matrix + weight * np.eye(m * n)
        expected = np.linalg.solve(normal, matrix.T @ given + weight * old)
        # What Adam leaves of a well-conditioned quadratic after its rate has fallen to zero.
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)
        defect = matrix @ old - given
        np.testing.assert_allclose(loss[0], (defect @ defect) / (given @ given), rtol=1e-10)


def test_what_cannot_be_asked_for_is_said():
    def residual(previous, following, cond):
        return following - previous

    for options, message in (
        ({"lam_data": -1.0}, "lam_data must be 0 or more"),
        ({"lam_data": 0.0, "lam_pde": 0.0}, "nothing is asked for"),
        ({"residual": None}, "residual is missing"),
        ({"lam_bc": 1.0}, "boundary is missing"),
        ({"refine": 0}, "refine"),
    ):
        with pytest.raises(ValueError, match=message):
            pino(**({"residual": residual} | options))  # pyright: ignore
    with pytest.raises(TypeError, match="must be callable"):
        pino(3)  # pyright: ignore
    stepper = Bundled(lambda u: u)
    with pytest.raises(ValueError, match="must have 2 frames, got 1"):
        pino(residual)(stepper, jnp.ones((1, 1, 8)))

    def optimise(steps=1, anchor=0.0, history=None):
        history = jnp.ones((1, 1, 8)) if history is None else history
        adam = optax.adam(1e-3)
        operators.test_time_optimise(stepper, residual, history, steps, anchor, optimizer=adam)

    with pytest.raises(ValueError, match="steps"):
        optimise(steps=0)
    with pytest.raises(ValueError, match="anchor"):
        optimise(anchor=-1.0)
    with pytest.raises(ValueError, match="expected 1 frames"):
        optimise(history=jnp.ones((2, 1, 8)))
