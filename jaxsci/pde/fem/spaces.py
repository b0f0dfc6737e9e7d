"""P1 and P2 on triangulations: dofs, matrices, embeddings, Poisson's equation."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sps
import scipy.sparse.linalg
import skfem
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike
from skfem.models.poisson import laplace, mass

from .meshes import check_conforming, signed_areas

Function = Callable[[Float[np.ndarray, "d *n"]], ArrayLike]
Tags = str | Sequence[str] | None


class FunctionSpace(eqx.Module):
    """Continuous functions that are polynomials of degree k on every triangle: P1 or P2.

    - `pos`: the dofs' coordinates: vertices, and for P2 the middles of the edges. The value there
      is the coefficient.
    - `mass`, `stiffness`: M and K, sparse; apply with `@`.
    - `degree`: k.
    - `basis`: scikit-fem's, in double precision, for work on the host.

    **Arguments:** `mesh`: a triangulation of scikit-fem. `degree`: 1 or 2.

    **Raises:** `ValueError` for another degree, flat triangles, vertices that hang in the middle
    of another triangle's edge, or that belong to none; `TypeError` for another kind of mesh.
    """

    pos: Float[Array, "n d"]
    mass: BCOO
    stiffness: BCOO
    degree: int = eqx.field(static=True)
    basis: skfem.CellBasis = eqx.field(static=True)

    def __init__(self, mesh: skfem.MeshTri, degree: int = 1):
        if type(mesh) is not skfem.MeshTri1:  # its subclasses are curved or discontinuous
            raise TypeError(
                f"mesh: expected a skfem.MeshTri (straight triangles), got {type(mesh).__name__}"
            )
        if degree not in (1, 2):
            raise ValueError(f"degree: expected 1 or 2, got {degree!r}")
        check_conforming(mesh)
        element = skfem.ElementTriP1() if degree == 1 else skfem.ElementTriP2()
        self.basis, self.degree = skfem.Basis(mesh, element), degree
        self.pos = jnp.asarray(self.basis.doflocs.T)
        self.mass = _sparse(mass.assemble(self.basis))
        self.stiffness = _sparse(laplace.assemble(self.basis))

    @property
    def n_dofs(self) -> int:
        """The number of coefficients."""
        return int(self.basis.N)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of parts of the boundary."""
        return tuple(self.basis.mesh.boundaries or ())

    def interpolate(self, f: Function) -> Float[Array, "n *c"]:
        """The function with the values of f at the dofs: within O(h^{k+1}) of f in L².

        **Arguments:** `f`: of coordinates "d n"; returns "n", or "c n" for c components.
        """
        return jnp.asarray(np.asarray(f(self.basis.doflocs)).T)

    def project(self, f: Function) -> Float[Array, "n *c"]:
        """The function nearest to f in L²: M U = (∫ f ψᵢ)ᵢ. On the host.

        **Arguments:** `f`: of coordinates "d *n"; returns "*n", or "c *n" for c components.
        """
        values = np.asarray(f(np.asarray(self.basis.global_coordinates())))
        if values.ndim == 2:
            return jnp.asarray(self.basis.project(values))
        return jnp.asarray(np.stack([self.basis.project(v) for v in values], axis=-1))

    def evaluation(self, x: Float[np.ndarray, "m d"]) -> BCOO:
        """The matrix of U ↦ u_h(x), m × n, made on the host.

        **Raises:** `ValueError` for points outside of the mesh.
        """
        x = np.asarray(x, float)
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x: expected points of shape (m, 2), got {x.shape}")
        try:
            return _sparse(self.basis.probes(x.T))
        except ValueError as error:
            raise ValueError(f"x: some of {len(x)} points lie outside of the mesh") from error

    def boundary_dofs(self, tags: Tags = None) -> Int[np.ndarray, " b"]:
        """Indices of the dofs on parts of the boundary, by their names; `None`: on all of it.

        **Raises:** `ValueError` for a name that the mesh does not have.
        """
        if tags is None:
            return self.basis.get_dofs().all()
        names = [tags] if isinstance(tags, str) else list(tags)
        for name in names:
            if name not in self.tags:
                raise ValueError(f"tags: the mesh has no boundary {name!r}, but {self.tags}")
        found = [np.asarray(self.basis.get_dofs(name).all(), int) for name in names]
        return np.unique(np.concatenate([np.zeros(0, int), *found]))

    def edges(self) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
        """Ordered pairs of different dofs that share a triangle: the graph of M and K."""
        cells = self.basis.element_dofs.T
        k = cells.shape[1]
        first, second = np.repeat(cells, k, axis=1).ravel(), np.tile(cells, k).ravel()
        pairs = np.unique(first.astype(np.int64) * self.n_dofs + second)
        first, second = pairs // self.n_dofs, pairs % self.n_dofs
        return first[first != second], second[first != second]

    def inner(
        self, u: Float[Array, "n *c"], v: Float[Array, "n *c"], order: int = 0
    ) -> Float[Array, ""]:
        """∫ u·v, with `order=1` ∫ u·v + ∇u:∇v: exact, not a quadrature.

        **Raises:** `ValueError` for dofs of another space or another order.
        """
        if order not in (0, 1):
            raise ValueError(f"order: expected 0 (L²) or 1 (H¹), got {order!r}")
        for name, dofs in (("u", u), ("v", v)):
            self.check(name, dofs)
        applied = self.mass @ v if order == 0 else self.mass @ v + self.stiffness @ v
        return jnp.sum(u * applied)

    def norm(self, u: Float[Array, "n *c"], order: int = 0) -> Float[Array, ""]:
        """‖u_h‖ in L² or, with `order=1`, in H¹. At u = 0 it has no gradient; `inner` has."""
        return jnp.sqrt(self.inner(u, u, order))

    def check(self, name: str, dofs: Any) -> None:
        """**Raises:** `ValueError` if `dofs`, called `name`, are not of this space."""
        if dofs.ndim not in (1, 2) or dofs.shape[0] != self.n_dofs:
            raise ValueError(
                f"{name}: expected {self.n_dofs} dofs (P{self.degree}) in the first axis of one or "
                f"two, got shape {dofs.shape}"
            )

    def refined(self, times: int = 1, degree: int | None = None) -> "FunctionSpace":
        """The space on the mesh whose triangles are cut in four, `times` times: h/2, nested.

        **Arguments:** `degree`: of the new space; `None`: the same.
        """
        mesh: Any = self.basis.mesh.refined(times)
        return FunctionSpace(mesh, self.degree if degree is None else degree)


