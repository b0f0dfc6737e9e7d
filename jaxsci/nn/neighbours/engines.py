"""Three ways to find the sources near each destination; all give candidates that are then sorted.

cell    points are sorted into cells at least r wide; each point looks into 3ᵈ cells. O(N), in jit
brute   all pairs. O(N²), in jit
host    a k-d tree on the CPU, outside jit: for graphs that are fixed before a program starts
"""

import itertools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree

from ..graph import Box, displacement


class Candidates(NamedTuple):
    """For each destination some sources, sorted; the others hold `n_src`.

    - `index`: ascending in each row.
    - `overflow`: whether some were left out.
    """

    index: Int[Array, "n_dst k"]
    overflow: Bool[Array, ""]


def brute_candidates(
    src: Float[Array, "n_src d"],
    dst: Float[Array, "n_dst d"],
    r: float | Float[Array, ""],
    box: Box | None,
    allowed: Bool[Array, "n_dst n_src"],
) -> Candidates:
    """All sources within r, by all pairs."""
    n = src.shape[0]
    near = allowed & (_squared(dst[:, None], src[None], box) <= r**2)
    index = jnp.where(near, jnp.arange(n, dtype=jnp.int32), n)
    return Candidates(jnp.sort(index, axis=1), jnp.zeros((), bool))


def cell_candidates(
    src: Float[Array, "n_src d"],
    dst: Float[Array, "n_dst d"],
    r: float | Float[Array, ""],
    box: Box | None,
    src_mask: Bool[Array, " n_src"],
    exclude_self: bool,
    cell_capacity: int,
) -> Candidates:
    """All sources within r, by cells that hold at most `cell_capacity` sources each."""
    n, d = src.shape
    counts, lo, width = _cells(src, dst, r, box, src_mask)
    if box is not None:
        src_in, dst_in = box.wrap(src), box.wrap(dst)
    else:
        src_in, dst_in = src, dst

    def cell_of(x: Array) -> Array:
        return jnp.clip(jnp.floor((x - lo) / width).astype(jnp.int32), 0, jnp.asarray(counts) - 1)

    strides = np.cumprod([1, *counts[:0:-1]])[::-1].astype(np.int32)
    n_cells = math.prod(counts)
    cell_id = jnp.where(src_mask, jnp.sum(cell_of(src_in) * strides, axis=-1), n_cells)
    order = jnp.argsort(cell_id, stable=True).astype(jnp.int32)
    by_cell = cell_id[order]
    first = jnp.searchsorted(by_cell, jnp.arange(n_cells + 1))
    rank = jnp.arange(n) - first[by_cell]
    overflow = jnp.any((rank >= cell_capacity) & (by_cell < n_cells))
    members = jnp.full((n_cells, cell_capacity), n, jnp.int32)
    members = members.at[by_cell, rank].set(order, mode="drop")

    # An axis with one cell has no neighbouring cells; with two or with none to spare it has one.
    steps = [(-1, 0, 1) if count > 1 else (0,) for count in counts]
    stencil = np.asarray(list(itertools.product(*steps)), np.int32)
    around = cell_of(dst_in)[:, None] + stencil
    periodic = np.zeros(d, bool) if box is None else np.asarray(box.periodic)
    wrapped = jnp.where(periodic, around % np.asarray(counts), around)
    inside = jnp.all((wrapped >= 0) & (wrapped < np.asarray(counts)), axis=-1)
    cells = jnp.where(inside, jnp.sum(wrapped * strides, axis=-1), n_cells)
    index = jnp.take(members, cells, axis=0, mode="fill", fill_value=n)
    index = index.reshape(dst.shape[0], -1)
    near = _squared(dst[:, None], jnp.take(src, index, axis=0, mode="clip"), box) <= r**2
    near &= index < n
    if exclude_self:
        near &= index != jnp.arange(dst.shape[0])[:, None]
    return Candidates(jnp.sort(jnp.where(near, index, n), axis=1), overflow)


def cell_counts(n: int, d: int, r: float | Array, box: Box | None) -> tuple[int, ...]:
    """How many cells each axis has: about two points a cell, and none narrower than r.

    Fewer than three cells would make a periodic axis look twice into the same cell: then it has
    one. A traced r does not tell how many fit into a period, so a periodic axis then has one, too.
    """
    by_number = max(1, int((n / 2) ** (1 / d)))
    counts = []
    for axis in range(d):
        count = by_number
        if box is not None and box.periodic[axis]:
            known = isinstance(r, int | float | np.floating)
            fitting = int(box.lengths[axis] / (float(r) * _WIDER)) if known else 1
            count = min(by_number, fitting)
            count = count if count >= 3 else 1
        counts.append(count)
    return tuple(counts)


# Cells are wider than r by more than the rounding of a coordinate divided by a width.
_WIDER = 1 + 1e-4


def _cells(
    src: Array, dst: Array, r: float | Array, box: Box | None, src_mask: Array
) -> tuple[tuple[int, ...], Array, Array]:
    """Numbers of cells (static), the corner of the first and the widths."""
    n, d = src.shape
    counts = cell_counts(n, d, r, box)
    periodic = np.zeros(d, bool) if box is None else np.asarray(box.periodic)
    kept = src_mask[:, None]
    low = jnp.min(jnp.where(kept, src, jnp.inf), axis=0)
    high = jnp.max(jnp.where(kept, src, -jnp.inf), axis=0)
    extent = jnp.where(jnp.isfinite(high - low), high - low, 0)
    width = jnp.maximum(r * _WIDER, extent / np.asarray(counts))
    low = jnp.where(jnp.isfinite(low), low, 0)
    if box is not None:
        lengths = np.asarray(box.lengths)
        width = jnp.where(periodic, lengths / np.asarray(counts), width)
        low = jnp.where(periodic, 0, low)
    return counts, low.astype(src.dtype), width.astype(src.dtype)


def host_pairs(
    src: Float[np.ndarray, "n_src d"],
    dst: Float[np.ndarray, "n_dst d"],
    r: float,
    box: Box | None,
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
    """Senders and receivers of all pairs within r, sorted by receiver, then sender."""
    tree, targets = _tree(src, dst, box)
    found = tree.query_ball_point(targets, r, return_sorted=True)
    counts = np.fromiter((len(row) for row in found), int, len(found))
    senders = np.concatenate([np.asarray(row, int) for row in found]) if len(found) else []
    return np.asarray(senders, int), np.repeat(np.arange(len(found)), counts)


def host_nearest(
    src: Float[np.ndarray, "n_src d"], dst: Float[np.ndarray, "n_dst d"], k: int, box: Box | None
) -> Int[np.ndarray, "n_dst k"]:
    """The k nearest sources, the nearest first."""
    tree, targets = _tree(src, dst, box)
    found: Any = tree.query(targets, k)
    return np.asarray(found[1]).reshape(len(targets), k)


def _tree(src, dst, box: Box | None) -> tuple[KDTree, np.ndarray]:
    src, dst = np.asarray(src, float), np.asarray(dst, float)
    if box is None:
        return KDTree(src), dst
    lengths, periodic = np.asarray(box.lengths), np.asarray(box.periodic)

    def wrap(x):
        wrapped = np.mod(x, lengths)
        return np.where(periodic, np.where(wrapped >= lengths, 0, wrapped), x)

    # A period of 0 means none.
    return KDTree(wrap(src), boxsize=np.where(periodic, lengths, 0)), wrap(dst)


def _squared(a: Array, b: Array, box: Box | None) -> Array:
    return jnp.sum(displacement(a, b, box) ** 2, axis=-1)
