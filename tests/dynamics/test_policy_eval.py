"""Policy evaluation against closed forms, a restatement in numpy, and a linear system."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.dynamics import (
    Path,
    PolicyEvaluation,
    cgtd2,
    clstd,
    ctd0,
    ctd_lambda,
    martingale_loss,
    mean_square_td,
)


def features(t, x):
    return jnp.stack([x**2 * (1 - t), 1 - t])


def value(theta, t, x):
    return theta @ features(t, x)


MODEL = PolicyEvaluation(value, discount=0.3)


@pytest.fixture
def paths(x64):
    keys = jr.split(jr.key(0), 3)
    ts = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jr.uniform(keys[0], (6,), minval=0.1))])
    ts = ts / ts[-1]
    xs = jr.normal(keys[1], (5, 7))
    return Path(ts, xs, xs[:, :-1] ** 2, jr.normal(keys[2], (5,)))


def by_hand(paths, theta, beta):
    """The martingale loss, the TD error, and CTD(λ)'s online updates, with loops."""
    ts, xs, rewards, terminal = (np.asarray(a) for a in paths)
    J = lambda th, i, k: th @ [xs[k, i] ** 2 * (1 - ts[i]), 1 - ts[i]]  # noqa: E731
    n, loss, msv = len(ts) - 1, 0.0, 0.0
    for k in range(len(xs)):
        for i in range(n):
            gain = np.exp(-beta * (ts[n] - ts[i])) * terminal[k]
            for j in range(i, n):
                gain += np.exp(-beta * (ts[j] - ts[i])) * rewards[k, j] * (ts[j + 1] - ts[j])
            dt = ts[i + 1] - ts[i]
            loss += (gain - J(theta, i, k)) ** 2 * dt
            ahead = terminal[k] if i == n - 1 else J(theta, i + 1, k)
            here = J(theta, i, k)
            msv += (ahead - here + (rewards[k, i] - beta * here) * dt) ** 2 / dt
    return loss / 2 / len(xs), msv / 2 / len(xs)


def online(paths, theta, beta, lam, rate):
    ts, xs, rewards, terminal = (np.asarray(a) for a in paths)
    n = len(ts) - 1
    for k in range(len(xs)):
        z = np.zeros(2)
        for i in range(n):
            phi = np.array([xs[k, i] ** 2 * (1 - ts[i]), 1 - ts[i]])
            after = np.array([xs[k, i + 1] ** 2 * (1 - ts[i + 1]), 1 - ts[i + 1]])
            dt = ts[i + 1] - ts[i]
            z = phi if lam == 0 else lam**dt * z + phi * dt
            ahead = terminal[k] if i == n - 1 else theta @ after
            theta = theta + rate * z * (
                ahead - theta @ phi + (rewards[k, i] - beta * (theta @ phi)) * dt
            )
    return theta


def test_against_loops(paths):
    theta = jnp.array([0.7, -0.4])
    loss, msv = by_hand(paths, np.asarray(theta), 0.3)
    np.testing.assert_allclose(martingale_loss(MODEL, theta, paths), loss, rtol=1e-12)
    np.testing.assert_allclose(mean_square_td(MODEL, theta, paths), msv, rtol=1e-12)
    for lam in (0.0, 0.5):
        found = ctd_lambda(MODEL, theta, paths, 0.1, lam)
        expected = online(paths, np.asarray(theta), 0.3, lam, 0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        ctd0(MODEL, theta, paths, lambda k: 0.1 / (k + 1)),
        ctd_lambda(MODEL, theta, paths, lambda k: 0.1 / (k + 1), 0.0),
        rtol=1e-14,
    )


