"""The bounded solver against scipy's reflective trust region, optimistix's dogleg, known roots."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from jaxsci.optim import CL, HMZ, HUU, KK, Mix, ScaledTrustRegion, strictly_inside

SCALINGS = [CL(), HUU(), KK(), HMZ(), Mix()]
names = [type(scaling).__name__ for scaling in SCALINGS]


def himmelblau(x, _):
    """The gradient of Himmelblau's function: nine zeros in [−5, 5]²."""
    a, b = x
    return jnp.array(
        [
            4 * a**3 + 4 * a * b + 2 * b**2 - 42 * a - 14,
            4 * b**3 + 2 * a**2 + 4 * a * b - 26 * b - 22,
        ]
    )


def broyden(x, _):
    return (3 - 2 * x) * x + 1 - jnp.roll(x, 1).at[0].set(0) - 2 * jnp.roll(x, -1).at[-1].set(0)


def solve(fn, x0, lower, upper, scaling=Mix(), **options):
    return optx.root_find(
        fn,
        ScaledTrustRegion(rtol=0.0, atol=1e-10, scaling=scaling),
        x0,
        options={"lower": lower, "upper": upper},
        **options,
    )


@pytest.mark.parametrize("scaling", SCALINGS, ids=names)
def test_the_root_that_scipy_finds(x64, scaling):
    x0 = jnp.full(10, -0.2)
    found = jax.jit(lambda x: solve(broyden, x, -1.0, 1.0, scaling).value)(x0)
    peer = least_squares(
        lambda x: np.asarray(broyden(jnp.asarray(x), None)), np.full(10, -0.2), bounds=(-1, 1),
        method="trf", xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip
    # Both stop at residuals below 1e-10 with a Jacobian whose inverse is of order one.
    np.testing.assert_allclose(found, peer.x, atol=1e-8)


@pytest.mark.parametrize("scaling", SCALINGS, ids=names)
def test_nine_roots(x64, key, scaling):
    starts = jax.random.uniform(key, (40, 2), minval=-4.9, maxval=4.9)

    def one(x0):
        solution = solve(himmelblau, x0, -5.0, 5.0, scaling, throw=False)
        return solution.value, solution.result == optx.RESULTS.successful

    roots, ok = jax.jit(jax.vmap(one))(starts)
    assert bool(jnp.all(ok))
    assert bool(jnp.all(jnp.abs(roots) < 5))
    residual = jax.vmap(lambda x: himmelblau(x, None))(roots)
    assert float(jnp.max(jnp.abs(residual))) <= 1e-10
    # Published minima among them, to the digits that are printed.
    known = np.array([[3, 2], [-3.77931, -3.28319], [-2.80512, 3.13131], [3.58443, -1.84813]])
    distances = np.linalg.norm(known[:, None] - np.asarray(roots)[None], axis=-1)
    assert np.sum(distances.min(1) < 2e-5) >= 3


def test_without_bounds_the_dogleg_of_optimistix(x64):
    x0 = jnp.array([2.9, 1.8])
    ours = solve(himmelblau, x0, None, None)
    theirs = optx.root_find(himmelblau, optx.Dogleg(rtol=1e-12, atol=1e-12), x0)
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-10)


def test_the_first_step_by_hand(x64):
    """A linear system and a region that cuts the step: on the segment, at its boundary."""
    A, b = np.array([[2.0, 0.5], [-1.0, 3.0]]), np.array([1.0, 2.0])
    x, radius = np.array([0.6, 0.5]), 0.2
    solver = ScaledTrustRegion(rtol=0.0, atol=1e-10, scaling=CL(), radius0=radius)
    found = optx.root_find(
        lambda x, _: A @ x - b,
        solver,
        jnp.asarray(x),
        options={"lower": 0.0, "upper": 1.0},
        max_steps=1,
        throw=False,
    ).value
    F = A @ x - b
    g = A.T @ F
    d = np.where(g < 0, 1 - x, x)
    tau = min(g @ (d * g) / np.sum((A @ (d * g)) ** 2), radius / np.sqrt(g @ (d * g)))
    cauchy = -tau * d * g
    inside = np.clip(x - np.linalg.solve(A, F), 0, 1) - x
    full = -np.linalg.solve(A, F)
    room = np.min(np.where(full > 0, 1 - x, x) / np.abs(full))
    t = np.linspace(0, 1, 200_001)[:, None]
    # At Newton's step, the projected one and the one that is cut.
    ends = max(0.99995, 1 - np.linalg.norm(inside)) * inside, min(1, 0.99995 * room) * full
    path = np.concatenate([cauchy + t * (end - cauchy) for end in ends])
    allowed = np.linalg.norm(path / np.sqrt(d), axis=1) <= radius
    values = np.where(allowed, np.sum((F + path @ A.T) ** 2, axis=1), np.inf)
    # The grid on the segment.
    np.testing.assert_allclose(found, x + path[np.argmin(values)], atol=1e-5)


