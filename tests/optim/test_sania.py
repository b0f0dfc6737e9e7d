"""SANIA: the authors' steps, restatements in NumPy, optax's Polyak step, and its invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import polyak_step, sania, trajectory

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_second_a.npz")
A = np.random.default_rng(0).normal(size=(20, 5)) * np.geomspace(0.1, 10, 5)
SIGNS = np.sign(A @ np.arange(1.0, 6.0))
X0 = np.linspace(-0.5, 0.5, 5)


def logistic(w):
    """Separable: the infimum is 0."""
    return jnp.mean(jax.nn.softplus(-SIGNS * (A @ w)))


def run(tx, value_fn=logistic, x0=X0, steps=40, **extra):
    return jax.jit(lambda x: trajectory(tx, value_fn, x, steps, **extra)[0])(jnp.asarray(x0))


@pytest.mark.parametrize(
    "name, options",
    [
        ("adagrad_sqr", dict(precond="adagrad-sqr", eps=1e-3)),
        ("adagrad", dict(precond="adagrad", eps=0.1)),
        ("adam_sqr", dict(precond="adam-sqr", eps=0.1)),
        ("adam", dict(precond="adam", eps=1e-4, b2=0.97)),
    ],
)
def test_forty_steps_of_the_authors_package(x64, name, options):
    # Rounding of 40 steps with step sizes of up to 1.
    np.testing.assert_allclose(
        run(sania(floor="max", **options)), DATA[name], rtol=1e-10, atol=1e-12
    )


def test_identity_and_sps_by_hand(x64):
    """Also with f* > 0, as a schedule, and against optax's Polyak step."""
    x = X0.copy()
    points = run(sania(precond="identity", f_star=lambda t: 0.01 + 0 * t))
    for k in range(40):
        value, g = jax.value_and_grad(logistic)(x)
        upsilon = 2 * max(float(value) - 0.01, 0) / float(g @ g)
        alpha = 1 - np.sqrt(1 - upsilon) if upsilon <= 1 else 1.0
        x = x - alpha * np.asarray(g)
        # 1 − √(1 − υ) by hand loses digits for small υ.
        np.testing.assert_allclose(points[k], x, atol=1e-9)
    sps = run(sania(precond="identity", rule="sps"))
    polyak = run(optax.polyak_sgd(max_learning_rate=1e30, eps=0.0))
    # optax stops where ‖g‖² < 2e-16, which is after step 16.
    np.testing.assert_allclose(sps[:16], polyak[:16], rtol=1e-9)


@pytest.mark.parametrize("precond", ["adam-sqr", "adagrad-sqr"])
def test_units_do_not_matter_and_eps_spoils_that(x64, precond):
    scales = jnp.array([1e-4, 1e-2, 1.0, 1e3, 1e6])

    def apart(**options):
        tx = sania(precond=precond, floor="add", **options)
        plain = run(tx)
        scaled = run(tx, lambda z: logistic(scales * z), X0 / scales)
        return np.max(np.abs(np.asarray(scaled * scales) / np.asarray(plain) - 1))

    assert apart(eps="zero-safe") < 1e-9  # rounding, amplified by 40 steps
    assert apart(eps=1e-8) > 1e-2


def test_newton_in_other_coordinates(x64):
    def value(x):
        return logistic(x) + 0.05 * x @ x

    change = np.random.default_rng(3).normal(size=(5, 5)) + 2 * np.eye(5)
    tx = sania(precond="newton", f_star=0.05)
    plain = run(tx, value, change @ X0, 10)
    moved = run(tx, lambda z: value(change @ z), X0, 10)
    # Rounding times the square of the condition number of the change, about 1e3.
    np.testing.assert_allclose(moved @ change.T, plain, atol=1e-9)


def quadratic(x):
    return x @ jnp.diag(jnp.array([1.0, 30.0, 0.2])) @ (x - 2) / 2


def test_newton_solves_a_quadratic_in_one_step(x64):
    """υ = 2 (f − f*)/(gᵀ H⁻¹ g) = 1 there."""
    best = float(quadratic(jnp.ones(3)))
    points = run(sania(precond="newton", f_star=best), quadratic, np.array([3.0, -1.0, 0.5]), 1)
    # √(1 − υ) turns a rounding error of 1e-16 in υ into 1e-8.
    np.testing.assert_allclose(points[0], 1, atol=1e-7)
    # A negative curvature counts by its size: the step goes downhill.
    saddle = run(sania(precond="newton", f_star=-9.0), lambda x: x[0] ** 2 - x[1] ** 2, X0[:2], 1)
    np.testing.assert_allclose(saddle[0], [0, 2 * X0[1]], atol=1e-12)