def prolongation(coarse: FunctionSpace, fine: FunctionSpace) -> BCOO:
    """The matrix of the embedding of nested spaces: the same function in the finer space.

    Its transpose restricts functionals (loads, residuals); a load divided by M is a function.

    **Raises:** `ValueError` if the spaces are not nested: triangles that lie in several coarse
    ones, other domains, or a lower degree on the fine mesh.
    """
    if fine.degree < coarse.degree:
        raise ValueError(
            f"prolongation: P{coarse.degree} is not nested in P{fine.degree}; fine must have at "
            "least the degree of coarse"
        )
    mesh: Any = coarse.basis.mesh
    finer: Any = fine.basis.mesh
    try:
        cell = mesh.element_finder()(*finer.p[:, finer.t].mean(1))
    except ValueError as error:
        raise ValueError("prolongation: fine has triangles outside of coarse") from error
    area, area_fine = np.abs(signed_areas(mesh)).sum(), np.abs(signed_areas(finer)).sum()
    if not np.isclose(area, area_fine):
        raise ValueError(f"prolongation: coarse covers {area:.6g}, fine {area_fine:.6g}")
    places = np.moveaxis(fine.basis.doflocs[:, fine.basis.element_dofs], 1, 2)  # d cells k
    local = coarse.basis.mapping.invF(places, tind=cell)
    crossing = np.minimum(local.min(0), 1 - local.sum(0)).min(1) < -1e-9
    if crossing.any():
        raise ValueError(
            f"prolongation: the meshes are not nested: {crossing.sum()} of {len(cell)} fine "
            "triangles do not lie in one coarse triangle"
        )
    dofs, first = np.unique(fine.basis.element_dofs.T, return_index=True)
    n_local = coarse.basis.element_dofs.shape[0]
    values = np.stack(
        [
            np.ravel(coarse.basis.elem.gbasis(coarse.basis.mapping, local, i, tind=cell)[0])
            for i in range(n_local)
        ],
        axis=-1,
    )[first]
    columns = coarse.basis.element_dofs.T[cell[first // places.shape[2]]]
    rows = np.repeat(dofs, n_local)
    shape = (fine.n_dofs, coarse.n_dofs)
    values[np.abs(values) < 1e-13] = 0
    return _sparse(sps.coo_matrix((values.ravel(), (rows, columns.ravel())), shape))


def solve_poisson(
    space: FunctionSpace,
    source: Float[np.ndarray, "n *c"],
    values: Float[np.ndarray, "n *c"],
    tags: Tags = None,
) -> Float[np.ndarray, "n *c"]:
    """−Δu = f with u = g on parts of the boundary and ∂u/∂n = 0 elsewhere; direct, on the host.

    **Arguments:** `source`, `values`: dofs of f and g (whatever g is inside), of several problems
    at once as columns; one factorisation serves them all. `tags`: see
    `FunctionSpace.boundary_dofs`.

    **Returns:** dofs of u, in double precision.

    **Raises:** `ValueError` for dofs of another space, or a boundary without dofs.
    """
    source, values = np.asarray(source, float), np.asarray(values, float)
    space.check("source", source)
    space.check("values", values)
    fixed = space.boundary_dofs(tags)
    if not len(fixed):
        raise ValueError("tags: expected some boundary where u is given, got none")
    matrix = sps.csr_matrix(laplace.assemble(space.basis))
    load = mass.assemble(space.basis) @ source
    free = np.setdiff1d(np.arange(space.n_dofs), fixed)
    solution = np.array(values)
    inner = sps.csc_matrix(matrix[free][:, free])
    right = load[free] - matrix[free][:, fixed] @ values[fixed]
    solution[free] = scipy.sparse.linalg.splu(inner).solve(right)
    return solution


def _sparse(matrix: Any) -> BCOO:
    """Row by row and without duplicates, which makes its products a sorted sum."""
    rows = sps.csr_matrix(matrix)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    entries = rows.tocoo()
    indices = jnp.asarray(np.stack([entries.row, entries.col], -1), jnp.int32)
    return BCOO(
        (jnp.asarray(entries.data), indices),
        shape=matrix.shape,
        indices_sorted=True,
        unique_indices=True,
    )
