"""Damped Newton against a restatement in numpy, scipy's optimum, and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxsci.optim import (
    AICN,
    Backtracking,
    RootNewton,
    SelfConcordant,
    damped_newton,
    trajectory,
)

RNG = np.random.default_rng(5)
A = RNG.normal(size=(40, 5)) * np.exp(RNG.normal(size=5))
Y = np.sign(RNG.normal(size=40))


def logistic(x):
    return jnp.mean(jnp.logaddexp(0, -(A @ x) * Y)) + 5e-3 * x @ x


def grad(x):
    p = 1 / (1 + np.exp(Y * (A @ x)))
    return -A.T @ (p * Y) / 40 + 1e-2 * x


def hess(x):
    p = 1 / (1 + np.exp(-(A @ x)))
    return A.T @ ((p * (1 - p))[:, None] * A) / 40 + 1e-2 * np.eye(5)


def root_newton(d):
    return 1 / (1 + (9 * 0.1) ** (1 / 2.5) * d ** (1.5 / 2.5))


def aicn(d):
    # The subtraction in the published form loses its digits for small d.
    return 1.0 if d < 1e-6 else (np.sqrt(1 + 2 * 3.0 * d) - 1) / (3.0 * d)


def classical(d):
    return 1 / (1 + 0.5 * d)


@pytest.mark.parametrize(
    "rule, by_hand",
    [
        (RootNewton(q=3.5, M=0.1), root_newton),
        (AICN(L=3.0), aicn),
        (SelfConcordant(L=0.5), classical),
        (0.3, lambda d: 0.3),
    ],
)
def test_fifty_steps(x64, rule, by_hand):
    x = np.full(5, 0.5)
    points, _ = trajectory(damped_newton(step=rule), logistic, jnp.asarray(x), 50)
    for k in range(50):
        n = np.linalg.solve(hess(x), grad(x))
        d = np.sqrt(max(grad(x) @ n, 1e-40))
        x = x - by_hand(d) * n
        np.testing.assert_allclose(points[k], x, atol=1e-7 if isinstance(rule, AICN) else 1e-12)
    if rule != 0.3:
        best = minimize(
            lambda x: float(logistic(x)), x * 0, jac=grad, hess=hess, method="trust-exact"
        )
        np.testing.assert_allclose(points[-1], best.x, atol=1e-6)


def test_fifty_steps_of_backtracking(x64):
    x, sigma, beta, c = np.full(5, 2.0), 1.0, 0.8, 2.0
    rule = Backtracking(beta=beta, sigma0=sigma, c=c)
    points, _ = trajectory(damped_newton(step=rule), logistic, jnp.asarray(x), 50)
    for k in range(50):
        H, g = hess(x), grad(x)
        n = np.linalg.solve(H, g)
        d = np.sqrt(g @ n)
        if d < 1e-9:
            break  # only rounding decides from here on
        j = 0
        while True:
            theta = c**j * sigma * d**beta
            alpha = 1 / (1 + theta)
            new = grad(x - alpha * n)
            if new @ n >= new @ np.linalg.solve(H, new) / (2 * alpha * theta):
                break
            j += 1
        x, sigma = x - alpha * n, c ** (j - 1) * sigma
        np.testing.assert_allclose(points[k], x, atol=1e-11)
    assert k > 6
    np.testing.assert_allclose(grad(np.asarray(points[-1])), 0, atol=1e-14)


@pytest.mark.parametrize("rule", [RootNewton(M=0.1), Backtracking()])
def test_affine_invariance(x64, rule):
    change = RNG.normal(size=(5, 5)) + 2 * np.eye(5)
    start = jnp.full(5, 0.4)
    tx = damped_newton(step=rule)
    moved, _ = trajectory(tx, lambda z: logistic(change @ z), start, 12)
    plain, _ = trajectory(tx, logistic, change @ start, 12)
    # Rounding times the condition number of the change of variables, about 1e2 squared.
    np.testing.assert_allclose(moved @ change.T, plain, atol=1e-9)


def test_quadratics_and_constant_damping(x64):
    def quadratic(x):
        return x @ jnp.diag(jnp.array([1.0, 30.0])) @ x / 2

    start = jnp.array([1.0, -2.0])
    points, _ = trajectory(damped_newton(step=RootNewton(M=1e-45)), quadratic, start, 1)
    np.testing.assert_allclose(points[0], 0, atol=1e-9)
    points, _ = trajectory(damped_newton(step=RootNewton(q=2.0, M=2.0)), quadratic, start, 1)
    np.testing.assert_allclose(points[0], start * (1 - 1 / 19), rtol=1e-14)


def test_refresh_reuses_the_factor(x64):
    tx = damped_newton(step=1.0, refresh=3)
    points, _ = trajectory(tx, logistic, jnp.full(5, 0.1), 3)
    x, H = np.full(5, 0.1), hess(np.full(5, 0.1))
    for k in range(3):
        x = x - np.linalg.solve(H, grad(x))
        np.testing.assert_allclose(points[k], x, atol=1e-12)


def test_indefinite(x64):
    def saddle(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4

    x = jnp.array([1.0, 0.1])
    with pytest.raises(Exception, match="not positive definite"):
        jax.block_until_ready(trajectory(damped_newton(step=1.0), saddle, x, 1))
    points, _ = trajectory(damped_newton(step=1.0, convexify="abs"), saddle, x, 30)
    np.testing.assert_allclose(points[-1], [0, np.sqrt(0.5)], atol=1e-12)


def test_what_is_refused():
    x = jnp.ones(2)
    for build, message in [
        (lambda: RootNewton(q=5.0), "q = 5.0"),
        (lambda: RootNewton(M=0.0), "M = 0.0"),
        (lambda: AICN(L=-1.0), "L = -1.0"),
        (lambda: SelfConcordant(L=0.0), "L = 0.0"),
        (lambda: Backtracking(beta=0.5), "beta = 0.5"),
        (lambda: Backtracking(sigma0=0.0), "sigma0 = 0.0"),
        (lambda: Backtracking(c=1.0), "c = 1.0"),
        (lambda: Backtracking(max_trials=0), "max_trials = 0"),
        (lambda: damped_newton(step="root"), "step = 'root'"),
        (lambda: damped_newton(step=-0.5), "step = -0.5"),
        (lambda: damped_newton(refresh=0), "refresh = 0"),
        (lambda: damped_newton(convexify="clip"), "convexify = 'clip'"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    tx = damped_newton()
    with pytest.raises(ValueError, match="params"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="value_fn"):
        tx.update(x, tx.init(x), x)
    tx = damped_newton(step=Backtracking())
    with pytest.raises(ValueError, match="Backtracking needs"):
        tx.update(x, tx.init(x), x, hvp_fn=lambda p, v: v)
    with pytest.raises(TypeError, match="int32"):
        tx.init(jnp.arange(2))
