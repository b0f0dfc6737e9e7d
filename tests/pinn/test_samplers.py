"""Samplers: masks by hand, laws of what is drawn, weights, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import Box
from jaxsci.pinn import (
    R3,
    RAD,
    RARD,
    CausalR3,
    CausalWeights,
    Fixed,
    Uniform,
    kurtosis,
    skewness,
)

BOX = Box((0.0, 0.0), (1.0, 1.0))
N = 200


def peak(x):
    return jnp.exp(-100 * jnp.sum((x - 0.25) ** 2, -1))


def updated(sampler, score_of=peak, n=N, times=1):
    def one(state, key):
        state = sampler.update(state, score_of(state.x), key, BOX.sample, score_of)
        return state, None

    def all_of_them(key):
        state = sampler.init(key, BOX.sample, n)
        return state, jax.lax.scan(one, state, jax.random.split(key, times))[0]

    return jax.jit(all_of_them)(jax.random.key(0))


def test_r3_keeps_what_is_above_the_mean():
    before, after = updated(R3())
    score = np.asarray(peak(before.x))
    keep = score > score.mean()
    moved = np.any(np.asarray(before.x) != np.asarray(after.x), axis=1)
    np.testing.assert_array_equal(moved, ~keep)
    assert np.all(BOX.contains(after.x)) and 0 < keep.sum() < N


def test_r3_is_the_compacting_rule_in_law():
    """A list of kept points with uniform ones appended, in numpy: same share near the peak."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        x = rng.random((N, 2))
        for _ in range(20):
            score = np.exp(-100 * ((x - 0.25) ** 2).sum(1))
            kept = x[score > score.mean()]
            x = np.concatenate([kept, rng.random((N - len(kept), 2))])
        shares.append(np.mean(np.linalg.norm(x - 0.25, axis=1) < 0.15))

    def run(key):
        state = R3().init(key, BOX.sample, N)

        def one(state, key):
            return R3().update(state, peak(state.x), key, BOX.sample, peak), None

        state = jax.lax.scan(one, state, jax.random.split(key, 20))[0]
        return jnp.mean(jnp.linalg.norm(state.x - 0.25, axis=1) < 0.15)

    ours = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 40)))
    error = np.hypot(np.std(shares), ours.std()) / np.sqrt(40)
    assert abs(ours.mean() - np.mean(shares)) < 4 * error


def test_r3_replaces_scores_that_are_not_finite_and_resamples_equal_ones():
    def score(x):
        return jnp.where(x[:, 0] < 0.5, jnp.nan, 1 + x[:, 1])

    before, after = updated(R3(), score)
    bad = np.asarray(before.x[:, 0] < 0.5)
    moved = np.any(np.asarray(before.x) != np.asarray(after.x), axis=1)
    assert moved[bad].all() and 0 < moved[~bad].sum() < (~bad).sum()
    before, after = updated(R3(), lambda x: jnp.ones(x.shape[0]))
    assert np.all(np.any(np.asarray(before.x) != np.asarray(after.x), axis=1))


def test_uniform_and_fixed():
    before, after = updated(Uniform())
    assert np.all(before.x != after.x) and int(after.count) == 1
    before, after = updated(Fixed(), times=3)
    np.testing.assert_array_equal(before.x, after.x)
    given = jnp.array([[0.1, 0.2], [0.3, 0.4]])
    _, after = updated(Fixed(given), n=2)
    np.testing.assert_array_equal(after.x, given)


def test_rad_draws_from_its_density():
    """The share of points in the disc around the peak, against numerical integration."""
    sampler = RAD(k=1.0, c=1.0, pool=20000, period=2)
    _, after = updated(sampler, n=20000, times=2)
    grid = (np.arange(400) + 0.5) / 400
    mesh = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    value = np.asarray(peak(mesh))
    density = value / value.mean() + 1
    near = np.linalg.norm(mesh - 0.25, axis=-1) < 0.1
    wanted = density[near].sum() / density.sum()
    found = np.mean(np.linalg.norm(np.asarray(after.x) - 0.25, axis=1) < 0.1)
    # Two draws of 20000: five standard errors of 0.5/√20000 each.
    assert abs(found - wanted) < 5 * 0.5 * np.sqrt(2 / 20000)
    first, early = updated(sampler, times=1)  # before its period is over it moves no point
    np.testing.assert_array_equal(first.x, early.x)


