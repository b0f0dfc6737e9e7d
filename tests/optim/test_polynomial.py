"""Polynomial preconditioning against sums over subsets, conjugate gradients, and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.sparse.linalg import cg

from jaxsci.autodiff import materialise
from jaxsci.optim import (
    chebyshev_preconditioner,
    elementary_symmetric,
    krylov_gradient,
    poly_fast_gradient,
    poly_gradient,
    symmetric_preconditioner,
    trajectory,
)

SPECTRUM = np.array([100.0, 80.0, 1.0, 0.8, 0.5, 0.2])
Q = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
B = Q @ np.diag(SPECTRUM) @ Q.T


def operator(matrix):
    matrix = jnp.asarray(matrix)
    return lx.FunctionLinearOperator(
        lambda v: matrix @ v,
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
        lx.symmetric_tag,
    )


def subsets(values, k):
    return sum(np.prod(s) for s in itertools.combinations(values, k))


def test_elementary_symmetric(x64):
    sigma = elementary_symmetric(jnp.asarray(SPECTRUM), 6)
    np.testing.assert_allclose(sigma, [subsets(SPECTRUM, k) for k in range(7)], rtol=1e-13)
    with pytest.raises(ValueError, match="k = 7"):
        elementary_symmetric(jnp.asarray(SPECTRUM), 7)


@pytest.mark.parametrize("tau", range(5))
def test_eigenvalues_and_condition_numbers(x64, tau):
    P = np.asarray(materialise(symmetric_preconditioner(operator(B), tau)))
    others = [np.delete(SPECTRUM, i) for i in range(6)]
    expected = np.array([subsets(o, tau) for o in others]) / subsets(SPECTRUM, tau)
    # The alternating sum loses up to seven digits of the outliers at τ = 4.
    np.testing.assert_allclose(np.diag(Q.T @ P @ Q), expected, rtol=1e-8, atol=0)
    of_product = SPECTRUM * expected
    condition = of_product.max() / of_product.min()
    assert condition == pytest.approx([500, 226, 12.0, 4.64, 2.17][tau], rel=5e-3)


def test_it_is_the_mean_over_volumes(x64):
    """P_τ/σ_{τ+1} = E I_S (B_SS)⁻¹ I_Sᵀ over sets S of τ + 1 with weights det B_SS."""
    tau, mean, total = 2, np.zeros((6, 6)), 0.0
    for s in itertools.combinations(range(6), tau + 1):
        block = np.ix_(s, s)
        weight = np.linalg.det(B[block])
        mean[block] += weight * np.linalg.inv(B[block])
        total += weight
    P = materialise(symmetric_preconditioner(operator(B), tau))
    expected = mean / total * subsets(SPECTRUM, tau + 1) / subsets(SPECTRUM, tau)
    np.testing.assert_allclose(P, expected, rtol=1e-9, atol=1e-12)


def quadratic(x):
    return (x - 1) @ jnp.asarray(B) @ (x - 1) / 2


def test_the_full_degree_solves_a_quadratic_at_once(x64):
    """P_{d−1} is det(B) B⁻¹; λ_max(P B) = λ_min(P B), so that the fast method does the same."""
    small = np.diag([5.0, 2.0, 1.0])

    def f(x):
        return (x - 1) @ jnp.asarray(small) @ (x - 1) / 2

    for tx in (
        poly_gradient(operator(small), 2),
        poly_fast_gradient(operator(small), 2, mu=1.0),
    ):
        points, _ = trajectory(tx, f, jnp.zeros(3), 1)
        np.testing.assert_allclose(points[0], 1, atol=1e-12)


def test_gradient_methods_by_hand(x64):
    others = [np.delete(SPECTRUM, i) for i in range(6)]
    p = np.array([subsets(o, 2) for o in others]) / subsets(SPECTRUM, 2)
    P, PB = Q @ np.diag(p) @ Q.T, p * SPECTRUM
    x = np.zeros(6)
    points, _ = trajectory(poly_gradient(operator(B), 2, 1.5, L=2.0), quadratic, jnp.zeros(6), 30)
    for k in range(30):
        x = x - 1.5 / (2 * PB.max()) * P @ B @ (x - 1)
        np.testing.assert_allclose(points[k], x, atol=1e-10)
    q = np.sqrt(0.5 * PB.min() / PB.max() / 2)
    for mu in (0.5, 0.0):
        y = last = np.zeros(6)
        tx = poly_fast_gradient(lambda v: jnp.asarray(B) @ v, 2, mu=mu, L=2.0)
        points, _ = trajectory(tx, quadratic, jnp.zeros(6), 30)
        for k in range(30):
            beta = (1 - q) / (1 + q) if mu else k / (k + 3)
            new = y - P @ B @ (y - 1) / (2 * PB.max())
            y, last = new + beta * (new - last), new
            np.testing.assert_allclose(points[k], y, atol=1e-10)


def test_krylov_on_a_quadratic_is_restarted_conjugate_gradients(x64):
    points, _ = trajectory(krylov_gradient(operator(B), 2, inner=1), quadratic, jnp.zeros(6), 4)
    x = np.zeros(6)
    for k in range(4):
        x, _ = cg(B, B @ np.ones(6), x0=x, rtol=0, maxiter=3)
        np.testing.assert_allclose(points[k], x, atol=1e-9)


def test_krylov_is_at_least_as_good_as_any_polynomial(x64):
    """Also where f is no quadratic, with B the Hessian of each point."""
    rng = np.random.default_rng(2)
    a, signs = jnp.asarray(rng.normal(size=(40, 6)) @ B / 30), jnp.asarray(rng.choice([-1, 1], 40))

    def f(x):
        return jnp.mean(jax.nn.softplus(-signs * (a @ x))) + 1e-3 * x @ x

    gram = operator(np.asarray(a.T @ a) / 160 + 2e-3 * np.eye(6))
    _, ours = trajectory(krylov_gradient(gram, 2, inner=3), f, jnp.zeros(6), 2)
    _, theirs = trajectory(poly_gradient(gram, 2), f, jnp.zeros(6), 2)
    assert ours[1] < theirs[1]
    points, _ = trajectory(krylov_gradient(tau=2), f, jnp.zeros(6), 20)
    np.testing.assert_allclose(jax.grad(f)(points[-1]), 0, atol=1e-10)
    # τ + 1 = d: a Newton method in disguise.
    points, _ = trajectory(krylov_gradient(tau=9), f, jnp.zeros(6), 5)
    np.testing.assert_allclose(jax.grad(f)(points[-1]), 0, atol=1e-10)


def test_chebyshev(x64):
    """1 − λ p(λ) is the scaled Chebyshev polynomial."""
    values = np.linspace(0.5, 4, 7)
    for tau in range(4):
        p = materialise(chebyshev_preconditioner(operator(np.diag(values)), tau, 0.5, 4.0))
        T = np.polynomial.chebyshev.Chebyshev.basis(tau + 1)
        expected = T((4.5 - 2 * values) / 3.5) / T(4.5 / 3.5)
        np.testing.assert_allclose(1 - values * np.diag(p), expected, atol=1e-13)


def test_large_dimensions_are_estimated(x64):
    """3000 variables, three outliers: the traces are estimates, the outliers exact."""
    values = np.concatenate([[1e7, 3e6, 2e6], np.random.default_rng(0).uniform(0.5, 1.5, 2997)])
    diagonal = jnp.asarray(values)
    op = lx.FunctionLinearOperator(
        lambda v: diagonal * v, jax.ShapeDtypeStruct((3000,), jnp.float64), lx.symmetric_tag
    )
    P = symmetric_preconditioner(op, 3, n_probes=10)
    ours = np.asarray(P.mv(jnp.ones(3000)))
    sigma = elementary_symmetric(diagonal, 3)
    n = np.ones(3000)
    for k in range(3):
        n = 1 - float(sigma[k] / sigma[k + 1]) * values * n
    # The bulk's trace is known to 1 % with ten probes of 3000 signs.
    np.testing.assert_allclose(ours, n, atol=0.02)
    # What is left of the outliers is the sum of the bulk; the margin of the estimate is 5 %.
    rate = poly_gradient(op, 3).init(jnp.ones(3000))[0].rate
    np.testing.assert_allclose(1 / rate, 1.05 * values[3:].sum(), rtol=0.02)
    plain = poly_gradient(op, 0).init(jnp.ones(3000))[0].rate
    np.testing.assert_allclose(1 / plain, 1.05e7, rtol=1e-6)


def test_what_is_refused(x64):
    x = jnp.ones(6)
    untagged = lx.FunctionLinearOperator(lambda v: v, jax.ShapeDtypeStruct((6,), x.dtype))
    for build, message in [
        (lambda: symmetric_preconditioner(operator(B), 6), "tau = 6"),
        (lambda: symmetric_preconditioner(operator(B), -1), "tau = -1"),
        (lambda: symmetric_preconditioner(untagged, 1), "symmetric"),
        (lambda: chebyshev_preconditioner(untagged, 1, 1.0, 2.0), "symmetric"),
        (lambda: chebyshev_preconditioner(operator(B), -1, 1.0, 2.0), "tau = -1"),
        (lambda: chebyshev_preconditioner(operator(B), 1, 2.0, 1.0), r"lo = 2\.0, hi = 1\.0"),
        (lambda: poly_gradient(untagged), "symmetric"),
        (lambda: poly_gradient(3.0), r"op = 3\.0"),
        (lambda: poly_gradient(operator(B), L=0.0), r"L = 0\.0"),
        (lambda: poly_gradient(operator(B), 7).init(x), "tau = 7"),
        (lambda: poly_fast_gradient(operator(B), mu=-1.0), r"mu = -1\.0"),
        (
            lambda: poly_fast_gradient(operator(B)).update(
                x, poly_fast_gradient(operator(B)).init(x)
            ),
            "needs params",
        ),
        (lambda: krylov_gradient(tau=-1), "tau = -1"),
        (lambda: krylov_gradient(inner=0), "inner = 0"),
        (
            lambda: krylov_gradient().update(x, krylov_gradient().init(x), x),
            "keyword argument value_fn",
        ),
        (lambda: poly_gradient(lambda v: v, n_probes=0).init(jnp.ones(3000)), "n_probes = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    for tx in (poly_gradient(lambda v: v), krylov_gradient()):
        with pytest.raises(TypeError, match="complex"):
            tx.init(jnp.ones(2, jnp.complex64))
    with pytest.raises(Exception, match="positive semidefinite"):
        symmetric_preconditioner(operator(np.diag([1.0, -1.0, 2.0])), 1)
    with pytest.raises(Exception, match="rank of at least"):
        symmetric_preconditioner(operator(np.diag([1.0, 0.0, 0.0])), 2)
