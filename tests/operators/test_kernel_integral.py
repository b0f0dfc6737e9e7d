"""Kernel integrals against neuraloperator's with its weights, dense matrices, exact integrals."""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import Box, Coo, radius
from jaxsci.operators import (
    GNO,
    LNO,
    MGNO,
    KernelIntegral,
    LowRankIntegral,
    MultipoleVCycle,
    grid_subsets,
    multilevel,
)
from jaxsci.pde import Grid

DATA = Path(__file__).parents[1] / "oracles" / "data" / "graph_layers.npz"
KINDS = {
    "linear_kernelonly": "kernel_only",
    "linear": "linear",
    "nonlinear_kernelonly": "nonlinear_kernel_only",
    "nonlinear": "nonlinear",
}


@pytest.fixture
def key():
    """A key whose programs compile faster than the default's."""
    return jax.random.key(0, impl="rbg")


@pytest.fixture(scope="module")
def peer():
    with np.load(DATA) as arrays:
        return {k.removeprefix("gno/"): v for k, v in arrays.items() if k.startswith("gno/")}


def transplanted(peer, name, kind):
    """Their kernel is a perceptron of (y, x, f(y)); W_x x + W_y y = (W_x + W_y) x − W_y (x − y)."""
    layer = KernelIntegral(
        2,
        3,
        3,
        kind=kind,
        matrix=False,
        hidden=8,
        n_layers=3,
        activation=functools.partial(jax.nn.gelu, approximate=False),  # as in PyTorch
        key=jax.random.key(0),
    )
    state = {
        k.split("fcs.")[1]: jnp.asarray(v) for k, v in peer.items() if k.startswith(f"{name}/state")
    }
    first = state["0.weight"]
    on_y, on_x, on_f = first[:, :2], first[:, 2:4], first[:, 4:]
    kernel = layer.kernel
    new = [jnp.concatenate([on_x + on_y, on_f, -on_y], axis=1), state["0.bias"]]
    new += [state[f"{i}.{part}"] for i in (1, 2) for part in ("weight", "bias")]
    kernel = eqx.tree_at(
        lambda k: [
            k.first.weight,
            k.first.bias,
            *[p for m in k.rest.layers for p in (m.weight, m.bias)],
        ],
        kernel,
        new,
    )
    return eqx.tree_at(lambda m: m.kernel, layer, kernel)


@pytest.mark.parametrize("theirs", KINDS)
def test_four_kinds_agree_with_neuraloperator(peer, theirs):
    y, x, f = (jnp.asarray(peer[k]) for k in ("y", "x", "f"))
    layout, _ = radius(y, x, r=float(peer["radius"]), engine="host", storage="coo")
    np.testing.assert_array_equal(layout.senders, peer["index"])
    np.testing.assert_array_equal(jnp.cumsum(layout.degree()), peer["splits"][1:])
    kind, out = KINDS[theirs], "out_without_f" if theirs == "linear_kernelonly" else "out"
    mean = transplanted(peer, f"{theirs}/mean", kind)(layout, f, y, x)
    # Single precision on both sides; sums of up to ten numbers.
    np.testing.assert_allclose(mean, peer[f"{theirs}/mean/{out}"], atol=2e-6)
    layer = transplanted(peer, f"{theirs}/sum", kind)
    total = layer(layout, f, y, x, weights=jnp.ones(20))
    np.testing.assert_allclose(total, peer[f"{theirs}/sum/{out}"], atol=1e-5)
    if f"{theirs}/weighted" in peer:
        layer = transplanted(peer, f"{theirs}/mean", kind)
        weighted = layer(layout, f, y, x, weights=jnp.asarray(peer["weights"]))
        np.testing.assert_allclose(weighted, peer[f"{theirs}/weighted"], atol=2e-6)


def test_neuraloperator_refuses_the_weights_that_it_documents(peer):
    """One weight a point y; it wants one an edge. And its default is a sum, not the mean."""
    for kind in KINDS:
        assert "must match the size" in str(peer[f"{kind}/refused"])
    layer = transplanted(peer, "linear/mean", "linear")
    y, x, f = (jnp.asarray(peer[k]) for k in ("y", "x", "f"))
    layout, _ = radius(y, x, r=float(peer["radius"]), engine="host")
    assert layer(layout, f, y, x, weights=jnp.asarray(peer["weights"])).shape == (12, 3)
    default = transplanted(peer, "linear/sum", "linear")
    as_documented = default(layout, f, y, x)  # without weights: 1/|A(x)| each
    assert np.abs(peer["linear/sum/out"] - np.asarray(as_documented)).max() > 0.1


