"""The flow's map, mass and law, the step of its weights, and the density that it is after."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from jaxsci.pde import Ball, Box, Interval, SpaceTime
from jaxsci.pinn import (
    AdversarialSampler,
    BoundedFlow,
    SamplerState,
    neumann_poisson_density,
)

BOX = Box((-1.0, 0.0), (1.0, 3.0))
SIZES = {"blocks": 1, "bins": 3, "width": 4}
SIDE = 30  # of the grid of points in the sampler's tests
FINE = 240  # of the grid that densities are looked at on


@pytest.fixture(autouse=True)
def double(x64):
    """All in double precision, so that the tests share their programs."""


@pytest.fixture(scope="module")
def flat():
    """A new flow. Time is a coordinate like another one."""
    with jax.enable_x64(True):
        domain = SpaceTime(Interval(-1.0, 1.0), 0.0, 3.0)
        make = eqx.filter_jit(lambda key: BoundedFlow(domain, **SIZES, key=key))
        yield make(jax.random.key(0))


def moved(flow, scale, seed):
    """The flow with other weights, and the step."""
    params, rest = eqx.partition(flow, eqx.is_inexact_array)
    rng = np.random.default_rng(seed)
    step = jax.tree.map(lambda a: scale * rng.standard_normal(a.shape), params)
    return eqx.combine(jax.tree.map(lambda a, b: a + b, params, step), rest), step


@pytest.fixture(scope="module")
def rough(flat):
    with jax.enable_x64(True):
        yield moved(flat, 0.4, 1)[0]


def midpoints(n):
    """Of n × n cells of the unit square."""
    side = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


CUBE = np.concatenate([midpoints(SIDE), np.random.default_rng(0).uniform(size=(2000, 2))])
STEP = 1e-5


@eqx.filter_jit
def examined(flow):
    """The places x of CUBE, these again by the map, its log-determinant by differences, the
    log-density there, and the density on a grid."""
    lower, span = flow.frame(jnp.dtype(float))
    z = jnp.asarray(CUBE)
    for layer in reversed(flow.layers):
        z = jax.vmap(layer.inverse)(z)
    x = lower + span * z

    def mapped(x):
        z = (x - lower) / span
        for layer in flow.layers:
            z, _ = layer.forward(z)
        return z, flow.log_prob(x)

    n, shifts = len(CUBE), STEP * jnp.eye(2)
    around = [x, *(x + shift for shift in (*shifts, *-shifts))]
    z, log_prob = jax.vmap(mapped)(jnp.concatenate([*around, lower + span * midpoints(FINE)]))
    z = z[: 5 * n].reshape(5, n, 2)
    u, v = (z[1:3] - z[3:]) / (2 * STEP)
    logs = jnp.log(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    return x, z[0], logs, log_prob[:n], jnp.exp(log_prob[5 * n :]).reshape(FINE, FINE)


def first_quarter(density):
    half = FINE // 2
    return density[:half, :half].sum() / density.sum()


def test_the_density_is_the_determinant_of_the_map_and_has_mass_one(flat, rough):
    x, z, logs, log_prob, density = map(np.asarray, examined(rough))
    np.testing.assert_allclose(z, CUBE, atol=1e-12)
    # The determinant's differences lose 11 digits of 16, and their second order is 1e-10.
    np.testing.assert_allclose(log_prob, logs, atol=1e-8)
    assert np.all(BOX.contains(jnp.asarray(x)))
    # Midpoints, an error like 1/240².
    np.testing.assert_allclose(6 * density.mean(), 1, atol=1e-4)
    assert density.max() > 3 * density.min()  # it is no uniform one
    # Where densities range over six decades, cubics need their safeguarded roots.
    steep, _ = moved(flat, 1.5, 2)
    np.testing.assert_allclose(examined(steep)[1], CUBE, atol=1e-12)
    # Points of a grid of the cube: the share in the first quarter of the box, to a row of them.
    x = x[: SIDE**2]
    inside = np.mean((x[:, 0] < 0) & (x[:, 1] < 1.5))
    assert abs(inside - first_quarter(density)) < 1 / SIDE


def test_the_first_density_is_uniform(flat):
    assert flat.dim == 2
    np.testing.assert_allclose(examined(flat)[-1], 1 / 6, rtol=1e-12)


# One program for all rates of learning and all β.
OPTIMIZER = optax.inject_hyperparams(optax.sgd)(learning_rate=1.0)


def peak(x):
    """r, large at (−0.4, 0.9)."""
    return jnp.exp(-((x[:, 0] + 0.4) ** 2 + (x[:, 1] - 0.9) ** 2))


@eqx.filter_jit
def updated(flow, state, beta, key, bad):
    """The state after an update. One residual may be spoilt."""
    sampler = AdversarialSampler(flow, beta, OPTIMIZER, relative=False)
    score = peak(state.x) + bad
    return sampler.update(state, score, key, BOX.sample, peak)


def begun(flow, x, rate):
    params = eqx.filter(flow, eqx.is_inexact_array)
    memory = OPTIMIZER.init(params)
    memory.hyperparams["learning_rate"] = jnp.asarray(rate, float)
    return SamplerState(x, jnp.zeros((), jnp.int32), (params, memory))


def test_a_step_is_the_gradient_of_the_game(rough, key):
    """Along random directions, against ∫ r² p − β |∇p|² by differences of the density on a grid.

    The points are a grid of the cube taken back to the box, so that sums over them are integrals
    with the density p' as their weight.
    """
    beta = 1.0
    state = begun(rough, examined(rough)[0][: SIDE**2], 1.0)
    after = updated(rough, state, jnp.asarray(beta), key, jnp.zeros(SIDE**2))
    ascent = jax.tree.map(lambda a, b: np.asarray(a) - b, after.memory[0], state.memory[0])
    sides = np.array([2.0, 3.0]) / FINE
    squared = np.asarray(peak(jnp.asarray([-1.0, 0.0] + [2.0, 3.0] * midpoints(FINE)))) ** 2

    def game(flow):
        p = np.asarray(examined(flow)[-1])
        u, v = np.gradient(p, *sides)
        return np.sum(squared.reshape(p.shape) * p - beta * (u**2 + v**2)) * np.prod(sides)

    found, wanted = [], []
    for seed in range(4):
        ahead, step = moved(rough, 1e-3, seed)
        behind, _ = moved(rough, -1e-3, seed)
        wanted.append((game(ahead) - game(behind)) / 2)
        products = jax.tree.map(lambda a, s: float(np.sum(a * s)), ascent, step)
        found.append(sum(jax.tree.leaves(products)))
    # Differences of second order, 30² points: they agree to 2 % of the largest.
    np.testing.assert_allclose(found, wanted, atol=0.03 * np.max(np.abs(wanted)))
    # The next points are from the density after the step.
    share = np.mean((after.x[:, 0] < 0) & (after.x[:, 1] < 1.5))
    density = examined(eqx.combine(after.memory[0], rough))[-1]
    assert abs(share - first_quarter(density)) < 4 * 0.5 / SIDE


def test_points_gather_where_residuals_are(flat, key):
    x = BOX.sample(key, SIDE**2)
    state = begun(flat, x, 0.3)
    # One residual that is not finite does not spoil the steps.
    bad = jnp.zeros(SIDE**2).at[0].set(jnp.nan)
    for i in range(60):
        state = updated(flat, state, jnp.asarray(1e-3), jax.random.fold_in(key, i), bad)
    assert int(state.count) == 60
    near = jnp.hypot(state.x[:, 0] + 0.4, state.x[:, 1] - 0.9) < 0.5
    # Uniform points: π/24.
    assert float(jnp.mean(near)) > 2 * np.pi / 24


def test_the_maximiser_against_differences():
    """A five-point Neumann problem by a sparse solver: second order in the cells' size."""
    beta, n = 0.3, 16
    box = Box((0.0, 0.0), (1.0, 2.0))

    def squared(x, y):
        # Its normal derivatives vanish, so that a few cosines are enough.
        return np.exp(np.cos(np.pi * x[:, None]) - 1.5 * np.cos(np.pi * y / 2))

    def middles(m):
        return (np.arange(m) + 0.5) / m, (np.arange(2 * m) + 0.5) / m

    density = jax.jit(lambda squared: neumann_poisson_density(squared, beta, box))
    found = np.asarray(density(squared(*middles(n))))
    np.testing.assert_allclose(found.mean() * 2, 1, rtol=1e-10)
    errors = []
    # Every third midpoint of cells of a third is one of the whole cells.
    for finer in (1, 3):
        m = finer * n

        def neumann(size, m=m):
            one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(size, size)).tolil()
            one[0, 0] = one[-1, -1] = 1
            return one.tocsr() * m**2

        a = sp.kron(neumann(m), sp.eye(2 * m)) + sp.kron(sp.eye(m), neumann(2 * m))
        right = squared(*middles(m)).ravel()
        # The first value is zero, and the mean is set afterwards.
        rest = spl.spsolve(a.tocsc()[1:, 1:], (right - right.mean())[1:])
        solution = np.append(0, rest)
        wanted = 0.5 + (solution - solution.mean()).reshape(m, 2 * m) / (2 * beta)
        errors.append(np.max(np.abs(found - wanted[finer // 2 :: finer, finer // 2 :: finer])))
    assert errors[0] < 0.01 and 8 < errors[0] / errors[1] < 10


def test_bad_input(flat, key):
    with pytest.raises(TypeError, match="expected a Box"):
        BoundedFlow(Ball((0.0, 0.0)), key=key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bins = 0"):
        BoundedFlow(BOX, bins=0, key=key)
    with pytest.raises(ValueError, match="beta = 0"):
        AdversarialSampler(flat, 0.0)
    with pytest.raises(ValueError, match="inner_steps = 0"):
        AdversarialSampler(flat, inner_steps=0)
    sampler = AdversarialSampler(flat)
    with pytest.raises(ValueError, match="have 1 coordinates, the flow has 2"):
        sampler.init(key, lambda _, n: jnp.zeros((n, 1)), 4)
    begun = SamplerState(jnp.zeros((4, 2)), jnp.zeros((), jnp.int32))
    with pytest.raises(ValueError, match="expected one for each of the 4 points"):
        sampler.update(begun, jnp.ones(3), key, BOX.sample, lambda x: x[:, 0])
    line = AdversarialSampler(BoundedFlow(Interval(0.0, 1.0), bins=2, key=key))

    @eqx.filter_jit
    def begin(width):
        def draw(_, n):
            return width * jnp.arange(n)[:, None] / n

        return line.init(key, draw, 50)

    assert begin(jnp.asarray(1.0)).x.shape == (50, 1)
    with pytest.raises(RuntimeError, match="does not hold the domain"):
        begin(jnp.asarray(1.1))
    with pytest.raises(ValueError, match="beta = 0"):
        neumann_poisson_density(jnp.ones((4, 4)), 0.0, BOX)
    with pytest.raises(ValueError, match="r² has 1 axes, the domain 2"):
        neumann_poisson_density(jnp.ones(4), 1.0, BOX)
