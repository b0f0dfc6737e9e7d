"""Langevin samplers against exact laws and restatements in numpy."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.dynamics import (
    langevin_terms,
    mala,
    stationary_law_1d,
    ula,
    ula_gaussian_law,
    underdamped,
    w2_1d,
    w2_gaussian,
)

GRID = np.linspace(-9, 9, 1801)


def potential(x):
    return jnp.sum(x**2 / 2 + jnp.log(jnp.cosh(x)))


def gradient(x):
    return x + np.tanh(x)


def test_one_step_of_each(x64):
    key, x = jr.key(3), jnp.array([0.3, -1.2, 2.0])
    h = 0.15
    algorithm = ula(potential, h, smoothness=2.0)
    state, _ = algorithm.step(key, algorithm.init(x))
    noise = np.asarray(jr.normal(key, (3,)))
    np.testing.assert_allclose(
        state.position, x - h * gradient(np.asarray(x)) + np.sqrt(2 * h) * noise, rtol=1e-14
    )
    np.testing.assert_allclose(state.gradient, gradient(np.asarray(state.position)), rtol=1e-14)

    algorithm = mala(potential, h)
    start = algorithm.init(x)
    state, info = algorithm.step(key, start)
    noise = np.asarray(jr.normal(jr.split(key)[0], (3,)))
    x0 = np.asarray(x)
    x1 = x0 - h * gradient(x0) + np.sqrt(2 * h) * noise

    def density(a, b):  # of the move from a to b under e^{-U(a)}
        return -potential(a) - np.sum((b - a + h * gradient(a)) ** 2) / (4 * h)

    rate = min(1.0, float(np.exp(density(x1, x0) - density(x0, x1))))
    np.testing.assert_allclose(info.acceptance_rate, rate, rtol=1e-12)
    np.testing.assert_allclose(state.position, x1 if info.is_accepted else x0, rtol=1e-14)


def test_euler_on_the_terms_is_ula(x64):
    path = dfx.UnsafeBrownianPath((3,), jr.key(5))
    x = jnp.array([0.3, -1.2, 2.0])
    noise = path.evaluate(0.0, 0.1)
    sol = dfx.diffeqsolve(
        langevin_terms(potential, path), dfx.Euler(), 0.0, 0.1, 0.1, x, adjoint=dfx.DirectAdjoint()
    )
    expected = x - 0.1 * gradient(np.asarray(x)) + np.sqrt(2) * noise
    np.testing.assert_allclose(sol.ys[0], expected, rtol=1e-12)


def test_stationary_laws():
    # Isotropic normal target: the variance is 1/(1 − h/2); W₂ = 0.0541 at h = 0.2.
    np.testing.assert_allclose(ula_gaussian_law([1.0], 0.2, np.inf), 1 / 0.9, rtol=1e-14)
    law = stationary_law_1d(lambda x: x, 0.2, GRID)
    normal = np.exp(-(GRID**2) / 2)
    exact = abs(np.sqrt(1 / 0.9) - 1)
    np.testing.assert_allclose(w2_gaussian([1 / 0.9], [1.0]), exact, rtol=1e-12)
    # The distribution functions are taken linear between points 0.01 apart.
    np.testing.assert_allclose(w2_1d(GRID, law, normal), exact, rtol=1e-4)
    # A shift by 0.5 is at W₂ = 0.5.
    np.testing.assert_allclose(
        w2_1d(GRID, np.exp(-((GRID - 0.5) ** 2) / 2), normal), 0.5, rtol=1e-5
    )
    # The law is a fixed point of the step: its mean square by quadrature and by simulation.
    law = stationary_law_1d(gradient, 0.4, GRID)
    moment = np.sum(GRID**2 * law) * 0.01
    after = np.sum((GRID - 0.4 * gradient(GRID)) ** 2 * law) * 0.01 + 0.8
    np.testing.assert_allclose(after, moment, rtol=1e-10)


def test_gaussian_law_is_the_recursion():
    a, s = np.array([1.0, 2.5, 4.0]), np.array([0.0, 1.0, 2.0])
    expected = s
    for k in range(7):
        np.testing.assert_allclose(ula_gaussian_law(a, 0.3, k, s), expected, rtol=1e-12)
        expected = (1 - 0.3 * a) ** 2 * expected + 0.6


@pytest.mark.parametrize("name", ["ula", "mala", "OBABO", "UBU"])
def test_sampled_variance(name):
    # 20000 chains in one dimension. The variance of e^{−U}, by quadrature, is 0.6207; ULA's own
    # stationary law at h = 0.1 says 0.653.
    algorithm = {
        "ula": lambda: ula(potential, 0.1),
        "mala": lambda: mala(potential, 0.3),
        "OBABO": lambda: underdamped(potential, 0.2, scheme="OBABO"),
        "UBU": lambda: underdamped(potential, 0.2),
    }[name]()

    def chain(key):
        def step(state, key):
            return algorithm.step(key, state)[0], None

        start = algorithm.init(jnp.zeros(1))
        return jax.lax.scan(step, start, jr.split(key, 60))[0].position[0]

    draws = jax.jit(jax.vmap(chain))(jr.split(jr.key(8, impl="rbg"), 20_000))
    if name == "ula":
        density = stationary_law_1d(gradient, 0.1, GRID)
    else:
        density = np.exp(-(GRID**2) / 2) / np.cosh(GRID)
    expected = np.sum(GRID**2 * density) / np.sum(density)
    # Three standard errors of (2/20000)^½ = 1%; the splittings have a bias of about h²/100.
    assert abs(np.var(np.asarray(draws)) - expected) < 0.03 * expected


def test_free_motion_is_exact(x64):
    # No force: UBU from rest has the law of ∫ of an Ornstein-Uhlenbeck velocity at any step.
    algorithm = underdamped(lambda x: 0.0 * jnp.sum(x), 1.3, friction=0.7)

    def one(key):
        return algorithm.step(key, algorithm.init(jnp.zeros(1)))[0]

    state = jax.jit(jax.vmap(one))(jr.split(jr.key(2, impl="rbg"), 40_000))
    g, t = 0.7, 1.3
    e = np.exp(-g * t)
    expected = [1 - e**2, (1 - e) ** 2 / g, (2 * t - (3 - 4 * e + e**2) / g) / g]
    x, v = np.asarray(state.position[:, 0]), np.asarray(state.velocity[:, 0])
    found = [np.mean(v * v), np.mean(x * v), np.mean(x * x)]
    np.testing.assert_allclose(found, expected, rtol=0.03)  # four standard errors


def test_what_is_refused():
    for build, message in [
        (lambda: ula(potential, 0.0), "h = 0.0"),
        (lambda: ula(potential, 1.0, smoothness=2.0), "diverges"),
        (lambda: mala(potential, -1.0), "h = -1.0"),
        (lambda: underdamped(potential, 0.1, friction=0.0), "friction = 0.0"),
        (lambda: underdamped(potential, 0.1, scheme="BAOAB"), "scheme = 'BAOAB'"),
        (lambda: ula(lambda x: x, 0.1).init(jnp.ones(2)), "potential: expected"),
        (lambda: ula_gaussian_law([1.0, -1.0], 0.1, 1), "precisions"),
        (lambda: ula_gaussian_law([4.0], 0.5, 1), "diverges"),
        (lambda: stationary_law_1d(gradient, 0.1, GRID**3), "evenly spaced"),
        (lambda: stationary_law_1d(gradient, 1e-6, GRID), "spacing of at most"),
        (lambda: w2_1d(GRID, -np.ones_like(GRID), np.ones_like(GRID)), "left: expected"),
        (lambda: w2_1d(GRID, np.ones_like(GRID), np.ones(3)), "right: expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
