"""Networks whose spectrum lies in a cone: progressive wavelets and polynomial activations.

    ψ(t) = (1 − i t)^−(m+1),   ψ̂(ω) = 2π ω^m e^(−ω)/m!  for ω > 0,  0 for ω ≤ 0.

A product of functions has the convolution of their spectra, so that sums and products of functions
with spectra in a convex cone have theirs in it too, and none at ω = 0: a deep network of such atoms
makes no low frequencies by beating, as one of real wavelets does (arXiv:2310.00545).
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .networks import check_positive, check_sizes


class ProgressiveField(eqx.Module):
    """A wavelet network of one-sided spectrum,

        h ← ψ(W x + b),   then  h ← z + z²/2  with  z = A h,   u(x) = Re v·h(x),

    with Cauchy's wavelet ψ of order m, W real with first components > 0, and A, v complex. The sum
    v·h has no spectrum outside the half-space ω₁ > 0, whatever the weights are, and ∫ u = 0: add a
    low-pass field (`SplitField`) for what has a mean. Every hidden layer doubles the highest
    frequencies.

    **Arguments:**

    - `c_in`, `c_out`: dimension of space, and of the values (`"scalar"` for a number).
    - `width`: atoms, and units of the hidden layers; 16 to 128. `depth`: layers with the first; 1
        to 3.
    - `order`: m, 4 to 16: an atom has about √m oscillations, and its spectrum is highest at m|w|.
    - `frequencies`: the range of m|w| at the start, drawn log-uniformly; up to the highest in the
        signal, in radians per unit of length. Centres are uniform in [−1, 1]^d.

    **Raises:** `ValueError` for sizes or an order below 1, or frequencies that are not 0 < low <=
    high.
    """

    raw: Float[Array, "width d"]
    bias: Float[Array, " width"]
    hidden: tuple[Float[Array, "2 width width"], ...]
    head: Float[Array, "2 c width"]
    order: int = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        width: int = 32,
        depth: int = 2,
        order: int = 8,
        frequencies: tuple[float, float] = (5.0, 80.0),
        key: PRNGKeyArray,
    ):
        check_sizes("ProgressiveField", c_in=c_in, width=width, depth=depth, order=order)
        check_positive("ProgressiveField", lowest=frequencies[0])
        if not frequencies[0] <= frequencies[1]:
            raise ValueError(f"ProgressiveField: frequencies = {frequencies}, expected low <= high")
        self.order, self.scalar = order, c_out == "scalar"
        channels = 1 if isinstance(c_out, str) else c_out
        size_key, direction_key, centre_key, head_key, *keys = jr.split(key, depth + 3)
        low, high = (math.log(f / order) for f in frequencies)
        size = jnp.exp(jr.uniform(size_key, (width, 1), minval=low, maxval=high))
        direction = jr.normal(direction_key, (width, c_in))
        direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
        weight = size * direction.at[:, 0].set(jnp.abs(direction[:, 0]))
        first = jnp.maximum(weight[:, 0], 1e-3)
        self.raw = weight.at[:, 0].set(first + jnp.log(-jnp.expm1(-first)))  # inverse of softplus
        centre = jr.uniform(centre_key, (width, c_in), minval=-1, maxval=1)
        self.bias = -jnp.sum(weight.at[:, 0].set(first) * centre, 1)
        spread = (2 * width) ** -0.5
        self.hidden = tuple(spread * jr.normal(k, (2, width, width)) for k in keys)
        self.head = spread * jr.normal(head_key, (2, channels, width))

    @property
    def weight(self) -> Float[Array, "width d"]:
        """W, whose rows lie in the half-space w₁ > 0."""
        return self.raw.at[:, 0].set(jax.nn.softplus(self.raw[:, 0]))

    def analytic(self, x: Float[Array, " d"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """The real and the imaginary part of v·h(x), all channels."""
        t = self.weight @ x + self.bias
        # (1 − it)^−(m+1) in polar form: no power of a complex number, whose jets fail.
        size = jnp.exp(-(self.order + 1) / 2 * jnp.log1p(t**2))
        phase = (self.order + 1) * jnp.arctan(t)
        re, im = size * jnp.cos(phase), size * jnp.sin(phase)
        for a in self.hidden:
            re, im = _times(a, re, im)
            re, im = re + (re**2 - im**2) / 2, im + re * im
        return _times(self.head, re, im)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        u = self.analytic(x)[0]
        return u[0] if self.scalar else u


def _times(matrix: Float[Array, "2 o i"], re: Array, im: Array) -> tuple[Array, Array]:
    a, b = matrix
    return a @ re - b @ im, a @ im + b @ re
