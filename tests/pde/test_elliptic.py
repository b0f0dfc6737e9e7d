import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from jaxsci.pde import FluxDifference, Grid, solve_elliptic


def medium(shape, seed=0, low=3.0, high=12.0):
    """Two phases with ragged boundaries."""
    smooth = np.random.default_rng(seed).normal(size=shape)
    for axis in range(len(shape)):
        for _ in range(3):
            smooth = smooth + np.roll(smooth, 1, axis)
    return np.where(smooth > 0, high, low)


def assemble(a, spacing, mean):
    """The 5-point matrix in scipy's sparse format, face by face."""
    inner = tuple(n - 2 for n in a.shape)
    number = -np.ones(a.shape, int)
    number[1:-1, 1:-1] = np.arange(np.prod(inner)).reshape(inner)
    rows, columns, values = [], [], []
    for axis in range(2):
        lower = tuple(slice(None, -1) if k == axis else slice(1, -1) for k in range(2))
        upper = tuple(slice(1, None) if k == axis else slice(1, -1) for k in range(2))
        weight = (mean(a[lower], a[upper]) / spacing[axis] ** 2).ravel()
        i, j = number[lower].ravel(), number[upper].ravel()
        for row, column, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            both = (row >= 0) & (column >= 0)
            rows.append(row[both]), columns.append(column[both]), values.append(sign * weight[both])
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_matrix(entries)


MEANS = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "harmonic": lambda a, b: 2 / (1 / a + 1 / b),
}


@pytest.mark.parametrize("face_mean", ["arithmetic", "harmonic"])
def test_against_a_sparse_direct_solver(x64, face_mean):
    del x64
    shape = (33, 20)  # an odd and an even number of interior points
    grid = Grid((0.0, 1.0), (1.0, 3.0), shape)
    a = medium(shape)
    f = np.random.default_rng(1).normal(size=shape)
    u = solve_elliptic(jnp.asarray(a), jnp.asarray(f), grid, face_mean=face_mean)
    exact = spsolve(assemble(a, grid.spacing, MEANS[face_mean]), f[1:-1, 1:-1].ravel())
    error = abs(np.asarray(u)[1:-1, 1:-1].ravel() - exact).max() / abs(exact).max()
    # The iteration stops at 1e-12 relative to the size of the right side.
    assert error < 1e-10
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    assert not np.asarray(u)[border].any()


@pytest.mark.parametrize("face_mean", ["arithmetic", "harmonic"])
def test_second_order_for_a_smooth_coefficient(x64, face_mean):
    del x64

    def error(n):
        grid = Grid((0.0, 0.0), (1.0, 2.0), (n + 1, n + 1))
        x, y = np.asarray(grid.coords())
        a = np.exp(x - y / 2)
        sx, cx = np.sin(np.pi * x), np.pi * np.cos(np.pi * x)
        sy, cy = np.sin(np.pi * y), np.pi * np.cos(np.pi * y)
        # −∇·(a∇u) = −a (u_x − u_y/2 + Δu) for u = sin πx sin πy.
        f = -a * (cx * sy - sx * cy / 2 - 2 * np.pi**2 * sx * sy)
        u = solve_elliptic(jnp.asarray(a), jnp.asarray(f), grid, face_mean=face_mean)
        return abs(np.asarray(u) - sx * sy).max()

    order = np.log2(error(24) / error(48))
    # Leading error h², the next term h⁴.
    assert 1.97 < order < 2.03, order


def test_three_dimensions_and_one(x64):
    del x64
    for n_dims in (1, 3):
        grid = Grid(0.0, 1.0, (17,) * n_dims)
        u = np.prod(np.sin(np.pi * np.asarray(grid.coords())), axis=0)
        a = jnp.full(grid.shape, 2.0)
        f = jnp.asarray(2.0 * n_dims * np.pi**2 * u)
        error = abs(np.asarray(solve_elliptic(a, f, grid)) - u).max()
        # sin πx is an eigenvector, its eigenvalue (2 − 2 cos πh)/h² for π²: exact to rounding.
        expected = np.pi**2 / ((2 - 2 * np.cos(np.pi / 16)) * 256) - 1
        np.testing.assert_allclose(error, expected, rtol=1e-9)


def test_means_where_the_coefficient_jumps_at_a_face(x64):
    """In one dimension: −(a u')' = 1 with a = 1 left of ½ and 9 right of it, solved by hand."""
    del x64

    def errors(n, face_mean):  # odd n: the jump at ½ is midway between two points
        grid = Grid(0.0, 1.0, n + 1)
        x = grid.axis(0)
        a = np.where(x < 0.5, 1.0, 9.0)
        # Flux c − x with ∫ (c − x)/a dx = 0 over (0, 1).
        c = (1 / 8 + 3 / 8 / 9) / (1 / 2 + 1 / 2 / 9)
        left = c * x - x**2 / 2
        right = ((c - 0.5) ** 2 - (c - x) ** 2) / 18 + c / 2 - 1 / 8
        u = solve_elliptic(jnp.asarray(a), jnp.ones(n + 1), grid, face_mean=face_mean)
        return abs(np.asarray(u) - np.where(x < 0.5, left, right)).max()

    order = {
        mean: np.log(errors(21, mean) / errors(63, mean)) / np.log(3)
        for mean in ("arithmetic", "harmonic")
    }
    assert abs(order["harmonic"] - 2) < 0.1, order
    assert abs(order["arithmetic"] - 1) < 0.15, order


