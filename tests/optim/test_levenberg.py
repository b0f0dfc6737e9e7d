"""Levenberg-Marquardt against NumPy's least squares, MINPACK and the linear model's promise."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxsci.optim import levenberg_marquardt


def iterate(residuals, x, steps, optimizer=None, jacobian_fn=None):
    """The iterates, and the states, of full steps."""
    optimizer = levenberg_marquardt() if optimizer is None else optimizer

    def body(carry, _):
        x, state = carry
        updates, state = optimizer.update(x, state, x, model_fn=residuals, jacobian_fn=jacobian_fn)
        x = optax.apply_updates(x, updates)
        return (x, state), (x, state[0])

    return jax.lax.scan(body, (x, optimizer.init(x)), length=steps)[1]


@pytest.mark.parametrize(("n", "p"), [(7, 4), (4, 7)])
def test_a_step_is_ridge_regression(n, p):
    """‖A s + r‖² + λ‖s‖² by NumPy's SVD, on both sides of n = p; float64, so to 1e-9."""
    with jax.enable_x64(True):
        matrix = jr.normal(jr.key(0), (n, p))
        right = jr.normal(jr.key(1), (n,))
        damping = 1e-2
        x, state = iterate(
            lambda x: matrix @ x - right, jnp.zeros(p), 1, levenberg_marquardt(damping=damping)
        )
        a = np.asarray(matrix)
        scale = max(np.diag(a @ a.T if n <= p else a.T @ a))
        stacked = np.vstack([a, np.sqrt(damping * scale) * np.eye(p)])
        wanted = np.linalg.lstsq(stacked, np.concatenate([right, np.zeros(p)]))[0]
        np.testing.assert_allclose(x[0], wanted, rtol=1e-9, atol=1e-12)
        # A linear model keeps its promise: the ratio is 1 and λ falls to a third.
        np.testing.assert_allclose(state.damping[0], damping / 3, rtol=1e-6)
        np.testing.assert_equal(int(state.metrics["tries"][0]), 1)


BARD = np.array(
    [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]
)


def rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def helical_valley(x):
    theta = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (x[2] - 10 * theta), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def bard(x):
    u = jnp.arange(1.0, 16)
    v = 16 - u
    return jnp.asarray(BARD) - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


@pytest.mark.parametrize(
    ("residuals", "start"),
    [(rosenbrock, [-1.2, 1.0]), (helical_valley, [-1.0, 0.0, 0.0]), (bard, [1.0, 1.0, 1.0])],
)
def test_minpack_problems(residuals, start):
    """Moré, Garbow and Hillstrom's problems end where MINPACK ends, as downhill as it does.

    Quadratic convergence where the residual vanishes, else linear at a fast rate: after 40 steps
    what is left is rounding.
    """
    with jax.enable_x64(True):
        x, _ = iterate(residuals, jnp.asarray(start), 40)
        values = jax.vmap(lambda x: jnp.sum(residuals(x) ** 2))(x)
        assert np.all(np.diff(values) <= 0)
        peer = scipy.optimize.least_squares(
            residuals, start, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        np.testing.assert_allclose(x[-1], peer.x, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(values[-1], 2 * peer.cost, rtol=1e-10, atol=1e-20)


def test_float32_reaches_its_floor_and_stays():
    """JᵀJ of condition 10⁸ is more than float32 holds: what lies above λ's floor is fitted.

    That floor, 4 machine epsilons, is 5e-7 of the largest entry, so columns down to 1e-3 are
    solved; the last one's residual of 6e-4 stays, hence 4e-7 of the sum of squares, which began
    at 1.
    """
    columns = jnp.logspace(0, -4, 6)
    basis = jnp.linalg.qr(jr.normal(jr.key(0), (20, 6)))[0]
    wanted = jnp.arange(1.0, 7)
    x, state = iterate(lambda x: basis @ (columns * (x - wanted)), jnp.zeros(6), 60)
    np.testing.assert_allclose(x[-1, :4], wanted[:4], rtol=1e-2)
    losses = jnp.sum((columns * (x - wanted)) ** 2, 1)
    assert losses[-1] < 1e-6
    # Without gain the weights stay, and the next update is one that can be tried again.
    assert jnp.all(state.damping <= 1e6) and jnp.all(jnp.isfinite(x))


def test_jacobian_by_points_and_lanes():
    """Per-point derivatives give the steps of the whole Jacobian; `vmap` those of one lane."""
    points = jnp.linspace(-1, 1, 9)
    params = {"a": jnp.array([1.0, 0.5]), "b": jnp.array(0.2)}

    def residual(params, x):
        return params["a"][0] * jnp.sin(params["a"][1] * x) + params["b"] - jnp.sin(1.5 * x)

    def model(params):
        return jax.vmap(residual, (None, 0))(params, points)

    def jacobian(params):
        return jax.vmap(jax.grad(residual), (None, 0))(params, points)

    whole, _ = iterate(model, params, 4)
    by_points, _ = iterate(model, params, 4, jacobian_fn=jacobian)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), by_points, whole)
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    many, _ = jax.vmap(lambda p: iterate(model, p, 4))(lanes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, 1e-4, 1e-5), many, whole)


def test_bad_input():
    for options in ({"damping": 0.0}, {"max_tries": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            levenberg_marquardt(**options)
    x = jnp.ones(2)
    optimizer = levenberg_marquardt()
    with pytest.raises(ValueError, match="model_fn"):
        optimizer.update(x, optimizer.init(x), x)
    with pytest.raises(ValueError, match="jacobian_fn gave 3 rows, expected 2"):
        iterate(lambda x: x, x, 1, jacobian_fn=lambda x: jnp.ones((3, 2)))
