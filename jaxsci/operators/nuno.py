"""NUNO: a cloud of points as a few nearly uniform boxes, with a grid operator on all of them.

    partition    a K-D tree: split the box that is least uniform, where both parts are most uniform
    to_grids     the function on each box' own grid, by linear interpolation
    operator     all boxes at once, as channels of one grid
    to_points    back to the cloud, by multilinear interpolation in each point's box

Where points are dense, boxes are small and their grids fine: the resampling follows the cloud. The
cloud is the same for all functions, so that both interpolations are tables of indices and weights,
made once on the host. One triangulation of the whole cloud serves all boxes: nodes at a seam are
interpolated like others, where the paper triangulates each box alone and takes the nearest point.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from scipy.spatial import Delaunay, KDTree, QhullError

from jaxsci.nn import Buffer

from .stepping import check_count


def nonuniformity(
    points: Float[np.ndarray, "n d"],
    lo: Float[np.ndarray, " d"],
    hi: Float[np.ndarray, " d"],
    n_blocks: int = 8,
) -> float:
    """KL(p ‖ uniform) = Σ p_i log(m p_i) for the shares p_i of the points in the m cells of a box.

    0 if all cells hold the same number of points, log m if one holds them all.

    **Arguments:** `points`: rows. `lo`, `hi`: the box. `n_blocks`: about how many cells; they are
    as nearly cubes as whole numbers allow.

    **Raises:** `ValueError` for a box without volume, or points that are not rows of its dimension.
    """
    points, lo, hi = (np.asarray(a, np.float64) for a in (points, lo, hi))
    check_count("nonuniformity: n_blocks", n_blocks)
    if points.ndim != 2 or not lo.shape == hi.shape == points.shape[1:]:
        raise ValueError(
            f"nonuniformity: expected points (n, d) and a box of d sides, got {points.shape}, "
            f"{lo.shape} and {hi.shape}"
        )
    if not np.all(hi > lo):
        raise ValueError(f"nonuniformity: the box must have a volume, got {lo} to {hi}")
    cells = _cubes(hi - lo, n_blocks)
    edges = [np.linspace(a, b, m + 1) for a, b, m in zip(lo, hi, cells, strict=True)]
    share = np.histogramdd(points, edges)[0].ravel() / len(points)
    held = share[share > 0]
    return float(np.sum(held * np.log(held * share.size)))


def _cubes(sides: Float[np.ndarray, " d"], total: float, least: int = 1) -> tuple[int, ...]:
    """How often each side is divided for about `total` cells that are nearly cubes."""
    side = (math.prod(sides) / total) ** (1 / len(sides))
    return tuple(max(least, round(s / side)) for s in sides)


class Partition(eqx.Module):
    """Boxes of points, each with a grid, and the tables from points to grids and back.

    Made by `partition`. A box' grid holds both ends of its sides; its longest side lies along the
    last axis. All grids are stored in arrays of one `shape`, filled up with zeros.

    - `box`: the box of each point.
    - `lo`, `hi`, `shapes`: ends and grid of each box, in the order of the points' coordinates.
    - `order`: which coordinate lies along each axis of its array.
    - `shape`: of the arrays.
    """

    box: Int[Array, " n"]
    grid_index: Int[Array, "s*grid d+1"]
    grid_weight: Buffer
    point_index: Int[Array, "n corners"]
    point_weight: Buffer
    lo: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    hi: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    order: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def n_boxes(self) -> int:
        """The number of boxes s."""
        return len(self.shapes)

    @property
    def inside(self) -> Bool[np.ndarray, "s *grid"]:
        """Which entries of the arrays are points of a grid; the others are filling."""
        return np.stack(
            [
                _block(self.shape, [n[a] for a in o])
                for n, o in zip(self.shapes, self.order, strict=True)
            ]
        )

    def to_grids(self, u: Float[Array, "c n"]) -> Float[Array, "s c *grid"]:
        """The function on the grids: linear between the points, the nearest one's outside of them.

        **Raises:** `ValueError` for another number of points.
        """
        if u.ndim != 2 or u.shape[1] != self.box.size:
            raise ValueError(f"to_grids: expected shape (c, {self.box.size}), got {u.shape}")
        weight = self.grid_weight.value.astype(u.dtype)
        values = jnp.sum(u[:, self.grid_index] * weight, -1)
        return jnp.moveaxis(values.reshape(-1, self.n_boxes, *self.shape), 0, 1)

    def to_points(self, v: Float[Array, "s c *grid"]) -> Float[Array, "c n"]:
        """The function at the points: multilinear in each one's box.

        **Raises:** `ValueError` for other boxes or grids.
        """
        if v.ndim != 2 + len(self.shape) or (v.shape[0], *v.shape[2:]) != (
            self.n_boxes,
            *self.shape,
        ):
            raise ValueError(
                f"to_points: expected shape ({self.n_boxes}, c, *{self.shape}), got {v.shape}"
            )
        flat = jnp.moveaxis(v, 1, 0).reshape(v.shape[1], -1)
        return jnp.sum(flat[:, self.point_index] * self.point_weight.value.astype(v.dtype), -1)


def partition(
    points: Float[np.ndarray, "n d"],
    n_boxes: int,
    *,
    n_blocks: int = 8,
    min_points: int = 8,
    oversample: float = 1.0,
) -> Partition:
    """Splits a cloud of points into boxes that are nearly uniform, and makes a grid in each.

    The box with the largest n · KL (`nonuniformity`) is split, across its longest side, at the
    border of two of its cells where Σ (n_i/n) KL_i is least, until there are enough. The boxes are
    the bounding boxes of their points.

    **Arguments:**

    - `points`: in two or three dimensions.
    - `n_boxes`: how many. Fewer are made if no box can be split any more. Good values: 4 to 16.
    - `n_blocks`: about how many cells the non-uniformity is measured on.
    - `min_points`: the fewest points of a box; at least `n_blocks` are kept in any case.
    - `oversample`: grid points per point. Good values: 1 to 2.

    **Returns:** a `Partition`.

    **Raises:** `ValueError` for too few points, points that coincide or lie in a line or a plane,
    other dimensions, or numbers that are not positive.

    Reference: Liu et al., arXiv:2305.18694.
    """
    points = np.asarray(points, np.float64)
    for name, value in (("n_boxes", n_boxes), ("n_blocks", n_blocks), ("min_points", min_points)):
        check_count(f"partition: {name}", value)
    if not oversample > 0:
        raise ValueError(f"partition: oversample must be positive, got {oversample}")
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"partition: expected points (n, 2) or (n, 3), got shape {points.shape}")
    fewest = max(min_points, n_blocks)
    if len(points) < n_boxes * fewest:
        raise ValueError(
            f"partition: {n_boxes} boxes of {fewest} points need {n_boxes * fewest} points, got "
            f"{len(points)}"
        )
    if len(np.unique(points, axis=0)) < len(points):
        raise ValueError("partition: some points coincide; keep one of each")
    try:
        mesh = Delaunay(points)
    except QhullError as error:
        raise ValueError("partition: the points lie in a line or a plane") from error
    members = _split(points, n_boxes, n_blocks, fewest)
    box = np.zeros(len(points), int)
    for b, rows in enumerate(members):
        box[rows] = b
    lo = np.stack([points[rows].min(0) for rows in members])
    hi = np.stack([points[rows].max(0) for rows in members])
    shapes = [
        _cubes(h - a, oversample * len(rows), 2) for a, h, rows in zip(lo, hi, members, strict=True)
    ]
    order = [tuple(int(a) for a in np.argsort(n, kind="stable")) for n in shapes]
    aligned = [tuple(n[a] for a in o) for n, o in zip(shapes, order, strict=True)]
    shape = tuple(int(n) for n in np.max(aligned, 0))

    index = np.zeros((len(members), *shape, points.shape[1] + 1), int)
    weight = np.zeros(index.shape)
    for b, (a, h, n, o) in enumerate(zip(lo, hi, shapes, order, strict=True)):
        axes = [np.linspace(a[j], h[j], n[j]) for j in range(len(n))]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        block = (b, *(slice(n[j]) for j in o))
        found = _linear(mesh, points, nodes.transpose(*o, -1).reshape(-1, len(n)))
        for table, values in zip((index, weight), found, strict=True):
            table[block] = values.reshape(table[block].shape)
    corner_index, corner_weight = _multilinear(points, box, lo, hi, shapes, order, shape)
    n_grid = len(members) * math.prod(shape)
    return Partition(
        box=jnp.asarray(box),
        grid_index=jnp.asarray(index.reshape(n_grid, -1)),
        grid_weight=Buffer(weight.reshape(n_grid, -1)),
        point_index=jnp.asarray(corner_index),
        point_weight=Buffer(corner_weight),
        lo=_tuples(lo),
        hi=_tuples(hi),
        shapes=tuple(shapes),
        order=tuple(order),
        shape=shape,
    )


def _split(points: np.ndarray, n_boxes: int, n_blocks: int, fewest: int) -> list[np.ndarray]:
    """The rows of each box' points."""

    def measure(rows):
        at = points[rows]
        return nonuniformity(at, at.min(0), at.max(0), n_blocks)

    def best_cut(rows):
        at = points[rows]
        lo, hi = at.min(0), at.max(0)
        axis = int(np.argmax(hi - lo))
        cells = max(2, _cubes(hi - lo, n_blocks)[axis])
        best = None
        for border in np.linspace(lo[axis], hi[axis], cells + 1)[1:-1]:
            below = at[:, axis] <= border
            parts = rows[below], rows[~below]
            if any(len(p) < fewest or np.any(np.ptp(points[p], 0) == 0) for p in parts):
                continue
            cost = sum(len(p) * measure(p) for p in parts)
            if best is None or cost < best[0]:
                best = cost, parts
        return None if best is None else best[1]

    done: list[np.ndarray] = []
    open_boxes = [np.arange(len(points))]
    while open_boxes and len(done) + len(open_boxes) < n_boxes:
        worst = int(np.argmax([len(rows) * measure(rows) for rows in open_boxes]))
        rows = open_boxes.pop(worst)
        parts = best_cut(rows)
        if parts is None:
            done.append(rows)
        else:
            open_boxes.extend(parts)
    return done + open_boxes