@pytest.mark.parametrize("greedy", [False, True])
def test_rard_adds_points_where_residuals_are(greedy):
    sampler = RARD(start=100, add=20, pool=5000, period=2, greedy=greedy)
    before, after = updated(sampler, times=4)
    np.testing.assert_array_equal(before.x[:100], after.x[:100])
    assert int(after.memory) == 40
    added = np.asarray(after.x[100:140])
    distance = np.linalg.norm(added - 0.25, axis=1)
    assert np.max(distance) < (0.05 if greedy else 0.25)
    weights = np.asarray(sampler.weights(after, jnp.ones(N)))
    assert np.all(weights[140:] == 0)
    # The mean of w² r² over all is the mean of r² over those in use.
    np.testing.assert_allclose(np.mean(weights**2), 1, rtol=1e-6)
    _, full = updated(sampler, times=20)
    assert np.all(np.asarray(sampler.weights(full, jnp.ones(N))) == 1)


def test_causal_r3_opens_its_gate():
    sampler = CausalR3(0.0, 1.0, lr=0.1)
    before, after = updated(sampler, lambda x: 0 * x[:, 0], times=10)
    # No residual: every step moves the gate by lr · clip.
    np.testing.assert_allclose(after.memory, -0.5 + 10 * 0.1 * 0.1, rtol=1e-5)
    _, stuck = updated(sampler, lambda x: 1e4 + 0 * x[:, 0], times=10)
    np.testing.assert_allclose(stuck.memory, -0.5, atol=1e-3)
    gate = np.asarray(sampler.weights(before, jnp.ones(N)))
    np.testing.assert_allclose(gate, (1 - np.tanh(5 * (before.x[:, 1] + 0.5))) / 2, atol=1e-6)


def test_causal_weights_wait_for_earlier_times():
    sampler = CausalWeights(0.0, 1.0, slices=4, tol=2.0)
    state = sampler.init(jax.random.key(0), BOX.sample, 2000)
    score = 1 + 0 * state.x[:, 0]
    weights = np.asarray(sampler.weights(state, score))
    index = np.minimum((np.asarray(state.x[:, 1]) * 4).astype(int), 3)
    np.testing.assert_allclose(weights**2, np.exp(-2.0 * index), rtol=1e-4)


def test_moments_of_residuals():
    values = np.random.default_rng(0).normal(size=200000)
    assert abs(float(skewness(values))) < 0.05 and abs(float(kurtosis(values)) - 3) < 0.1
    assert float(kurtosis(jnp.zeros(1000).at[0].set(1.0))) > 900


def test_bad_input():
    for sampler in (Uniform(), Fixed(), R3(), CausalR3(), RAD(), CausalWeights()):
        state = sampler.init(jax.random.key(0), BOX.sample, 5)
        with pytest.raises(ValueError, match=r"one for each of the 5 points, got \(4,\)"):
            sampler.update(state, jnp.ones(4), jax.random.key(0), BOX.sample, peak)
    with pytest.raises(ValueError, match="expected t0 < t1"):
        CausalR3(1.0, 0.0)
    with pytest.raises(ValueError, match="slices >= 2"):
        CausalWeights(slices=1)
    for bad in ({"pool": 0}, {"period": 0}, {"k": -1.0}, {"c": -1.0}):
        with pytest.raises(ValueError, match="RAD: expected pool and period"):
            RAD(**bad)
    with pytest.raises(ValueError, match="expected at least 1"):
        RARD(start=0)
    with pytest.raises(ValueError, match="at least start \\+ add"):
        RARD(start=5).init(jax.random.key(0), BOX.sample, 5)
