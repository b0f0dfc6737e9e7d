"""TNGD against matrix exponentials, exact samples of thermox, dense solves and its own limits."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optax
import pytest
from scipy.linalg import expm

from jaxsci.autodiff import Hessian
from jaxsci.optim import OUSolve, ou_euler, ou_exact, scale_by_tngd, tngd, trajectory

THERMOX = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_second_b_thermox.npz")
RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
A = Q @ np.diag(np.geomspace(0.1, 10, 8)) @ Q.T
B, X0 = RNG.normal(size=8), RNG.normal(size=8)


def operator(matrix):
    matrix = jnp.asarray(matrix)
    structure = jax.ShapeDtypeStruct((matrix.shape[0],), matrix.dtype)
    return lx.FunctionLinearOperator(lambda v: matrix @ v, structure, lx.symmetric_tag)


def quadratic(x):
    return x @ A @ x / 2 - B @ x


@pytest.mark.parametrize("time", [0.0, 0.3, 5.0, math.inf])
def test_mean(x64, time):
    rest = np.linalg.solve(A, B)
    expected = rest + (expm(-A * time) @ (X0 - rest) if math.isfinite(time) else 0)
    found = ou_exact(operator(A), jnp.asarray(B), jnp.asarray(X0), time, rank=8)
    # Rounding times the condition number 100.
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_euler_converges_to_it_with_order_one(x64):
    rest = np.linalg.solve(A, B)
    expected = rest + expm(-A * 1.0) @ (X0 - rest)

    def error(n):
        found = ou_euler(operator(A), jnp.asarray(B), jnp.asarray(X0), 1 / n, n)
        return np.linalg.norm(found - expected)

    errors = [error(n) for n in (500, 1000)]
    assert 1.9 < errors[0] / errors[1] < 2.1
    # The scheme itself, x = A⁻¹b + (I − dt A)ⁿ (x0 − A⁻¹b), to rounding.
    power = np.linalg.matrix_power(np.eye(8) - 0.1 * A, 10)
    found = ou_euler(operator(A), jnp.asarray(B), jnp.asarray(X0), 0.1, 10)
    np.testing.assert_allclose(found, rest + power @ (X0 - rest), atol=1e-12)


@pytest.mark.parametrize("solver", ["exact", "euler"])
def test_moments_of_thermoxs_exact_samples(x64, key, solver):
    matrix, b, x0 = (jnp.asarray(THERMOX[name]) for name in ("A", "b", "x0"))
    time, beta = float(THERMOX["time"]), float(THERMOX["beta"])

    def end(key):
        if solver == "exact":
            return ou_exact(operator(matrix), b, x0, time, beta=beta, rank=4, key=key)
        return ou_euler(operator(matrix), b, x0, time / 200, 200, beta=beta, key=key)

    samples = np.asarray(jax.jit(jax.vmap(end))(jr.split(key, 5000)))
    # Five standard errors of our 5000 samples: standard deviation and variance below 0.6, 0.35.
    np.testing.assert_allclose(samples.mean(0), THERMOX["mean"], atol=5 * 0.6 / 5000**0.5)
    covariance = np.cov(samples.T)
    np.testing.assert_allclose(covariance, THERMOX["covariance"], atol=5 * 0.5 / 5000**0.5)
    # And the formula at the top, for thermox's 20000.
    A4 = np.asarray(matrix)
    formula = (np.eye(4) - expm(-2 * A4 * time)) @ np.linalg.inv(A4) / beta
    np.testing.assert_allclose(THERMOX["covariance"], formula, atol=5 * 0.5 / 20_000**0.5)


def test_from_gradient_descent_to_newton(x64):
    x = jnp.asarray(X0)
    gradient = A @ X0 - B
    tree = {"a": x[:3], "b": x[3:].reshape(5, 1)}

    def value_fn(p):
        return quadratic(jnp.append(p["a"], p["b"]))

    grads = jax.grad(value_fn)(tree)
    for time, expected in ((0.0, gradient), (math.inf, np.linalg.solve(A, gradient))):
        tx = scale_by_tngd(0.0, time, init="gradient", curvature=Hessian(), rank=8)
        found, _ = tx.update(grads, tx.init(tree), tree, value_fn=value_fn)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        np.testing.assert_allclose(np.append(found["a"], found["b"]), expected, atol=1e-11)
    # Damped, with the Gauss-Newton matrix of a least-squares problem, which is the default.
    J = jnp.asarray(RNG.normal(size=(12, 8)))
    model = {"model_fn": lambda p: J @ p, "outer_fn": lambda y: jnp.sum(y**2) / 2}
    tx = scale_by_tngd(0.5, math.inf, rank=8)
    found, _ = tx.update(x, tx.init(x), x, **model)
    np.testing.assert_allclose(found, np.linalg.solve(J.T @ J + 0.5 * np.eye(8), X0), atol=1e-11)


def test_solvers_agree_in_an_optimisation(x64):
    runs = [
        trajectory(
            tngd(0.3, 0.1, 0.8, solver=solver, rank=8, dt=dt, curvature=Hessian()),
            quadratic,
            jnp.asarray(X0),
            20,
        )[0]
        for solver, dt in (("exact", "auto"), ("euler", 1e-3))
    ]
    # Euler's error is of the size of dt times curvature.
    np.testing.assert_allclose(runs[0], runs[1], atol=2e-2)
    assert np.linalg.norm(runs[0][-1] - runs[0][0]) > 0.5
    # The default step is stable however long the time, and ends where the exact solution does.
    tx = scale_by_tngd(0.1, 200.0, solver="euler", curvature=Hessian())
    g = jnp.asarray(A @ X0 - B)
    found, state = tx.update(g, tx.init(g), jnp.asarray(X0), value_fn=quadratic)
    np.testing.assert_allclose(found, np.linalg.solve(A + 0.1 * np.eye(8), g), atol=1e-8)
    # 8 products for λ_max, and t λ_max / 0.9 with λ_max = 10.1, which 8 Lanczos steps find.
    assert int(state.metrics["products"]) == 8 + math.ceil(200 * 10.1 / 0.9)
    # Too many steps: the process stops after the time of those allowed, stable still.
    short = scale_by_tngd(0.1, 200.0, solver="euler", max_steps=50, curvature=Hessian())
    found, state = short.update(g, short.init(g), jnp.asarray(X0), value_fn=quadratic)
    power = np.linalg.matrix_power(np.eye(8) - 0.9 / 10.1 * (A + 0.1 * np.eye(8)), 50)
    rest = np.linalg.solve(A + 0.1 * np.eye(8), g)
    np.testing.assert_allclose(found, rest - power @ rest, atol=1e-8)


def test_delay_and_starting_points(x64):
    x = jnp.asarray(X0)

    def points(**options):
        options = dict(time=0.5, rank=8, curvature=Hessian()) | options
        return trajectory(tngd(0.2, 0.1, **options), quadratic, x, 6)[0]

    def by_hand(delay, init):
        position, left, on_the_way, matrix = (
            X0,
            np.zeros(8),
            [np.zeros(8)] * delay,
            A + 0.1 * np.eye(8),
        )
        for _ in range(6):
            g = A @ position - B
            start = {"previous": left, "gradient": g, "zero": 0 * g}[init]
            rest = np.linalg.solve(matrix, g)
            left = rest + expm(-matrix * 0.5) @ (start - rest)
            on_the_way = [*on_the_way, left]
            position = position - 0.2 * on_the_way.pop(0)
        return position

    for delay, init in ((0, "previous"), (0, "gradient"), (0, "zero"), (2, "previous")):
        found = points(delay=delay, init=init)
        np.testing.assert_allclose(found[-1], by_hand(delay, init), atol=1e-11)
        np.testing.assert_array_equal(found[:delay], np.tile(X0, (delay, 1)))


def test_noise_has_a_key(x64, key):
    g, x = jnp.asarray(B), jnp.asarray(X0)

    def one(tx, state, **extra):
        return tx.update(g, state, x, value_fn=quadratic, **extra)

    tx = scale_by_tngd(0.1, 1.0, beta=3.0, rank=8, curvature=Hessian(), key=key)
    first, state = one(tx, tx.init(x))
    np.testing.assert_array_equal(first, one(tx, tx.init(x))[0])
    other = one(tx, tx.init(x), key=jr.key(9))[0]
    assert np.linalg.norm(first - other) > 1e-3
    cold = scale_by_tngd(0.1, 1.0, rank=8, curvature=Hessian())
    assert np.linalg.norm(first - one(cold, cold.init(x))[0]) > 1e-3
    # The next step has other noise.
    still = state._replace(x=jnp.zeros(8))
    assert np.linalg.norm(first - one(tx, still)[0]) > 1e-3


def test_a_lineax_solver(x64):
    vector = (jnp.asarray(B[:3]), jnp.asarray(B[3:]))

    def product(v):
        out = A @ jnp.concatenate(v)
        return out[:3], out[3:]

    tree = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: vector), lx.symmetric_tag)
    found = lx.linear_solve(tree, vector, OUSolve(rank=8)).value
    np.testing.assert_allclose(np.concatenate(found), np.linalg.solve(A, B), atol=1e-11)
    early = lx.linear_solve(operator(A), jnp.asarray(B), OUSolve(time=2.0, rank=8)).value
    rest = np.linalg.solve(A, B)
    np.testing.assert_allclose(early, rest - expm(-2 * A) @ rest, atol=1e-11)


def test_a_step_too_long_raises(x64):
    x = jnp.asarray(X0)

    def run(dt):
        tx = tngd(0.1, 0.0, 10.0, solver="euler", dt=dt, curvature=Hessian())
        return jax.block_until_ready(trajectory(tx, quadratic, x, 1)[0])

    run(0.19)  # 2/λ_max = 0.2
    with pytest.raises(Exception, match="2/λ_max"):
        run(0.21)


def test_what_is_refused(key):
    x = jnp.ones(2)
    for build, message in [
        (lambda: tngd(0.1, damping=-1.0), "damping = -1.0"),
        (lambda: tngd(0.1, time=-1.0), "time = -1.0"),
        (lambda: tngd(0.1, time=math.inf, solver="euler"), "time = inf"),
        (lambda: tngd(0.1, solver="cg"), "solver = 'cg'"),
        (lambda: tngd(0.1, rank=0), "rank = 0"),
        (lambda: tngd(0.1, refresh=0), "refresh = 0"),
        (lambda: tngd(0.1, max_steps=0), "max_steps = 0"),
        (lambda: tngd(0.1, delay=-1), "delay = -1"),
        (lambda: tngd(0.1, dt="small"), "dt = 'small'"),
        (lambda: tngd(0.1, dt=0.0), "dt = 0.0"),
        (lambda: tngd(0.1, beta=0.0), "beta = 0.0"),
        (lambda: tngd(0.1, init="one"), "init = 'one'"),
        (lambda: OUSolve(time=-1.0), "time = -1.0"),
        (lambda: OUSolve(rank=0), "rank = 0"),
        (lambda: ou_exact(operator(np.eye(2)), x, x, 1.0, beta=1.0, rank=2), "needs a key"),
        (lambda: ou_euler(operator(np.eye(2)), x, x, 1.0, 2, beta=1.0), "needs a key"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    tx = tngd(0.1)
    with pytest.raises(ValueError, match="model_fn"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match="params"):
        tx.update(x, tx.init(x))
    with pytest.raises(TypeError, match="int32"):
        tx.init(jnp.arange(2))
    general = lx.MatrixLinearOperator(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="symmetric"):
        lx.linear_solve(general, x, OUSolve())
    assert isinstance(tngd(0.1), optax.GradientTransformationExtraArgs)