def test_a_valley_that_ends_in_a_bound(x64, key):
    """Bullard and Biegler's equations, where a projected Newton step leaves the valley."""

    def fn(x, _):
        return jnp.array([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.001])

    lower, upper = jnp.array([5.45e-6, 2.196e-3]), jnp.array([4.553, 18.21])
    starts = lower + jax.random.uniform(key, (60, 2), minval=0.01, maxval=0.99) * (upper - lower)
    run = jax.jit(jax.vmap(lambda x: solve(fn, x, lower, upper, HMZ(), throw=False, max_steps=200)))
    found = run(starts)
    solved = np.asarray(found.result == optx.RESULTS.successful)
    # The published root; its first component is 1.45e-5.
    np.testing.assert_allclose(found.value[solved, 0], 1.45e-5, rtol=2e-3)
    peer = np.mean(
        [
            np.max(np.abs(
                least_squares(
                    lambda x: np.asarray([1e4 * x[0] * x[1] - 1,
                                          np.exp(-x[0]) + np.exp(-x[1]) - 1.001]),
                    start, bounds=(lower, upper), method="trf", xtol=1e-15, ftol=1e-15, gtol=1e-15,
                    max_nfev=200,
                ).fun
            )) < 1e-8
            for start in np.asarray(starts)
        ]
    )  # fmt: skip
    # With the projected step alone: about half.
    assert solved.mean() >= peer - 0.1


def test_derivatives_trees_and_compilation(x64):
    def fn(x, p):
        return {"a": x["a"] ** 2 - p, "b": x["a"] * x["b"] - 1}

    x0 = {"a": jnp.array(1.0), "b": jnp.array([0.5, 0.7])}

    traced = []

    @jax.jit
    def root(p):
        traced.append(p)
        value = solve(fn, x0, 0.0, {"a": jnp.array(5.0), "b": jnp.array([3.0, 3.0])}, args=p).value
        return value["b"]

    np.testing.assert_allclose(root(4.0), [0.5, 0.5], atol=1e-10)
    root(2.0)
    assert len(traced) == 1
    # b = p^(−1/2), by the implicit function theorem.
    np.testing.assert_allclose(jax.jacobian(root)(4.0), [-1 / 16, -1 / 16], atol=1e-9)


def test_a_singular_jacobian_and_a_minimum_that_is_no_root(x64):
    found = solve(lambda x, _: jnp.array([x[0] - x[1], 2 * x[0] - 2 * x[1]]), jnp.array([0.2, 0.7]),
                  0.0, 1.0)  # fmt: skip
    np.testing.assert_allclose(found.value[0], found.value[1], atol=1e-9)
    failed = solve(lambda x, _: x**2 + 1, jnp.array([0.5]), -1.0, 1.0, throw=False)
    assert failed.result != optx.RESULTS.successful


def test_float32_stays_inside():
    """The root lies on the bound: the iterates come near and never reach it."""

    def fn(x, _):
        return jnp.array([x[0] * (2 - x[0]), x[1] - 1.0])

    solver = ScaledTrustRegion(rtol=0.0, atol=1e-6)
    solution = optx.root_find(
        fn, solver, jnp.array([0.5, 0.5]), options={"lower": 0.0, "upper": 1.5}
    )
    assert solution.value.dtype == jnp.float32
    assert 0 < float(solution.value[0]) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.01, 0.99), st.floats(-1e3, 1e3), st.sampled_from([True, False]),
    st.sampled_from([True, False]), st.sampled_from(range(5)),
)  # fmt: skip
def test_properties_of_the_scalings(x, g, has_lower, has_upper, index):
    lower = jnp.array([0.0 if has_lower else -jnp.inf])
    upper = jnp.array([1.0 if has_upper else jnp.inf])
    scaling = SCALINGS[index]
    d = float(scaling(jnp.array([x]), jnp.array([g]), lower, upper)[0])
    assert 0 < d < 1e4 and np.isfinite(d)