def test_lstd_solves_the_moment_equation_and_gtd_finds_it(paths):
    theta = clstd(features, paths, discount=0.3)
    ts, xs, rewards, terminal = (np.asarray(a) for a in paths)
    total = np.zeros(2)
    for k in range(5):
        for i in range(6):
            phi = np.array([xs[k, i] ** 2 * (1 - ts[i]), 1 - ts[i]])
            dt = ts[i + 1] - ts[i]
            after = np.array([xs[k, i + 1] ** 2 * (1 - ts[i + 1]), 1 - ts[i + 1]])
            ahead = terminal[k] if i == 5 else theta @ after
            total += phi * (ahead - theta @ phi + (rewards[k, i] - 0.3 * theta @ phi) * dt)
    np.testing.assert_allclose(total, 0, atol=1e-12)
    descended = jax.jit(
        lambda: cgtd2(features, paths, jnp.zeros(2), discount=0.3, learning_rate=0.1, steps=20_000)
    )()
    np.testing.assert_allclose(descended, theta, rtol=1e-6)


def test_linear_quadratic_value(x64):
    # dX = −X dt + dW, r = x², T = 1: J = x² a + (τ − a)/2, a = (1 − e^{−2τ})/2, θ = 1 with
    # J_θ = θ J. Exact transitions; the error is O(dt) and 3 standard errors (0.02).
    def exact(t, x):
        tau = 1 - t
        a = -jnp.expm1(-2 * tau) / 2
        return x**2 * a + (tau - a) / 2

    n, count = 40, 4000
    dt = 1 / n
    noise = jr.normal(jr.key(4, impl="rbg"), (n, count)) * np.sqrt(-np.expm1(-2 * dt) / 2)

    def move(x, xi):
        x = np.exp(-dt) * x + xi
        return x, x

    x0 = jr.normal(jr.key(5, impl="rbg"), (count,)) * np.sqrt(0.5)
    xs = jnp.concatenate([x0[None], jax.lax.scan(move, x0, noise)[1]]).T
    paths = Path(jnp.linspace(0, 1, n + 1), xs, xs[:, :-1] ** 2, jnp.zeros(count))
    one = lambda t, x: exact(t, x)[None]  # noqa: E731
    for lam in (0.0, 0.5):
        assert abs(clstd(one, paths, lam=lam)[0] - 1) < 0.08
    model = PolicyEvaluation(lambda theta, t, x: theta * exact(t, x))
    slope = jax.jit(jax.grad(lambda th: martingale_loss(model, th, paths)))
    best = slope(0.0) / (slope(0.0) - slope(1.0))  # of a parabola
    assert abs(best - 1) < 0.08
    wrong = jax.jit(jax.grad(lambda th: mean_square_td(model, th, paths)))
    assert abs(wrong(0.0) / (wrong(0.0) - wrong(1.0))) < 0.2  # measured 0.12


def test_what_is_refused(paths):
    theta = jnp.zeros(2)
    for build, message in [
        (lambda: PolicyEvaluation(value, -1.0), "discount = -1.0"),
        (lambda: ctd_lambda(MODEL, theta, paths, 0.1, 1.0), "lam = 1.0"),
        (lambda: clstd(features, paths, lam=-0.1), "lam = -0.1"),
        (lambda: clstd(features, paths, discount=-0.1), "discount = -0.1"),
        (lambda: martingale_loss(MODEL, theta, paths._replace(terminal=None)), "terminal"),
        (lambda: martingale_loss(MODEL, theta, paths._replace(ts=paths.ts[:1])), "ts: expected"),
        (lambda: mean_square_td(MODEL, theta, paths._replace(rewards=paths.xs)), "rewards: exp"),
        (lambda: clstd(features, paths._replace(xs=paths.xs[:, :-1])), "xs: expected"),
        (lambda: cgtd2(features, paths, theta, steps=0), "steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    twice = lambda t, x: jnp.stack([1 - t, 2 - 2 * t])  # noqa: E731
    with pytest.raises(Exception, match="linearly dependent"):
        clstd(twice, paths).block_until_ready()
    assert np.all(np.isfinite(clstd(twice, paths, ridge=1e-6)))
