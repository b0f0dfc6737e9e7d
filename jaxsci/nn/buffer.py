"""Arrays that belong to a model but are never trained: fixed frequencies, frozen statistics."""

from collections.abc import Hashable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Shaped


class Buffer(eqx.Module):
    """An array in a model that no gradient, optimiser, weight decay, average or cast touches.

    Equinox treats every floating-point leaf as a parameter. A `Buffer` keeps the *bit pattern* of
    its array as unsigned integers, and an integer leaf is no parameter: `equinox.filter_grad` gives
    `None` for it, `optax.adamw` does not shrink it, an exponential moving average of the weights
    leaves it alone. It is still a leaf, so it is saved, replicated and vmapped with the model.

    **Arguments:**

    - `value`: the array: floating point, complex, integer, boolean or typed random keys.

    `buffer.value` gives the array back, bit for bit.
    """

    bits: Shaped[Array, "..."]
    dtype: str | None = eqx.field(static=True)
    key_impl: Hashable = eqx.field(static=True)

    def __init__(self, value: ArrayLike):
        value = jnp.asarray(value)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            self.dtype, self.key_impl = None, jax.random.key_impl(value)
            self.bits = jax.random.key_data(value)
            return
        self.dtype, self.key_impl = value.dtype.name, None
        if jnp.iscomplexobj(value):
            value = jnp.stack([value.real, value.imag])
        if jnp.issubdtype(value.dtype, jnp.inexact):
            unsigned = jnp.dtype(f"uint{8 * value.dtype.itemsize}")
            value = jax.lax.bitcast_convert_type(value, unsigned)
        self.bits = value

    @property
    def value(self) -> Shaped[Array, "..."]:
        """The array."""
        if self.dtype is None:
            return jax.random.wrap_key_data(self.bits, impl=self.key_impl)  # pyright: ignore[reportArgumentType]
        dtype = jnp.dtype(self.dtype)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            part = jnp.dtype(f"float{4 * dtype.itemsize}")
            real, imag = jax.lax.bitcast_convert_type(self.bits, part)
            return jax.lax.complex(real, imag)
        if jnp.issubdtype(dtype, jnp.inexact):
            return jax.lax.bitcast_convert_type(self.bits, dtype)
        return self.bits
