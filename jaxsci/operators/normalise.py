"""Shifts and scales of inputs and outputs, kept inside the model that needs them.

u ↦ s_out · G((u - m_in) / s_in) + m_out
"""

from collections.abc import Callable
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxsci.nn import Buffer


class Normaliser(eqx.Module):
    """Mean and standard deviation per channel, from data; never trained.

    One number per channel, not per grid point, so that it serves every resolution.

    **Arguments:** `mean`, `std`: `"c"`. `Normaliser.fit(arrays)` computes them.

    **Raises:** `ValueError` if the shapes differ or a standard deviation is not positive.
    """

    mean: Buffer
    std: Buffer

    def __init__(self, mean: Float[ArrayLike, " c"], std: Float[ArrayLike, " c"]):
        mean, std = np.atleast_1d(np.asarray(mean)), np.atleast_1d(np.asarray(std))
        if mean.shape != std.shape or mean.ndim != 1:
            raise ValueError(
                f"mean and std: expected one number per channel, got {mean.shape}, {std.shape}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"std: expected finite positive numbers, got mean {mean}, std {std}")
        self.mean, self.std = Buffer(jnp.asarray(mean)), Buffer(jnp.asarray(std))

    @classmethod
    def fit(cls, values: Float[np.ndarray, "n c *grid"]) -> Self:
        """From examples. A constant channel gets the scale 1.

        **Raises:** `ValueError` for no examples or values that are not finite.
        """
        values = np.asarray(values)
        if values.ndim < 2 or values.size == 0:
            raise ValueError(f"values: expected examples (n, c, *grid), got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("values: expected finite numbers, found NaN or infinity")
        axes = (0, *range(2, values.ndim))
        std = values.std(axes, dtype=np.float64)
        std = np.where(std > 0, std, 1.0)
        return cls(
            values.mean(axes, dtype=np.float64).astype(values.dtype), std.astype(values.dtype)
        )

    def encode(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        """(u - mean) / std."""
        return (u - self._shape(self.mean, u)) / self._shape(self.std, u)

    def decode(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        """Std · u + mean."""
        return self._shape(self.std, u) * u + self._shape(self.mean, u)

    def _shape(self, value: Buffer, u: Array) -> Array:
        if u.shape[0] != value.bits.shape[0]:
            raise ValueError(f"u: expected {value.bits.shape[0]} channels, got shape {u.shape}")
        return value.value.astype(u.dtype).reshape(-1, *(1,) * (u.ndim - 1))


class Normalised(eqx.Module):
    """An operator in normalised variables, u ↦ s_out · G((u - m_in) / s_in) + m_out.

    **Arguments:** `operator`: G, called as every operator; `inputs`, `outputs`: `Normaliser`s.
    """

    operator: Callable[..., Array]
    inputs: Normaliser
    outputs: Normaliser

    def __call__(self, u: Float[Array, "c *grid"], **options) -> Float[Array, "c_out *grid"]:
        return self.outputs.decode(self.operator(self.inputs.encode(u), **options))
