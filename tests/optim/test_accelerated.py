"""Accelerated SGD against Nesterov's schemes, and its exact second moments against sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import (
    GaussianLSQ,
    accelerated,
    accelerated_eval_params,
    accelerated_matrices,
    strong_growth,
)

H = np.array([1.0, 4.0, 10.0])


def quadratic(x):
    return jnp.sum(H * x**2) / 2 + jnp.sum(jnp.cos(x)) / 5


def run(tx, steps=50, **extra):
    def body(carry, _):
        y, state = carry
        g = jax.grad(quadratic)(y)
        updates, state = tx.update(g, state, y, full_grad=g, **extra)
        y = y + updates
        return (y, state), (y, accelerated_eval_params(state, y))

    y = jnp.array([1.0, -2.0, 0.5])
    return jax.jit(lambda: jax.lax.scan(body, (y, tx.init(y)), length=steps)[1])()


@pytest.mark.parametrize("momentum_gradient", ["batch", "full"])
def test_nesterovs_constant_scheme(x64, momentum_gradient):
    """Without noise: w⁺ = y − η g, y⁺ = w⁺ + (1 − √q)/(1 + √q) (w⁺ − w), q = η μ."""
    eta, mu = 0.08, 0.7
    ys, ws = run(accelerated(eta, mu, momentum_gradient=momentum_gradient))
    y = w = np.array([1.0, -2.0, 0.5])
    momentum = (1 - np.sqrt(eta * mu)) / (1 + np.sqrt(eta * mu))
    for k in range(50):
        g = H * y - np.sin(y) / 5
        w, old = y - eta * g, w
        y = w + momentum * (w - old)
        np.testing.assert_allclose(ws[k], w, atol=1e-12)
        np.testing.assert_allclose(ys[k], y, atol=1e-12)


def test_two_sequences_for_convex_functions(x64):
    """With μ = 0: y⁺ = w⁺ + α(1 − α)/(α² + α⁺) (w⁺ − w) and α⁺² = (1 − α⁺) α²."""
    eta = 0.08
    ys, _ = run(accelerated(eta))
    y = w = np.array([1.0, -2.0, 0.5])
    square = 1.0  # η γ₀
    alpha = (-square + np.sqrt(square**2 + 4 * square)) / 2
    for k in range(50):
        w, old = y - eta * (H * y - np.sin(y) / 5), w
        following = (-(alpha**2) + alpha * np.sqrt(alpha**2 + 4)) / 2
        y = w + alpha * (1 - alpha) / (alpha**2 + following) * (w - old)
        alpha = following
        np.testing.assert_allclose(ys[k], y, atol=1e-12)


def test_preconditioned_steps_are_steps_in_other_coordinates(x64):
    """For z = D^½ x: D⁻¹ as the preconditioner for x is plain SGD for z."""
    D = jnp.array([1.0, 4.0, 10.0])
    inner = optax.stateless(lambda g, p: jax.tree.map(lambda g: -0.5 * g / D, g))
    for kind in ("batch", "full"):
        ys, _ = run(accelerated(0.5, 0.3, inner, momentum_gradient=kind), 20)
        tx = accelerated(0.5, 0.3)
        z = jnp.sqrt(D) * jnp.array([1.0, -2.0, 0.5])
        state = tx.init(z)
        for k in range(5):
            g = jax.grad(lambda z: quadratic(z / jnp.sqrt(D)))(z)
            updates, state = tx.update(g, state, z)
            z = z + updates
            np.testing.assert_allclose(ys[k], z / jnp.sqrt(D), atol=1e-12)


def test_the_slow_variant_and_gamma0(x64):
    """Variant "rho" is α² = (η/ρ) γ: with the constant γ = μ, α = (η μ/ρ)^½."""
    eta, mu, rho = 0.08, 0.7, 5.0
    ys, _ = run(accelerated(eta, mu, rho=rho, variant="rho"), 3)
    alpha = np.sqrt(eta * mu / rho)
    y = w = v = np.array([1.0, -2.0, 0.5])
    for k in range(3):
        g = H * y - np.sin(y) / 5
        w = y - eta * g
        v = (1 - alpha) * v + alpha * y - alpha / mu * g
        y = (alpha * v + w) / (1 + alpha)
        np.testing.assert_allclose(ys[k], y, atol=1e-12)
    same, _ = run(accelerated(eta, mu, gamma0=mu), 3)
    plain, _ = run(accelerated(eta, mu), 3)
    np.testing.assert_array_equal(same, plain)


@pytest.mark.parametrize("kind", ["batch", "full"])
def test_exact_moments_against_sampled_runs_of_the_optimiser(x64, kind, key):
    """E‖y‖² after 30 steps on 40,000 paths."""
    s = jnp.array([1.0, 2.0, 4.0])
    problem = GaussianLSQ(s)
    eta, mu, alpha = 1 / (float(problem.rho) * 4), 1.0, None
    alpha = (eta * mu) ** 0.5
    tx = accelerated(eta, mu, momentum_gradient=kind)

    def path(key):
        def body(carry, key):
            y, state = carry
            a = jax.random.normal(key, (3,)) * jnp.sqrt(s)
            updates, state = tx.update(a * (a @ y), state, y, full_grad=s * y)
            y = y + updates
            return (y, state), accelerated_eval_params(state, y) ** 2

        start = jnp.ones(3)
        keys = jax.random.split(key, 30)
        return jax.lax.scan(body, (start, tx.init(start)), keys)[1]

    squares = jax.jit(jax.vmap(path))(jax.random.split(key, 40_000))
    matrices = accelerated_matrices(eta, mu, alpha, kind)
    moments = jnp.ones((3, 2, 2))
    for _ in range(30):
        moments = problem.propagate(moments, *matrices)
    mean, error = squares[:, -1].mean(0), squares[:, -1].std(0) / 200
    # Four standard errors.
    np.testing.assert_array_less(np.abs(mean - moments[:, 0, 0]), 4 * error)
    assert float(jnp.max(error / mean)) < 0.05


def test_rates_of_gaussian_least_squares(x64):
    """SGD's rate from a matrix by hand; the accelerated ones against the published bound
    1 − (μ/(ρ L))^½, which holds with the full gradient in v and not with the batch's."""
    s = jnp.linspace(1, 100, 20)
    problem = GaussianLSQ(s)
    eta = 1 / (float(s.sum()) + 200)
    one = (jnp.eye(1), jnp.array([-eta]), jnp.zeros(1), jnp.ones(1))
    by_hand = np.diag((1 - eta * s) ** 2 + eta**2 * s**2) + eta**2 * np.outer(s, s)
    expected = 1 - np.max(np.linalg.eigvals(by_hand).real)
    found = problem.second_moment_rate(*one, steps=20_000)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(problem.rho) == pytest.approx(float(s.sum()) + 2)
    eta = 1 / (float(problem.rho) * 100)
    full, batch = (
        problem.second_moment_rate(*accelerated_matrices(eta, 1.0, eta**0.5, kind), steps=20_000)
        for kind in ("full", "batch")
    )
    assert float(full) > eta**0.5 > 1.5 * float(batch)


