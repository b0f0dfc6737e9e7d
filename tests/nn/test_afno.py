"""AFNO against NumPy's FFT, wavenumber by wavenumber; draws against `jax.random`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special

from jaxsci.nn import AFNO
from jaxsci.nn.initial import normal, uniform


def exact_gelu(x):
    return x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2


def by_numpy(layer: AFNO, v: np.ndarray, m: int) -> np.ndarray:
    """The published layer: FFT, two complex layers at each kept wavenumber, inverse FFT."""
    c, h, w = v.shape
    first, b1, second, b2 = (
        np.asarray(a[0], complex) + 1j * np.asarray(a[1])
        for a in (layer.first, layer.first_bias, layer.second, layer.second_bias)
    )
    coef = np.fft.rfft2(v, norm="ortho")
    out = np.zeros_like(coef)
    b = c // first.shape[0]
    for i in range(h):
        for j in range(min(m, w // 2 + 1)):
            if not -m <= (i if i < (h + 1) // 2 else i - h) < m:
                continue
            for n in range(first.shape[0]):
                part = slice(n * b, n * b + b)
                z = coef[part, i, j] @ first[n] + b1[n]
                z = exact_gelu(z.real) + 1j * exact_gelu(z.imag)
                out[part, i, j] = z @ second[n] + b2[n]
    return v + np.fft.irfft2(out, s=(h, w), norm="ortho")


@pytest.mark.parametrize("m", [8, 2])
def test_against_numpy(x64, key, m):
    """All wavenumbers (with both Nyquist ones), and a part of them."""
    del x64
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    rng = np.random.default_rng(m)
    shapes = eqx.filter_eval_shape(
        lambda k: AFNO(4, (m, m), n_blocks=2, expansion=2, activation=gelu, key=k), key
    )
    layer = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape)) if hasattr(a, "shape") else a, shapes
    )
    v = rng.normal(size=(4, 6, 8))
    # Rounding of float64.
    np.testing.assert_allclose(
        eqx.filter_jit(layer)(jnp.asarray(v)), by_numpy(layer, v, m), rtol=0, atol=1e-12
    )


def identity(c: int, modes: tuple[int, ...]) -> AFNO:
    """The layer v ↦ v + (the kept wavenumbers of v)."""
    layer = eqx.filter_eval_shape(
        lambda k: AFNO(c, modes, n_blocks=1, activation=lambda x: x, key=k), jr.key(0)
    )
    one = jnp.stack([jnp.eye(c), jnp.zeros((c, c))])[:, None]
    return eqx.tree_at(
        lambda m: (m.first, m.first_bias, m.second, m.second_bias),
        layer,
        (one, jnp.zeros((2, 1, c)), one, jnp.zeros((2, 1, c))),
    )


def test_identity_weights_double_the_kept_wavenumbers(x64):
    del x64
    layer = identity(2, (2,))
    x = np.arange(9) / 9
    low, high = np.cos(2 * np.pi * x), np.sin(2 * np.pi * 3 * x)
    v = np.stack([low + high, high])
    np.testing.assert_allclose(
        eqx.filter_jit(layer)(jnp.asarray(v)), v + np.stack([low, 0 * low]), atol=1e-13
    )


def test_the_published_layer_loses_half_of_the_directions(x64):
    """Of FFT coefficients [:m, :m] hold no negative wavenumber of the first axis, unless m is at
    least their number, as it is in the paper (32 modes, 16 patches)."""
    del x64

    def published(v, m):
        coef = np.fft.rfft2(v, norm="ortho")
        kept = np.zeros_like(coef)
        kept[:, :m, :m] = coef[:, :m, :m]
        return v + np.fft.irfft2(kept, s=v.shape[1:], norm="ortho")

    x, y = np.meshgrid(*[2 * np.pi * np.arange(8) / 8] * 2, indexing="ij")
    forth, back = np.cos(x + y)[None], np.cos(x - y)[None]
    layer = eqx.filter_jit(identity(1, (2, 2)))
    for wave, seen in ((forth, 2), (back, 1)):
        np.testing.assert_allclose(published(wave, 2), seen * wave, atol=1e-13)
        np.testing.assert_allclose(published(wave, 8), 2 * wave, atol=1e-13)
        np.testing.assert_allclose(layer(jnp.asarray(wave)), 2 * wave, atol=1e-13)


def test_draws_are_those_of_jax(key):
    """Entry by entry the same: weights of older checkpoints are made by the same keys."""
    np.testing.assert_array_equal(normal(key, (3, 4)), jr.normal(key, (3, 4)))
    drawn = uniform(key, (3, 4), -2.0, 0.5)
    np.testing.assert_array_equal(drawn, jr.uniform(key, (3, 4), minval=-2.0, maxval=0.5))


BAD: list[tuple[Any, str]] = [
    (lambda k: AFNO(4, (2,), n_blocks=3, key=k), "n_blocks=3 must divide"),
    (lambda k: AFNO(4, (2,), expansion=0, key=k), "expansion must be a positive"),
    (lambda k: AFNO(4, (2,), key=k)(jnp.ones((2, 8))), "expected 4 channels"),
    (lambda k: AFNO(4, (2,), key=k)(jnp.ones((4, 8, 8))), "expected 1 grid axes"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(key, call, message):
    with pytest.raises(ValueError, match=message):
        call(key)