def test_neuraloperators_kernel_only_multiplies_by_the_function(peer):
    """Given f, its "linear_kernelonly" is ∫ k(x, y) f(y) dy, like "linear"."""
    y, x, f = (jnp.asarray(peer[k]) for k in ("y", "x", "f"))
    layout, _ = radius(y, x, r=float(peer["radius"]), engine="host")
    name = "linear_kernelonly/sum"
    layer = transplanted(peer, name, "linear")
    found = layer(layout, f, y, x, weights=jnp.ones(20))
    np.testing.assert_allclose(found, peer[f"{name}/out"], atol=1e-5)  # as above
    layer = transplanted(peer, name, "kernel_only")
    assert np.abs(layer(layout, f, y, x, weights=jnp.ones(20)) - peer[f"{name}/out"]).max() > 0.1


def test_quadrature_weights_make_it_an_integral(x64, key):
    """A Gaussian kernel's integral on clustered points: the trapezoidal rule's second order."""

    def kernel(layout, src, dst, edge):
        del layout, src, dst
        return jnp.exp(-40 * edge**2)

    layer = KernelIntegral(1, 1, 1, key=key)
    layer = eqx.tree_at(lambda m: m.kernel, layer, kernel)
    x = jnp.array([[0.3], [0.62]])
    dense = np.linspace(0, 1, 200001)
    exact = [
        np.trapezoid(np.exp(-40 * (p - dense) ** 2) * np.cos(3 * dense), dense) for p in x[:, 0]
    ]
    errors = []
    for n in (40, 80):
        s = np.linspace(0, 1, n)
        y = s + 0.12 * np.sin(2 * np.pi * s)  # twice as dense in the middle
        w = np.zeros(n)
        w[1:] += np.diff(y) / 2
        w[:-1] += np.diff(y) / 2
        layout, _ = radius(y[:, None], x, r=1.0, engine="host")
        v = jnp.cos(3 * jnp.asarray(y))[:, None]
        found = layer(layout, v, jnp.asarray(y)[:, None], x, weights=jnp.asarray(w))[:, 0]
        errors.append(np.abs(found - np.asarray(exact)).max())
    assert errors[1] < 1e-3 and 3.5 < errors[0] / errors[1] < 4.5  # h² halved: 4


def test_matrix_kernel_and_low_rank_are_dense_matrices(x64, key):
    rng = np.random.default_rng(0)
    y, x, v = (jnp.asarray(rng.normal(size=s)) for s in ((7, 2), (5, 2), (7, 3)))
    w, a_src, a_dst = (jnp.asarray(rng.random(s)) for s in (7, (7, 1), (5, 1)))
    low = LowRankIntegral(2, 3, 4, rank=2, c_extra=1, hidden=6, key=key)
    phi = low.phi(jnp.concatenate([x, a_dst], 1)).reshape(5, 2, 4)
    psi = low.psi(jnp.concatenate([y, a_src], 1)).reshape(7, 2, 3)
    kernel = np.einsum("xro,yri->xyoi", phi, psi)
    found = low(v, y, x, weights=w, a_src=a_src, a_dst=a_dst)
    np.testing.assert_allclose(found, np.einsum("xyoi,yi,y->xo", kernel, v, w), atol=1e-12)
    equal = low(v, y, x, a_src=a_src, a_dst=a_dst)
    np.testing.assert_allclose(equal, np.einsum("xyoi,yi->xo", kernel, v) / 7, atol=1e-12)

    layer = KernelIntegral(2, 3, 4, c_extra=1, hidden=6, key=key)
    layout = Coo.from_edges(np.tile(np.arange(7), 5), np.repeat(np.arange(5), 7), 7, 5)
    found = layer(layout, v, y, x, weights=w, a_src=a_src, a_dst=a_dst)
    expected = np.zeros((5, 4))
    for i in range(5):
        for j in range(7):
            one = Coo.from_edges([0], [0], 1)
            k = layer.kernel(
                one, a_src[j : j + 1], jnp.concatenate([x[i], a_dst[i]])[None], (x[i] - y[j])[None]
            )
            expected[i] += w[j] * np.asarray(k).reshape(4, 3) @ np.asarray(v[j])
    np.testing.assert_allclose(found, expected, atol=1e-12)  # rounding


