"""Convolutions with a mode for each axis against scipy, and changes of resolution."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxsci.nn.conv import (
    Conv,
    MaxPool,
    MeanPool,
    NearestConv,
    StridedConv,
    TransposedConv,
    pad_grid,
    padding_modes,
)

# Sums of 18 float32 products of order one.
TOLERANCE = 1e-5


@pytest.fixture
def key():
    # Only that the weights are generic matters here, and this generator compiles four times faster.
    return jax.random.key(0, impl="rbg")


def beyond(mode: str, n: int, reach: int) -> np.ndarray:
    """Which point stands at the places -reach … n-1+reach of an axis; -1 for none."""
    place = np.arange(-reach, n + reach)
    match mode:
        case "wrap":
            return place % n
        case "reflect":
            return (n - 1) - np.abs((n - 1) - np.abs(place))
        case "edge":
            return np.clip(place, 0, n - 1)
        case _:
            return np.where((place < 0) | (place >= n), -1, place)


def convolution(layer: Conv, u, modes):
    """The layer at stride 1 by scipy, on a field continued by index arithmetic."""
    weight, bias = np.asarray(layer.conv.weight), np.asarray(layer.conv.bias)
    field = np.asarray(u)
    for axis, (mode, k) in enumerate(zip(modes, weight.shape[2:], strict=True), start=1):
        index = beyond(mode, field.shape[axis], k // 2)
        kept = np.expand_dims(index >= 0, [a for a in range(field.ndim) if a != axis])
        field = np.take(field, index, axis) * kept
    out = [
        sum(signal.correlate(c, w, "valid", "direct") for c, w in zip(field, kernels, strict=True))
        for kernels in weight
    ]
    return np.stack(out) + bias


@pytest.mark.parametrize(
    "modes", [("reflect", "wrap"), ("zero", "edge"), ("wrap", "zero"), ("wrap", "wrap")]
)
def test_each_axis_is_padded_by_its_own_rule(modes, key):
    u = jax.random.normal(key, (2, 6, 5))
    layer = Conv(2, 2, 3, padding=modes, key=key)
    expected = convolution(layer, u, modes)
    np.testing.assert_allclose(layer(u), expected, atol=TOLERANCE)
    strided = Conv(2, 2, 3, stride=2, padding=modes, key=key)
    np.testing.assert_allclose(strided(u), expected[:, ::2, ::2], atol=TOLERANCE)


def test_dilation_and_groups(key):
    u = jax.random.normal(key, (4, 9))
    layer = Conv(1, 4, 4, dilation=2, groups=4, padding="wrap", key=key)
    weight = np.zeros((4, 4, 5), np.float32)
    weight[np.arange(4), np.arange(4), ::2] = layer.conv.weight[:, 0]
    dense = Conv(1, 4, 4, 5, padding="wrap", key=key)
    dense = eqx.tree_at(lambda c: (c.conv.weight, c.conv.bias), dense, (weight, layer.conv.bias))
    np.testing.assert_allclose(layer(u), convolution(dense, u, ("wrap",)), atol=TOLERANCE)


def test_even_kernel_and_zero_init(key):
    u = jax.random.normal(key, (1, 7))
    assert Conv(1, 1, 2, 4, padding="wrap", key=key)(u).shape == (2, 7)
    np.testing.assert_array_equal(Conv(1, 1, 2, zero_init=True, key=key)(u), jnp.zeros((2, 7)))


@pytest.mark.parametrize("kernel_size", [2, 4, 6])
def test_transposed_convolution_on_a_periodic_axis(kernel_size, key):
    n, u = 5, jax.random.normal(key, (2, 5))
    layer = TransposedConv(1, 2, 3, kernel_size, padding="wrap", key=key)
    # Equinox keeps (out, in, k) unflipped: point i adds W(κ) to the output at 2i + k/2 - κ.
    expected = np.zeros((3, 2 * n)) + np.asarray(layer.conv.bias)
    weight = np.asarray(layer.conv.weight)
    for i in range(n):
        for tap in range(kernel_size):
            place = (2 * i + kernel_size // 2 - tap) % (2 * n)
            expected[:, place] += weight[:, :, tap] @ np.asarray(u[:, i])
    np.testing.assert_allclose(layer(u), expected, atol=TOLERANCE)


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_transposed_convolution_is_a_transpose(kernel_size, key):
    """With zero ends it is the adjoint of the convolution of stride 2 with the flipped kernel."""
    layer = TransposedConv(2, 1, 1, kernel_size, key=key)
    weight = jnp.flip(layer.conv.weight, (2, 3))
    m = kernel_size // 2 - 1

    def down(v):
        return jax.lax.conv_general_dilated(v[None], weight, (2, 2), [(m, m)] * 2)[0]

    (expected,) = jax.linear_transpose(down, jax.ShapeDtypeStruct((1, 6, 8), jnp.float32))(
        u := jax.random.normal(key, (1, 3, 4))
    )
    np.testing.assert_allclose(layer(u) - layer.conv.bias, expected, atol=TOLERANCE)


def test_pools_are_maximum_and_mean_of_blocks():
    u = jnp.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(MaxPool(2, 1)(u), [[[5, 7], [13, 15]]])
    np.testing.assert_array_equal(MeanPool(2, 1)(u), [[[2.5, 4.5], [10.5, 12.5]]])
    np.testing.assert_array_equal(MaxPool(1, 1)(u[:, 0]), [[1, 3]])


def test_strided_and_nearest_are_their_definitions(key):
    u = jax.random.normal(key, (2, 4, 6))
    down = StridedConv(2, 2, padding="wrap", key=key)
    expected = convolution(down.conv, u, ("wrap", "wrap"))[:, ::2, ::2]
    np.testing.assert_allclose(down(u), expected, atol=TOLERANCE)
    finer = np.kron(np.asarray(u), np.ones((1, 2, 2)))
    for padding in (("reflect", "wrap"), ("zero", "edge")):
        up = NearestConv(2, 2, 3, padding=padding, key=key)
        expected = convolution(up.conv, finer, padding)
        np.testing.assert_allclose(up(u), expected, atol=TOLERANCE)


def test_bad_input(key):
    for bad in ("circular", ("wrap",), ("wrap", "zero", "zero"), ("wrap", 3)):
        with pytest.raises(ValueError, match="padding"):
            padding_modes(bad, 2)
    with pytest.raises(ValueError, match="dim"):
        padding_modes("zero", 0)
    u = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match="longer than that"):
        pad_grid(u, [(3, 3), (0, 0)], "reflect")
    with pytest.raises(ValueError, match="negative"):
        pad_grid(u, [(-1, 0), (0, 0)], "zero")
    with pytest.raises(ValueError, match="widths"):
        pad_grid(u, [(1, 1)], "zero")
    for name, arguments in [
        ("c_in", (2, 0, 1)),
        ("c_out", (2, 1, -1)),
        ("kernel_size", (2, 1, 1, 0)),
        ("kernel_size", (2, 1, 1, (3,))),
    ]:
        with pytest.raises(ValueError, match=name):
            Conv(*arguments, key=key)
    with pytest.raises(ValueError, match="groups=2 must divide"):
        Conv(1, 3, 4, groups=2, key=key)
    with pytest.raises(ValueError, match="stride"):
        Conv(1, 1, 1, stride=0, key=key)
    with pytest.raises(ValueError, match=r"shape \(2, n1, n2\)"):
        Conv(2, 2, 1, key=key)(u)
    with pytest.raises(ValueError, match="vmap over a batch"):
        Conv(2, 1, 1, key=key)(u[None])
    with pytest.raises(ValueError, match="even grid axes"):
        MaxPool(2, 1)(u)
    with pytest.raises(ValueError, match="even grid axes"):
        MeanPool(2, 1)(u)
    with pytest.raises(ValueError, match="c must be"):
        MaxPool(2, 0)
    with pytest.raises(ValueError, match="c must be"):
        MeanPool(2, True)
    with pytest.raises(ValueError, match="kernel_size must be even"):
        TransposedConv(1, 1, 1, 3, key=key)
    with pytest.raises(ValueError, match="u must have shape"):
        TransposedConv(2, 2, 1, key=key)(u)
    with pytest.raises(ValueError, match="u must have shape"):
        NearestConv(2, 2, 1, key=key)(u)
    with pytest.raises(ValueError, match="u must have shape"):
        StridedConv(2, 2, key=key)(u)
