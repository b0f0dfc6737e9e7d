"""Graphs from positions: all neighbours within a radius, or the k nearest."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ..graph import AbstractLayout, Box, Coo, Table
from .engines import (
    Candidates,
    _squared,
    brute_candidates,
    cell_candidates,
    host_nearest,
    host_pairs,
)

Engine = Literal["auto", "cell", "brute", "host"]
Storage = Literal["table", "coo"]

_BRUTE_BELOW = 2000


def radius(
    src: Float[ArrayLike, "n_src d"],
    dst: Float[ArrayLike, "n_dst d"] | None = None,
    *,
    r: float | Float[Array, ""],
    capacity: int | None = None,
    box: Box | None = None,
    engine: Engine = "auto",
    storage: Storage = "table",
    loops: bool = False,
    src_mask: Bool[ArrayLike, " n_src"] | None = None,
    dst_mask: Bool[ArrayLike, " n_dst"] | None = None,
    cell_capacity: int | None = None,
) -> tuple[AbstractLayout, Bool[Array, ""]]:
    """An edge from every source to every destination at most r away.

    The edges of a destination come in ascending order of their sources. Positions enter without a
    gradient; it flows through displacements that are computed from them afterwards
    (`Graph.edge_vectors`).

    **Arguments:**

    - `src`, `dst`: positions; `dst=None` are the sources themselves.
    - `r`: the radius. On a periodic axis at most half of its length, or a pair would have two
        images in reach. It may be traced; the cell engine then has one cell along periodic axes.
    - `capacity`: slots for each destination (`storage="table"`), or entries in all (`"coo"`). If
        there are more neighbours, some are left out, and `overflow` says so: see `with_capacity`.
        `None` is as many as there are, with `engine="host"` only.
    - `box`: periodic axes.
    - `engine`: `"cell"` (O(N), in jit), `"brute"` (all pairs, in jit; faster for small N), `"host"`
        (a k-d tree of scipy, outside jit; much the fastest on a CPU, so the one for graphs that
        are fixed before training). `"auto"` is brute up to 2000 points, then cell.
    - `storage`: `"table"` for accelerators, `"coo"` for CPUs and very different degrees.
    - `loops`: with `dst=None`, whether each point is a neighbour of itself.
    - `src_mask`, `dst_mask`: points that are not masked get no edges. With `dst=None` one mask
        serves for both.
    - `cell_capacity`: most sources in one cell of the cell engine; by default `capacity` (a table)
        or 32, at least 8.

    **Returns:** the layout, and whether some neighbours did not fit.

    **Raises:** `ValueError` for positions of other shapes, a radius that is not positive or too
    long for the box, a capacity that is missing or not positive, and unknown options;
    `TypeError` for positions that are not real numbers, or traced ones with `engine="host"`.
    """
    same = dst is None
    points = _points("radius", src, dst, src_mask, dst_mask, box)
    return _radius(*points, same and not loops, r, capacity, box, engine, storage, cell_capacity)


def _radius(
    src: Any,
    dst: Any,
    src_mask: Any,
    dst_mask: Any,
    drop_self: bool,
    r: Any,
    capacity: int | None,
    box: Box | None,
    engine: Engine,
    storage: Storage,
    cell_capacity: int | None,
) -> tuple[AbstractLayout, Bool[Array, ""]]:
    n_src, n_dst = src.shape[0], dst.shape[0]
    if engine not in ("auto", "cell", "brute", "host"):
        raise ValueError(
            f"radius: engine must be 'auto', 'cell', 'brute' or 'host', got {engine!r}"
        )
    if storage not in ("table", "coo"):
        raise ValueError(f"radius: storage must be 'table' or 'coo', got {storage!r}")
    _check_radius(r, box)
    for name, value in (("capacity", capacity), ("cell_capacity", cell_capacity)):
        if value is not None and value < 1:
            raise ValueError(f"radius: {name} must be positive, got {value}")
    if engine == "host":
        return _host_radius(src, dst, r, capacity, box, storage, drop_self, src_mask, dst_mask)
    if capacity is None:
        raise ValueError(f"radius: engine={engine!r} needs a capacity; only 'host' finds it")

    src, dst = jax.lax.stop_gradient((jnp.asarray(src), jnp.asarray(dst)))
    if isinstance(r, jax.Array):
        r = jax.lax.stop_gradient(r)
    if engine == "auto":
        engine = "brute" if max(n_src, n_dst) <= _BRUTE_BELOW else "cell"
    kept = jnp.ones(n_src, bool) if src_mask is None else src_mask
    if engine == "brute":
        allowed = jnp.broadcast_to(kept, (n_dst, n_src))
        if drop_self:
            allowed &= ~jnp.eye(n_dst, dtype=bool)
        candidates = brute_candidates(src, dst, r, box, allowed)
    else:
        in_cell = cell_capacity or max(8, capacity if storage == "table" else 32)
        candidates = cell_candidates(src, dst, r, box, kept, drop_self, in_cell)
    index, overflow = candidates
    if dst_mask is not None:
        index = jnp.where(dst_mask[:, None], index, n_src)
    return _store(Candidates(index, overflow), n_src, capacity, storage)


def knn(
    src: Float[ArrayLike, "n_src d"],
    dst: Float[ArrayLike, "n_dst d"] | None = None,
    *,
    k: int,
    box: Box | None = None,
    engine: Literal["auto", "brute", "host"] = "auto",
    loops: bool = False,
    src_mask: Bool[ArrayLike, " n_src"] | None = None,
    dst_mask: Bool[ArrayLike, " n_dst"] | None = None,
) -> Table:
    """An edge to every destination from each of its k nearest sources, the nearest first.

    **Arguments:** as `radius`; `engine`: `"brute"` (in jit, O(N²)) or `"host"` (a k-d tree,
    outside jit); `"auto"` is brute. With fewer than k sources that are not masked, the last slots
    stay empty.

    **Raises:** `ValueError` for k < 1 or more than there are sources, and as `radius`;
    `TypeError` as `radius`.
    """
    same = dst is None
    points = _points("knn", src, dst, src_mask, dst_mask, box)
    return _knn(*points, same and not loops, k, box, engine)


def _knn(
    src: Any,
    dst: Any,
    src_mask: Any,
    dst_mask: Any,
    drop_self: bool,
    k: int,
    box: Box | None,
    engine: str,
) -> Table:
    n_src, n_dst = src.shape[0], dst.shape[0]
    others = n_src - 1 if drop_self else n_src
    if not 1 <= k <= others:
        raise ValueError(f"knn: k must lie in 1..{others} (the sources of each point), got {k}")
    if engine not in ("auto", "brute", "host"):
        raise ValueError(f"knn: engine must be 'auto', 'brute' or 'host', got {engine!r}")
    if engine == "host":
        places = _on_host("knn", src, dst, src_mask, dst_mask)
        src_h, dst_h, src_kept, dst_kept = places
        wanted = min(k + drop_self, len(src_kept))
        rows = np.full((n_dst, k), n_src)
        found = src_kept[host_nearest(src_h[src_kept], dst_h[dst_kept], wanted, box)]
        for i, row in zip(dst_kept, found, strict=True):
            row = row[row != i][:k] if drop_self else row
            rows[i, : len(row)] = row
        return Table(jnp.asarray(rows, jnp.int32), n_src, n_dst)

    src, dst = jax.lax.stop_gradient((jnp.asarray(src), jnp.asarray(dst)))

    def nearest(i: Array) -> Array:
        squared = _squared(dst[i], src, box)
        if src_mask is not None:
            squared = jnp.where(src_mask, squared, jnp.inf)
        if drop_self:
            squared = jnp.where(jnp.arange(n_src) == i, jnp.inf, squared)
        values, index = jax.lax.top_k(-squared, k)
        return jnp.where(jnp.isfinite(values), index, n_src).astype(jnp.int32)

    index = jax.lax.map(nearest, jnp.arange(n_dst), batch_size=min(n_dst, 256))
    if dst_mask is not None:
        index = jnp.where(dst_mask[:, None], index, n_src)
    return Table(index, n_src, n_dst)


def with_capacity(
    fn: Callable[..., tuple[Any, Bool[Array, ""]]], *, start: int = 16, limit: int = 2**20
) -> Callable[..., tuple[Any, int]]:
    """Runs `fn(*args, capacity=c)` with c = start, 2 start, … until it does not overflow.

    For outside jit: `fn` returns `(result, overflow)` and is compiled once for each capacity.

    ```python
    search = with_capacity(lambda x, capacity: radius(x, r=0.1, capacity=capacity))
    layout, capacity = search(x)
    layout, capacity = search(x, capacity=capacity)  # no search for the capacity again
    ```

    **Returns:** a function of the same arguments, and `capacity` to start from, which returns the
    result and the capacity that sufficed.

    **Raises:** `ValueError` for a start that is not positive; the function raises `RuntimeError`
    if it still overflows with `limit`.
    """
    if start < 1:
        raise ValueError(f"with_capacity: start must be positive, got {start}")

    @eqx.filter_jit
    def compiled(capacity: int, args, kwargs):
        return fn(*args, capacity=capacity, **kwargs)

    @functools.wraps(fn)
    def grow(*args, capacity: int = start, **kwargs) -> tuple[Any, int]:
        while True:
            result, overflow = compiled(capacity, args, kwargs)
            if not bool(overflow):
                return result, capacity
            if capacity >= limit:
                raise RuntimeError(f"with_capacity: overflow at the limit of {limit}")
            capacity = min(2 * capacity, limit)

    return grow


def _check_radius(r: Any, box: Box | None) -> None:
    if isinstance(r, int | float | np.floating):
        if not 0 < r < np.inf:
            raise ValueError(f"radius: r must be positive and finite, got {r}")
        if box is not None and r > box.periods.min() / 2:
            raise ValueError(
                f"radius: r = {r} exceeds half of the shortest period {box.periods.min()}"
            )


def _store(
    candidates: Candidates, n_src: int, capacity: int, storage: Storage
) -> tuple[AbstractLayout, Bool[Array, ""]]:
    index, overflow = candidates
    n_dst = index.shape[0]
    if storage == "table":
        missing = capacity - index.shape[1]
        if missing > 0:
            index = jnp.pad(index, [(0, 0), (0, missing)], constant_values=n_src)
        overflow |= jnp.any(index[:, capacity:] < n_src)
        return Table(index[:, :capacity], n_src, n_dst), overflow
    there = index < n_src
    overflow |= jnp.sum(there) > capacity
    rows, columns = jnp.nonzero(there, size=capacity, fill_value=n_dst)
    senders = index.at[rows, columns].get(mode="fill", fill_value=n_src)
    return Coo(senders, rows.astype(jnp.int32), n_src, n_dst), overflow


def _host_radius(
    src, dst, r, capacity, box, storage, drop_self, src_mask, dst_mask
) -> tuple[AbstractLayout, Bool[Array, ""]]:
    n_src, n_dst = src.shape[0], dst.shape[0]
    src_h, dst_h, src_kept, dst_kept = _on_host("radius", src, dst, src_mask, dst_mask)
    senders, receivers = host_pairs(src_h[src_kept], dst_h[dst_kept], float(r), box)
    senders, receivers = src_kept[senders], dst_kept[receivers]
    if drop_self:
        other = senders != receivers
        senders, receivers = senders[other], receivers[other]
    degree = np.bincount(receivers, minlength=n_dst)
    if storage == "coo":
        size = max(1, len(senders)) if capacity is None else capacity
        overflow = len(senders) > size
        layout = Coo.from_edges(senders[:size], receivers[:size], n_src, n_dst, capacity=size)
        return layout, jnp.asarray(overflow)
    slots = max(1, degree.max(initial=0)) if capacity is None else capacity
    rank = np.arange(len(senders)) - np.repeat(np.cumsum(degree) - degree, degree)
    fits = rank < slots
    rows = np.full((n_dst, slots), n_src, np.int32)
    rows[receivers[fits], rank[fits]] = senders[fits]
    return Table(jnp.asarray(rows), n_src, n_dst), jnp.asarray(not fits.all())


def _on_host(name: str, src, dst, src_mask, dst_mask):
    """Positions as numpy arrays, and the numbers of the points that are not masked out."""
    try:
        src, dst = np.asarray(src), np.asarray(dst)
        src_mask = np.ones(len(src), bool) if src_mask is None else np.asarray(src_mask)
        dst_mask = np.ones(len(dst), bool) if dst_mask is None else np.asarray(dst_mask)
    except jax.errors.TracerArrayConversionError:
        raise TypeError(
            f"{name}: engine='host' works on arrays outside jit, got traced positions; "
            "use 'cell' or 'brute'"
        ) from None
    return src, dst, np.flatnonzero(src_mask), np.flatnonzero(dst_mask)


def _points(name: str, src, dst, src_mask, dst_mask, box: Box | None) -> tuple[Any, Any, Any, Any]:
    """Checked positions and masks; numpy arrays stay on the host."""
    if dst is None:
        dst, dst_mask = src, src_mask if dst_mask is None else dst_mask
    out = []
    for label, x in (("src", src), ("dst", dst)):
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name}: {label} must hold real numbers, got dtype {x.dtype}")
        if x.ndim != 2:
            raise ValueError(f"{name}: {label} must have shape (n, d), got {x.shape}")
        out.append(x)
    dims = {x.shape[1] for x in out} | ({box.n_dims} if box is not None else set())
    if len(dims) > 1:
        raise ValueError(
            f"{name}: src, dst and box must have the same number of coordinates, got {dims}"
        )
    for label, mask, x in (("src_mask", src_mask, out[0]), ("dst_mask", dst_mask, out[1])):
        if mask is not None and np.shape(mask) != (x.shape[0],):
            raise ValueError(
                f"{name}: {label} must have shape ({x.shape[0]},), got {np.shape(mask)}"
            )
    return out[0], out[1], src_mask, dst_mask
