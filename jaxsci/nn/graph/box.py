"""The box that points live in: which axes close on themselves, and the shortest way between points.

d = a − b,    dₖ ← dₖ − Lₖ round(dₖ / Lₖ) on periodic axes k
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Box(eqx.Module):
    """The box ∏ₖ [0, Lₖ), some of whose axes are periodic.

    A box is static and hashable. On an axis that is not periodic its length does not matter:
    points may lie outside.

    **Arguments:**

    - `lengths`: L, one number for each axis.
    - `periodic`: one value for all axes or one for each.

    **Raises:** `ValueError` for lengths that are not positive and finite, or another number of
    entries in `periodic`.
    """

    lengths: tuple[float, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, lengths: Sequence[float], periodic: bool | Sequence[bool] = True):
        self.lengths = tuple(float(length) for length in np.atleast_1d(np.asarray(lengths)))
        if not self.lengths or not all(0 < L < math.inf for L in self.lengths):
            raise ValueError(f"Box: lengths must be positive and finite, got {lengths!r}")
        d = len(self.lengths)
        wraps = (periodic,) * d if isinstance(periodic, bool) else tuple(periodic)
        if len(wraps) != d:
            raise ValueError(f"Box: periodic must have {d} entries, got {wraps!r}")
        self.periodic = tuple(bool(wrap) for wrap in wraps)

    def __hash__(self) -> int:
        return hash((self.lengths, self.periodic))

    @property
    def n_dims(self) -> int:
        """The number of axes d."""
        return len(self.lengths)

    @property
    def periods(self) -> Float[np.ndarray, " d"]:
        """Lₖ on periodic axes, ∞ on the others."""
        return np.where(self.periodic, self.lengths, np.inf)

    def displacement(
        self, a: Float[Array, "*n d"], b: Float[Array, "*n d"]
    ) -> Float[Array, "*n d"]:
        """The vector a − b along the shortest way (the minimum image): from b to a.

        **Raises:** `ValueError` if the points have another number of coordinates.
        """
        self._check("a", a)
        self._check("b", b)
        d = a - b
        lengths = jnp.asarray(self.lengths, d.dtype)
        return d - jnp.where(jnp.asarray(self.periodic), lengths * jnp.round(d / lengths), 0)

    def wrap(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """The point in [0, Lₖ) on every periodic axis k that `x` is an image of.

        **Raises:** `ValueError` if the points have another number of coordinates.
        """
        self._check("x", x)
        lengths = jnp.asarray(self.lengths, x.dtype)
        wrapped = jnp.mod(x, lengths)
        # A tiny negative number gives L itself in floating point.
        wrapped = jnp.where(wrapped >= lengths, 0, wrapped)
        return jnp.where(jnp.asarray(self.periodic), wrapped, x)

    def _check(self, name: str, x: Array) -> None:
        if x.ndim < 1 or x.shape[-1] != self.n_dims:
            raise ValueError(
                f"{name}: expected {self.n_dims} coordinates on the last axis, got shape {x.shape}"
            )


def displacement(
    a: Float[Array, "*n d"], b: Float[Array, "*n d"], box: Box | None = None
) -> Float[Array, "*n d"]:
    """The vector a − b, the shortest way if there is a `box`."""
    return a - b if box is None else box.displacement(a, b)
