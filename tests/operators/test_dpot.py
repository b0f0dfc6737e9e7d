"""DPOT: the aggregate and the patches against loops in NumPy, published sizes, masks."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import DPOT, DPOT_SIZES, TemporalAggregate, add_noise

SMALL: dict[str, Any] = {
    "image": 8,
    "patch": 4,
    "n_history": 3,
    "width": 8,
    "hidden": 8,
    "depth": 1,
    "n_blocks": 2,
    "modes": 2,
    "groups": 2,
    "head": 4,
}


def drawn(make):
    """A module with weights drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(0)
    shapes = eqx.filter_eval_shape(make, jr.key(0))

    def draw(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.normal(size=leaf.shape) / 3, leaf.dtype)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def net():
    return drawn(lambda key: DPOT(2, **SMALL, key=key))


def test_aggregate_against_a_loop(x64):
    del x64
    layer = drawn(lambda key: TemporalAggregate(3, 5, key=key))
    h = np.random.default_rng(0).normal(size=(3, 5, 2, 2))
    weight, frequency = np.asarray(layer.weight), np.asarray(layer.frequency)
    expected = np.zeros((5, 2, 2))
    for t in range(3):
        for i in range(5):
            for j in range(5):
                expected[j] += weight[t, i, j] * h[t, i] * np.cos(frequency[i] * t / 2)
    # Rounding of float64.
    np.testing.assert_allclose(eqx.filter_jit(layer)(jnp.asarray(h)), expected, atol=1e-13)


def gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def test_patches_are_strided_convolutions(net):
    """A patch is the window of a convolution with stride p, a pixel of the transposed one."""
    rng = np.random.default_rng(1)
    u, z = rng.normal(size=(2, 8, 8)), rng.normal(size=(8, 2, 2))
    found, pixels = eqx.filter_jit(lambda m, u, t, z: (m._embed(u, t), m._pixels(z)))(
        net, jnp.asarray(u, jnp.float32), jnp.asarray(0.5), jnp.asarray(z, jnp.float32)
    )

    place = np.arange(8) / 8
    seen = np.stack([*u, np.full((8, 8), 0.5), *np.meshgrid(place, place, indexing="ij")])
    first, last = net.embed.layers
    kernel = np.asarray(first.weight).reshape(-1, 4, 4, 5)
    windows = np.zeros((kernel.shape[0], 2, 2))
    for a in range(2):
        for b in range(2):
            window = seen[:, 4 * a : 4 * a + 4, 4 * b : 4 * b + 4]
            windows[:, a, b] = np.einsum("oijc,cij->o", kernel, window)
    hidden = gelu(windows + np.asarray(first.bias)[:, None, None])
    expected = np.tensordot(last.weight, hidden, 1) + np.asarray(last.bias)[:, None, None]
    # float32 sums of 80 terms of order one.
    np.testing.assert_allclose(found, expected + np.asarray(net.position), atol=2e-5)

    kernel = np.asarray(net.unfold.weight).reshape(4, 4, 4, 8)
    first, last = net.project.layers
    expected = np.zeros((2, 8, 8))
    for x in range(8):
        for y in range(8):
            fine = gelu(kernel[x % 4, y % 4] @ z[:, x // 4, y // 4] + np.asarray(net.unfold_bias))
            hidden = gelu(first.weight @ fine + np.asarray(first.bias))
            expected[:, x, y] = last.weight @ hidden + np.asarray(last.bias)
    np.testing.assert_allclose(pixels[0], expected, atol=2e-5)


@pytest.mark.parametrize(("size", "published"), [("tiny", 7e6), ("small", 30e6), ("medium", 122e6)])
def test_published_sizes(size, published):
    """The published network has a classifier of two D × D matrices too, which is unused."""
    net = eqx.filter_eval_shape(lambda k: DPOT(4, **DPOT_SIZES[size], key=k), jr.key(0))
    ours = sum(math.prod(a.shape) for a in jax.tree.leaves(net) if hasattr(a, "shape"))
    classifier = 2 * DPOT_SIZES[size]["width"] ** 2
    # Published with one or two digits for small ones.
    assert abs(ours + classifier - published) < (0.01 if size == "medium" else 0.08) * published


def test_masked_channels_stay_zero_and_all_weights_learn(net):
    history = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 8, 8)), jnp.float32)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def both(net, history, mask):
        frames = net.predict(history, mask)
        return jnp.sum(frames**2), frames

    (_, frames), gradient = both(net, history, jnp.array([1.0, 0.0]))
    assert np.any(frames[:, 0]) and not np.any(frames[:, 1])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_size_of_the_noise():
    """ε ‖h_c‖ z has ε √(k N) of the channel's root mean square: 0.2 in the paper, at its sizes."""
    h = jnp.stack([jnp.ones((10, 32, 32)), jnp.full((10, 32, 32), 5.0)], 1)
    noise = add_noise(h, jr.key(0), eps=5e-4) - h
    rms = jnp.sqrt(jnp.mean(noise**2, (0, 2, 3))) / jnp.array([1.0, 5.0])
    # The mean of 10240 squares is off by 1.4 % (one standard deviation), its root by half of that.
    np.testing.assert_allclose(rms, 5e-4 * math.sqrt(10 * 32 * 32), rtol=0.02)
    np.testing.assert_allclose(5e-4 * math.sqrt(10 * 128**2), 0.2, rtol=0.02)


BAD: list[tuple[Any, str]] = [
    (lambda net: DPOT(1, **{**SMALL, "image": 10}, key=jr.key(0)), "patch=4 must divide image"),
    (lambda net: DPOT(1, **{**SMALL, "groups": 3}, key=jr.key(0)), "groups=3 must divide"),
    (lambda net: DPOT(1, **{**SMALL, "depth": 0}, key=jr.key(0)), "depth must be a positive"),
    (lambda net: net.predict(jnp.ones((2, 2, 8, 8))), "history must have shape"),
    (lambda net: net.predict(jnp.ones((3, 2, 8, 8)), jnp.ones(3)), "a mask of 2 channels"),
    (lambda net: net.aggregate(jnp.ones((2, 8, 2, 2))), "frames: expected 3 of 8"),
]


def test_bad_input(net):
    for call, message in BAD:
        with pytest.raises(ValueError, match=message):
            call(net)
