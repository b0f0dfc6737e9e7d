"""Convolutions on n-dimensional grids whose axes end differently, and changes of resolution.

An axis of a grid is periodic ("wrap": longitude), ends at a wall ("reflect", "edge") or ends in
nothing ("zero"), and two axes of one grid may differ: a latitude-longitude field needs
`padding=("reflect", "wrap")`. The layers here take such a mode for each axis; they act on one
example, channels first, "c *grid".
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

PaddingMode = Literal["zero", "wrap", "reflect", "edge"]
Padding = PaddingMode | Sequence[PaddingMode]

# For the two phases of `NearestConv`, which of the fine grid's taps meet which coarse point.
_NEAREST_TAPS = (((1, 0), (0, 1), (0, 1)), ((1, 0), (1, 0), (0, 1)))

_NUMPY_MODE = {"wrap": "wrap", "reflect": "reflect", "edge": "edge", "zero": "constant"}


def padding_modes(padding: Padding, dim: int) -> tuple[PaddingMode, ...]:
    """The padding mode of each of `dim` axes.

    **Arguments:**

    - `padding`: one mode for all axes, or one for each: "zero", "wrap" (periodic), "reflect" (a
      mirror at the last point, which is not repeated) or "edge" (the last value goes on).
    - `dim`: number of grid axes.

    **Raises:** `ValueError` for an unknown mode, a wrong number of modes or dim < 1.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")
    modes = (padding,) * dim if isinstance(padding, str) else tuple(padding)
    if len(modes) != dim:
        raise ValueError(f"padding needs one mode or {dim} (one a grid axis), got {padding!r}")
    for mode in modes:
        if mode not in _NUMPY_MODE:
            raise ValueError(f"padding must be one of {sorted(_NUMPY_MODE)}, got {mode!r}")
    return modes  # pyright: ignore[reportReturnType]


def pad_grid(
    u: Float[Array, "c *grid"],
    widths: Sequence[tuple[int, int]],
    padding: Padding,
) -> Float[Array, "c *padded"]:
    """Adds points before and after each grid axis by that axis's own rule.

    **Arguments:**

    - `u`: the field, channels first.
    - `widths`: (before, after) for each grid axis.
    - `padding`: see `padding_modes`.

    **Raises:** `ValueError` for a wrong number of widths, a negative width, or a reflection wider
    than the axis (an axis of n points has n - 1 points to reflect).
    """
    dim = u.ndim - 1
    modes = padding_modes(padding, dim)
    if len(widths) != dim:
        raise ValueError(f"widths needs {dim} pairs (one a grid axis), got {widths!r}")
    for mode, (before, after), n in zip(modes, widths, u.shape[1:], strict=True):
        if before < 0 or after < 0:
            raise ValueError(f"widths must not be negative, got {(before, after)}")
        if mode == "reflect" and max(before, after) >= n:
            raise ValueError(
                f"padding 'reflect' of {(before, after)} points needs an axis longer than that, "
                f"got the grid {u.shape[1:]}"
            )
    # One call for each mode, not one for each axis.
    for mode in dict.fromkeys(modes):
        here = [w if m == mode else (0, 0) for m, w in zip(modes, widths, strict=True)]
        if any(width != (0, 0) for width in here):
            u = jnp.pad(u, [(0, 0), *here], _NUMPY_MODE[mode])
    return u


