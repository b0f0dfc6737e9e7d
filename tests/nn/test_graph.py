"""Layouts, graphs, padding and packing, against dense adjacency matrices in numpy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsci.nn import Box, Budget, Coo, Graph, Table, bucket, grid_layout, pack, pad, take_rows
from jaxsci.pde import Grid

N, E, C = 7, 16, 3


def random_edges(seed, n=N, symmetric=False):
    rng = np.random.default_rng(seed)
    adjacency = rng.random((n, n)) < 0.3
    adjacency[2] = adjacency[:, 2] = False  # an isolated node
    if symmetric:
        adjacency |= adjacency.T
    receivers, senders = np.nonzero(adjacency)
    return senders, receivers, adjacency


def layouts(seed, symmetric=False):
    senders, receivers, adjacency = random_edges(seed, symmetric=symmetric)
    coo = Coo.from_edges(senders, receivers, N, capacity=60)
    table = coo.to_table(9)
    if symmetric:
        coo, table = coo.with_reverse(), table.with_reverse()
    return {"coo": coo, "table": table}, adjacency


@pytest.mark.parametrize("kind", ["coo", "table"])
def test_methods_against_dense_matrices(kind, x64, key):
    both, adjacency = layouts(1)
    layout = both[kind]
    h = jax.random.normal(key, (N, C))
    m = layout.src(h)
    assert m.shape == (*layout.edge_shape, C)
    assert int(layout.edge_mask().sum()) == adjacency.sum()
    np.testing.assert_array_equal(layout.degree(), adjacency.sum(1))
    dense = {
        "sum": adjacency @ h,
        "mean": adjacency @ h / np.maximum(adjacency.sum(1), 1)[:, None],
        "max": np.where(adjacency[..., None], h, -np.inf).max(1),
        "min": np.where(adjacency[..., None], h, np.inf).min(1),
    }
    for op, expected in dense.items():
        expected = np.where(np.isfinite(expected), expected, 0)  # no edges: 0
        np.testing.assert_allclose(layout.reduce(m, op), expected, atol=1e-14)  # rounding
    logits = layout.dst(h) * layout.src(h) - 3
    weights = layout.softmax(logits)
    scores = np.where(adjacency[..., None], h[:, None] * h[None] - 3, -np.inf)
    shifted = np.exp(scores - np.nan_to_num(scores.max(1, keepdims=True), neginf=0))
    expected = (shifted * h[None]).sum(1) / np.maximum(shifted.sum(1), 1e-300)
    np.testing.assert_allclose(layout.reduce(weights * m), expected, atol=1e-14)


@pytest.mark.parametrize("kind", ["coo", "table"])
def test_padding_reaches_no_value_and_no_gradient(kind, x64, key):
    """Whatever stands in unused entries, NaN included."""
    both, adjacency = layouts(2)
    layout = both[kind]
    assert not bool(layout.edge_mask().all())
    h = jax.random.normal(key, (N, C))
    poison = jnp.where(layout.edge_mask()[..., None], 0.0, jnp.nan)

    def value(h, op):
        m = layout.src(h) * layout.dst(h) + poison
        return jnp.sum(jnp.sin(layout.reduce(m, op)))

    for op in ("sum", "mean", "max", "min"):
        found = jax.jit(jax.value_and_grad(value), static_argnums=1)(h, op)
        assert all(bool(jnp.isfinite(part).all()) for part in found)

    def smooth(h):
        return value(h, "sum")

    gradient = jax.grad(smooth)(h)

    def dense(h):
        return jnp.sum(jnp.sin(adjacency @ h * h))

    np.testing.assert_allclose(gradient, jax.grad(dense)(h), atol=1e-13)  # rounding
    np.testing.assert_array_equal(gradient[2], 0)  # the isolated node
    weights = jax.grad(lambda h: jnp.sum(layout.softmax(layout.src(h) + poison)[..., 0] ** 2))(h)
    assert bool(jnp.isfinite(weights).all())


def test_plain_indexing_would_not_do(x64):
    """Why `take_rows`: an index past the end is clamped by h[i] and is NaN with jnp.take."""
    h, past = jnp.arange(3.0), jnp.array([3])
    assert float(h[past][0]) == 2.0 and float(jax.grad(lambda h: h[past].sum())(h)[2]) == 0.0
    assert bool(jnp.isnan(jnp.take(h, past)[0]))
    assert float(take_rows(h, past)[0]) == 0.0
    np.testing.assert_array_equal(jax.grad(lambda h: take_rows(h, past).sum())(h), 0)


@pytest.mark.parametrize("kind", ["coo", "table"])
def test_reverse_changes_no_derivative(kind, x64, key):
    both, _ = layouts(3, symmetric=True)
    layout = both[kind]
    plain = eqx.tree_at(lambda v: v.reverse, layout, None)
    h = jax.random.normal(key, (N, C))

    def value(layout, h):
        m = jnp.tanh(layout.src(h) * layout.dst(h) ** 2)
        return jnp.sum(layout.reduce(m) ** 2)

    for derivative in (jax.grad, lambda f, argnums: jax.jacrev(jax.grad(f, argnums), argnums)):
        found, expected = (
            jax.jit(derivative(value, argnums=1))(which, h) for which in (layout, plain)
        )
        np.testing.assert_allclose(found, expected, atol=1e-12)  # rounding
    if kind == "table":  # the point of it: gathers alone
        program = str(jax.make_jaxpr(jax.grad(value, argnums=1))(layout, h))
        assert "scatter" not in program
        assert "scatter" in str(jax.make_jaxpr(jax.grad(value, argnums=1))(plain, h))
    # Antisymmetric messages conserve their sum.
    m = layout.dst(h) + layout.src(h) ** 2
    np.testing.assert_allclose(layout.reduce(m - layout.mirror(m)).sum(0), 0, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_conversions_keep_edges_features_and_reverse(seed):
    both, adjacency = layouts(seed, symmetric=True)
    coo = both["coo"]
    feature = jnp.where(coo.edge_mask(), 10 * coo.receivers + coo.senders, 0.0)[:, None]
    graph = Graph(jnp.zeros((N, 1)), coo, edge=feature)
    for other in (
        graph.to_table(9),
        graph.to_table(9).to_coo(60),
        graph.transpose(),
        graph.to_table(9).transpose(),
        pad(graph, Budget(9, 64)),
        pad(graph.to_table(7), Budget(8, 9)),
        pack([graph, graph]),
    ):
        layout, edge = other.layout, other.edge[..., 0]
        mask = np.asarray(layout.edge_mask())
        s, r = np.asarray(layout.senders)[mask], np.asarray(layout.receivers)[mask]
        copies = other.n_graph
        assert len(s) == copies * adjacency.sum()
        assert adjacency[r % N, s % N].all()
        transposed = 10 * (s % N) + r % N, 10 * (r % N) + s % N
        assert any(np.array_equal(np.asarray(edge)[mask], code) for code in transposed)
        back = layout.mirror(jnp.stack([layout.senders, layout.receivers], -1).astype(float))
        np.testing.assert_array_equal(np.asarray(back)[mask], np.stack([r, s], -1))
        np.testing.assert_array_equal(np.asarray(layout.reverse)[~mask], layout.senders.size)
        flat = np.asarray(layout.receivers).reshape(-1)
        assert isinstance(layout, Table) or (np.diff(flat) >= 0).all()
    assert graph.transpose().layout.n_src == N


def test_pack_pool_and_masks(key):
    graphs = []
    for i, n in enumerate((4, 6)):
        senders, receivers, _ = random_edges(i, n)
        layout = Coo.from_edges(senders, receivers, n, capacity=40)
        x = jax.random.normal(jax.random.fold_in(key, i), (n, 2))
        edge = jnp.arange(40.0)[:, None] + 100 * i
        graphs.append(Graph(x, layout, pos=x, edge=edge, glob=jnp.full(3, float(i))))
    packed = pack(graphs, Budget(15, 90, 3))
    assert (
        packed.n_nodes == 15 and packed.layout.edge_shape == (90,) and packed.glob.shape == (3, 3)
    )
    np.testing.assert_array_equal(packed.mask(), np.arange(15) < 10)
    m = packed.layout.src(packed.x) * packed.edge
    found = packed.layout.reduce(m)
    expected = jnp.concatenate([g.layout.reduce(g.layout.src(g.x) * g.edge) for g in graphs])
    np.testing.assert_allclose(found[:10], expected, rtol=1e-5)  # single precision
    np.testing.assert_array_equal(found[10:], 0)
    means = packed.pool(packed.x)
    np.testing.assert_allclose(means[0], graphs[0].x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(means[1], graphs[1].x.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(means[2], 0)
    padded = pad(graphs[0], Budget(9, 50))
    np.testing.assert_allclose(padded.pool(padded.x, "max")[0], graphs[0].x.max(0))
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *[pad(g, Budget(9, 50)) for g in graphs])
    sums = jax.vmap(lambda g: g.layout.reduce(g.layout.src(g.x) * g.edge))(stacked)
    np.testing.assert_allclose(sums[1, :6], expected[4:], rtol=1e-5)


def test_grid_layout_is_roll_and_has_walls(x64, key):
    periodic = Grid(0.0, 1.0, (5, 6), periodic=True)
    u = jax.random.normal(key, (5, 6))
    stencil = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    layout = grid_layout(periodic, stencil)
    rows = layout.src(u.reshape(-1, 1))[..., 0]
    for k, offset in enumerate(stencil):
        np.testing.assert_array_equal(
            rows[:, k].reshape(5, 6), np.roll(u, [-o for o in offset], (0, 1))
        )
    assert layout.reverse is not None
    np.testing.assert_array_equal(layout.reverse, layout.with_reverse().reverse)
    walls = grid_layout(Grid(0.0, 1.0, 4), [-1, 1])
    np.testing.assert_array_equal(walls.senders, [[4, 1], [0, 2], [1, 3], [2, 4]])
    np.testing.assert_array_equal(walls.degree(), [1, 2, 2, 1])
    assert grid_layout(Grid(0.0, 1.0, 4), [1, 2]).reverse is None


def test_box_and_edge_vectors(x64):
    box = Box((2.0, 3.0), periodic=(True, False))
    a, b = jnp.array([1.9, 2.9]), jnp.array([0.1, 0.1])
    np.testing.assert_allclose(box.displacement(a, b), [-0.2, 2.8], atol=1e-15)
    np.testing.assert_array_equal(box.wrap(jnp.array([-1e-20, -5.0])), [0.0, -5.0])
    np.testing.assert_allclose(box.wrap(jnp.array([5.0, 5.0])), [1.0, 5.0])
    graph = Graph(
        jnp.zeros((2, 1)), Coo.from_edges([0], [1], 2, capacity=2), jnp.stack([a, b]), box=box
    )
    np.testing.assert_allclose(graph.edge_vectors(), [[0.2, -2.8], [0, 0]], atol=1e-15)
    jacobian = jax.jacobian(lambda p: graph.replace(pos=p).edge_vectors())(graph.pos)
    np.testing.assert_array_equal(jacobian[0, 0], [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(jacobian[1], 0)


def test_bucket_holds_every_size():
    sizes = np.arange(0, 1000)
    found = bucket(sizes)
    assert (found >= sizes).all() and len(set(found)) <= 18  # log(1000/16) / log(1.3) + 2
    assert bucket(17) == 21 and (found[sizes >= 16] <= np.ceil(1.3 * sizes[sizes >= 16])).all()


def test_bad_input_is_named():
    coo = Coo.from_edges([0, 1], [1, 0], 2)
    x = jnp.zeros((2, 1))
    for error, words, call in [
        (ValueError, "senders must lie in 0..1", lambda: Coo.from_edges([2], [0], 2)),
        (TypeError, "integers", lambda: Coo.from_edges([0.5], [0], 2)),
        (ValueError, "1 senders and 2 receivers", lambda: Coo.from_edges([0], [0, 1], 2)),
        (ValueError, "exceed capacity=1", lambda: Coo.from_edges([0, 1], [1, 0], 2, capacity=1)),
        (ValueError, "same length", lambda: Coo(jnp.array([0]), jnp.array([0, 1]), 2, 2)),
        (ValueError, "n_dst = 3 rows", lambda: Table(jnp.array([[0]]), 2, 3)),
        (ValueError, "must have 2 axes", lambda: Table(jnp.array([0]), 2, 1)),
        (ValueError, "src: expected 2 node rows", lambda: coo.src(jnp.zeros((3, 1)))),
        (ValueError, "dst: expected 2 node rows", lambda: coo.dst(jnp.zeros((3, 1)))),
        (ValueError, "reduce: expected edge rows", lambda: coo.reduce(jnp.zeros((3, 1)))),
        (ValueError, "op must be", lambda: coo.reduce(jnp.zeros((2, 1)), "median")),
        (ValueError, "softmax: expected edge rows", lambda: coo.softmax(jnp.zeros(3))),
        (ValueError, "no reverse", lambda: coo.mirror(jnp.zeros((2, 1)))),
        (ValueError, "as many sources", lambda: Table(jnp.array([[0]]), 2, 1).with_reverse()),
        (RuntimeError, "not symmetric", lambda: Coo.from_edges([0], [1], 2).with_reverse()),
        (RuntimeError, "more than capacity=1", lambda: coo.to_coo(1)),
        (RuntimeError, "more than slots=1", lambda: Coo.from_edges([0, 1], [0, 0], 2).to_table(1)),
        (ValueError, "slots must be given", lambda: jax.jit(lambda c: c.to_table())(coo)),
        (ValueError, "to themselves", lambda: Graph(x, Table(jnp.array([[0]]), 2, 1))),
        (ValueError, "x must have 2 rows", lambda: Graph(jnp.zeros((3, 1)), coo)),
        (ValueError, "edge must have", lambda: Graph(x, coo, edge=jnp.zeros((5, 1)))),
        (ValueError, "no pos", lambda: Graph(x, coo).edge_vectors()),
        (ValueError, "2 nodes exceed", lambda: pad(Graph(x, coo), Budget(1, 2))),
        (ValueError, "2 edges", lambda: pad(Graph(x, coo), Budget(2, 1))),
        (ValueError, "at least one", lambda: pack([])),
        (ValueError, "same kind", lambda: pack([Graph(x, coo), Graph(x, coo, pos=x)])),
        (ValueError, "budget of 1", lambda: pack([Graph(x, coo)] * 2, Budget(9, 9, 1))),
        (ValueError, "growth", lambda: bucket(3, 1.0)),
        (ValueError, "sizes", lambda: bucket(-3)),
        (TypeError, "integers", lambda: grid_layout(Grid(0.0, 1.0, 4), [0.5])),
        (ValueError, "stencil must", lambda: grid_layout(Grid(0.0, 1.0, 4), [(1, 0)])),
        (ValueError, "same point", lambda: grid_layout(Grid(0.0, 1.0, 4, True), [-2, 2])),
        (ValueError, "lengths", lambda: Box((0.0,))),
        (ValueError, "periodic must have 2", lambda: Box((1.0, 1.0), (True,))),
        (ValueError, "expected 1 coordinates", lambda: Box((1.0,)).wrap(jnp.zeros(2))),
    ]:
        with pytest.raises(error, match=words):
            call()
