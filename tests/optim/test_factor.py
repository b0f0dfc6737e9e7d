"""Shifted solves and the cubic step against dense linear algebra and global minimisation."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxsci.optim import DenseEigh, Diagonal, cubic_step, factorise


def operator(matrix):
    matrix = jnp.asarray(matrix)
    structure = jax.ShapeDtypeStruct((matrix.shape[0],), matrix.dtype)
    return lx.FunctionLinearOperator(lambda v: matrix @ v, structure, lx.symmetric_tag)


def symmetric(eigenvalues, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T, q


G = np.array([1.0, -2.0, 0.5, 0.3, -0.7])


@pytest.mark.parametrize("kind", ["eigh", "ritz", "cholesky"])
def test_solve(x64, kind):
    matrix, _ = symmetric([0.5, 1.0, 2.0, 5.0, 9.0])
    factor = factorise(operator(matrix), jnp.asarray(G), kind, rank=5)
    # Rounding times the condition number 18.
    np.testing.assert_allclose(factor.solve(jnp.asarray(G)), np.linalg.solve(matrix, G), rtol=1e-12)
    if kind != "cholesky":
        expected = np.linalg.solve(matrix + 0.7 * np.eye(5), G)
        np.testing.assert_allclose(factor.solve_shifted(jnp.asarray(G), 0.7), expected, rtol=1e-12)


def test_ritz_is_the_matrix_on_its_space_and_the_floor_outside(x64):
    eigenvalues = [1.0, 1.0, 1.0, 1.0, 50.0]  # two distinct values: two vectors know everything
    matrix, _ = symmetric(eigenvalues)
    start = jnp.asarray(G)
    factor = factorise(operator(matrix), start, "ritz", rank=4)
    inside = matrix @ G - 3 * G
    expected = np.linalg.solve(matrix + 0.3 * np.eye(5), inside)
    np.testing.assert_allclose(factor.solve_shifted(inside, 0.3), expected, rtol=1e-10)
    q, _ = np.linalg.qr(np.stack([G, matrix @ G, np.ones(5)], 1))
    outside = jnp.asarray(q[:, 2])
    expected = outside / (factor.floor + 0.3)
    np.testing.assert_allclose(factor.solve_shifted(outside, 0.3), expected, atol=1e-12)
    # It stands for eigenvalues between 1 and 50.
    assert 1 <= factor.floor <= 50 + 1e-9


def test_negative_eigenvalues(x64):
    matrix, q = symmetric([-2.0, -1.0, 0.5, 1.0, 3.0])
    for nonconvex, w in (("abs", [2.0, 1, 0.5, 1, 3]), ("clip", [0.0, 0, 0.5, 1, 3])):
        factor = factorise(operator(matrix), jnp.asarray(G), nonconvex=nonconvex)
        expected = -q @ ((q.T @ G) / (np.array(w) + 0.1))
        np.testing.assert_allclose(-factor.solve_shifted(jnp.asarray(G), 0.1), expected, rtol=1e-11)


def model(s, matrix, g, M):
    return g @ s + s @ matrix @ s / 2 + M / 6 * np.linalg.norm(s) ** 3


CASES = {
    "convex": ([0.5, 1.0, 2.0, 5.0, 9.0], G),
    "singular": ([0.0, 0.0, 2.0, 5.0, 9.0], G),
    "indefinite": ([-3.0, -1.0, 0.5, 1.0, 3.0], G),
    "hard": ([-3.0, -1.0, 0.5, 1.0, 3.0], np.array([0, 0.1, 0.1, -0.2, 0.1])),
    "hard, double": ([-3.0, -3.0, 0.5, 1.0, 3.0], np.array([0, 0.0, 0.1, -0.2, 0.1])),
    "nearly hard": ([-3.0, -1.0, 0.5, 1.0, 3.0], np.array([1e-9, 0.1, 0.1, -0.2, 0.1])),
    "saddle": ([-3.0, -1.0, 0.5, 1.0, 3.0], np.zeros(5)),
    "minimum": ([0.5, 1.0, 2.0, 5.0, 9.0], np.zeros(5)),
}


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda factor, g, M: factor.cubic_step(g, M))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("M", [0.05, 2.0, 100.0])
def test_cubic_step_is_the_global_minimiser(x64, step, case, M):
    eigenvalues, c = CASES[case]
    matrix, q = symmetric(eigenvalues)
    g = q @ c if "hard" in case else c
    factor = DenseEigh(jnp.asarray(q), jnp.asarray(eigenvalues))
    s = np.asarray(step(factor, jnp.asarray(g), M))
    r = np.linalg.norm(s)
    # The conditions that characterise the global minimum. Sizes up to 10² × ‖s‖, and the hard
    # case is recognised to rounding.
    scale = np.linalg.norm(g) + 9 * r
    assert np.linalg.norm(g + matrix @ s + M / 2 * r * s) <= 1e-11 * max(scale, 1e-30) + 1e-300
    assert eigenvalues[0] + M / 2 * r >= -1e-12
    # And no other minimiser does better: scipy from 6 starting points.
    rng = np.random.default_rng(1)
    best = min(
        minimize(model, rng.normal(size=5) * (r + 0.1), (matrix, g, M), method="BFGS").fun
        for _ in range(6)
    )
    assert model(s, matrix, g, M) <= best + 1e-10 * (1 + abs(best))


def test_cubic_step_in_single_precision(step):
    """The root is found where w_min + M r/2 cancels: near the hard case, in float32."""
    w, c = jnp.asarray([-3.0, 0.5, 3.0]), jnp.asarray([1e-6, 0.1, 0.1])
    s = np.asarray(step(Diagonal(w), c, 1.0), np.float64)
    r = np.linalg.norm(s)
    residual = np.asarray(c, np.float64) + (np.asarray(w, np.float64) + r / 2) * s
    # r itself is rounded: 6 × 6e-8 × ‖s‖ ~ 2e-6; a root in r instead of δ gives 1e-5 or NaN.
    np.testing.assert_allclose(residual, 0, atol=4e-6)
    assert r == pytest.approx(6.0, rel=1e-5)


def test_cubic_step_has_the_implicit_derivative(x64):
    w, c = jnp.asarray([-1.0, 0.5, 3.0]), jnp.asarray([0.4, -1.0, 2.0])

    def f(w, c, M):
        return jnp.sum(jnp.sin(cubic_step(w, c, M)))

    from jax.test_util import check_grads

    # Second-order differences with a step of 1e-6: rounding 1e-10 relative.
    check_grads(f, (w, c, jnp.asarray(2.0)), order=1, modes=["fwd", "rev"], eps=1e-5, rtol=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match="rank"):
        factorise(operator(np.eye(2)), jnp.ones(2), "ritz")
    with pytest.raises(ValueError, match="nonconvex = 'flip'"):
        factorise(operator(np.eye(2)), jnp.ones(2), nonconvex="flip")
