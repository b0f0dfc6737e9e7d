"""Matrix products in 8-bit floating point, E4M3 for values and E5M2 for gradients, by plain casts.

    y = Q₄(x) Q₄(W)ᵀ,    ∂L/∂x = Q₅(∂L/∂y) Q₄(W),    ∂L/∂W = Q₅(∂L/∂y)ᵀ Q₄(x)

Q₄ rounds to 4 exponent and 3 mantissa bits (|x| ≤ 448, smallest normal number 2⁻⁶), Q₅ to 5 and 2
(|x| ≤ 57344, 2⁻¹⁴); both saturate. No scale is computed from the data: unit scaling has put the
tensors in the middle of the range. (Micikevicius et al. 2022, arXiv:2209.05433.)
"""

import functools
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

Precision = Literal["float8", "float8-simulated"] | None


def quantise(x: Float[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """The nearest number of a narrow format, in the dtype of `x`; too large ones saturate.

    **Arguments:** `x`: floating point. `dtype`: `jnp.float8_e4m3fn`, `jnp.float8_e5m2`, or another
    floating-point type. The derivative is that of the cast: the identity, rounded alike.

    **Raises:** `TypeError` for other types.
    """
    return _narrow(x, dtype).astype(jnp.asarray(x).dtype)


def _narrow(x, dtype):
    x = jnp.asarray(x)
    for name, kind in (("x", x.dtype), ("dtype", jnp.dtype(dtype))):
        if not jnp.issubdtype(kind, jnp.floating):
            raise TypeError(f"{name}: expected a floating-point type, got {kind}")
    largest = float(jnp.finfo(dtype).max)
    return jnp.clip(x, -largest, largest).astype(dtype)


@functools.cache
def float8_supported() -> bool:
    """Whether the default device multiplies 8-bit floats itself (NVIDIA from 8.9 on)."""
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    return device.platform in ("gpu", "cuda") and float(capability or 0) >= 8.9


def float8_matmul(
    x: Float[Array, "*batch i"], weight: Float[Array, "o i"], precision: Precision = "float8"
) -> Float[Array, "*batch o"]:
    """The product x Wᵀ with both operands, and the gradient of the result, in 8 bits; sums in 32.

    **Arguments:**

    - `x`, `weight`: of one floating-point dtype, which the result and the gradients have too.
    - `precision`: "float8" multiplies 8-bit numbers where the device can, and else warns and
      simulates; "float8-simulated" rounds to 8 bits and multiplies in the dtype of `x`.

    **Raises:** `ValueError` for another precision, `TypeError` for arrays not floating point.
    """
    if precision not in ("float8", "float8-simulated"):
        raise ValueError(f'precision = {precision!r}: expected "float8" or "float8-simulated"')
    native = precision == "float8"
    if native and not float8_supported():
        warnings.warn(
            f"{jax.devices()[0]} has no 8-bit products: rounding to 8 bits and multiplying in "
            f'{jnp.asarray(x).dtype}, as precision="float8-simulated" does',
            stacklevel=2,
        )
        native = False
    return _product(native, jnp.asarray(x), jnp.asarray(weight))


def _dot(native, a, b, contract, dtype):
    """Σ over the axes `contract` of two 8-bit arrays, in `dtype`."""
    if not native:
        a, b = a.astype(dtype), b.astype(dtype)
    out = jax.lax.dot_general(
        a, b, (contract, ((), ())), preferred_element_type=jnp.float32 if native else None
    )
    return out.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(native, x, weight):
    return _forward(native, x, weight)[0]


def _forward(native, x, weight):
    x8, w8 = (_narrow(a, jnp.float8_e4m3fn) for a in (x, weight))
    # What is kept for the backward pass is 8 bits wide: a quarter of float32's memory. The empty
    # arrays carry the dtypes of the gradients.
    kept = x8, w8, jnp.zeros(0, x.dtype), jnp.zeros(0, weight.dtype)
    return _dot(native, x8, w8, ((x.ndim - 1,), (1,)), x.dtype), kept


def _backward(native, kept, gradient):
    x8, w8, like_x, like_w = kept
    g8 = _narrow(gradient, jnp.float8_e5m2)
    batch = tuple(range(x8.ndim - 1))
    of_x = _dot(native, g8, w8, ((g8.ndim - 1,), (0,)), like_x.dtype)
    of_w = _dot(native, g8, x8, (batch, batch), like_w.dtype)
    return of_x, of_w


_product.defvjp(_forward, _backward)
