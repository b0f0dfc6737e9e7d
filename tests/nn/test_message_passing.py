"""Graph layers against loops over edges in numpy, finite differences and PyTorch Geometric."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import (
    Budget,
    Coo,
    EdgeLinear,
    EdgeMLP,
    EncodeProcessDecode,
    GATv2Conv,
    Graph,
    InteractionNetwork,
    MessagePassing,
    RowLinear,
    RowMLP,
    grid_layout,
    pad,
)
from jaxsci.pde import Grid

DATA = Path(__file__).parents[1] / "oracles" / "data" / "graph_layers.npz"


@pytest.fixture
def key():
    """A key whose programs compile faster than the default's."""
    return jax.random.key(0, impl="rbg")


@pytest.fixture(scope="module")
def peers():
    with np.load(DATA) as arrays:
        return dict(arrays)


def example(seed=0, n=6, n_edges=13, c=3, e=2):
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(0, n, n_edges), rng.integers(0, n - 1, n_edges)
    order = np.lexsort((senders, receivers))
    layout = Coo.from_edges(senders, receivers, n)
    edge = rng.normal(size=(n_edges, e))
    return senders[order], receivers[order], layout, rng.normal(size=(n, c)), edge


@pytest.mark.parametrize("op", ["sum", "mean", "max"])
def test_interaction_network_is_a_loop_over_edges(op, x64, key):
    senders, receivers, layout, h, edge = example()
    layer = InteractionNetwork(3, 2, hidden=5, op=op, activation=jnp.tanh, key=key)

    def mlp(weights, x):
        for i, (w, b) in enumerate(weights):
            x = np.asarray(w) @ x + np.asarray(b)
            x = np.tanh(x) if i < len(weights) - 1 else x
        return x

    phi = [(layer.message.first.weight, layer.message.first.bias)]
    phi += [(m.weight, m.bias) for m in layer.message.rest.layers]
    psi = [(m.weight, m.bias) for m in layer.update.mlp.layers]
    expected = np.zeros_like(h)
    for i in range(len(h)):
        messages = [
            mlp(phi, np.concatenate([h[i], h[j], e]))
            for j, r, e in zip(senders, receivers, edge, strict=True)
            if r == i
        ]
        heard = getattr(np, op)(messages, axis=0) if messages else np.zeros(3)
        expected[i] = h[i] + mlp(psi, np.concatenate([h[i], heard]))
    for with_edges in (Graph(jnp.asarray(h), layout, edge=jnp.asarray(edge)),):
        for graph in (with_edges, with_edges.to_table(), pad(with_edges, Budget(9, 20))):
            out = eqx.filter_jit(layer)(graph.layout, graph.x, None, graph.edge)
            np.testing.assert_allclose(out[:6], expected, atol=1e-12)  # rounding
            gradient = jax.jit(
                jax.grad(lambda x, g=graph: layer(g.layout, x, None, g.edge)[:6].sum())
            )(graph.x)
            assert bool(jnp.isfinite(gradient).all())
            np.testing.assert_array_equal(gradient[6:], 0)


def test_order_of_nodes_does_not_matter(x64, key):
    senders, receivers, layout, h, edge = example()
    layer = InteractionNetwork(3, 2, key=key)
    out = layer(layout, jnp.asarray(h), None, jnp.asarray(edge))
    new = np.random.default_rng(1).permutation(6)  # node i is called new[i]
    order = np.lexsort((new[senders], new[receivers]))
    renamed = Coo.from_edges(new[senders], new[receivers], 6)
    moved = layer(renamed, jnp.asarray(h[np.argsort(new)]), None, jnp.asarray(edge[order]))
    np.testing.assert_allclose(moved[new], out, atol=1e-13)  # rounding


def test_hand_set_weights_are_central_differences(x64, key):
    """uₓ ≈ Σ (u_j − u_i) (x_j − x_i) / (2 h²): one layer is a finite-difference scheme."""
    n = 32
    grid = Grid(0.0, 1.0, n, periodic=True)
    h = grid.spacing[0]
    layout = grid_layout(grid, [-1, 1])
    u = jnp.sin(2 * jnp.pi * grid.coords()[0])[:, None]
    side = jnp.broadcast_to(jnp.array([[-1.0], [1.0]]), (n, 2, 1))
    message = EdgeLinear(1, 1, 1, 1, use_bias=False, key=key)
    # The message is linear in u, so each side is a call of its own; the sum is the difference.
    message = eqx.tree_at(lambda m: m.weight, message, jnp.array([[0.0, 1 / (2 * h), 0.0]]))
    layer = MessagePassing(
        lambda layout, src, dst, edge: message(layout, src, dst, edge) * edge, lambda u, a: a
    )
    found = layer(layout, u, None, side)[:, 0]
    expected = (np.roll(u[:, 0], -1) - np.roll(u[:, 0], 1)) / (2 * h)
    np.testing.assert_allclose(found, expected, atol=1e-12)  # rounding


