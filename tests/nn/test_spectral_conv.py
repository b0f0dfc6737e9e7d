"""The spectral convolution against exact solution operators, and its low-rank forms."""

import equinox as eqx
import exponax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import ChannelLinear, ChannelMLP, Cosine, Fourier, SpectralConv, mix_channels
from jaxsci.nn.spectral_conv import tucker_ranks

KEY = jax.random.key(0)


def with_tensor(layer, values):
    """The layer with R_{k,i,o} = values: complex "*modes c_in c_out"."""
    parts = jnp.stack([np.real(values), np.imag(values)]).astype(layer.mixing.weight.dtype)
    return eqx.tree_at(lambda m: m.mixing.weight, layer, parts)


@pytest.mark.parametrize("n", [16, 17, 40])
def test_one_layer_is_the_heat_solver(n, x64):
    # R_k = exp(-ν (2πk)² t) solves the heat equation exactly, at every resolution; exponax's own
    # solver is exact for it too, so only rounding is between them.
    nu, t = 0.01, 0.5
    layer = SpectralConv(Fourier((30,)), 1, 1, key=KEY)
    layer = with_tensor(layer, np.exp(-nu * (2 * np.pi * np.arange(30)) ** 2 * t)[:, None, None])
    u = jax.random.normal(jax.random.key(1), (1, n), jnp.float64)
    if n % 2 == 0:  # the Nyquist mode has no sign, so solvers differ in what they do with it
        u = u - jnp.mean(u * (-1.0) ** jnp.arange(n)) * (-1.0) ** jnp.arange(n)
    solver = exponax.stepper.Diffusion(1, 1.0, n, t, diffusivity=nu)
    np.testing.assert_allclose(layer(u), solver(u), atol=1e-12)


def test_a_shift_needs_both_signs_of_the_full_axis(x64):
    # R_k = exp(-2πi k·s) translates by s: exact for functions of few modes.
    shift = np.array([0.3, 0.1])
    transform = Fourier((4, 4))
    k = [np.concatenate([np.arange(4), np.arange(-4, 0)]), np.arange(4)]
    phase = np.exp(-2j * np.pi * (k[0][:, None] * shift[0] + k[1] * shift[1]))
    layer = with_tensor(SpectralConv(transform, 1, 1, key=KEY), phase[..., None, None])

    def u(x, y):
        return np.cos(2 * np.pi * (2 * x - 3 * y)) + np.sin(2 * np.pi * (3 * x + y))

    x, y = np.meshgrid(np.arange(11) / 11, np.arange(12) / 12, indexing="ij")
    got = layer(jnp.asarray(u(x, y))[None])[0]
    np.testing.assert_allclose(got, u(x - shift[0], y - shift[1]), atol=1e-12)


@pytest.mark.parametrize("mixing", ["dense", "diagonal", "cp", "tucker"])
@pytest.mark.parametrize("transform", [Fourier((3, 4)), Cosine((3, 4))])
@pytest.mark.parametrize("shape", [(12, 10), (4, 5)])
def test_every_mixing_applies_its_own_tensor(mixing, transform, shape, x64):
    rank = {"cp": 3, "tucker": 0.3}.get(mixing)
    layer = SpectralConv(transform, 4, 4, mixing=mixing, rank=rank, key=KEY)
    layer = jax.tree.map(lambda w: w.astype(jnp.float64), layer)
    u = jax.random.normal(KEY, (4, *shape), jnp.float64)
    coef, tensor = transform.forward(u), layer.mixing.tensor()
    assert tensor.shape == (*transform.coefficient_shape, 4, 4)
    tensor = tensor[np.ix_(*transform.kept(shape))]
    expected = transform.inverse(jnp.einsum("iab,abio->oab", coef, tensor), shape)
    np.testing.assert_allclose(layer(u), expected, atol=1e-12)


def test_initialisations_have_their_stated_moments():
    # 32·32·24·12 numbers: the relative error of a variance is √(2/300k) = 0.3 %; 2 % is 7 sigma.
    layer = SpectralConv(Fourier((12, 12)), 32, 32, init="normal", key=KEY)
    variance = jnp.mean(jnp.abs(layer.mixing.tensor()) ** 2)
    assert abs(variance / (2 / 64) - 1) < 0.02
    layer = SpectralConv(Fourier((12, 12)), 32, 32, init="uniform", key=KEY)
    assert abs(jnp.mean(layer.mixing.weight) * 32 * 32 - 0.5) < 0.01
    for mixing, rank in (("cp", 0.2), ("tucker", 0.2)):
        layer = SpectralConv(Fourier((12, 12)), 32, 32, mixing=mixing, rank=rank, key=KEY)
        # Entries of a low-rank tensor are dependent, so the mean square fluctuates more.
        assert 0.5 < jnp.mean(jnp.abs(layer.mixing.tensor()) ** 2) / (2 / 64) < 2


