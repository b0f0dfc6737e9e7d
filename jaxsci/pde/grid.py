"""Uniform tensor-product grids: where a function on a box is sampled, and how it is integrated."""

import math
from collections.abc import Sequence
from typing import cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64


def _per_axis(name: str, value, n_dims: int, kind: type | tuple[type, ...], label: str) -> tuple:
    """One entry an axis: a scalar is repeated, a sequence must have `n_dims` entries of `kind`."""
    if isinstance(value, kind) or not isinstance(value, Sequence):
        value = (value,) * n_dims
    if len(value) != n_dims:
        raise ValueError(
            f"Grid: {name} has {len(value)} entries {tuple(value)!r}, expected one value or "
            f"{n_dims} (one for each axis of shape)"
        )
    for entry in value:
        is_bool = isinstance(entry, bool | np.bool_)
        if not isinstance(entry, kind) or (is_bool and kind is not bool):
            raise TypeError(f"Grid: {name} must be {label}, got {entry!r}")
    return tuple(value)


class Grid(eqx.Module):
    """Points on the box ∏ₐ [loₐ, hiₐ], equally spaced along each axis a.

    With N points on an axis of length L = hi − lo there are three layouts:

        periodic              xᵢ = lo + i L/N          hi is lo again and is not repeated
        endpoints included    xᵢ = lo + i L/(N−1)      both ends are points
        endpoints excluded    xᵢ = lo + (i+½) L/N      cell centres (midpoints)

    A grid holds no arrays: it is static, hashable, and can be a static field of another module or
    a static argument of `jax.jit`. Functions on it are plain arrays of shape "c *grid".

    ```python
    grid = Grid(0.0, 1.0, (64, 64), periodic=True)
    x, y = grid.coords()
    integral = jnp.sum(grid.weights() * jnp.sin(2 * jnp.pi * x) ** 2)  # 1/2
    ```
    """

    lo: tuple[float, ...] = eqx.field(static=True)
    hi: tuple[float, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)
    endpoint: tuple[bool, ...] = eqx.field(static=True)

    def __init__(
        self,
        lo: float | Sequence[float],
        hi: float | Sequence[float],
        shape: int | Sequence[int],
        periodic: bool | Sequence[bool] = False,
        endpoint: bool | Sequence[bool] | None = None,
    ):
        """**Arguments:**

        - `lo`, `hi`: ends of the box; one number for all axes, or one for each.
        - `shape`: number of points along each axis; an integer means one axis.
        - `periodic`: whether the axis closes on itself; one value or one for each axis.
        - `endpoint`: whether `hi` is a point of the axis. `None` means: on a periodic axis no, on
            any other axis yes.

        **Raises:**

        - `ValueError`: empty axes, lo ≥ hi, entries that do not match the number of axes, a
            periodic axis with `endpoint=True` (its last point would repeat the first), fewer than
            two points on an axis that includes its endpoints.
        - `TypeError`: entries of the wrong kind.
        """
        if isinstance(shape, int | np.integer):
            shape = (shape,)
        if not isinstance(shape, Sequence) or len(shape) == 0:
            raise ValueError(f"Grid: shape must have at least one axis, got {shape!r}")
        n_dims = len(shape)
        counts = _per_axis("shape", shape, n_dims, (int, np.integer), "integers")
        if min(counts) < 1:
            raise ValueError(f"Grid: shape must be positive, got {tuple(counts)}")
        real = (int, float, np.integer, np.floating)
        lows = _per_axis("lo", lo, n_dims, real, "real numbers")
        highs = _per_axis("hi", hi, n_dims, real, "real numbers")
        for low, high in zip(lows, highs, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"Grid: expected finite lo < hi on every axis, got {lows}, {highs}"
                )
        wraps = _per_axis("periodic", periodic, n_dims, bool, "True or False")
        if endpoint is None:
            ends = tuple(not wrap for wrap in wraps)
        else:
            ends = _per_axis("endpoint", endpoint, n_dims, bool, "True, False or None")
        for axis in range(n_dims):
            if wraps[axis] and ends[axis]:
                raise ValueError(
                    f"Grid: axis {axis} is periodic and has endpoint=True, so its last point "
                    "would repeat the first; a periodic axis never includes its endpoint"
                )
            if ends[axis] and counts[axis] < 2:
                raise ValueError(
                    f"Grid: axis {axis} includes its endpoints and needs at least 2 points, "
                    f"got {counts[axis]}"
                )
        self.lo = tuple(float(low) for low in lows)
        self.hi = tuple(float(high) for high in highs)
        self.shape = tuple(int(count) for count in counts)
        self.periodic = tuple(bool(wrap) for wrap in wraps)
        self.endpoint = tuple(bool(end) for end in ends)

    def __hash__(self) -> int:
        return hash((self.lo, self.hi, self.shape, self.periodic, self.endpoint))

    @property
    def n_dims(self) -> int:
        """The number of axes d."""
        return len(self.shape)

    @property
    def lengths(self) -> tuple[float, ...]:
        """The extent hi − lo along each axis."""
        return tuple(high - low for low, high in zip(self.lo, self.hi, strict=True))

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance between neighbouring points along each axis."""
        return tuple(
            length / (count - 1 if end else count)
            for length, count, end in zip(self.lengths, self.shape, self.endpoint, strict=True)
        )

    def axis(self, axis: int) -> Float64[np.ndarray, " n"]:
        """The points along one axis, in double precision on the host.

        **Raises:** `ValueError` for an axis that the grid lacks.
        """
        if not -self.n_dims <= axis < self.n_dims:
            raise ValueError(f"Grid.axis: axis {axis} of a grid with {self.n_dims} axes")
        # The last point is hi exactly, which lo + i * spacing misses by a rounding error.
        if self.endpoint[axis]:
            return np.linspace(self.lo[axis], self.hi[axis], self.shape[axis])
        offset = 0.0 if self.periodic[axis] else 0.5
        return self.lo[axis] + (np.arange(self.shape[axis]) + offset) * self.spacing[axis]

    def coords(self, dtype=None) -> Float[Array, "d *grid"]:
        """The coordinates of all points, axis index first.

        **Arguments:** `dtype`, by default JAX's default floating type.
        """
        points = np.meshgrid(*(self.axis(a) for a in range(self.n_dims)), indexing="ij")
        return jnp.asarray(np.stack(points), dtype=dtype)

    def weights(self, dtype=None) -> Float[Array, "*grid"]:
        """Quadrature weights w with Σᵢ wᵢ f(xᵢ) ≈ ∫ f dx.

        The trapezoidal rule on an axis with endpoints, the midpoint rule on one without, equal
        weights on a periodic one (spectrally accurate for smooth periodic f).
        """
        total = np.ones(())
        for count, step, end in zip(self.shape, self.spacing, self.endpoint, strict=True):
            along = np.full(count, step)
            if end:
                along[[0, -1]] *= 0.5
            total = np.multiply.outer(total, along)
        return jnp.asarray(total, dtype=dtype)

    def subsample(self, stride: int) -> "Grid":
        """The grid of every `stride`-th point along each axis: the grid of `u[..., ::stride]`.

        **Raises:** `ValueError` if the coarser points would not be a grid on the same box: the
        stride must divide N on a periodic axis and N−1 on one with endpoints, and midpoints have
        no such sub-grid.
        """
        if isinstance(stride, bool) or not isinstance(stride, int | np.integer) or stride < 1:
            raise ValueError(f"Grid.subsample: stride must be a positive integer, got {stride!r}")
        if stride == 1:
            return self
        shape = []
        for axis, (count, wraps, end) in enumerate(
            zip(self.shape, self.periodic, self.endpoint, strict=True)
        ):
            if not wraps and not end:
                raise ValueError(
                    f"Grid.subsample: axis {axis} holds midpoints; every {stride}-th of them is "
                    "no grid of midpoints"
                )
            intervals = count - 1 if end else count
            if intervals % stride:
                raise ValueError(
                    f"Grid.subsample: stride {stride} does not divide the {intervals} intervals "
                    f"of axis {axis}"
                )
            shape.append(intervals // stride + int(end))
        return Grid(self.lo, self.hi, tuple(shape), self.periodic, self.endpoint)

    def refine(self, factor: int) -> "Grid":
        """The grid with `factor` times as many intervals along each axis, on the same box.

        Where there are no midpoint axes, its points contain this grid's points:
        `grid.refine(k).subsample(k) == grid`.
        """
        if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or factor < 1:
            raise ValueError(f"Grid.refine: factor must be a positive integer, got {factor!r}")
        shape = tuple(
            cast(int, (count - int(end)) * int(factor) + int(end))
            for count, end in zip(self.shape, self.endpoint, strict=True)
        )
        return Grid(self.lo, self.hi, shape, self.periodic, self.endpoint)
