"""Triangulations: some of them, and what makes one usable for finite elements."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import skfem
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


def triangulation(
    points: Float[ArrayLike, "v 2"],
    cells: Int[ArrayLike, "t 3"],
    boundaries: Mapping[str, Callable[[Float[np.ndarray, "2 f"]], Any]] | None = None,
) -> skfem.MeshTri:
    """A mesh from its vertices and triangles, counterclockwise.

    **Arguments:** `boundaries`: which of the boundary's edges have a name, by their midpoints.

    **Raises:** `ValueError` for arrays of other shapes, indices without a point, or triangles that
    are inverted (clockwise) or flat.
    """
    points, cells = np.asarray(points, float), np.asarray(cells)
    for name, array, columns in (("points", points, 2), ("cells", cells, 3)):
        if array.ndim != 2 or array.shape[1] != columns:
            raise ValueError(f"{name}: expected shape (·, {columns}), got {array.shape}")
    if cells.min() < 0 or cells.max() >= len(points):
        raise ValueError(f"cells: indices must lie in 0..{len(points) - 1}")
    a, b, c = np.moveaxis(points[cells], 1, 0)
    area = np.linalg.det(np.stack([b - a, c - a], -1)) / 2
    if area.min() <= 0:
        worst = int(area.argmin())
        raise ValueError(
            f"cells: {np.sum(area <= 0)} of {len(cells)} triangles are inverted or flat; triangle "
            f"{worst} has signed area {area[worst]:.3g}"
        )
    mesh = skfem.MeshTri(points.T.copy(), cells.T.copy())
    return mesh.with_boundaries(dict(boundaries)) if boundaries else mesh


def square(n: int) -> skfem.MeshTri:
    """[0, 1]², n × n squares cut in two; boundaries "left", "right", "bottom", "top"."""
    if n < 1:
        raise ValueError(f"n: expected a positive integer, got {n!r}")
    ticks = np.linspace(0, 1, n + 1)
    return skfem.MeshTri.init_tensor(ticks, ticks).with_defaults()


def l_shape(n: int) -> skfem.MeshTri:
    """[0, 1]² without (½, 1]², h = 1/n; boundaries as `square`, and "reentrant" at the corner.

    **Raises:** `ValueError` for an odd n.
    """
    if n < 2 or n % 2:
        raise ValueError(f"n: expected a positive even integer, got {n!r}")
    mesh = square(n)
    removed = (mesh.p[:, mesh.t].mean(1) > 0.5).all(0)
    part: Any = mesh.remove_elements(np.nonzero(removed)[0])
    return part.with_boundaries({"reentrant": lambda x: (x >= 0.5).all(0) & (x < 1).all(0)})


def signed_areas(mesh: skfem.MeshTri) -> Float[np.ndarray, " t"]:
    """Of all triangles, with the sign of their orientation."""
    a, b, c = np.moveaxis(mesh.p[:, mesh.t], 1, 0)
    return ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]) / 2


def check_conforming(mesh: skfem.MeshTri) -> None:
    """**Raises:** `ValueError` for flat triangles, hanging vertices and unused ones."""
    area = np.abs(signed_areas(mesh))
    longest = np.ptp(mesh.p[:, mesh.t], axis=1).max(0)
    flat = area <= 1e-12 * longest**2
    if flat.any():
        raise ValueError(f"mesh: {flat.sum()} of {len(flat)} triangles are flat")
    used = np.unique(mesh.t)
    if len(used) < mesh.p.shape[1]:
        raise ValueError(f"mesh: {mesh.p.shape[1] - len(used)} vertices belong to no triangle")
    # A vertex that hangs on an edge lies, as that edge does, on what seems to be the boundary.
    ends = np.asarray(mesh.facets)[:, mesh.boundary_facets()]
    start, along = mesh.p[:, ends[0]], mesh.p[:, ends[1]] - mesh.p[:, ends[0]]
    length = np.sum(along**2, 0)
    candidates = np.unique(ends)
    gap = mesh.p[:, candidates, None] - start[:, None]
    part = np.sum(gap * along[:, None], 0) / length
    away = np.abs(gap[0] * along[1] - gap[1] * along[0]) / length
    hanging = (part > 1e-9) & (part < 1 - 1e-9) & (away < 1e-9)
    if hanging.any():
        which = candidates[hanging.any(1)]
        raise ValueError(
            f"mesh: {len(which)} vertices hang in the middle of an edge, such as vertex "
            f"{which[0]} at {mesh.p[:, which[0]]}"
        )