def test_v_cycle_is_its_nested_matrix(x64, key):
    """K = K₁₁ + K₁₂ (K₂₂ + K₂₃ K₃₃ K₃₂) K₂₁, by matrices of the single integrals."""
    grid = Grid(0.0, 1.0, 16, periodic=True)
    box = Box((1.0,))
    pos = np.asarray(grid.coords()).T
    points = multilevel(
        pos, grid_subsets(grid, 3), [0.1, 0.2, 0.4], weights=grid.weights(), box=box
    )
    assert [len(p) for p in points.pos] == [16, 8, 4]
    assert all(float(w.sum()) == pytest.approx(1) for w in points.weights)
    layer = MultipoleVCycle(1, 1, levels=3, hidden=4, key=key)

    @eqx.filter_jit
    def matrix(kernel, layout, i, j):
        def apply(v):
            return kernel(
                layout, v[:, None], points.pos[i], points.pos[j], weights=points.weights[i], box=box
            )[:, 0]

        return jax.vmap(apply, out_axes=1)(jnp.eye(len(points.pos[i])))

    near = [matrix(layer.within[i], points.within[i], i, i) for i in range(3)]
    down = [matrix(layer.down[i], points.down[i], i, i + 1) for i in range(2)]
    up = [matrix(layer.up[i], points.up[i], i + 1, i) for i in range(2)]
    middle = near[1] + up[1] @ near[2] @ down[1]
    dense = near[0] + up[0] @ middle @ down[0]
    v = jax.random.normal(key, (16, 1))
    np.testing.assert_allclose(eqx.filter_jit(layer)(points, v), dense @ v, atol=1e-12)  # rounding


def operators(key, grid=None, **options):
    grid = Grid(0.0, 1.0, 8, periodic=True) if grid is None else grid
    small = dict(width=6, depth=2, kernel_hidden=8, key=key) | options
    return {
        "gno": GNO(grid, 1, 1, radius=0.15, **small),
        "lno": LNO(grid, 1, 1, rank=2, **small),
        "mgno": MGNO(grid, 1, 1, radius=0.1, levels=2, **small),
    }


@pytest.mark.parametrize("name", ["gno", "lno", "mgno"])
def test_any_resolution_and_scattered_points(name, x64, key):
    model = operators(key, kernel_sees_input=name == "gno")[name]

    def on_grid(n):
        x = jnp.arange(n) / n
        u = jnp.sin(2 * jnp.pi * x) + jnp.cos(4 * jnp.pi * x)
        return eqx.filter_jit(model)(u[None])[0]

    coarse, middle, fine = (on_grid(n) for n in (32, 64, 128))
    errors = [float(jnp.abs(a - b[::2]).max()) for a, b in ((coarse, middle), (middle, fine))]
    size = float(jnp.abs(fine).max() - jnp.abs(fine).min())
    # Balls cut off sharply: a point more or less at their edge is an error of first order.
    assert errors[1] < 0.75 * errors[0] + 1e-12 and errors[0] < 0.2 * size
    # The same points without their grid, and a batch.
    if name != "mgno":
        n = 32
        pos = np.arange(n)[:, None] / n
        domain = model.domain(pos, box=Box((1.0,)))
        u = np.sin(2 * np.pi * pos) + np.cos(4 * np.pi * pos)
        rows = model.on_points(jnp.asarray(u), domain)
        np.testing.assert_allclose(rows[:, 0], coarse, atol=1e-12)  # rounding
        both = jax.vmap(model)(jnp.stack([u.T, 2 * u.T]))
        np.testing.assert_allclose(both[0, 0], coarse, atol=1e-12)


