"""The message-passing solver against loops in numpy, SciPy's convolutions, finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxsci.nn import Box, Buffer, Coo, knn
from jaxsci.operators import (
    MPPDE,
    BundleDecoder,
    MPPDELayer,
    MPPDEPoints,
    append_time,
    decoder_kernels,
    forecast,
    pushforward,
)
from jaxsci.pde import Grid

N, K = 8, 3
GRID = Grid(0.0, 16.0, N, periodic=True)


@pytest.fixture
def key():
    """A key whose programs compile faster than the default's."""
    return jax.random.key(0, impl="rbg")


def small(key, **options):
    options = {"time_window": K, "dt": 0.1, "hidden": 12, "layers": 2, "n_params": 2} | options
    return MPPDE(MPPDEPoints.of_grid(GRID, 2), **options, key=key)


def swish(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("differences", [False, True])
def test_forward_is_a_loop_over_nodes_and_edges(differences, x64, key):
    model = small(key, differences=differences)
    history = np.random.default_rng(0).normal(size=(K, 1, N))
    theta = np.array([0.3, -1.2])
    found = eqx.filter_jit(model.predict)(jnp.asarray(history), jnp.asarray(theta))

    def linear(m, x):
        return np.asarray(m.weight) @ x + (0 if m.bias is None else np.asarray(m.bias))

    x, u = np.arange(N) * 2.0, history[:, 0].T
    if differences:
        u = np.stack([(u[:, 1] - u[:, 0]) / 0.1, (u[:, 2] - u[:, 1]) / 0.1, u[:, 2]], axis=1)
    f = [np.concatenate([u[i], [x[i] / 16], theta]) for i in range(N)]
    for layer in model.encoder.layers:
        f = [swish(linear(layer, row)) for row in f]
    for b in range(2):
        block = jax.tree.map(lambda w, b=b: w[b] if eqx.is_array(w) else w, model.blocks)
        parts = (block.to_receiver, block.to_sender, block.difference, block.offset)
        whole = np.concatenate([m.weight for m in (*parts, block.parameters)], axis=1)
        new = []
        for i in range(N):
            messages = []
            for step in (-2, -1, 1, 2):
                j = (i + step) % N
                row = np.concatenate([f[i], f[j], u[i] - u[j], [-step * 2.0 / 16], theta])
                m = swish(whole @ row + np.asarray(block.to_receiver.bias))
                messages.append(swish(linear(block.message, m)))
            row = np.concatenate([f[i], np.mean(messages, axis=0), theta])
            for layer in block.update.layers:
                row = swish(linear(layer, row))
            new.append(f[i] + row)
        f = np.array(new)
        f = (f - f.mean(0)) / np.sqrt(f.var(0) + 1e-5)
    d = model.decoder
    for i in range(N):
        middle = [
            swish(np.correlate(f[i], k, "valid")[:: d.stride] + b)
            for k, b in zip(np.asarray(d.first), np.asarray(d.first_bias), strict=True)
        ]
        out = sum(
            scipy.signal.correlate(m, k, "valid")
            for m, k in zip(middle, np.asarray(d.second[0]), strict=True)
        ) + np.asarray(d.second_bias)
        expected = u[i, -1] + 0.1 * np.arange(1, K + 1) * out
        np.testing.assert_allclose(found[:, 0, i], expected, atol=1e-12)  # rounding


def test_order_of_points_does_not_matter(x64, key):
    model = small(key)
    history = jax.random.normal(key, (K, 1, N))
    theta = jnp.array([0.3, 0.1])
    layout = model.points.layout
    new = np.random.default_rng(2).permutation(N)  # point i is called new[i]
    senders, receivers = (np.asarray(v).reshape(-1) for v in (layout.senders, layout.receivers))
    points = MPPDEPoints(
        Coo.from_edges(new[senders], new[receivers], N),
        Buffer(model.points.pos.value[np.argsort(new)]),
        16.0,
        Box((16.0,)),
    )
    moved = model.on(points).predict(history[..., np.argsort(new)], theta)
    np.testing.assert_allclose(moved[..., new], model.predict(history, theta), atol=1e-12)


def test_hand_set_weights_are_central_differences(x64, key):
    """ReLU(u_i − u_j ± M (x_i − x_j)) tells left from right; one layer gives u_{i+1} − u_{i−1}."""
    big = 100.0
    layer = MPPDELayer(2, 1, 1, 0, jax.nn.relu, key=key)
    two, identity, signs = jnp.zeros((2, 2)), jnp.eye(2), jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    nothing = jnp.zeros(2)
    first, second = layer.update.layers
    layer = eqx.tree_at(
        lambda m: (
            m.to_receiver.weight, m.to_receiver.bias, m.to_sender.weight, m.difference.weight,
            m.offset.weight, m.message.weight, m.message.bias,
            m.update.layers[0].weight, m.update.layers[0].bias,
            m.update.layers[1].weight, m.update.layers[1].bias, m.norm,
        ),
        layer,
        (
            two, nothing, two, jnp.ones((2, 1)), jnp.array([[big], [-big]]), signs, nothing,
            jnp.concatenate([two, 2 * signs], axis=1), nothing, identity, nothing,
            eqx.nn.Identity(),
        ),
    )  # fmt: skip
    assert first.weight.shape == (2, 4) and second.weight.shape == (2, 2)
    points = MPPDEPoints.of_grid(GRID, 1)
    u = jax.random.normal(key, (N, 1))
    pos = points.pos.value
    gap = points.box.displacement(points.layout.dst(pos), points.layout.src(pos))
    f = layer(points.layout, jnp.zeros((N, 2)), u, gap, jnp.zeros(0))
    expected = np.roll(u[:, 0], -1) - np.roll(u[:, 0], 1)
    np.testing.assert_allclose(f[:, 0] - f[:, 1], expected, atol=1e-12)  # 100 + u − 100


def test_the_papers_decoders_give_their_windows(key):
    assert [decoder_kernels(128, k) for k in (20, 25, 50)] == [
        (15, 4, 10),
        (16, 3, 14),
        (12, 2, 10),
    ]
    for hidden, window in ((128, 25), (128, 20), (128, 50), (32, 10), (64, 25), (12, 3)):
        decoder = jax.eval_shape(
            lambda k, h=hidden, w=window: BundleDecoder(h, w, 2, jax.nn.silu, key=k), key
        )
        out = jax.eval_shape(
            lambda d, f: d(f), decoder, jax.ShapeDtypeStruct((5, hidden), jnp.float32)
        )
        assert out.shape == (5, 2, window)


def test_time_channel_recipes_and_forecast(key):
    model = small(key, n_params=0, with_time=True, time_scale=2.0)
    frames = jax.random.normal(key, (3 * K, 1, N))
    timed = append_time(frames, 0.1)
    out = forecast(model, timed[:K], 2 * K)
    np.testing.assert_allclose(out[:, 1], timed[K:, 1], rtol=1e-5)  # single precision
    later = forecast(model, append_time(frames, 0.1, start=1.0)[:K], K)
    assert float(jnp.abs(later[:, 0] - out[:K, 0]).max()) > 1e-4  # it sees the time

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        return pushforward(ramp=0.0)(model, timed, key=key)[0]

    found = gradient(model)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(found.blocks))
    assert jax.tree.leaves(eqx.filter(found.points, eqx.is_inexact_array)) == []  # no weights