def test_hutchinson_by_hand(x64):
    """On a diagonal Hessian one probe is exact, for any key; else the key decides."""
    curvature = jnp.array([1.0, -30.0, 0.2])
    points = run(
        sania(precond="hutchinson", f_star=-50.0), lambda x: x**2 @ curvature / 2, X0[:3], 3
    )
    x = X0[:3].copy()
    for k in range(3):
        g = np.asarray(curvature) * x
        n = g / np.abs(curvature)
        upsilon = 2 * (x**2 @ np.asarray(curvature) / 2 + 50) / (g @ n)
        x = x - (1 - np.sqrt(1 - upsilon) if upsilon <= 1 else 1.0) * n
        np.testing.assert_allclose(points[k], x, atol=1e-12)
    runs = [
        run(sania(precond="hutchinson", key=jax.random.key(seed)), steps=3) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.max(np.abs(runs[0] - runs[2])) > 1e-6
    given = run(sania(precond="hutchinson"), steps=1, key=jax.random.fold_in(jax.random.key(1), 0))
    np.testing.assert_allclose(given[0], runs[0][0], rtol=1e-14)


def test_no_gradient_no_step():
    """A weight that never had a gradient stays; so does everything at a stationary point."""
    for precond in ("adam-sqr", "adam", "adagrad-sqr", "identity"):
        tx = sania(precond=precond, eps="zero-safe")
        points = run(tx, lambda x: x[0] ** 2, np.ones(2, np.float32), 3)
        assert np.all(points[:, 1] == 1)
        assert np.all(np.isfinite(points)) and np.all(points[:, 0] < 1)
        still = run(tx, lambda x: 1.0 + 0 * x[0], np.ones(2, np.float32), 2)
        assert np.all(still == 1)


def test_the_default_is_safe_where_gradients_are_tiny():
    """Two weights, one with hardly any influence: 1/g would send it far away."""

    def f(x):
        return (x[0] - 1) ** 2 + 1e-3 * (jnp.cos(x[1]) - 1) ** 2

    start = np.array([0.0, 1.0], np.float32)
    far = run(sania(eps="zero-safe"), f, start)
    near = run(sania(), f, start)
    assert np.max(np.abs(far)) > 10 and np.max(np.abs(near)) < 2
    assert f(near[-1]) < 2e-3


def test_polyak_step():
    alpha, upsilon = polyak_step(jnp.array([-1.0, 1e-12, 0.5, 3.0, 1.0]), jnp.array([2.0] * 5))
    np.testing.assert_allclose(upsilon, [0, 1e-12, 0.5, 3, 1])
    # 1 − √(1 − υ) would be 0 for the second in float32.
    np.testing.assert_allclose(alpha, [0, 5e-13, 1 - np.sqrt(0.5), 1, 1], rtol=1e-6)


def test_what_is_refused():
    x = jnp.ones(2)
    for build, message in [
        (lambda: sania(precond="adamw"), "precond = 'adamw'"),
        (lambda: sania(floor="min"), "floor = 'min'"),
        (lambda: sania(eps="safe"), "eps = 'safe'"),
        (lambda: sania(eps=-1.0), "eps = -1.0"),
        (lambda: sania(b2=1.0), "b2 = 1.0"),
        (lambda: sania(rule="polyak"), "rule = 'polyak'"),
        (lambda: polyak_step(x[0], x[0], "polyak"), "rule = 'polyak'"),
        (lambda: sania().update(x, sania().init(x), x), "keyword argument value"),
        (
            lambda: sania(precond="newton").update(
                x, sania(precond="newton").init(x), x, value=x[0]
            ),
            "value_fn",
        ),
        (
            lambda: sania(precond="hutchinson").update(
                x, sania(precond="hutchinson").init(x), value=x[0]
            ),
            "needs params",
        ),
        (lambda: sania(precond="newton").init(jnp.ones(5000)), "5000"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    for precond in ("newton", "hutchinson"):
        with pytest.raises(TypeError, match="complex64"):
            sania(precond=precond).init(jnp.ones(2, jnp.complex64))
