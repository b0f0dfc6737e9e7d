"""NUNO: entropies by hand, SciPy's interpolation both ways, boxes that hold every point once."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator, RegularGridInterpolator

from jaxsci.nn import ChannelLinear
from jaxsci.operators import NUNO, nonuniformity, partition

ZERO, ONE = np.zeros(2), np.ones(2)


def cloud(d=2, n=400, seed=0):
    """Denser and denser towards x₁ = 0, in the unit box."""
    points = np.random.default_rng(seed).uniform(size=(n, d))
    points[:, 0] **= 3
    return points


def lattice(n):
    return np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 2, indexing="ij"), -1).reshape(-1, 2)


def test_nonuniformity_by_hand():
    centres = (lattice(3) + 0.5) / 2 - 0.5 / 3 + 0.25 / 3  # one in each of 3 x 3 cells
    assert nonuniformity(centres, ZERO, ONE, 9) == pytest.approx(0, abs=1e-14)
    assert nonuniformity(np.full((5, 2), 0.1), ZERO, ONE, 9) == pytest.approx(np.log(9))
    # Half of the points in one of four cells, half in another: log 2.
    halves = np.asarray([[0.1, 0.1], [0.9, 0.9]])
    assert nonuniformity(halves, ZERO, ONE, 4) == pytest.approx(np.log(2))


@pytest.mark.parametrize("d", [2, 3])
def test_every_point_is_in_one_box(d):
    points = cloud(d)
    boxes = partition(points, 8)
    assert boxes.n_boxes == 8
    box = np.asarray(boxes.box)
    assert np.bincount(box).min() >= 8
    for b in range(8):
        np.testing.assert_array_equal(points[box == b].min(0), boxes.lo[b])
        np.testing.assert_array_equal(points[box == b].max(0), boxes.hi[b])
    # Two boxes share no volume.
    lo, hi = np.asarray(boxes.lo), np.asarray(boxes.hi)
    for b in range(8):
        for c in range(b):
            assert np.any((hi[b] <= lo[c]) | (hi[c] <= lo[b]))
    # Splitting makes the cloud more uniform.
    whole = nonuniformity(points, points.min(0), points.max(0))
    parts = [(box == b).mean() * nonuniformity(points[box == b], lo[b], hi[b]) for b in range(8)]
    assert sum(parts) < whole


def test_scipys_interpolation_both_ways(x64, key):
    del x64
    points = cloud()
    boxes = partition(points, 5, oversample=1.5)
    u = np.asarray(jr.normal(key, (2, len(points))))
    grids = np.asarray(boxes.to_grids(jnp.asarray(u)))
    assert grids.shape == (boxes.n_boxes, 2, *boxes.shape)
    linear = LinearNDInterpolator(points, u.T)
    back = np.zeros_like(u)
    for b in range(boxes.n_boxes):
        axes = [
            np.linspace(low, high, n)
            for low, high, n in zip(boxes.lo[b], boxes.hi[b], boxes.shapes[b], strict=True)
        ]
        size = tuple(boxes.shapes[b][a] for a in boxes.order[b])
        assert size[0] <= size[1]  # the long side last
        block = grids[b][:, : size[0], : size[1]]
        values = block.transpose(0, *(1 + np.argsort(boxes.order[b])))
        expected = linear(np.stack(np.meshgrid(*axes, indexing="ij"), -1)).transpose(2, 0, 1)
        hull = np.isfinite(expected)
        # Same triangles, same weights, in float64; outside of the hull SciPy has nothing.
        np.testing.assert_allclose(values[hull], expected[hull], atol=1e-12)
        assert np.isin(values[~hull], u).all()
        rows = np.asarray(boxes.box) == b
        for c in range(2):
            back[c, rows] = RegularGridInterpolator(axes, values[c])(points[rows])
        assert np.all(grids[b][:, ~boxes.inside[b]] == 0)
    np.testing.assert_allclose(boxes.to_points(jnp.asarray(grids)), back, atol=1e-12)


def test_a_linear_function_on_a_lattice_stays_what_it_is(x64):
    """No node lies outside of the hull there, and both interpolations are exact."""
    del x64
    points = lattice(20)
    u = jnp.asarray(points @ np.asarray([2.0, -1.0]) + 0.5)[None]
    for n_boxes in (1, 4):
        boxes = partition(points, n_boxes)
        np.testing.assert_allclose(boxes.to_points(boxes.to_grids(u)), u, atol=1e-12)


def test_resampling_is_of_second_order(x64):
    """Four times the points halve all lengths: errors fall to a quarter, within random clouds."""
    del x64
    errors = []
    for n in (400, 1600):
        points = cloud(n=n)
        boxes = partition(points, 4)
        u = jnp.asarray(np.sin(3 * points[:, 0]) * np.cos(3 * points[:, 1]))[None]
        change = boxes.to_points(boxes.to_grids(u)) - u
        errors.append(float(jnp.sqrt(jnp.mean(change**2))))
    assert 0.12 < errors[1] / errors[0] < 0.4


def test_the_operator_and_its_gradient(key):
    points = cloud(n=200)
    boxes = partition(points, 3)
    s = boxes.n_boxes
    base = ChannelLinear(2 * s, s, key=key)
    model = NUNO(base, boxes)
    u = jr.normal(key, (2, 200))
    traced = []

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model, u):
        traced.append(None)
        return jnp.mean(model(u) ** 2)

    value, gradient = loss(model, u)
    assert value > 0
    loss(model, 2 * u)
    assert len(traced) == 1
    # The tables are no weights.
    assert gradient.boxes.grid_weight.bits is None
    grids = boxes.to_grids(u).reshape(2 * s, *boxes.shape)
    expected = boxes.to_points(base(grids).reshape(s, 1, *boxes.shape))
    # Compiled here and not there: rounding in float32.
    np.testing.assert_allclose(model(u), expected, rtol=1e-5, atol=1e-6)


WRONG: Any = "x"
POINTS = cloud(n=100)
BOXES = partition(POINTS, 2)
BAD: list[tuple[Any, type, str]] = [
    (lambda: partition(POINTS, 20), ValueError, "need 160 points"),
    (lambda: partition(POINTS, 0), ValueError, "n_boxes must be a positive"),
    (lambda: partition(POINTS, 2, oversample=0), ValueError, "oversample must be positive"),
    (lambda: partition(POINTS[:, :1], 2), ValueError, "expected points"),
    (lambda: partition(np.concatenate([POINTS, POINTS]), 2), ValueError, "coincide"),
    (
        lambda: partition(np.stack([np.arange(99.0), np.arange(99.0)], 1), 2),
        ValueError,
        "in a line or a plane",
    ),
    (lambda: nonuniformity(POINTS, ONE, ONE), ValueError, "must have a volume"),
    (lambda: nonuniformity(POINTS, ONE[:1], ONE), ValueError, "a box of d sides"),
    (lambda: BOXES.to_grids(jnp.ones((1, 99))), ValueError, "expected shape"),
    (lambda: BOXES.to_points(jnp.ones((2, 1, 3, 3))), ValueError, "expected shape"),
    (lambda: NUNO(WRONG, BOXES), TypeError, "base must be callable"),
    (lambda: NUNO(lambda g: g, WRONG), TypeError, "must be a Partition"),
    (lambda: NUNO(lambda g: g[:1], BOXES)(jnp.ones((1, 100))), ValueError, "a multiple of 2"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