@pytest.mark.parametrize("scaling", SCALINGS, ids=names)
def test_scalings_vanish_at_a_bound_one_is_pushed_into(scaling):
    lower, upper = jnp.zeros(2), jnp.ones(2)
    x = jnp.array([1e-6, 1 - 1e-6])
    pushed = scaling(x, jnp.array([0.5, -0.5]), lower, upper)
    away = scaling(x, jnp.array([-0.5, 0.5]), lower, upper)
    assert float(jnp.max(pushed)) < 1e-5 and float(jnp.min(away)) > 0.2


def test_values_of_the_scalings():
    x, lower, upper = jnp.array([0.2]), jnp.array([0.0]), jnp.array([1.0])

    def value(scaling, g, upper=upper):
        return float(scaling(x, jnp.array([g]), lower, upper)[0])

    for found, expected in [
        (value(CL(), -3.0), 0.8),
        (value(CL(), 3.0), 0.2),
        (value(CL(), 0.0), 0.2),
        (value(CL(), -3.0, jnp.array([jnp.inf])), 1.0),
        (value(HUU(), -0.1), 1.0),  # neither 0.1 < 0.2² nor 0.2 < 0.1²
        (value(HUU(), -0.5), 0.8),
        (value(KK(), -3.0), 0.8),
        (value(KK(), 0.1), 0.2),
        (value(KK(gamma=0.1), -1.0), 0.3),
        (value(HMZ(), -3.0), 0.8 / 3.8),
        (value(HMZ(alpha=2.0), -3.0, jnp.array([jnp.inf])), 0.5),
        (value(Mix((CL(), HUU()), (0.25, 0.75)), -0.1), 0.25 * 0.8 + 0.75),
    ]:
        assert found == pytest.approx(expected, rel=1e-6)


def test_what_is_refused():
    x = jnp.full(2, 0.5)
    for build, message in [
        (lambda: ScaledTrustRegion(-1.0, 0.0), "rtol = -1.0"),
        (lambda: ScaledTrustRegion(0.0, 0.0, theta=1.0), "theta = 1.0"),
        (lambda: ScaledTrustRegion(0.0, 0.0, radius0=0.0), "radius0 = 0.0"),
        (lambda: ScaledTrustRegion(0.0, 0.0, max_trials=0), "max_trials = 0"),
        (lambda: HUU(p=1.0), "p = 1.0"),
        (lambda: KK(gamma=0.0), "gamma = 0.0"),
        (lambda: HMZ(alpha=0.0), "alpha = 0.0"),
        (lambda: Mix((CL(),), (0.5,)), "weights"),
        (lambda: Mix((CL(),), (0.5, 0.5)), "weights"),
        (lambda: strictly_inside(x, 0.0, 1.0, 0.5), "fraction = 0.5"),
        (lambda: solve(lambda x, _: x[:1], x, 0.0, 1.0), "as many as unknowns"),
        (lambda: solve(lambda x, _: x, x, jnp.zeros(3), 1.0), "lower: expected shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    for start, lower, fn, message in [
        (x, 0.5, lambda x, _: x, "strictly_inside"),
        (x, 2.0, lambda x, _: x, "lower < upper"),
        (x, 0.0, lambda x, _: x / 0, "not finite at x0"),
    ]:
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(solve(fn, start, lower, 1.0).value)
    inside = strictly_inside(jnp.array([0.0, 2.0]), 0.0, 1.0)
    np.testing.assert_allclose(inside, [1e-3, 1 - 1e-3], rtol=1e-5)
    with pytest.raises(TypeError, match="int32"):
        strictly_inside(jnp.arange(2), 0, 1)