def test_strong_growth(x64, key):
    grads = jnp.array([[1.0, 0.0], [3.0, 2.0]])
    assert strong_growth(grads) == pytest.approx((1 + 13) / 2 / (4 + 1))
    s, y = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 0.0, 0.0])
    a = jax.random.normal(key, (100_000, 3)) * jnp.sqrt(s)
    # The worst y is the axis of the least s. 1e5 samples of fourth moments: 2 %.
    found = strong_growth(a * (a @ y)[:, None], s * y)
    assert float(found) == pytest.approx(float(GaussianLSQ(s).rho), rel=0.03)


def test_what_is_refused():
    for options, message in [
        (dict(eta=0.0), "eta = 0"),
        (dict(mu=-1.0), "mu = -1"),
        (dict(mu=20.0), r"eta \* mu <= 1"),
        (dict(rho=0.5, variant="rho"), r"rho = 0\.5"),
        (dict(variant="rho"), "expected a rho"),
        (dict(variant="mass"), "variant = 'mass'"),
        (dict(momentum_gradient="none"), "momentum_gradient = 'none'"),
        (dict(gamma0=0.0), "gamma0 = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            accelerated(**(dict(eta=0.1) | options))
    x = jnp.ones(2)
    tx = accelerated(0.1, momentum_gradient="full")
    with pytest.raises(ValueError, match="needs params"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="needs full_grad"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match="momentum_gradient = 'none'"):
        accelerated_matrices(0.1, 1.0, 0.1, "none")