def test_operator_is_symmetric_positive_and_conservative(x64, key):
    del x64
    grid = Grid(0.0, 1.0, (9, 12))
    operator = FluxDifference(jnp.asarray(medium((9, 12))), grid)
    dense = jax.jacobian(operator)(jnp.zeros((7, 10))).reshape(70, 70)
    np.testing.assert_allclose(dense, dense.T, atol=1e-10)
    assert np.linalg.eigvalsh(dense).min() > 0
    # What a cell away from the boundary loses its neighbours gain: the column sums to zero.
    columns = dense.sum(0).reshape(7, 10)
    np.testing.assert_allclose(columns[1:-1, 1:-1], 0, atol=1e-9)
    assert columns[0].min() > 0


def test_implicit_gradient(x64, key):
    del x64
    shape = (10, 13)
    grid = Grid(0.0, 1.0, shape)
    a = jnp.asarray(medium(shape, seed=2))
    f = jax.random.normal(key, shape)
    weight = jax.random.normal(jax.random.key(1), shape)

    @jax.jit
    def loss(a, f):
        return jnp.sum(weight * solve_elliptic(a, f, grid) ** 2)

    def by_dense_algebra(a, f):
        dense = jax.jacobian(FluxDifference(a, grid))(jnp.zeros((8, 11)))
        u = jnp.linalg.solve(dense.reshape(88, 88), f[1:-1, 1:-1].ravel())
        return jnp.sum(weight[1:-1, 1:-1].ravel() * u**2)

    for mine, exact in zip(
        jax.grad(loss, (0, 1))(a, f), jax.grad(by_dense_algebra, (0, 1))(a, f), strict=True
    ):
        # Two solves to 1e-12, the second with the first's solution as data.
        np.testing.assert_allclose(mine, exact, atol=1e-10 * float(abs(exact).max()))
    jvp = jax.jvp(loss, (a, f), (a, f))[1]
    # The solution scales like f/a, so the loss does not change along (a, f).
    assert abs(jvp) < 1e-10 * abs(loss(a, f))


def test_vmap_single_precision_and_no_recompilation():
    shape = (20, 20)
    grid = Grid(0.0, 1.0, shape)
    batch = jnp.stack([jnp.asarray(medium(shape, seed), jnp.float32) for seed in range(3)])
    traces = []

    @jax.jit
    def solve(batch):
        traces.append(None)
        return jax.vmap(lambda a: solve_elliptic(a, jnp.ones(shape), grid))(batch)

    u = solve(batch)
    solve(batch + 1)
    assert len(traces) == 1 and u.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = [
            solve_elliptic(jnp.asarray(medium(shape, s)), jnp.ones(shape), grid) for s in (0, 1)
        ]
    # rtol is 1e-5 there, and rounding times the condition number (400) is 5e-5.
    np.testing.assert_allclose(u[:2], exact, atol=1e-4 * float(u.max()))


def test_tiny_and_huge_sources_are_solved_as_accurately(x64, key):
    """Right sides of derivatives are often tiny; the tolerance is relative to them."""
    del x64
    shape = (20, 20)
    grid = Grid(0.0, 1.0, shape)
    a, f = jnp.asarray(medium(shape)), jax.random.normal(key, shape)
    u = solve_elliptic(a, f, grid)
    for size in (1e-13, 1e9):
        scaled = solve_elliptic(a, size * f, grid)
        np.testing.assert_allclose(scaled / size, u, atol=1e-11 * float(abs(u).max()))


def test_zero_source_gives_zero(x64):
    del x64
    grid = Grid(0.0, 1.0, (6, 6))
    u = solve_elliptic(jnp.ones((6, 6)), jnp.zeros((6, 6)), grid)
    assert not np.asarray(u).any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"coefficient": jnp.ones((5, 6))}, ValueError, "coefficient has shape"),
        ({"source": jnp.ones(5)}, ValueError, "source has shape"),
        ({"source": jnp.ones((5, 5), int)}, TypeError, "source must be real floating"),
        ({"coefficient": jnp.ones((5, 5), complex)}, TypeError, "coefficient must be real"),
        ({"grid": Grid(0, 1, (5, 5), periodic=True)}, ValueError, "must include its endpoints"),
        ({"grid": Grid(0, 1, (5, 5), endpoint=False)}, ValueError, "must include its endpoints"),
        ({"grid": (5, 5)}, TypeError, "must be a Grid"),
        ({"face_mean": "geometric"}, ValueError, "face_mean must be one of"),
        ({"rtol": 0.0}, ValueError, "rtol must lie"),
        ({"max_steps": 0}, ValueError, "max_steps must be"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {
        "coefficient": jnp.ones((5, 5)), "source": jnp.ones((5, 5)), "grid": Grid(0, 1, (5, 5)),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        solve_elliptic(**(arguments | changes))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_coefficient_that_is_not_positive(bad):
    grid = Grid(0.0, 1.0, (5, 5))
    a = jnp.ones((5, 5)).at[2, 2].set(bad)
    with pytest.raises(RuntimeError, match="must be positive"):
        solve_elliptic(a, jnp.ones((5, 5)), grid)


def test_too_few_steps():
    shape = (20, 20)
    grid = Grid(0.0, 1.0, shape)
    a = jnp.asarray(medium(shape), jnp.float32)
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        eqx.filter_jit(solve_elliptic)(a, jnp.ones(shape), grid, max_steps=1)
