"""Normalisations: RMSNorm and its partial form, norms of channels-first fields, and modulated ones.

`GroupNorm` and `LayerNorm` are Equinox's own. Statistics are taken in float32 at least, and the
result has the input's dtype.
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import GroupNorm, LayerNorm
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxsci.nn.embeddings import FiLM

__all__ = [
    "AdaGroupNorm",
    "FieldMap",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "PerPoint",
    "RMSNorm",
    "channel_norm",
    "group_norm",
    "rms_normalise",
]


def rms_normalise(
    x: Float[Array, "..."],
    axis: int | tuple[int, ...] = -1,
    *,
    partial: float | None = None,
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> Float[Array, "..."]:
    """Divides by the root mean square over `axis`.

        y = x / (rms + ε),   rms = √( (1/k) Σ_{i<k} x_i² ),   k = ⌊p d⌋

    or y = x / √(rms² + ε) with `eps_inside`, the form most libraries have. At x = 0 the first form
    is 0 with derivative 1/ε.

    **Arguments:**

    - `x`: floating point; the mean is taken in float32 at least.
    - `axis`: the axis or axes of the features.
    - `partial`: p in (0, 1], the share of the (flattened) features the RMS is estimated from; the
      first ones. All of them by default. The paper's value is 0.0625.
    - `eps`: ε. Good values: 1e-8 outside the root, 1e-5 inside.

    **Raises:** `TypeError` if x is not floating point, `ValueError` for p outside (0, 1], p that
    leaves no feature, p over several axes, or a negative ε.

    Zhang & Sennrich 2019, arXiv 1910.07467.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be a floating-point array, got dtype {x.dtype}")
    if eps < 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    part = wide
    if partial is not None:
        if not isinstance(axis, int):
            raise ValueError(f"partial is defined for one feature axis, got axis={axis}")
        count = _partial_count(partial, x.shape[axis])
        part = jax.lax.slice_in_dim(wide, 0, count, axis=axis % x.ndim)
    mean_square = jnp.mean(part**2, axis, keepdims=True)
    if eps_inside:
        return (wide * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype)
    # √ has no derivative at 0: where the mean square vanishes the root is the constant 0.
    safe = jnp.where(mean_square > 0, mean_square, 1.0)
    rms = jnp.where(mean_square > 0, jnp.sqrt(safe), 0.0)
    return (wide / (rms + eps)).astype(x.dtype)