@pytest.mark.parametrize("mixing", ["cp", "tucker"])
def test_rank_is_the_share_of_parameters(mixing):
    layer = SpectralConv(Fourier((12, 12)), 32, 32, mixing=mixing, rank=0.1, key=KEY)
    dense = 24 * 12 * 32 * 32
    n = sum(leaf[0].size for leaf in jax.tree.leaves(eqx.filter(layer, eqx.is_inexact_array)))
    # Ranks are integers: the share is met to a few per cent.
    assert abs(n / dense / 0.1 - 1) < 0.1
    assert tucker_ranks((24, 12, 32, 32), 1.0) <= (24, 12, 32, 32)


def test_half_precision_contracts_in_float32():
    layer = SpectralConv(Fourier((4, 4)), 3, 2, key=KEY)
    u = jax.random.normal(KEY, (3, 16, 16))
    exact, half = layer(u), layer(u.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # bfloat16 has 8 bits: 2⁻⁸ of the largest value, for the input's and the output's rounding.
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=8e-3 * jnp.abs(exact).max())


def test_mode_mask_switches_modes_without_recompiling():
    layer = SpectralConv(Fourier((4,)), 1, 1, key=KEY)
    traces = []

    @eqx.filter_jit
    def apply(u, mask):
        traces.append(1)
        return layer(u, mode_mask=mask)

    u = jnp.cos(2 * jnp.pi * 3 * jnp.arange(16) / 16)[None]
    assert jnp.abs(apply(u, jnp.array([1.0, 1, 1, 1]))).max() > 1e-3
    # Rounding of float32 is all that is left of wavenumber 3.
    assert jnp.abs(apply(u, jnp.array([1.0, 1, 1, 0]))).max() < 1e-6
    assert len(traces) == 1


def test_channel_maps_agree_with_einsum_batched_or_not():
    weight, u = jax.random.normal(KEY, (5, 3)), jax.random.normal(KEY, (7, 3, 4, 6))
    expected = np.einsum("oi,bixy->boxy", weight, u)
    # float32 sums of three products.
    np.testing.assert_allclose(jax.vmap(lambda v: mix_channels(weight, v))(u), expected, atol=1e-5)
    np.testing.assert_allclose(mix_channels(weight, u[0]), expected[0], atol=1e-5)
    grads = jax.grad(lambda w: jnp.sum(jax.vmap(lambda v: mix_channels(w, v))(u) ** 2))(weight)
    by_hand = 2 * np.einsum("boxy,bixy->oi", expected, u)
    np.testing.assert_allclose(grads, by_hand, rtol=1e-4, atol=1e-3)
    few = jax.vmap(lambda v: mix_channels(weight, v))(u[:, :, :1, :1])
    np.testing.assert_allclose(few, expected[:, :, :1, :1], atol=1e-5)


def test_channel_mlp_against_numpy():
    mlp = ChannelMLP(2, 3, hidden=4, activation=jax.nn.relu, key=KEY)
    u = jax.random.normal(KEY, (2, 5))
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias[:, None]) for layer in mlp.layers)
    expected = w2 @ np.maximum(w1 @ u + b1, 0) + b2
    np.testing.assert_allclose(mlp(u), expected, atol=1e-6)  # float32 rounding


def test_bad_input():
    transform = Fourier((4,))
    with pytest.raises(ValueError, match="c_in: expected a positive"):
        SpectralConv(transform, 0, 1, key=KEY)
    with pytest.raises(ValueError, match="init: expected"):
        SpectralConv(transform, 1, 1, init="zeros", key=KEY)
    with pytest.raises(ValueError, match="mixing: expected 'dense'"):
        SpectralConv(transform, 1, 1, mixing="sparse", key=KEY)
    with pytest.raises(ValueError, match="rank: needed"):
        SpectralConv(transform, 1, 1, mixing="tucker", key=KEY)
    with pytest.raises(ValueError, match="rank: needed"):
        SpectralConv(transform, 1, 1, rank=0.5, key=KEY)
    with pytest.raises(ValueError, match="share 0 < rank"):
        SpectralConv(transform, 1, 1, mixing="tucker", rank=1.5, key=KEY)
    with pytest.raises(ValueError, match="rank: expected 3 integers"):
        SpectralConv(transform, 1, 1, mixing="tucker", rank=(1, 1), key=KEY)
    with pytest.raises(ValueError, match="positive number"):
        SpectralConv(transform, 1, 1, mixing="cp", rank=-1, key=KEY)
    with pytest.raises(ValueError, match="c_in = c_out"):
        SpectralConv(transform, 1, 2, mixing="diagonal", key=KEY)
    with pytest.raises(ValueError, match="expected 1 channels and 1 grid axes"):
        SpectralConv(transform, 1, 1, key=KEY)(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="c_out: expected"):
        ChannelLinear(1, -1, key=KEY)
    with pytest.raises(ValueError, match="u: expected 3 channels"):
        ChannelLinear(3, 1, key=KEY)(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="n_layers: expected"):
        ChannelMLP(1, 1, hidden=2, n_layers=0, key=KEY)
