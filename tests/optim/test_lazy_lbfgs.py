"""L-BFGS on a lazy Hessian against optax's L-BFGS, dense BFGS in numpy, and known minima."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxsci.autodiff import GaussNewton
from jaxsci.optim import DenseEigh, lazy_lbfgs, lazy_newton, scale_by_lazy_lbfgs, trajectory
from jaxsci.optim.second_order.lazy_lbfgs import Secants, inverse_product

RNG = np.random.default_rng(5)
A, B = RNG.normal(size=(60, 8)), RNG.normal(size=60)


def test_product_is_the_inverse_of_dense_bfgs(x64):
    """Four updates B − Bssᵀ/(sᵀBs)·B + yyᵀ/(sᵀy) of a shifted matrix, one place left empty."""
    root = RNG.normal(size=(6, 6))
    w, q = np.linalg.eigh(root @ root.T)
    hessian = RNG.normal(size=(6, 6))
    hessian = hessian @ hessian.T + np.eye(6)
    s = RNG.normal(size=(4, 6))
    y = s @ hessian
    dense = q @ np.diag(w + 0.3) @ q.T
    for si, yi in zip(s, y, strict=True):
        bs = dense @ si
        dense = dense - np.outer(bs, bs) / (si @ bs) + np.outer(yi, yi) / (si @ yi)
    empty = np.zeros((1, 6))
    secants = Secants(
        jnp.asarray(np.concatenate([empty, s])),
        jnp.asarray(np.concatenate([empty, y])),
        jnp.asarray(np.append(0, 1 / np.sum(s * y, 1))),
    )
    g = RNG.normal(size=6)
    factor = DenseEigh(jnp.asarray(q), jnp.asarray(w))
    found = inverse_product(factor, 0.3, secants, jnp.asarray(g))
    # Rounding times the condition number, about 1e3.
    np.testing.assert_allclose(found, np.linalg.solve(dense, g), rtol=1e-10)


def quartic(x):
    """Its Hessian at 0 is the identity."""
    return x @ x / 2 + jnp.mean(jnp.asarray(A) @ x) + jnp.mean((jnp.asarray(A) @ x) ** 4)


def test_from_the_identity_it_is_optax_lbfgs(x64):
    """One snapshot, where the Hessian is I, and more steps than pairs are kept."""
    ours = lazy_lbfgs(0.5, m=1000, memory_size=3, M0=1e-30, linesearch=None)
    theirs = optax.lbfgs(0.5, memory_size=3, scale_init_precond=False, linesearch=None)
    found, values = trajectory(ours, quartic, jnp.zeros(8), 12)
    expected, _ = trajectory(theirs, quartic, jnp.zeros(8), 12)
    # The shift 30 ε and sums in another order, through twelve steps.
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert values[-1] < values[0]


def logistic(x):
    return jnp.mean(jnp.logaddexp(0, jnp.asarray(A) @ x * np.sign(B))) + 5e-3 * x @ x


def test_secants_make_a_lazy_hessian_converge_faster(x64):
    """One Hessian, twelve steps, no line search: at scipy's minimum; chord Newton is not."""
    gradient = jax.jit(jax.grad(logistic))
    best = minimize(
        lambda x: float(logistic(x)),
        np.zeros(8),
        jac=lambda x: np.asarray(gradient(x)),
        options={"gtol": 1e-10},
    ).x
    options = {"m": 100, "M0": 1e-3, "linesearch": None}
    slope = {}
    for pairs in (1, 10):
        points, _ = trajectory(lazy_lbfgs(memory_size=pairs, **options), logistic, jnp.zeros(8), 12)
        slope[pairs] = float(jnp.linalg.norm(gradient(points[-1])))
    # What scipy's tolerance allows, over the smallest curvature 1e-2.
    np.testing.assert_allclose(points[-1], best, atol=1e-7)
    chord, _ = trajectory(lazy_newton(m=100, regulariser="none"), logistic, jnp.zeros(8), 12)
    assert slope[10] < 1e-11
    assert slope[10] <= slope[1] < 1e-1 * float(jnp.linalg.norm(gradient(chord[-1])))


def saturated(x):
    """Log-sum-exp, which at the start is all but linear: Hessian 1e-9 of the gradient."""
    return 0.1 * jax.scipy.special.logsumexp((jnp.asarray(A) @ x - jnp.asarray(B)) / 0.1)


def test_a_singular_hessian_is_regularised_and_M_adapts(x64):
    start = 3 * jnp.ones(8)
    hessian, slope = jax.hessian(saturated)(start), jax.grad(saturated)(start)
    assert jnp.linalg.norm(hessian) < 1e-3 * jnp.linalg.norm(slope)
    best = minimize(
        lambda x: float(saturated(x)), np.zeros(8), jac=lambda x: np.asarray(jax.grad(saturated)(x))
    )
    points, _ = trajectory(lazy_lbfgs(), saturated, start, 60)
    # The value is flat to the square of BFGS's tolerance 1e-5.
    assert float(saturated(points[-1])) == pytest.approx(best.fun, abs=1e-8)
    # The first direction is no longer than 1/M0; the line search may take twice that.
    assert jnp.linalg.norm(points[0] - start) <= 2 + 1e-9


def test_M_falls_where_the_curvature_is_as_expected(x64):
    tx = lazy_lbfgs(M0=8.0, linesearch=None)
    x = jnp.ones(2)
    state = tx.init(x)
    for expected in (8.0, 2.0, 0.5):
        updates, state = tx.update(2 * x, state, x, value_fn=lambda x: x @ x)
        x = optax.apply_updates(x, updates)
        assert state[0].M == expected


def test_least_squares_take_one_step_with_gauss_newton(x64):
    """A direction without line search is Newton's, up to M‖g‖; the second Hessian is after m."""
    target, matrix = jnp.asarray(B), jnp.asarray(A)

    def model(x):
        return matrix @ x

    def outer(out):
        return jnp.sum((out - target) ** 2) / 2

    def step(tx, x, state):
        grad = jax.grad(lambda x: outer(model(x)))(x)
        return tx.update(grad, state, x, model_fn=model, outer_fn=outer)

    tx = lazy_lbfgs(m=2, M0=1e-30, curvature=GaussNewton(), linesearch=None)
    x = jnp.zeros(8)
    state = tx.init(x)
    expected = np.linalg.lstsq(A, B)[0]
    for refreshes in (1, 1, 2):
        updates, state = step(tx, x, state)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(x, expected, atol=1e-12)
        assert state[0].refreshes == refreshes


def test_bad_input():
    for options, word in (
        ({"m": 0}, "m = 0"),
        ({"memory_size": 2.5}, "memory_size"),
        ({"M0": -1.0}, "M0"),
        ({"factor": "cholesky"}, "eigh"),
        ({"factor": "ritz"}, "rank"),
    ):
        with pytest.raises(ValueError, match=word):
            lazy_lbfgs(**options)
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="params"):
        scale_by_lazy_lbfgs().update(x, scale_by_lazy_lbfgs().init(x))
    with pytest.raises(ValueError, match="4096"):
        lazy_lbfgs().init(jnp.zeros(5000))
    tx = lazy_lbfgs()
    with pytest.raises(ValueError, match=r"\['grad'\]"):
        tx.update(x, tx.init(x), x, value=1.0, value_fn=jnp.sum)
