"""OASIS: restatements in NumPy, adaptive gradient descent as a special case, mini-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.optim import oasis, trajectory

RNG = np.random.default_rng(4)
A = RNG.normal(size=(30, 5)) * np.geomspace(0.2, 5, 5)
Y = np.sign(RNG.normal(size=30))
X0 = np.linspace(-0.5, 0.5, 5)


def logistic(x, rows=slice(None)):
    return jnp.mean(jax.nn.softplus(-(A[rows] @ x) * Y[rows])) + 5e-3 * x @ x


def grad(x, rows=slice(None)):
    p = 1 / (1 + np.exp(Y[rows] * (A[rows] @ x)))
    return -A[rows].T @ (p * Y[rows]) / len(p) + 1e-2 * x


def hess(x, rows=slice(None)):
    p = 1 / (1 + np.exp(-(A[rows] @ x)))
    return A[rows].T @ ((p * (1 - p))[:, None] * A[rows]) / len(p) + 1e-2 * np.eye(5)


def signs(key, t, n):
    """The random signs of step t, as the estimator draws them."""
    key = jax.random.fold_in(key, t)
    keys = [key] if n == 1 else jax.random.split(key, n)
    return [np.asarray(jax.random.rademacher(k, (5,), jnp.float64)) for k in keys]


def by_hand(steps, key, alpha, b1, b2, eta0, n_probes, warm_probes, rows=lambda t: slice(None)):
    x, last, m, eta, theta, d = X0.copy(), None, None, eta0, 1e6, None
    points = []
    for t in range(steps):
        H, g = hess(x, rows(t)), grad(x, rows(t))
        sample = np.mean([z * (H @ z) for z in signs(key, t, n_probes if t else warm_probes)], 0)
        d = b2 * d + (1 - b2) * sample if t else sample
        D = np.maximum(np.abs(d), alpha)
        m = b1 * m + (1 - b1) * g if t else g
        if t:
            s, y = x - last, g - grad(last, rows(t))
            new = min(np.sqrt(1 + theta) * eta, np.sqrt(s @ (D * s)) / np.sqrt(y @ (y / D)) / 2)
            eta, theta = new, new / eta
        x, last = x - eta * m / D, x
        points.append(x)
    return np.array(points)


def run(tx, value_fn=logistic, x0=X0, steps=40):
    return jax.jit(lambda x: trajectory(tx, value_fn, x, steps)[0])(jnp.asarray(x0))


@pytest.mark.parametrize("full_batch", [True, False])
def test_forty_steps(x64, full_batch):
    options = dict(alpha=0.05, b1=0.3, b2=0.9, eta0=0.01, n_probes=2, warm_probes=4)
    key = jax.random.key(7)
    points = run(oasis(key=key, full_batch=full_batch, **options))
    # Rounding, through 40 steps whose sizes are ratios of small differences.
    np.testing.assert_allclose(points, by_hand(40, key, **options), atol=1e-9)
    best = min(float(logistic(x)) for x in points)
    assert best < float(logistic(jnp.asarray(X0))) - 0.1


def test_both_gradients_are_of_the_same_mini_batch(x64):
    options = dict(alpha=0.05, b1=0.0, b2=0.9, eta0=0.01, n_probes=1, warm_probes=3)
    tx = oasis(**options)
    batches = RNG.integers(0, 30, size=(20, 8))

    def body(carry, rows):
        x, state = carry

        def f(x):
            return jnp.mean(jax.nn.softplus(-(A_[rows] @ x) * Y_[rows])) + 5e-3 * x @ x

        updates, state = tx.update(jax.grad(f)(x), state, x, value_fn=f)
        return (x + updates, state), x + updates

    A_, Y_, x = jnp.asarray(A), jnp.asarray(Y), jnp.asarray(X0)
    points = jax.jit(lambda x: jax.lax.scan(body, (x, tx.init(x)), batches)[1])(x)
    expected = by_hand(20, jax.random.key(0), rows=lambda t: batches[t], **options)
    np.testing.assert_allclose(points, expected, atol=1e-10)


def test_a_large_alpha_is_adaptive_gradient_descent(x64):
    """D̂ = α I, which the step size undoes: the recursion of arXiv:1910.09529."""
    alpha = 1e4
    points = run(oasis(alpha=alpha, eta0=0.01 * alpha))
    x, last, rate, theta = X0.copy(), None, 0.01, 1e6
    for t in range(40):
        if t:
            new = min(
                np.sqrt(1 + theta) * rate,
                np.linalg.norm(x - last) / np.linalg.norm(grad(x) - grad(last)) / 2,
            )
            rate, theta = new, new / rate
        x, last = x - rate * grad(x), x
        np.testing.assert_allclose(points[t], x, atol=1e-10)


def test_one_probe_is_exact_on_a_diagonal_hessian(x64):
    curvature = jnp.array([3.0, -40.0, 0.5, 1e-9])
    tx = oasis(warm_probes=1, alpha=0.1)
    x = jnp.array([1.0, 2.0, 3.0, 4.0])

    def f(x):
        return x**2 @ curvature / 2

    updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, value_fn=f)
    np.testing.assert_allclose(state[0].diagonal, curvature, rtol=1e-14)
    # The sign of a curvature does not matter, and α is the least.
    np.testing.assert_allclose(updates, -1e-3 * curvature * x / np.array([3, 40, 0.5, 0.1]))
    # With a given rate of 1 that is Newton's step where it is convex.
    tx = oasis(1.0, warm_probes=1)
    updates, _ = tx.update(jax.grad(f)(x), tx.init(x), x, hvp_fn=lambda x, v: curvature * v)
    np.testing.assert_allclose((x + updates)[:3], [0, 4, 0], atol=1e-14)


def test_at_a_minimum_nothing_happens():
    points = run(oasis(), lambda x: jnp.sum((x - 1) ** 2), np.ones(2, np.float32), 5)
    assert np.all(points == 1)
    # Not even after exact convergence in one step.
    tx = oasis(eta0=1.0, warm_probes=1)
    points = run(tx, lambda x: jnp.sum((x - 1) ** 2), np.zeros(2, np.float32), 5)
    assert np.all(points == 1)


def test_the_first_step_size_is_forgotten(x64):
    ends = [logistic(run(oasis(eta0=eta0), steps=150)[-1]) for eta0 in (1e-6, 1.0)]
    best = float(logistic(run(oasis(), steps=400)[-1]))
    assert max(ends) - best < 1e-6


def test_what_is_refused():
    x = jnp.ones(2)
    for build, message in [
        (lambda: oasis("auto"), "learning_rate = 'auto'"),
        (lambda: oasis(b1=1.0), r"b1 = 1\.0"),
        (lambda: oasis(b2=-0.1), r"b2 = -0\.1"),
        (lambda: oasis(alpha=0.0), r"alpha = 0\.0"),
        (lambda: oasis(eta0=0.0), r"eta0 = 0\.0"),
        (lambda: oasis(n_probes=0), "n_probes = 0"),
        (lambda: oasis(warm_probes=1.5), r"warm_probes = 1\.5"),
        (lambda: oasis().update(x, oasis().init(x), x), "value_fn"),
        (
            lambda: oasis().update(x, oasis().init(x), x, hvp_fn=lambda x, v: v),
            "unless full_batch",
        ),
        (lambda: oasis().update(x, oasis().init(x)), "needs params"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TypeError, match="complex64"):
        oasis().init(jnp.ones(2, jnp.complex64))
