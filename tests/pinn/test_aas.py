"""The flow's map, mass and law, the step of its weights, and the density that it is after."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl
import scipy.stats

from jaxsci.pde import Ball, Box, Interval, SpaceTime
from jaxsci.pinn import (
    AdversarialSampler,
    BoundedFlow,
    neumann_poisson_density,
)

BOX = Box((-1.0, 0.0), (1.0, 3.0))


@pytest.fixture(scope="module")
def rough():
    """A flow with random weights, in double precision."""
    with jax.enable_x64(True):
        flow = BoundedFlow(BOX, blocks=1, bins=4, width=6, key=jax.random.key(0))
        leaves, tree = jax.tree.flatten(eqx.filter(flow, eqx.is_inexact_array))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [a + 0.4 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
        yield eqx.combine(jax.tree.unflatten(tree, moved), flow)


def to_cube(flow, x):
    lower, span = flow.frame(x.dtype)
    z = (x - lower) / span
    for layer in flow.layers:
        z, _ = layer.forward(z)
    return z


@eqx.filter_jit
def examined(flow, key):
    """Points, where they are in the cube, log-determinants by jacfwd, and log-densities."""
    x = flow.sample(key, 4000)
    jacobians = jax.vmap(jax.jacfwd(lambda x: to_cube(flow, x)))(x)
    logs = jnp.linalg.slogdet(jacobians)[1]
    side = (jnp.arange(200) + 0.5) / 200
    grid = jnp.stack(jnp.meshgrid(2 * side - 1, 3 * side, indexing="ij"), -1).reshape(-1, 2)
    density = jnp.exp(jax.vmap(flow.log_prob)(grid))
    return x, jax.vmap(lambda x: to_cube(flow, x))(x), logs, jax.vmap(flow.log_prob)(x), density


def test_the_density_is_the_determinant_of_the_map_and_has_mass_one(rough, key, x64):
    x, z, logs, log_prob, density = map(np.asarray, examined(rough, key))
    np.testing.assert_allclose(log_prob, logs, atol=1e-10)
    assert np.all(BOX.contains(jnp.asarray(x)))
    # The inverse took uniform numbers here; that they come back uniform is the law of the points.
    for column in z.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    # Midpoints: the density has kinks, whose error falls like 1/200².
    mass = 6 * density.mean()
    np.testing.assert_allclose(mass, 1, atol=1e-3)
    assert density.max() > 3 * density.min()  # it is no uniform one
    # Points against the density: what lies in the first quarter of the box.
    quarter = density.reshape(200, 200)[:100, :100].sum() / density.sum()
    inside = np.mean((x[:, 0] < 0) & (x[:, 1] < 1.5))
    assert abs(inside - quarter) < 5 * 0.5 / np.sqrt(4000)


def test_the_first_density_is_uniform(key):
    flow = BoundedFlow(SpaceTime(Interval(0.0, 2.0), 0.0, 5.0), blocks=1, bins=3, width=4, key=key)
    assert flow.dim == 2
    np.testing.assert_allclose(flow.log_prob(jnp.array([1.3, 4.0])), np.log(0.1), rtol=1e-5)


def test_a_step_is_the_gradient_of_the_game(key, x64):
    """Along one weight of a one-dimensional flow, against numerical integrals of r² p − β |p'|²."""
    line = Interval(0.0, 1.0)
    flow = BoundedFlow(line, bins=3, key=key)
    beta, n = 0.05, 400_000
    sampler = AdversarialSampler(flow, beta, optax.sgd(1.0), relative=False)

    def score(x):
        return jnp.sqrt(jnp.exp(2 * x[:, 0]))

    def one(key):
        state = sampler.init(key, line.sample, n)
        return state, sampler.update(state, score(state.x), key, line.sample, score)

    before, after = jax.jit(one)(key)
    step = np.ravel(after.memory[0].layers[0].knots - before.memory[0].layers[0].knots)
    x = (np.arange(2000) + 0.5) / 2000

    def game(knots):
        moved = eqx.tree_at(lambda f: f.layers[0].knots, flow, knots[None])
        logs, slopes = jax.vmap(jax.value_and_grad(moved.log_prob))(jnp.asarray(x)[:, None])
        p = jnp.exp(logs)
        return jnp.mean(jnp.exp(2 * x) * p - beta * (p * slopes[:, 0]) ** 2)

    h = 1e-4
    evaluate = jax.jit(jax.vmap(game))
    shifts = h * np.eye(7)
    wanted = (evaluate(jnp.asarray(shifts)) - evaluate(jnp.asarray(-shifts))) / (2 * h)
    # 400,000 draws of numbers up to 8: standard errors of some 0.005.
    np.testing.assert_allclose(step, wanted, atol=0.03)
    assert np.max(np.abs(wanted)) > 0.2


