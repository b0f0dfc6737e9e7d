"""Structure-preserving operator networks: encoder and decoder are finite element spaces.

    f ↦ F (dofs),    U = P_θ(F),    U_b = g(x_b) on the boundary,    u_h = Σᵢ Uᵢ ψᵢ

Bouziani & Boullé 2024, arXiv:2410.01065. The geometry, Dirichlet data and norms of functions are
those of the space (`jaxsci.pde.fem`), exact for every θ. What is learned acts on dofs as the nodes
of a graph, in which those that share a cell are neighbours.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxsci.nn import (
    AbstractLayout,
    Buffer,
    Coo,
    EdgeMLP,
    EncodeProcessDecode,
    LayerNorm,
    MessagePassing,
    ResidualUpdate,
    RowMLP,
)
from jaxsci.pde import fem


class SPON(eqx.Module):
    """The operator from functions of `space_in` to functions of `space_out`.

    Outputs on the parts of the boundary named by `bc` are the given values, whatever the processor
    says: the trace of u_h is the interpolant of g, bit by bit. The processor is called with rows

        [values of f at the dofs of space_out,  g on the boundary and 0 inside (if given),  cond]

    and returns rows for the dofs of `space_out`. Other conditions (Neumann's) are the equation's,
    and their data are input.

    **Arguments:**

    - `space_in`, `space_out`: spaces on meshes of the same domain, of any degrees; if they differ,
      f is evaluated at the dofs of `space_out`.
    - `processor`: maps rows to rows, such as a `MeshProcessor` or a `MultigridProcessor` of
      `space_out`.
    - `bc`: names of boundaries with Dirichlet conditions, `"all"`, or `None` for none.

    **Raises:** `ValueError` for a name that the mesh does not have, or dofs of `space_out` outside
    of the mesh of `space_in`.
    """

    processor: Any
    to_output: "FixedMatrix | None"
    boundary: Bool[Array, " m"]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        space_in: fem.FunctionSpace,
        space_out: fem.FunctionSpace,
        processor: Any,
        bc: fem.Tags = None,
    ):
        self.processor = processor
        self.n_in, self.n_out = space_in.n_dofs, space_out.n_dofs
        fixed = [] if bc is None else space_out.boundary_dofs(None if bc == "all" else bc)
        self.boundary = jnp.zeros(self.n_out, bool).at[np.asarray(fixed, int)].set(True)
        same = space_in.basis is space_out.basis
        points = space_out.basis.doflocs.T
        self.to_output = None if same else FixedMatrix(space_in.evaluation(points))

    def __call__(
        self,
        u: Float[Array, "n c_in"],
        *,
        boundary: Float[Array, "m c_out"] | None = None,
        cond: Float[Array, " p"] | None = None,
        out: BCOO | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "m c_out"]:
        """The dofs of the output; one function, batches by `jax.vmap`.

        **Arguments:** `u`: dofs of the input. `boundary`: rows of `space_out` that hold g on the
        boundary (what they hold inside does not matter); `None`: g = 0. `cond`: parameters, as
        further columns. `out`: a matrix of `FunctionSpace.evaluation`, for values at points.

        **Raises:** `ValueError` for dofs of another space.
        """
        del key
        values = self.process(u, boundary=boundary, cond=cond)
        given = jnp.zeros_like(values) if boundary is None else boundary
        if given.shape != values.shape:
            raise ValueError(
                f"boundary: expected the output's shape {values.shape}, got {given.shape}"
            )
        values = jnp.where(self.boundary[:, None], given, values)
        return values if out is None else out @ values

    def process(
        self,
        u: Float[Array, "n c_in"],
        *,
        boundary: Float[Array, "m c_out"] | None = None,
        cond: Float[Array, " p"] | None = None,
    ) -> Float[Array, "m c_out"]:
        """The processor's own values everywhere: what a network on dofs without `bc` answers."""
        self._check("u", u, self.n_in)
        rows = u if self.to_output is None else self.to_output(u)
        if boundary is not None:
            self._check("boundary", boundary, self.n_out)
            on_it = jnp.where(self.boundary[:, None], boundary, 0)
            rows = jnp.concatenate([rows, on_it], axis=-1)
        if cond is not None:
            rows = jnp.concatenate([rows, jnp.broadcast_to(cond, (len(rows), len(cond)))], axis=-1)
        values = self.processor(rows)
        self._check("processor: its output", values, self.n_out)
        return values

    @staticmethod
    def _check(name: str, rows: Array, n: int) -> None:
        if rows.ndim != 2 or rows.shape[0] != n:
            raise ValueError(f"{name}: expected {n} dofs as rows (n, c), got shape {rows.shape}")


class MultigridProcessor(eqx.Module):
    """A V-cycle of message passing on nested spaces.

    Down: h ← net_l(h), restricted to the next coarser space; on the coarsest one net₀; up:
    h ← net_l(merge[P h, skip]). P is the finite element prolongation, the restriction Pᵀ with its
    rows divided by their sums, so that constants stay what they are. The nets' rounds are

        h_i ← h_i + ψ([h_i, Σ_j φ([h_i, h_j, x_i − x_j, |x_i − x_j|])])

    with lengths in units of the level's mean, and own weights for each level and way. The first
    perceptron sees each dof's coordinates and which named boundaries it lies on.

    **Arguments:**

    - `spaces`: nested, from the coarsest to the one that is worked on; their degrees may differ.
      One space makes a `MeshProcessor`.
    - `c_in`, `c_out`: columns of what comes and goes.
    - `width`: features inside. `rounds`: of messages on each level, down and up each (on the
      coarsest one way only); one number for all levels or one each.
    - `norm`: a LayerNorm after ψ. It hides the size of the data, which operators that are nearly
      linear must keep; without it single trainings of the experiment had 16 to 43 % less error.

    **Raises:** `ValueError` for spaces that are not nested, sizes that are not positive, or a wrong
    number of `rounds`.
    """

    encode: RowMLP
    decode: RowMLP
    down: "tuple[_Level, ...]"
    up: "tuple[_Level, ...]"
    merge: tuple[RowMLP, ...]
    prolong: "tuple[FixedMatrix, ...]"
    restrict: "tuple[FixedMatrix, ...]"
    nodes: Buffer

    def __init__(
        self,
        spaces: Sequence[fem.FunctionSpace],
        c_in: int,
        c_out: int,
        *,
        width: int = 32,
        rounds: int | Sequence[int] = 2,
        norm: bool = False,
        key: PRNGKeyArray,
    ):
        spaces = tuple(spaces)
        n = len(spaces)
        counts = (rounds,) * n if isinstance(rounds, int) else tuple(rounds)
        if not n or len(counts) != n or min(counts) < 1:
            raise ValueError(
                f"rounds: expected positive numbers for each of {n} spaces (at least 1), got "
                f"{rounds!r}"
            )
        encode_key, decode_key, down_key, up_key, merge_key = jr.split(key, 5)
        finest = spaces[-1]
        features: list[np.ndarray] = [finest.basis.doflocs.T]
        for tag in finest.tags:
            on = np.isin(np.arange(finest.n_dofs), finest.boundary_dofs(tag))
            features.append(on[:, None].astype(float))
        nodes = np.concatenate(features, axis=1)
        self.nodes = Buffer(jnp.asarray(nodes))
        self.encode = RowMLP(c_in + nodes.shape[1], width, hidden=width, key=encode_key)
        self.decode = RowMLP(width, c_out, hidden=width, key=decode_key)
        graphs = [_graph(space) for space in spaces]
        self.down = tuple(
            _Level(*graph, width, count, norm, key=k)
            for graph, count, k in zip(graphs, counts, jr.split(down_key, n), strict=True)
        )
        self.up = tuple(
            _Level(*graph, width, count, norm, key=k)
            for graph, count, k in zip(graphs[1:], counts[1:], jr.split(up_key, n)[1:], strict=True)
        )
        self.merge = tuple(
            RowMLP(2 * width, width, hidden=width, n_layers=1, key=k)
            for k in jr.split(merge_key, n)[1:]
        )
        between = [fem.prolongation(coarse, fine) for coarse, fine in itertools.pairwise(spaces)]
        self.prolong = tuple(FixedMatrix(p) for p in between)
        self.restrict = tuple(FixedMatrix(p, averaging=True) for p in between)

    def __call__(self, rows: Float[Array, "m c_in"]) -> Float[Array, "m c_out"]:
        nodes = self.nodes.value.astype(rows.dtype)
        h = self.encode(jnp.concatenate([rows, nodes], axis=-1))
        skips = []
        for level, restrict in zip(self.down[:0:-1], self.restrict[::-1], strict=True):
            h = level(h)
            skips.append(h)
            h = restrict(h)
        h = self.down[0](h)
        for level, prolong, merge in zip(self.up, self.prolong, self.merge, strict=True):
            h = level(merge(jnp.concatenate([prolong(h), skips.pop()], axis=-1)))
        return self.decode(h)


def MeshProcessor(
    space: fem.FunctionSpace,
    c_in: int,
    c_out: int,
    *,
    width: int = 32,
    rounds: int = 4,
    norm: bool = False,
    key: PRNGKeyArray,
) -> MultigridProcessor:
    """Rounds of messages between the dofs of one space: a `MultigridProcessor` with one level.

    A dof hears from those that are `rounds` cells away. **Arguments**, **Raises**: as there.
    """
    return MultigridProcessor([space], c_in, c_out, width=width, rounds=rounds, norm=norm, key=key)


class FixedMatrix(eqx.Module):
    """h ↦ A h by a sparse matrix that is not trained.

    **Arguments:** `matrix`; `averaging`: take Aᵀ, with rows divided by their sums.
    """

    data: Buffer
    indices: Int[Array, "nse 2"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, matrix: BCOO, averaging: bool = False):
        if averaging:
            matrix = matrix.transpose().sort_indices()
            sums = matrix @ jnp.ones(matrix.shape[1], matrix.data.dtype)
            matrix = BCOO(
                (matrix.data / sums[matrix.indices[:, 0]], matrix.indices), shape=matrix.shape
            )
        self.data, self.indices = Buffer(matrix.data), matrix.indices
        self.shape = (matrix.shape[0], matrix.shape[1])

    def __call__(self, h: Float[Array, "n c"]) -> Float[Array, "m c"]:
        entries = (self.data.value.astype(h.dtype), self.indices)
        return BCOO(entries, shape=self.shape, indices_sorted=True, unique_indices=True) @ h


class _Level(eqx.Module):
    """Rounds of messages on one mesh."""

    net: EncodeProcessDecode
    layout: AbstractLayout
    edges: Buffer

    def __init__(
        self,
        layout: AbstractLayout,
        edges: Buffer,
        width: int,
        rounds: int,
        norm: bool,
        *,
        key: PRNGKeyArray,
    ):
        self.layout, self.edges = layout, edges

        def block(k: PRNGKeyArray) -> MessagePassing:
            message_key, update_key = jr.split(k)
            c_edge = edges.value.shape[-1]
            message = EdgeMLP(width, width, c_edge, width, hidden=width, key=message_key)
            mlp = RowMLP(2 * width, width, hidden=width, key=update_key)
            update = _NormedUpdate(mlp, LayerNorm(width)) if norm else ResidualUpdate(mlp)
            return MessagePassing(message, update, "sum")

        identity = eqx.nn.Identity()
        self.net = EncodeProcessDecode(identity, block, identity, rounds, key=key)

    def __call__(self, h: Float[Array, "n c"]) -> Float[Array, "n c"]:
        return self.net(self.layout, h, self.edges.value.astype(h.dtype))


class _NormedUpdate(eqx.Module):
    """h ↦ h + LayerNorm ψ([h, a])."""

    mlp: RowMLP
    norm: LayerNorm

    def __call__(self, h: Float[Array, "n c"], a: Float[Array, "n c"]) -> Float[Array, "n c"]:
        return h + jax.vmap(self.norm)(self.mlp(jnp.concatenate([h, a], axis=-1)))


def _graph(space: fem.FunctionSpace) -> tuple[Coo, Buffer]:
    """Who shares a cell with whom, and the way there in units of the mean distance."""
    receivers, senders = space.edges()  # sorted by receiver
    layout = Coo.from_edges(senders, receivers, space.n_dofs)
    pos = np.asarray(space.basis.doflocs.T)
    way = pos[receivers] - pos[senders]
    length = np.linalg.norm(way, axis=1, keepdims=True)
    return layout, Buffer(jnp.asarray(np.concatenate([way, length], axis=1) / length.mean()))
