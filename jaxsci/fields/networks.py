"""Coordinate networks: functions of a point in space with weights.

    SIREN       h ← sin(ω₀ (W h + b))
    WIRE        h ← exp(i ω₀ z − |σ₀ z|²),  z = W h + b, complex after the first layer
    Gaussian    h ← exp(−(σ₀ (W h + b))²)

All act on one point; batches by `jax.vmap`.
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import FourierFeatures


class _Affine(eqx.Module):
    """W h + b with real weights."""

    weight: Float[Array, "o i"]
    bias: Float[Array, " o"]

    def __call__(self, h: Float[Array, " i"]) -> Float[Array, " o"]:
        return self.weight @ h + self.bias


def _affine(key: PRNGKeyArray, c_in: int, c_out: int, limit: float) -> _Affine:
    weight_key, bias_key = jr.split(key)
    weight = jr.uniform(weight_key, (c_out, c_in), minval=-limit, maxval=limit)
    side = c_in**-0.5
    return _Affine(weight, jr.uniform(bias_key, (c_out,), minval=-side, maxval=side))


class Siren(eqx.Module):
    """A network of sines, h ← sin(ω₀ (W h + b)), with a linear head (arXiv:2006.09661).

    First-layer weights are from U(±1/c_in), all others from U(±√(6/width)/ω₀), so that
    pre-activations are standard normal in every layer, whatever the depth.

    **Arguments:**

    - `c_in`, `c_out`: dimension of space, and of the values (`"scalar"` for a number).
    - `width`: of the hidden layers; 64 to 256. `depth`: hidden layers; 2 to 5.
    - `omega0`: ω₀, 30 for coordinates in [−1, 1]. `omega_first`: that of the first layer.

    **Raises:** `ValueError` for sizes below 1 or frequencies that are not positive.
    """

    layers: tuple[_Affine, ...]
    omega_first: float = eqx.field(static=True)
    omega0: float = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        width: int = 64,
        depth: int = 3,
        omega0: float = 30.0,
        omega_first: float | None = None,
        key: PRNGKeyArray,
    ):
        check_sizes("Siren", c_in=c_in, width=width, depth=depth)
        check_positive("Siren", omega0=omega0)
        self.omega0 = omega0
        self.omega_first = omega0 if omega_first is None else omega_first
        self.scalar = c_out == "scalar"
        last = 1 if isinstance(c_out, str) else c_out
        sizes = [c_in, *[width] * depth, last]
        limits = [1 / c_in, *[math.sqrt(6 / width) / omega0] * depth]
        keys = jr.split(key, depth + 1)
        self.layers = tuple(
            _affine(k, a, b, limit)
            for k, a, b, limit in zip(keys, sizes[:-1], sizes[1:], limits, strict=True)
        )

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        h = jnp.sin(self.omega_first * self.layers[0](x))
        for layer in self.layers[1:-1]:
            h = jnp.sin(self.omega0 * layer(h))
        return _head(self.layers[-1](h), self.scalar)


class _ComplexAffine(eqx.Module):
    """W h + b with complex weights, kept as two real arrays: every optimiser is then right."""

    real: _Affine
    imaginary: _Affine

    def __call__(self, re: Array, im: Array) -> tuple[Array, Array]:
        a, b = self.real.weight, self.imaginary.weight
        # Three products instead of four.
        p, q = a @ re, b @ im
        mixed = (a + b) @ (re + im) - p - q
        return p - q + self.real.bias, mixed + self.imaginary.bias


class Wire(eqx.Module):
    """A network of complex Gabor wavelets (arXiv:2301.05187),

        h ← exp(i ω₀ z − |σ₀ z|²),   z = W h + b;   the output is the real part of a linear head.

    With `complex=False`, real ones: cos(ω₀ z) exp(−(σ₀ z)²). |z|² is written as re² + im², so that
    Taylor jets and gradients pass everywhere.

    **Arguments:**

    - `c_in`, `c_out`, `width`, `depth`: as for `Siren`. A complex weight counts twice: 1/√2 of the
        width of a real network has as many numbers.
    - `omega0`, `sigma0`: 20 and 30 (the authors' for images, on [−1, 1]); 4 and 4 for denoising.

    **Raises:** `ValueError` for sizes below 1 or constants that are not positive.
    """

    first: _Affine
    hidden: tuple[_ComplexAffine | _Affine, ...]
    head: _ComplexAffine | _Affine
    omega0: float = eqx.field(static=True)
    sigma0: float = eqx.field(static=True)
    complex: bool = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        width: int = 64,
        depth: int = 2,
        omega0: float = 20.0,
        sigma0: float = 30.0,
        complex: bool = True,
        key: PRNGKeyArray,
    ):
        check_sizes("Wire", c_in=c_in, width=width, depth=depth)
        check_positive("Wire", omega0=omega0, sigma0=sigma0)
        self.omega0, self.sigma0, self.complex = omega0, sigma0, complex
        self.scalar = c_out == "scalar"
        last = 1 if isinstance(c_out, str) else c_out
        keys = jr.split(key, depth + 1)
        self.first = _affine(keys[0], c_in, width, c_in**-0.5)

        def make(key: PRNGKeyArray, c_out: int) -> _ComplexAffine | _Affine:
            limit = width**-0.5
            if not complex:
                return _affine(key, width, c_out, limit)
            a, b = jr.split(key)
            return _ComplexAffine(
                _affine(a, width, c_out, limit / 2**0.5), _affine(b, width, c_out, limit / 2**0.5)
            )

        self.hidden = tuple(make(k, width) for k in keys[1:-1])
        self.head = make(keys[-1], last)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        re, im = self._wavelet(self.first(x), None)
        for layer in self.hidden:
            re, im = self._wavelet(*self._apply(layer, re, im))
        return _head(self._apply(self.head, re, im)[0], self.scalar)

    def _apply(self, layer: Callable, re: Array, im: Array | None) -> tuple[Array, Array | None]:
        if im is None:
            return layer(re), None
        return layer(re, im)

    def _wavelet(self, re: Array, im: Array | None) -> tuple[Array, Array | None]:
        squared = re**2 if im is None else re**2 + im**2
        exponent = -(self.sigma0**2) * squared
        if im is not None:
            exponent = exponent - self.omega0 * im  # i ω₀ z = i ω₀ re − ω₀ im
        size = jnp.exp(exponent)
        cosine = size * jnp.cos(self.omega0 * re)
        return cosine, size * jnp.sin(self.omega0 * re) if self.complex else None


class GaussNet(eqx.Module):
    """A network of Gaussians, h ← exp(−(σ₀ (W h + b))²), which has no preferred frequency.

    **Arguments:** as `Siren`; `sigma0`: 10 to 30 for images.

    **Raises:** `ValueError` for sizes below 1 or a `sigma0` that is not positive.
    """

    layers: tuple[_Affine, ...]
    sigma0: float = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        width: int = 64,
        depth: int = 3,
        sigma0: float = 30.0,
        key: PRNGKeyArray,
    ):
        check_sizes("GaussNet", c_in=c_in, width=width, depth=depth)
        check_positive("GaussNet", sigma0=sigma0)
        self.sigma0, self.scalar = sigma0, c_out == "scalar"
        last = 1 if isinstance(c_out, str) else c_out
        sizes = [c_in, *[width] * depth, last]
        keys = jr.split(key, depth + 1)
        self.layers = tuple(
            _affine(k, a, b, a**-0.5) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        h = x
        for layer in self.layers[:-1]:
            h = jnp.exp(-((self.sigma0 * layer(h)) ** 2))
        return _head(self.layers[-1](h), self.scalar)


class FourierField(eqx.Module):
    """Random Fourier features before a ReLU perceptron (arXiv:2006.10739),

        γ(x) = [cos 2πBx, sin 2πBx],   B ~ N(0, scale²), fixed.

    **Arguments:**

    - `features`: rows of B. `scale`: 10 for images on [0, 1], 5 on [−1, 1].
    - others as for `Siren`.

    **Raises:** `ValueError` for sizes below 1 or a scale that is not positive.
    """

    features: FourierFeatures
    mlp: eqx.nn.MLP

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        features: int = 64,
        scale: float = 5.0,
        width: int = 64,
        depth: int = 2,
        key: PRNGKeyArray,
    ):
        check_sizes("FourierField", c_in=c_in, width=width, depth=depth, features=features)
        check_positive("FourierField", scale=scale)
        wave_key, mlp_key = jr.split(key)
        self.features = FourierFeatures(c_in, features, scale=scale, key=wave_key)
        self.mlp = eqx.nn.MLP(2 * features, c_out, width, depth, jax.nn.relu, key=mlp_key)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        return self.mlp(self.features(x))


def _head(out: Array, scalar: bool) -> Array:
    return out[0] if scalar else out


def check_sizes(owner: str, **sizes: int) -> None:
    """Raises `ValueError` for a size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{owner}: {name} = {value}, expected at least 1")


def check_positive(owner: str, **values: float) -> None:
    """Raises `ValueError` for a number that is not positive."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{owner}: {name} = {value}, expected a positive number")