def test_points_gather_where_residuals_are(key):
    square = Box((0.0, 0.0), (1.0, 1.0))
    flow = BoundedFlow(square, blocks=1, bins=6, width=8, key=key)
    sampler = AdversarialSampler(flow, 1e-3, optax.adam(2e-2))

    def score(x):
        # One point that is not finite does not spoil the step.
        peak = jnp.exp(-20 * jnp.sum((x - 0.3) ** 2, 1))
        return peak.at[0].set(jnp.nan)

    def run(key):
        def one(state, key):
            return sampler.update(state, score(state.x), key, square.sample, score), None

        state = sampler.init(key, square.sample, 300)
        return jax.lax.scan(one, state, jax.random.split(key, 150))[0]

    state = jax.jit(run)(key)
    near = jnp.linalg.norm(state.x - 0.3, axis=1) < 0.25
    assert int(state.count) == 150
    # Uniform points: π/16, less what the disc loses at no side.
    assert float(jnp.mean(near)) > 2 * np.pi / 16


def test_the_maximiser_against_differences(x64):
    """A five-point Neumann problem by a sparse solver: second order in the cells' size."""
    beta, errors = 0.3, []
    box = Box((0.0, 0.0), (1.0, 2.0))
    for n in (16, 32):
        x, y = (np.arange(n) + 0.5) / n, (np.arange(2 * n) + 0.5) / n
        squared = np.exp(-8 * ((x[:, None] - 0.3) ** 2 + (y - 1.2) ** 2))

        def neumann(m, n=n):
            one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m)).tolil()
            one[0, 0] = one[-1, -1] = 1
            return one.tocsr() * n**2

        a = sp.kron(neumann(n), sp.eye(2 * n)) + sp.kron(sp.eye(n), neumann(2 * n))
        right = (squared - squared.mean()).ravel()
        # One more equation for the mean, with its multiplier.
        mean = sp.csr_matrix(np.ones((1, right.size)))
        whole = sp.bmat([[a, mean.T], [mean, None]]).tocsc()
        wanted = 0.5 + spl.spsolve(whole, np.append(right, 0))[:-1].reshape(n, 2 * n) / (2 * beta)
        found = np.asarray(neumann_poisson_density(jnp.asarray(squared), beta, box))
        np.testing.assert_allclose(found.mean() * 2, 1, rtol=1e-10)
        errors.append(np.max(np.abs(found - wanted)))
    assert errors[0] < 1e-3 and 3.5 < errors[0] / errors[1] < 4.5


def test_bad_input(key):
    with pytest.raises(TypeError, match="expected a Box"):
        BoundedFlow(Ball((0.0, 0.0)), key=key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bins = 0"):
        BoundedFlow(BOX, bins=0, key=key)
    flow = BoundedFlow(BOX, blocks=1, bins=3, width=4, key=key)
    with pytest.raises(ValueError, match="beta = 0"):
        AdversarialSampler(flow, 0.0)
    with pytest.raises(ValueError, match="inner_steps = 0"):
        AdversarialSampler(flow, inner_steps=0)
    with pytest.raises(ValueError, match="have 1 coordinates, the flow has 2"):
        AdversarialSampler(flow).init(key, Interval(0.0, 1.0).sample, 4)
    with pytest.raises(RuntimeError, match="does not hold the domain"):
        AdversarialSampler(flow).init(key, Box((-2.0, 0.0), (1.0, 3.0)).sample, 50)
    sampler = AdversarialSampler(flow)
    state = sampler.init(key, BOX.sample, 4)
    with pytest.raises(ValueError, match="expected one for each of the 4 points"):
        sampler.update(state, jnp.ones(3), key, BOX.sample, lambda x: x[:, 0])
    with pytest.raises(ValueError, match="beta = 0"):
        neumann_poisson_density(jnp.ones((4, 4)), 0.0, BOX)
    with pytest.raises(ValueError, match="r² has 1 axes, the domain 2"):
        neumann_poisson_density(jnp.ones(4), 1.0, BOX)
