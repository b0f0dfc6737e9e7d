"""Conditioning: numbers in closed form, gradient descent itself, and the matrix of a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.autodiff import derivatives, materialise
from jaxsci.pde import Interval
from jaxsci.pinn import (
    Fixed,
    FourierModel,
    Problem,
    Term,
    condition_number,
    diag_precondition,
    fourier_matrix,
    fourier_symbol,
    gram,
    precondition,
    rate_bound,
    spectrum,
)

PI = [[np.pi]]


def square(w):
    return np.sum(w**2, -1)


def poisson_matrix(K, lam):
    """Diag(k⁴) + λ v vᵀ by hand: constant, cosines, sines."""
    k = np.arange(1, K + 1)
    cosines = (-1.0) ** k / np.sqrt(np.pi)
    v = np.concatenate([[1 / np.sqrt(2 * np.pi)], cosines, np.zeros(K)])
    return np.diag(np.concatenate([[0.0], k**4.0, k**4.0])) + lam * np.outer(v, v)


def test_the_matrix_by_hand_and_numbers_of_the_theory(x64):
    np.testing.assert_allclose(
        fourier_matrix(5, square, PI, 0.7), poisson_matrix(5, 0.7), atol=1e-13
    )
    best = []
    for K in (4, 8, 16, 32):
        kappas = [np.linalg.cond(poisson_matrix(K, lam)) for lam in np.logspace(-1, 3, 81)]
        best.append(min(kappas))
    # Independently computed once, to three digits.
    np.testing.assert_allclose(best, [870, 1.30e4, 2.05e5, 3.27e6], rtol=0.01)
    P = diag_precondition(16, square, 79.0)
    A = fourier_matrix(16, square, PI, 1e-3)
    np.testing.assert_allclose(condition_number(P[:, None] * A * P), 1.038, rtol=1e-3)
    ours = condition_number(jnp.asarray(poisson_matrix(8, 20.0)))
    np.testing.assert_allclose(ours, np.linalg.cond(poisson_matrix(8, 20.0)), rtol=1e-8)


def test_gram_of_a_fourier_model_is_the_matrix(x64):
    """Quadrature on 40 equally spaced points is exact for these trigonometric polynomials."""
    K, lam, n = 3, 0.6, 40
    x = (-np.pi + 2 * np.pi * np.arange(n) / n)[:, None]
    domain = Interval(-4.0, 4.0)
    problem = Problem(
        Term("pde", lambda u, x: derivatives(u, x, [(0, 0)])[0, 0], domain, n, 2 * np.pi, Fixed(x)),
        Term("end", lambda u, x: u(x), domain, 1, lam, Fixed(jnp.asarray(PI))),
    )
    model = FourierModel(K)
    operator = gram(problem, model, problem.init(jax.random.key(0)))
    np.testing.assert_allclose(materialise(operator), poisson_matrix(K, lam), atol=1e-10)
    np.testing.assert_allclose(
        spectrum(operator), np.linalg.eigvalsh(poisson_matrix(K, lam)), atol=1e-9
    )


def test_preconditioned_descent_is_descent_in_the_other_variable(x64):
    P = diag_precondition(4, square, 2.0)
    A = jnp.asarray(poisson_matrix(4, 0.5))
    b = jnp.asarray(np.random.default_rng(0).normal(size=9))
    transform = optax.chain(precondition(P), optax.sgd(0.3))
    theta, hat = jnp.zeros(9), jnp.zeros(9)
    state = transform.init(theta)
    for _ in range(5):
        updates, state = transform.update(A @ theta - b, state)
        theta = theta + updates
        hat = hat - 0.3 * (P * (A @ (P * hat)) - P * b)
    np.testing.assert_allclose(theta, P * hat, rtol=1e-12)


def test_the_rate_bounds_gradient_descent(x64):
    A = poisson_matrix(3, 10.0)
    kappa = np.linalg.cond(A)
    eta = 1 / np.linalg.eigvalsh(A)[-1]
    error = np.ones(7)
    for _ in range(100):
        new = error - eta * A @ error
        assert np.linalg.norm(new) <= float(rate_bound(kappa)) * np.linalg.norm(error) * (1 + 1e-12)
        error = new


def test_models_and_symbols(x64):
    model = FourierModel(2, 3)
    theta = np.random.default_rng(0).normal(size=model.theta.size)
    model = eqx.tree_at(lambda m: m.theta, model, jnp.asarray(theta))
    n = 16
    axis = -np.pi + 2 * np.pi * np.arange(n) / n
    mesh = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    u = np.asarray(jax.vmap(model)(mesh))
    # Orthonormal basis: Parseval, with exact quadrature.
    np.testing.assert_allclose((u**2).mean() * (2 * np.pi) ** 2, (theta**2).sum(), rtol=1e-12)
    symbol = fourier_symbol((2, 3), lambda w: np.abs(w[:, 1] + 5 * w[:, 0]))
    advected = jax.vmap(lambda x: jax.jvp(model, (x,), (jnp.array([5.0, 1.0]),))[1])(mesh)
    energy = ((symbol * theta) ** 2).sum()
    np.testing.assert_allclose((advected**2).mean() * (2 * np.pi) ** 2, energy, rtol=1e-12)


def test_bad_input(x64):
    with pytest.raises(ValueError, match="the operator has a kernel"):
        fourier_matrix(3, square, PI, 0.0)
    with pytest.raises(ValueError, match="expected at least 1 along each axis"):
        FourierModel(0)
    with pytest.raises(ValueError, match="gamma = 0"):
        diag_precondition(3, square, 0.0)
    with pytest.raises(ValueError, match="between 0 and 2"):
        rate_bound(10.0, 2.0)
    with pytest.raises(ValueError, match="expected a square matrix"):
        condition_number(jnp.ones((2, 3)))
    with pytest.raises(Exception, match="singular in this precision"):
        condition_number(jnp.zeros((2, 2)))
    with pytest.raises(Exception, match="float64 resolves"):
        condition_number(jnp.diag(jnp.array([1.0, 1e-8], jnp.float32)))
    with pytest.raises(ValueError, match="weights"):
        precondition(jnp.ones(3)).init(jnp.ones(4))
    big = FourierModel(40, 40)
    problem = Problem(Term("u", lambda u, x: u(x), lambda key, n: jnp.zeros((n, 2)), 1))
    with pytest.raises(ValueError, match="6561 weights, expected at most 4096"):
        spectrum(gram(problem, big, problem.init(jax.random.key(0))))