def _linear(mesh: Delaunay, points: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and barycentric weights for linear interpolation at x; the nearest point outside."""
    d = x.shape[1]
    cell = mesh.find_simplex(x)
    index = mesh.simplices[cell].astype(int)
    transform = mesh.transform[cell]
    first = np.einsum("nij,nj->ni", transform[:, :d], x - transform[:, d])
    weight = np.concatenate([first, 1 - first.sum(1, keepdims=True)], 1)
    # Flat cells have no coordinates.
    lost = (cell < 0) | ~np.all(np.isfinite(weight), 1)
    index[lost] = np.asarray(KDTree(points).query(x[lost])[1])[:, None]
    weight[lost] = np.eye(d + 1)[0]
    return index, weight


def _multilinear(points, box, lo, hi, shapes, order, shape) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the raveled arrays of the grids, and weights of the cell's corners."""
    d = points.shape[1]
    sizes, order = np.asarray(shapes)[box], np.asarray(order)[box]
    place = (points - lo[box]) / (hi - lo)[box] * (sizes - 1)
    low = np.clip(np.floor(place).astype(int), 0, sizes - 2)
    part = place - low
    index, weight = [], []
    for corner in itertools.product((0, 1), repeat=d):
        at = np.take_along_axis(low + np.asarray(corner), order, 1)
        index.append(np.ravel_multi_index((box, *at.T), (int(box.max()) + 1, *shape)))
        weight.append(np.prod(np.where(corner, part, 1 - part), 1))
    return np.stack(index, 1), np.stack(weight, 1)


def _block(shape: tuple[int, ...], sizes: list[int]) -> np.ndarray:
    inside = np.zeros(shape, bool)
    inside[tuple(slice(n) for n in sizes)] = True
    return inside


def _tuples(rows: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in rows)


class NUNO(eqx.Module):
    """A grid operator made one on a fixed cloud of points.

        v = to_points( base( to_grids(u) ) ),    base: s c_in channels to s c_out channels

    ```python
    boxes = partition(points, 8)  # points: (n, 2)
    base = FNO(2, 8 * 1, 8 * 1, width=32, modes=8, key=jax.random.key(0))
    operator = NUNO(base, boxes)
    v = operator(u)  # (1, n) to (1, n)
    ```

    **Arguments:**

    - `base`: an operator on grids; all boxes' channels go in and come out, box by box. (`partition`
        may make fewer boxes than asked for: take `boxes.n_boxes`.)
    - `boxes`: a `Partition`.

    **Raises:** `TypeError` for a base that cannot be called or boxes that are no `Partition`;
    `ValueError` for another number of points, or channels that are no multiple of the boxes.

    Reference: Liu et al., arXiv:2305.18694.
    """

    base: Callable[..., Array]
    boxes: Partition

    def __check_init__(self):
        if not callable(self.base):
            raise TypeError(f"NUNO: base must be callable, got {self.base!r}")
        if not isinstance(self.boxes, Partition):
            raise TypeError(f"NUNO: boxes must be a Partition, got {self.boxes!r}")

    def __call__(
        self,
        u: Float[Array, "c_in n"],
        *,
        cond: Any = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out n"]:
        """Applies the operator; `cond` is handed to `base`, `key` is not used.

        **Raises:** `ValueError` if `out` is given: the answer is on the points of the cloud.
        """
        del key
        if out is not None:
            raise ValueError("out: NUNO answers at the points of its cloud")
        s, shape = self.boxes.n_boxes, self.boxes.shape
        grids = self.boxes.to_grids(u).reshape(-1, *shape)
        v = self.base(grids) if cond is None else self.base(grids, cond=cond)
        if v.shape[1:] != shape or v.shape[0] % s:
            raise ValueError(
                f"NUNO: base must return a multiple of {s} channels on {shape}, got {v.shape}"
            )
        return self.boxes.to_points(v.reshape(s, -1, *shape))