class RMSNorm(eqx.Module):
    """Root-mean-square layer normalisation of the trailing axes: y = g x / (rms(x) + ε) [+ b].

    Invariant under x -> c x (c > 0, up to ε) but not under x -> x + c. Leading axes are batch
    axes. For channels-first fields use `PerPoint(RMSNorm(c))`.

    **Arguments:**

    - `shape`: the normalised trailing shape, an integer or a tuple.
    - `eps`, `partial`, `eps_inside`: see `rms_normalise`; `partial` counts the flattened features.
    - `use_scale`, `use_bias`: whether g (ones) and b (zeros) are there.

    **Raises:** `ValueError` for sizes that are not positive, a `partial` that leaves no feature,
    or an input with another trailing shape; `TypeError` for an input that is not floating point.

    Zhang & Sennrich 2019, arXiv 1910.07467.
    """

    scale: Float[Array, "*shape"] | None
    bias: Float[Array, "*shape"] | None
    shape: tuple[int, ...] = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    partial: float | None = eqx.field(static=True)
    eps_inside: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        eps: float = 1e-8,
        partial: float | None = None,
        use_bias: bool = False,
        use_scale: bool = True,
        eps_inside: bool = False,
    ):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
            raise ValueError(f"shape must hold positive integers, got {shape}")
        if eps < 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        if partial is not None:
            _partial_count(partial, math.prod(shape))
        self.shape, self.eps, self.partial, self.eps_inside = shape, eps, partial, eps_inside
        self.scale = jnp.ones(shape) if use_scale else None
        self.bias = jnp.zeros(shape) if use_bias else None

    def __call__(
        self, x: Float[Array, "*batch_and_shape"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch_and_shape"]:
        """The normalised array, in the input's dtype. `key` is not used."""
        del key
        batch = x.shape[: x.ndim - len(self.shape)]
        if x.shape != batch + self.shape:
            raise ValueError(f"x must have the trailing shape {self.shape}, got shape {x.shape}")
        y = rms_normalise(
            x.reshape(*batch, -1), partial=self.partial, eps=self.eps, eps_inside=self.eps_inside
        ).reshape(x.shape)
        if self.scale is not None:
            y = y * self.scale.astype(y.dtype)
        if self.bias is not None:
            y = y + self.bias.astype(y.dtype)
        return y


class PerPoint(eqx.Module):
    """Applies a layer that takes a vector of channels at every point of a grid.

    `PerPoint(RMSNorm(c))` and `PerPoint(LayerNorm(c))` normalise over channels, point by point;
    `PerPoint(equinox.nn.Linear(c, c_out))` is a 1x1 convolution.

    **Arguments:** `layer`: a map from a vector (c,) to a vector.
    """

    layer: Callable[[Float[Array, " c"]], Float[Array, " c_out"]]

    def __call__(
        self, x: Float[Array, "c *grid"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c_out *grid"]:
        """The layer at every point. `key` is not used."""
        del key
        y = jax.vmap(self.layer, in_axes=1, out_axes=1)(x.reshape(x.shape[0], -1))
        return y.reshape(-1, *x.shape[1:])


class InstanceNorm(eqx.Module):
    """Normalises each channel over the grid, or over the points a mask keeps.

        y_c = g_c (x_c - μ_c) / √(σ_c² + ε) + b_c,   μ_c, σ_c² over the (masked) grid

    Masked points count for nothing and come out as 0.

    **Arguments:**

    - `c`: channels.
    - `eps`: ε.
    - `affine`: whether g (ones) and b (zeros) are there.

    **Raises:** `ValueError` for c < 1, another number of channels, or a mask of another shape.

    Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022.
    """

    weight: Float[Array, " c"] | None
    bias: Float[Array, " c"] | None
    c: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, c: int, *, eps: float = 1e-5, affine: bool = True):
        if not isinstance(c, int) or c < 1:
            raise ValueError(f"c must be a positive integer, got {c!r}")
        self.c, self.eps = c, eps
        self.weight = jnp.ones(c) if affine else None
        self.bias = jnp.zeros(c) if affine else None

    def __call__(
        self,
        x: Float[Array, "c *grid"],
        mask: Bool[Array, "*grid"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *grid"]:
        """The normalised field, in the input's dtype. `key` is not used."""
        del key
        if x.ndim < 2 or x.shape[0] != self.c:
            raise ValueError(f"x must have shape ({self.c}, *grid), got {x.shape}")
        if mask is not None and mask.shape != x.shape[1:]:
            raise ValueError(f"mask must have the grid's shape {x.shape[1:]}, got {mask.shape}")
        over = tuple(range(1, x.ndim))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if mask is not None:
            # A masked point may hold NaN (below topography), which 0 · NaN would let through.
            wide = jnp.where(mask, wide, 0.0)
        where = None if mask is None else mask[None]
        count = wide[0].size if mask is None else jnp.maximum(jnp.sum(mask), 1)
        mean = jnp.sum(wide, over, where=where, keepdims=True) / count
        deviation = wide - mean
        variance = jnp.sum(deviation**2, over, where=where, keepdims=True) / count
        y = deviation * jax.lax.rsqrt(variance + self.eps)
        per_channel = (self.c,) + (1,) * (x.ndim - 1)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.reshape(per_channel) + self.bias.reshape(per_channel)
        return (y if mask is None else jnp.where(mask, y, 0.0)).astype(x.dtype)


def group_norm(c: int, groups: int = 8, eps: float = 1e-5) -> GroupNorm:
    """A `GroupNorm` with as many groups as divide both `c` and `groups`.

    So a stack whose widths are not all multiples of 8 still gets the nearest thing to 8 groups.

    **Arguments:** `c`: channels. `groups`: wished number of groups; 8 for narrow nets, 32 for wide
    ones. `eps`: added to the variance.

    **Raises:** `ValueError` for numbers that are not positive.

    Wu & He 2018, arXiv 1803.08494.
    """
    for name, value in (("c", c), ("groups", groups)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return GroupNorm(math.gcd(c, groups), c, eps)


# A layer that maps a field to a field; it may hold parameters.
FieldMap = Callable[[Float[Array, "c *grid"]], Float[Array, "c_out *out"]]
Norm = Literal["group", "layer", "rms", "instance", "none"] | Callable[[int], FieldMap]


def channel_norm(norm: Norm, c: int) -> FieldMap:
    """The norm layer of a channels-first field that a network was asked for.

    **Arguments:**

    - `norm`: "group" (`group_norm`), "layer" or "rms" (over channels, at each point), "instance"
      (over the grid, for each channel), "none"; or a function of the number of channels, such as
      `functools.partial(group_norm, groups=32)`.
    - `c`: channels.

    **Raises:** `ValueError` for an unknown name.
    """
    if callable(norm):
        return norm(c)
    match norm:
        case "group":
            return group_norm(c)
        case "layer":
            return PerPoint(LayerNorm(c))
        case "rms":
            return PerPoint(RMSNorm(c))
        case "instance":
            return InstanceNorm(c)
        case "none":
            return eqx.nn.Identity()
    raise ValueError(
        f'norm must be "group", "layer", "rms", "instance", "none" or a function of the number of '
        f"channels, got {norm!r}"
    )


class AdaGroupNorm(eqx.Module):
    """Group normalisation whose scale and shift come from a condition vector.

        y = GN(x) (1 + γ(e)) + β(e),   (γ, β) = W e + b

    **Arguments:**

    - `c`: channels. `c_cond`: length of e.
    - `groups`: see `group_norm`.
    - `zero_init`: start without modulation (W = b = 0).

    **Raises:** `ValueError` for numbers that are not positive and when x or e has another size.

    Dhariwal & Nichol 2021, arXiv 2105.05233.
    """

    norm: GroupNorm
    film: FiLM

    def __init__(
        self, c: int, c_cond: int, groups: int = 8, *, zero_init: bool = True, key: PRNGKeyArray
    ):
        affine_free = group_norm(c, groups)
        self.norm = GroupNorm(affine_free.groups, c, channelwise_affine=False)
        self.film = FiLM(c_cond, c, zero_init=zero_init, key=key)

    def __call__(
        self,
        x: Float[Array, "c *grid"],
        cond: Float[Array, " c_cond"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *grid"]:
        """The normalised and modulated field. `key` is not used."""
        del key
        if x.ndim < 1 or x.shape[0] != self.film.c:
            raise ValueError(f"x must have {self.film.c} channels, got shape {x.shape}")
        return self.film(self.norm(x), cond)


def _partial_count(partial: float, d: int) -> int:
    if not 0 < partial <= 1:
        raise ValueError(f"partial must lie in (0, 1], got {partial}")
    count = int(partial * d)
    if count < 1:
        raise ValueError(f"partial={partial} of {d} features leaves none to estimate the RMS from")
    return count