@pytest.mark.parametrize("concat", [True, False])
def test_attention_agrees_with_pytorch_geometric(peers, concat, key):
    name = f"gat/{'concat' if concat else 'mean'}"
    s, r = peers["gat/senders"], peers["gat/receivers"]
    order = np.lexsort((s, r))
    layout = Coo.from_edges(s, r, 6, 5)
    layer = GATv2Conv(3, 4, 5, c_edge=2, heads=2, concat=concat, slope=0.1, key=key)
    state = {k.split("/")[-1]: jnp.asarray(v) for k, v in peers.items() if f"{name}/state" in k}
    layer = eqx.tree_at(
        lambda m: (
            m.to_src.weight, m.to_src.bias, m.to_dst.weight, m.to_dst.bias, m.to_edge.weight,
            m.attention, m.bias,
        ),
        layer,
        (
            state["lin_l.weight"], state["lin_l.bias"], state["lin_r.weight"], state["lin_r.bias"],
            state["lin_edge.weight"], state["att"][0], state["bias"],
        ),
    )  # fmt: skip
    src, dst = jnp.asarray(peers["gat/src"]), jnp.asarray(peers["gat/dst"])
    out = layer(layout, src, dst, jnp.asarray(peers["gat/edge"][order]))
    # Single precision on both sides, sums of ten numbers of size one.
    np.testing.assert_allclose(out, peers[f"{name}/out"], atol=2e-6)


def test_encode_process_decode_scans_equal_blocks(x64, key):
    _, _, layout, h, edge = example()
    x, edge = jnp.asarray(h), jnp.asarray(edge)
    keys = jax.random.split(key, 3)

    def block(k):
        return InteractionNetwork(4, 2, key=k)

    net = EncodeProcessDecode(
        RowLinear(3, 4, key=keys[0]), block, RowLinear(4, 1, key=keys[1]), 5, key=keys[2]
    )
    found = eqx.filter_jit(net)(layout, x, edge)
    values = net.encode(x)
    for i in range(5):
        weights = jax.tree.map(lambda w, i=i: w[i] if eqx.is_array(w) else w, net.blocks)
        values = eqx.filter_jit(weights)(layout, values, None, edge)
    np.testing.assert_allclose(found, net.decode(values), atol=1e-12)  # rounding
    assert str(jax.make_jaxpr(lambda x: net(layout, x, edge))(x)).count("scan") == 1


def test_bad_input_is_named(key):
    _, _, layout, h, _ = example()
    h = jnp.asarray(h)
    mlp = EdgeMLP(3, 3, 2, 4, hidden=4, key=key)
    for error, words, call in [
        (ValueError, "op must be", lambda: MessagePassing(mlp, lambda h, a: a, "median")),
        (ValueError, "sizes must", lambda: RowLinear(0, 1, key=key)),
        (ValueError, "rows of 2", lambda: RowLinear(2, 1, key=key)(h)),
        (ValueError, "n_layers", lambda: RowMLP(1, 1, hidden=2, n_layers=0, key=key)),
        (ValueError, "n_layers", lambda: EdgeMLP(1, 1, 0, 1, hidden=2, n_layers=1, key=key)),
        (ValueError, "go in and out", lambda: EdgeLinear(0, 0, 0, 1, key=key)),
        (ValueError, "edge must have rows of 2, got 0", lambda: mlp(layout, h, h)),
        (ValueError, "src must have rows of 3", lambda: mlp(layout, h[:, :2], h)),
        (ValueError, "heads", lambda: GATv2Conv(1, 1, 1, heads=0, key=key)),
        (ValueError, "just if c_edge", lambda: GATv2Conv(3, 3, 1, c_edge=2, key=key)(layout, h)),
        (
            ValueError,
            "n_blocks",
            lambda: EncodeProcessDecode(lambda x: x, lambda k: mlp, lambda x: x, 0, key=key),
        ),
    ]:
        with pytest.raises(error, match=words):
            call()
