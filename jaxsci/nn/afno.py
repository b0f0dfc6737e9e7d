"""The adaptive Fourier neural operator layer: one small network for all wavenumbers.

    û = F v,    ẑ_k = W₂ a(W₁ û_k + b₁) + b₂,    out = F⁻¹ ẑ + v

Unlike a `SpectralConv`, whose linear map differs from wavenumber to wavenumber, all of them share
one nonlinear map, block-diagonal over the channels, as the places of a transformer share theirs.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import uniform
from .transforms import Fourier


class AFNO(eqx.Module):
    """A network of two complex layers, shared by all kept wavenumbers, between F and F⁻¹.

        ẑ_k = W₂ a(W₁ û_k + b₁) + b₂,    a(x + iy) = σ(x) + iσ(y),    out = F⁻¹ ẑ + v

    The channels are cut into blocks that do not mix. F is the orthonormal transform (divided by
    √N), so that û_k is of the size of v where v is rough; wavenumbers beyond `modes` become 0. σ of
    real and imaginary parts does not commute with shifts of v: the layer knows where it is.

    **Arguments:**

    - `c`: channels. `n_blocks`: blocks, which must divide them.
    - `modes`: kept wavenumbers on each axis, as in `Fourier`: one number for each, e.g. (16, 16). A
      grid that does not resolve them all has fewer.
    - `expansion`: channels between the two layers over those of a block.
    - `activation`: σ.

    **Raises:** `ValueError` for numbers that are not positive, blocks that do not divide the
    channels, or another number of channels or axes; `TypeError` for values that are not real
    floating-point numbers.

    References: Guibas et al., arXiv:2111.13587 (which shrinks small ẑ to 0); Hao et al.,
    arXiv:2403.03542 (this form). The published code of the latter keeps wavenumbers
    0 … modes - 1 of an FFT's first axis, without negative ones as soon as there are more patches
    than modes; `Fourier` keeps both signs.
    """

    first: Float[Array, "2 blocks b h"]
    first_bias: Float[Array, "2 blocks h"]
    second: Float[Array, "2 blocks h b"]
    second_bias: Float[Array, "2 blocks b"]
    transform: Fourier
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        modes: tuple[int, ...],
        *,
        n_blocks: int = 4,
        expansion: int = 1,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        for name, value in (("c", c), ("n_blocks", n_blocks), ("expansion", expansion)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"AFNO: {name} must be a positive integer, got {value!r}")
        if c % n_blocks:
            raise ValueError(f"AFNO: n_blocks={n_blocks} must divide the channels c={c}")
        b = c // n_blocks
        h = b * expansion
        scale = 1 / (b * h)
        keys = jr.split(key, 4)
        self.first = scale * uniform(keys[0], (2, n_blocks, b, h))
        self.first_bias = scale * uniform(keys[1], (2, n_blocks, h))
        self.second = scale * uniform(keys[2], (2, n_blocks, h, b))
        self.second_bias = scale * uniform(keys[3], (2, n_blocks, b))
        self.transform = Fourier(modes)
        self.activation = activation

    def __call__(self, v: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        c, *grid = v.shape
        n_blocks = self.first.shape[1]
        if c != n_blocks * self.first.shape[2]:
            raise ValueError(
                f"v: expected {n_blocks * self.first.shape[2]} channels, got shape {v.shape}"
            )
        root = math.sqrt(math.prod(grid))
        coef = self.transform.forward(v)
        kept = coef.shape[1:]
        parts = root * jnp.stack([coef.real, coef.imag])
        parts = parts.reshape(2, n_blocks, c // n_blocks, -1)
        hidden = self.activation(_complex_affine(self.first, self.first_bias, parts))
        out = _complex_affine(self.second, self.second_bias, hidden) / root
        out = out.reshape(2, c, *kept)
        return v + self.transform.inverse(jax.lax.complex(out[0], out[1]), tuple(grid))


def _complex_affine(
    weight: Float[Array, "2 blocks i o"],
    bias: Float[Array, "2 blocks o"],
    z: Float[Array, "2 blocks i k"],
) -> Float[Array, "2 blocks o k"]:
    """W z + b for all wavenumbers: complex numbers as pairs, so that it is one real product."""
    real, imag = weight.astype(z.dtype)
    rows = jnp.stack([jnp.stack([real, -imag]), jnp.stack([imag, real])])
    return jnp.einsum("pqbio,qbik->pbok", rows, z) + bias.astype(z.dtype)[..., None]