def test_irregular_points_and_walls(x64, key):
    x = 8 * np.cos(np.pi * (np.arange(N) + 0.5) / N)[:, None]  # Chebyshev's
    points = MPPDEPoints(knn(x, k=4, engine="host"), Buffer(jnp.asarray(x)), 16.0)
    model = MPPDE(points, time_window=K, dt=0.1, hidden=12, layers=1, key=key)
    assert model.predict(jnp.ones((K, 1, N))).shape == (K, 1, N)
    walls = MPPDEPoints.of_grid(Grid(0.0, 1.0, N), 2)
    np.testing.assert_array_equal(walls.layout.degree(), [2, 3, 4, 4, 4, 4, 3, 2])
    assert model.on(walls).predict(jnp.ones((K, 1, N))).shape == (K, 1, N)
    wraps = MPPDEPoints.of_grid(GRID, 2)
    np.testing.assert_array_equal(wraps.layout.degree(), 4)


def test_bad_input_is_named(key):
    model = small(key)
    alone = MPPDEPoints(Coo.from_edges([0], [1], 2), Buffer(jnp.zeros((2, 1))), 1.0)
    ones = jnp.ones((K, 1, N))
    for words, call in [
        ("one axis", lambda: MPPDEPoints.of_grid(Grid(0.0, 1.0, (4, 4)))),
        (r"1\.\.3", lambda: MPPDEPoints.of_grid(GRID, 4)),
        ("does not fit", lambda: small(key, time_window=20)),
        ("layers", lambda: small(key, layers=0)),
        ("dt > 0", lambda: small(key, dt=0.0)),
        ("1 of 2 points have no neighbour", lambda: model.on(alone)),
        ("expected frames", lambda: model.predict(ones[:2], jnp.zeros(2))),
        ("2 parameters", lambda: model.predict(ones, jnp.zeros(3))),
        ("2 parameters", lambda: model.predict(ones)),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