def test_two_dimensions_walls_and_random_levels(key):
    """Runs on a grid with walls, on a random cloud, and under jit and grad."""
    models = operators(key, Grid(0.0, 1.0, (4, 4)))
    u = jax.random.normal(key, (1, 9, 9))
    cloud = np.asarray(jax.random.uniform(key, (60, 2)))
    for name in ("gno", "mgno"):
        model = models[name]
        if name == "gno":
            assert eqx.filter_jit(model)(u).shape == (1, 9, 9)
        model = eqx.tree_at(lambda m: m.reach, model, wide_reach(model.reach))
        domain = model.domain(cloud)
        loss = eqx.filter_jit(
            eqx.filter_grad(lambda m, d=domain: jnp.sum(m.on_points(jnp.ones((60, 1)), d) ** 2))
        )
        gradient = jax.tree.leaves(eqx.filter(loss(model), eqx.is_inexact_array))
        assert all(bool(jnp.isfinite(g).all()) for g in gradient)
        assert all(float(jnp.abs(g).max()) > 0 for g in gradient[:2])


def wide_reach(reach):
    """The same kind with a radius that reaches some point of a sparse cloud."""
    options = {"radius": 0.5} | ({"levels": 2} if hasattr(reach, "levels") else {})
    return type(reach)(**options)


def test_bad_input_is_named(key):
    grid = Grid(0.0, 1.0, 8, periodic=True)
    gno = GNO(grid, 1, 1, radius=0.01, width=4, depth=1, key=key)
    pos = np.linspace(0, 1, 5)[:, None]
    layout, _ = radius(pos, r=0.3, engine="host")
    layer = KernelIntegral(1, 2, 2, key=key)
    v, y = jnp.zeros((5, 2)), jnp.asarray(pos)
    cycle = MultipoleVCycle(1, 2, levels=2, hidden=2, key=key)
    for error, words, call in [
        (ValueError, "kind must", lambda: KernelIntegral(1, 1, 1, kind="affine", key=key)),
        (ValueError, "sizes must", lambda: KernelIntegral(1, 0, 1, key=key)),
        (ValueError, "diagonal", lambda: KernelIntegral(1, 2, 1, matrix=False, key=key)),
        (ValueError, "rows of 2", lambda: layer(layout, v[:, :1], y)),
        (ValueError, "weights", lambda: layer(layout, v, y, weights=jnp.ones(4))),
        (ValueError, "sizes must", lambda: LowRankIntegral(1, 1, 1, rank=0, key=key)),
        (ValueError, "rows of 1", lambda: LowRankIntegral(1, 1, 1, key=key)(v, y)),
        (ValueError, "weights", lambda: LowRankIntegral(1, 2, 1, key=key)(v, y, weights=y)),
        (ValueError, "levels", lambda: MultipoleVCycle(1, 1, levels=0, key=key)),
        (ValueError, "2 levels, got 1", lambda: cycle(multilevel(pos, [], [0.3]), v)),
        (ValueError, "expected 2 radii", lambda: multilevel(pos, [np.arange(2)], [0.3])),
        (ValueError, "at least one point", lambda: multilevel(pos, [np.arange(0)], [0.3, 0.3])),
        (
            ValueError,
            "4 of 5 points have no neighbour",
            lambda: multilevel(pos, [np.arange(1)], [0.3, 0.1]),
        ),
        (ValueError, "n_levels", lambda: grid_subsets(grid, 0)),
        (ValueError, "too few", lambda: grid_subsets(grid, 5)),
        (ValueError, "radius=0.01 is so small that 8 of 8", lambda: gno(jnp.zeros((1, 8)))),
        (ValueError, "1 channels", lambda: gno(jnp.zeros((2, 8)))),
        (TypeError, "floating", lambda: gno(jnp.zeros((1, 8), int))),
        (ValueError, "radius must", lambda: GNO(grid, 1, 1, radius=0.0, key=key)),
        (ValueError, "radius must", lambda: MGNO(grid, 1, 1, radius=-1.0, key=key)),
        (ValueError, "width", lambda: LNO(grid, 1, 1, width=0, key=key)),
        (
            ValueError,
            "a: expected shape",
            lambda: LNO(grid, 1, 1, width=2, key=key).on_points(
                v, LNO(grid, 1, 1, width=2, key=key).domain(pos)
            ),
        ),
    ]:
        with pytest.raises(error, match=words):
            call()