class Conv(eqx.Module):
    """A convolution that keeps the grid (or divides it by `stride`), with a padding mode an axis.

        y_o(i) = b_o + Σ_c Σ_κ W_oc(κ) x_c(s i + d (κ - m)),   m = (k - 1) // 2

    with x continued beyond its ends by each axis's mode, so that with "wrap" a shift of the input
    by s points shifts the output by one. Built on `equinox.nn.Conv`, which pads all axes alike.

    **Arguments:**

    - `dim`: number of grid axes.
    - `c_in`, `c_out`: channels.
    - `kernel_size`: k, one for all axes or one each. Good values: 3; 1 to mix channels only.
    - `stride`: s. `dilation`: d. `groups`: as in `equinox.nn.Conv` (depthwise: `c_in`).
    - `padding`: see `padding_modes`.
    - `use_bias`: whether b is there.
    - `zero_init`: start at W = b = 0 (the last layer of a residual branch).

    **Raises:** `ValueError` for sizes that are not positive, channels that `groups` does not
    divide, an unknown padding mode, and an input of another rank or number of channels.
    """

    conv: eqx.nn.Conv
    padding: tuple[PaddingMode, ...] = eqx.field(static=True)
    widths: tuple[tuple[int, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = "zero",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        zero_init: bool = False,
        key: PRNGKeyArray,
    ):
        self.padding = padding_modes(padding, dim)
        kernel, stride, dilation = (
            _sizes(name, value, dim)
            for name, value in (
                ("kernel_size", kernel_size),
                ("stride", stride),
                ("dilation", dilation),
            )
        )
        _channels(c_in=c_in, c_out=c_out, groups=groups)
        if c_in % groups or c_out % groups:
            raise ValueError(f"groups={groups} must divide c_in={c_in} and c_out={c_out}")
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        self.widths = tuple((r // 2, r - r // 2) for r in reach)
        # The zero axes are padded inside the convolution, which costs nothing.
        inner = [
            w if mode == "zero" else (0, 0)
            for mode, w in zip(self.padding, self.widths, strict=True)
        ]
        conv = eqx.nn.Conv(
            dim, c_in, c_out, kernel, stride, inner, dilation, groups, use_bias, key=key
        )
        self.conv = jax.tree.map(jnp.zeros_like, conv) if zero_init else conv

    def __call__(
        self, u: Float[Array, "c_in *grid"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c_out *out"]:
        """The convolved field, ⌈n/s⌉ points on an axis of n. `key` is not used."""
        del key
        _check_field(u, len(self.padding), self.conv.in_channels)
        outer = [
            (0, 0) if mode == "zero" else w
            for mode, w in zip(self.padding, self.widths, strict=True)
        ]
        return self.conv(pad_grid(u, outer, self.padding))


class MaxPool(eqx.Module):
    """The maximum over blocks of 2 points on every axis: half the grid, the same channels."""

    dim: int = eqx.field(static=True)
    c: int = eqx.field(static=True)

    def __init__(
        self, dim: int, c: int, *, padding: Padding = "zero", key: PRNGKeyArray | None = None
    ):
        """**Arguments:** as for every change of resolution; `padding` and `key` are not used."""
        del key
        padding_modes(padding, dim)
        _channels(c=c)
        self.dim, self.c = dim, c

    def __call__(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *half"]:
        """The coarser field. **Raises:** `ValueError` if an axis is odd."""
        return jnp.max(_blocks(u, self.dim, self.c), axis=_block_axes(self.dim))


class MeanPool(eqx.Module):
    """The mean over blocks of 2 points on every axis: a cell-centred restriction."""

    dim: int = eqx.field(static=True)
    c: int = eqx.field(static=True)

    def __init__(
        self, dim: int, c: int, *, padding: Padding = "zero", key: PRNGKeyArray | None = None
    ):
        """**Arguments:** as for every change of resolution; `padding` and `key` are not used."""
        del key
        padding_modes(padding, dim)
        _channels(c=c)
        self.dim, self.c = dim, c

    def __call__(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *half"]:
        """The coarser field. **Raises:** `ValueError` if an axis is odd."""
        return jnp.mean(_blocks(u, self.dim, self.c), axis=_block_axes(self.dim))


class StridedConv(eqx.Module):
    """A 3-point convolution of stride 2: half the grid, the same channels.

    **Arguments:** `dim`, channels `c`, `padding` (see `padding_modes`), `key`.
    """

    conv: Conv

    def __init__(self, dim: int, c: int, *, padding: Padding = "zero", key: PRNGKeyArray):
        self.conv = Conv(dim, c, c, 3, stride=2, padding=padding, key=key)

    def __call__(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *half"]:
        """The coarser field. **Raises:** `ValueError` for another rank or number of channels."""
        return self.conv(u)


class NearestConv(eqx.Module):
    """Every point twice on every axis, then a 3-point convolution: no checkerboard.

    Two of the three points are always copies of one, so it is computed on the coarse grid: of two
    neighbours on the fine one, the first sees W₀ x(i - 1) + (W₁ + W₂) x(i), the second
    (W₀ + W₁) x(i) + W₂ x(i + 1), and so on every axis. That is (2/3)^dim of the products.

    **Arguments:** `dim`, `c_in`, `c_out`, `padding` (see `padding_modes`), `key`.
    """

    conv: Conv

    def __init__(
        self, dim: int, c_in: int, c_out: int, *, padding: Padding = "zero", key: PRNGKeyArray
    ):
        self.conv = Conv(dim, c_in, c_out, 3, padding=padding, key=key)

    def __call__(self, u: Float[Array, "c_in *grid"]) -> Float[Array, "c_out *double"]:
        """The finer field. **Raises:** `ValueError` for another rank or number of channels."""
        conv, grid = self.conv.conv, u.shape[1:]
        dim = len(grid)
        _check_field(u, len(self.conv.padding), conv.in_channels)
        taps = jnp.asarray(_NEAREST_TAPS, conv.weight.dtype)
        phase, fine, coarse = "pqr"[:dim], "xyz"[:dim], "abc"[:dim]
        axes = ",".join(map("".join, zip(phase, fine, coarse, strict=True)))
        kernel = jnp.einsum(f"oi{fine},{axes}->{phase}oi{coarse}", conv.weight, *[taps] * dim)
        # Beyond a mirror at the last fine point lies its copy.
        modes: list[PaddingMode] = [
            "edge" if mode == "reflect" else mode for mode in self.conv.padding
        ]
        out = jax.lax.conv_general_dilated(
            pad_grid(u, [(1, 1)] * dim, modes)[None],
            kernel.reshape(-1, *kernel.shape[dim + 1 :]),
            (1,) * dim,
            "VALID",
        )[0]
        out = out.reshape(*(2,) * dim, conv.out_channels, *out.shape[1:])
        # Phase 0 begins at the point that was added in front, phase 1 at the first.
        parts = [
            out[(*p, slice(None), *(slice(q, q + n) for q, n in zip(p, grid, strict=True)))]
            for p in itertools.product((0, 1), repeat=dim)
        ]
        out = jnp.stack(parts).reshape(*(2,) * dim, conv.out_channels, *grid)
        out = out.transpose(dim, *(a for axis in range(dim) for a in (dim + 1 + axis, axis)))
        out = out.reshape(conv.out_channels, *(2 * n for n in grid))
        return out if conv.bias is None else out + conv.bias


class TransposedConv(eqx.Module):
    """The transpose of a convolution of stride 2: twice the grid.

    **Arguments:**

    - `dim`, `c_in`, `c_out`, `padding` (see `padding_modes`), `key`.
    - `kernel_size`: even. 2 (the classic U-Net) makes each point a block of its own; 4 overlaps
      the blocks, with the input continued beyond its ends by each axis's mode.

    **Raises:** `ValueError` for an odd kernel, sizes that are not positive, and an input of
    another rank or number of channels.
    """

    conv: eqx.nn.ConvTranspose
    padding: tuple[PaddingMode, ...] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        kernel_size: int = 2,
        *,
        padding: Padding = "zero",
        key: PRNGKeyArray,
    ):
        self.padding = padding_modes(padding, dim)
        _channels(c_in=c_in, c_out=c_out, kernel_size=kernel_size)
        if kernel_size % 2:
            raise ValueError(f"kernel_size must be even for stride 2, got {kernel_size}")
        self.conv = eqx.nn.ConvTranspose(dim, c_in, c_out, kernel_size, stride=2, key=key)

    def __call__(self, u: Float[Array, "c_in *grid"]) -> Float[Array, "c_out *double"]:
        """The finer field."""
        dim = len(self.padding)
        _check_field(u, dim, self.conv.in_channels)
        # With k = 2 + 2m a point reaches m outputs beyond its own pair: the input is continued by
        # m points (2m outputs), and those and the m outputs of the overhang are cut off again.
        m = self.conv.kernel_size[0] // 2 - 1
        out = self.conv(pad_grid(u, [(m, m)] * dim, self.padding))
        return out[(slice(None), *(slice(3 * m, n - 3 * m) for n in out.shape[1:]))]


def _channels(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")


def _sizes(name: str, value: int | Sequence[int], dim: int) -> tuple[int, ...]:
    sizes = (value,) * dim if isinstance(value, int) else tuple(value)
    if len(sizes) != dim or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(f"{name} needs one positive integer or {dim}, got {value!r}")
    return sizes


def _check_field(u: Float[Array, "c *grid"], dim: int, c: int) -> None:
    if u.ndim != dim + 1 or u.shape[0] != c:
        grid = ", ".join(f"n{axis}" for axis in range(1, dim + 1))
        raise ValueError(f"u must have shape ({c}, {grid}) (vmap over a batch), got {u.shape}")


def _blocks(u: Float[Array, "c *grid"], dim: int, c: int) -> Float[Array, "c ..."]:
    _check_field(u, dim, c)
    if any(n % 2 for n in u.shape[1:]):
        raise ValueError(f"u must have even grid axes to be halved, got {u.shape[1:]}")
    # A reshape, not a window: the gradient is then a broadcast, which is fast on every backend.
    return u.reshape(c, *(size for n in u.shape[1:] for size in (n // 2, 2)))


def _block_axes(dim: int) -> tuple[int, ...]:
    return tuple(range(2, 2 * dim + 1, 2))
