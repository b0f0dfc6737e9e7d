import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import Grid


def test_three_layouts_of_one_axis():
    assert Grid(0, 1, 4, periodic=True).axis(0).tolist() == [0, 0.25, 0.5, 0.75]
    assert Grid(0, 1, 5).axis(0).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert Grid(0, 1, 4, endpoint=False).axis(0).tolist() == [0.125, 0.375, 0.625, 0.875]
    # The upper end is hit exactly, which lo + i * spacing does not do for these numbers.
    assert Grid(0.1, 0.7, 8).axis(0)[-1] == 0.7


def test_coords_have_the_axis_index_first_and_use_matrix_indexing():
    grid = Grid((0.0, -1.0), (1.0, 1.0), (4, 3), periodic=(True, False))
    coords = grid.coords()
    assert coords.shape == (2, 4, 3)
    assert coords.dtype == jnp.float32
    np.testing.assert_array_equal(coords[0, :, 1], [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(coords[1, 2], [-1, 0, 1])
    assert grid.spacing == (0.25, 1.0)
    assert grid.endpoint == (False, True)
    assert grid.n_dims == 2 and grid.lengths == (1.0, 2.0)


def test_weights_integrate_constants_and_have_the_rules_order(x64):
    del x64
    for grid in (
        Grid((0, -1), (2, 1), (5, 7)),
        Grid((0, -1), (2, 1), (5, 7), periodic=(True, False)),
        Grid((0, -1), (2, 1), (5, 7), endpoint=False),
    ):
        assert np.isclose(grid.weights().sum(), 4.0, rtol=1e-14)
    exact = np.e - 1

    def error(n, **options):
        grid = Grid(0, 1, n, **options)
        return abs(float(jnp.sum(grid.weights() * jnp.exp(grid.coords()[0]))) - exact)

    # Trapezoid h²/12 [f'], midpoint h²/24 [f'], to relative O(h²) = 1e-4 at h = 1e-2.
    assert np.isclose(error(101), exact / 12e4, rtol=1e-4)
    assert np.isclose(error(100, endpoint=False), exact / 24e4, rtol=1e-4)
    # A trigonometric polynomial of degree below N is integrated exactly on a periodic axis.
    torus = Grid(0, 1, 16, periodic=True)
    square = jnp.sum(torus.weights() * jnp.cos(2 * jnp.pi * 7 * torus.coords()[0]) ** 2)
    assert np.isclose(square, 0.5, rtol=1e-14)


def test_is_static_hashable_and_does_not_recompile():
    class Operator(eqx.Module):
        grid: Grid = eqx.field(static=True)

    traces = []

    @jax.jit
    def integral(operator, u):
        traces.append(None)
        return jnp.sum(operator.grid.weights() * u)

    for _ in range(2):
        integral(Operator(Grid(0, 1, 8, periodic=True)), jnp.ones(8))
    assert len(traces) == 1
    integral(Operator(Grid(0, 2, 8, periodic=True)), jnp.ones(8))
    assert len(traces) == 2
    assert Grid(0, 1, 8) == Grid(0.0, 1.0, (8,), periodic=(False,), endpoint=(True,))
    assert hash(Grid(0, 1, 8)) == hash(Grid(0.0, 1.0, (8,)))
    assert Grid(0, 1, 8) != Grid(0, 1, 8, endpoint=False)
    assert len({Grid(0, 1, 8), Grid(0, 1, 8), Grid(0, 1, 9)}) == 2
    assert not jax.tree.leaves(Grid(0, 1, 8))
    # As a static argument of jit itself.
    weights = jax.jit(lambda grid: grid.weights(), static_argnums=0)(Grid(0, 1, 3))
    np.testing.assert_array_equal(weights, [0.25, 0.5, 0.25])


@pytest.mark.parametrize("grid", [Grid(0, 1, (12, 6), periodic=True), Grid(0, 1, (13, 7))])
def test_subsample_and_refine_are_nested(grid):
    assert grid.refine(2).subsample(2) == grid
    assert grid.subsample(1) == grid == grid.refine(1)
    for axis in range(2):
        np.testing.assert_allclose(grid.subsample(3).axis(axis), grid.axis(axis)[::3], atol=1e-15)


def test_darcy_grids_of_the_papers():
    grid = Grid(0, 1, (421, 421))
    sizes = [grid.subsample(stride).shape[0] for stride in (1, 2, 3, 5)]
    assert sizes == [421, 211, 141, 85]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 1, 8), {"periodic": True, "endpoint": True}, ValueError, "never includes"),
        ((0, 1, (8, 8)), {"periodic": (False, True), "endpoint": True}, ValueError, "axis 1"),
        ((0, 1, 0), {}, ValueError, "positive"),
        ((0, 1, (4, -1)), {}, ValueError, "positive"),
        ((0, 1, ()), {}, ValueError, "at least one axis"),
        ((0, 1, 1), {}, ValueError, "at least 2 points"),
        ((1, 1, 8), {}, ValueError, "lo < hi"),
        ((0, float("nan"), 8), {}, ValueError, "lo < hi"),
        ((0, float("inf"), 8), {}, ValueError, "lo < hi"),
        (((0, 0), (1, 1, 1), (8, 8)), {}, ValueError, "hi has 3 entries"),
        ((0, 1, (8, 8)), {"periodic": (True,)}, ValueError, "periodic has 1 entries"),
        ((0, 1, (8.0, 8)), {}, TypeError, "integers"),
        ((0, 1, True), {}, TypeError, "integers"),
        (("0", 1, 8), {}, TypeError, "lo must be real"),
        ((0, 1, 8), {"periodic": 1}, TypeError, "periodic must be"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message):
        Grid(*arguments, **options)


def test_bad_input_of_methods():
    with pytest.raises(ValueError, match="does not divide"):
        Grid(0, 1, 8, periodic=True).subsample(3)
    with pytest.raises(ValueError, match="midpoints"):
        Grid(0, 1, 8, endpoint=False).subsample(2)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="positive integer"):
            Grid(0, 1, 9).subsample(bad)
        with pytest.raises(ValueError, match="positive integer"):
            Grid(0, 1, 9).refine(bad)
    with pytest.raises(ValueError, match="axis 1"):
        Grid(0, 1, 8).axis(1)
