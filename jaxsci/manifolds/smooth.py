"""Norms and functions of a squared length, with derivatives that exist at zero.

exp, log and transport contain sin r/r, tanh r/r, asinh r/r and the like with r = |v|. As functions
of s = r² they are analytic at 0, but written with a square root they have no derivative there.
Below s = 0.01 a power series in s takes the place of the closed form: its eight terms leave an
error under 1e-16, so that first and second derivatives in float64 are right too.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALL = 1e-2
_TERMS = range(8)


def norm(v: Float[Array, "*shape"]) -> Float[Array, ""]:
    """|v| over all entries, whose derivative at v = 0 is set to 0."""
    return root(jnp.sum(v * v))


def root(s: Float[Array, ""]) -> Float[Array, ""]:
    """√s, and 0 with derivative 0 where s ≤ 0; NaN stays NaN."""
    flat = s <= 0
    return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, s)))


def _even(
    coefficients: Sequence[float], closed: Callable[[Array], Array]
) -> Callable[[Float[Array, ""]], Float[Array, ""]]:
    """The function s ↦ closed(√s), by Σ coefficients[k] sᵏ for small s."""
    highest_first = list(reversed(coefficients))

    def function(s: Float[Array, ""]) -> Float[Array, ""]:
        small = s < _SMALL
        # Either branch is evaluated where it is finite, or a NaN would enter the derivative.
        by_series = jnp.polyval(jnp.asarray(highest_first, s.dtype), jnp.where(small, s, 0))
        return jnp.where(small, by_series, closed(jnp.sqrt(jnp.where(small, 1, s))))

    return function


def _factorials(shift: int, sign: int) -> list[float]:
    return [sign**k / math.factorial(2 * k + shift) for k in _TERMS]


def _arcsine(sign: int) -> list[float]:
    return [sign**k * math.comb(2 * k, k) / 4**k / (2 * k + 1) for k in _TERMS]


# The Taylor coefficients of tanh r / r.
_TANH = [
    1.0,
    -1 / 3,
    2 / 15,
    -17 / 315,
    62 / 2835,
    -1382 / 155925,
    21844 / 6081075,
    -929569 / 638512875,
]

cos = _even(_factorials(0, -1), jnp.cos)
cosh = _even(_factorials(0, 1), jnp.cosh)
sinc = _even(_factorials(1, -1), lambda r: jnp.sin(r) / r)
sinhc = _even(_factorials(1, 1), lambda r: jnp.sinh(r) / r)
tanhc = _even(_TANH, lambda r: jnp.tanh(r) / r)
asinhc = _even(_arcsine(-1), lambda r: jnp.arcsinh(r) / r)
# arcsin alone has a branch that ends, at s = 1.
asinc = _even(_arcsine(1), lambda r: jnp.arcsin(jnp.minimum(r, 1)) / r)
