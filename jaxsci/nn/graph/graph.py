"""A graph with features, and how graphs of different sizes come to share one compiled program."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from jaxsci.pde import Grid

from .box import Box, displacement
from .layout import AbstractLayout, Coo, Reduction, Table, take_rows


class Graph(eqx.Module):
    """Nodes with features, and the edges between them.

    Features are node-major, one row for each node: the one exception to channels first in this
    package, because every operation on a graph gathers rows.

    - `x`: features of the nodes.
    - `layout`: a `Coo` or a `Table` from these nodes to themselves.
    - `pos`: their positions.
    - `edge`: features of the edges; leading axes are `layout.edge_shape`.
    - `node_mask`: which rows are nodes and not padding; `None`: all.
    - `node_type`: an integer for each node (fluid, wall, …).
    - `glob`: features of the graph, or one row for each of `n_graph` graphs.
    - `graph_id`, `n_graph`: the graph each node is of (`n_graph` for padding) after `pack`.
    - `box`: the periodic box of the positions.

    **Raises:** `ValueError` for arrays whose rows are not the layout's nodes or edges.
    """

    x: Float[Array, "n c"]
    layout: AbstractLayout
    pos: Float[Array, "n d"] | None = None
    edge: Float[Array, "*edges e"] | None = None
    node_mask: Bool[Array, " n"] | None = None
    node_type: Int[Array, " n"] | None = None
    glob: Float[Array, "*graphs g"] | None = None
    graph_id: Int[Array, " n"] | None = None
    n_graph: int = eqx.field(static=True, default=1)
    box: Box | None = None

    def __check_init__(self):
        n = self.layout.n_src
        if self.layout.n_dst != n:
            raise ValueError(
                f"Graph: the layout must lead from its nodes to themselves, got {n} sources and "
                f"{self.layout.n_dst} destinations"
            )
        for name in ("x", "pos", "node_mask", "node_type", "graph_id"):
            value = getattr(self, name)
            if value is not None and (value.ndim < 1 or value.shape[0] != n):
                raise ValueError(f"Graph: {name} must have {n} rows, got shape {value.shape}")
        shape = self.layout.edge_shape
        if self.edge is not None and self.edge.shape[: len(shape)] != shape:
            raise ValueError(
                f"Graph: edge must have the leading axes {shape}, got shape {self.edge.shape}"
            )

    @property
    def n_nodes(self) -> int:
        """The number of rows, padding included."""
        return self.layout.n_src

    def replace(self, **fields: Any) -> Self:
        """The same graph with other fields, such as `graph.replace(x=x)`."""
        return dataclasses.replace(self, **fields)

    def mask(self) -> Bool[Array, " n"]:
        """Which rows are nodes."""
        return jnp.ones(self.n_nodes, bool) if self.node_mask is None else self.node_mask

    def edge_vectors(self) -> Float[Array, "*edges d"]:
        """x_r − x_s for every edge, from sender to receiver, the shortest way in the box.

        Differentiable in `pos`; zero where there is no edge.

        **Raises:** `ValueError` if the graph has no positions.
        """
        if self.pos is None:
            raise ValueError("edge_vectors: the graph has no pos")
        return displacement(self.layout.dst(self.pos), self.layout.src(self.pos), self.box)

    def pool(self, h: Float[Array, "n c"], op: Reduction = "mean") -> Float[Array, "n_graph c"]:
        """Rows of the nodes to one row for each graph.

        **Raises:** `ValueError` if `h` has not one row for each node.
        """
        graph_id = self.graph_id
        if graph_id is None:
            graph_id = jnp.where(self.mask(), 0, 1)
        nodes = jnp.where(graph_id < self.n_graph, jnp.arange(self.n_nodes), self.n_nodes)
        layout = Coo(nodes, graph_id, self.n_nodes, self.n_graph)
        return layout.reduce(layout.src(h), op)

    def to_coo(self, capacity: int | None = None) -> Self:
        """The same graph with its edges (and their features) as a list: see `Table.to_coo`."""
        return self._with(*self.layout._to_coo(capacity))

    def to_table(self, slots: int | None = None) -> Self:
        """The same graph with its edges (and their features) in a table: see `Coo.to_table`."""
        return self._with(*self.layout._to_table(slots))

    def transpose(self) -> Self:
        """The same graph with every edge the other way round."""
        return self._with(*self.layout._transpose())

    def _with(self, layout: AbstractLayout, order: Int[Array, " edges"]) -> Self:
        edge = self.edge
        if edge is not None:
            rows = edge.reshape(-1, *edge.shape[self.layout.senders.ndim :])
            edge = take_rows(rows, order)
            edge = edge.reshape(*layout.edge_shape, *edge.shape[1:])
        return self.replace(layout=layout, edge=edge)


class Budget(NamedTuple):
    """A static size that several graphs share.

    - `nodes`: rows for nodes.
    - `edges`: entries of a `Coo`, or slots for each node of a `Table`.
    - `graphs`: rows for graphs (only `pack` adds any).
    """

    nodes: int
    edges: int
    graphs: int = 1


def pad(graph: Graph, budget: Budget) -> Graph:
    """The same graph with rows for `budget.nodes` nodes and `budget.edges` edges (or slots).

    Layers give the same rows for the nodes, and zeros or anything at all for the padding, which
    `mask` tells apart. `jax.vmap` over graphs of one budget is how batches are made.

    **Raises:** `ValueError` if the graph has more rows than the budget.
    """
    n = budget.nodes - graph.n_nodes
    if n < 0:
        raise ValueError(f"pad: {graph.n_nodes} nodes exceed the budget of {budget.nodes}")
    layout = _pad_layout(graph.layout, budget)
    edge = graph.edge
    if edge is not None:
        old = graph.layout.edge_shape
        wide = [(0, b - a) for a, b in zip(old, layout.edge_shape, strict=True)]
        edge = jnp.pad(edge, wide + [(0, 0)] * (edge.ndim - len(old)))

    def rows(value: Array | None, fill: Any = 0) -> Array | None:
        if value is None:
            return None
        widths = [(0, n)] + [(0, 0)] * (value.ndim - 1)
        return jnp.pad(value, widths, constant_values=fill)

    x = rows(graph.x)
    assert x is not None
    return graph.replace(
        x=x,
        layout=layout,
        pos=rows(graph.pos),
        edge=edge,
        node_mask=rows(graph.mask(), False),
        node_type=rows(graph.node_type),
        graph_id=rows(graph.graph_id, graph.n_graph),
    )


def pack(graphs: Sequence[Graph], budget: Budget | None = None) -> Graph:
    """Several graphs as one, side by side without edges between them.

    For graphs of very uneven sizes; otherwise `pad` each and use `jax.vmap`. All have the same
    kind of layout, the same fields and the same box. `pool` then gives one row for each graph.

    **Arguments:** `graphs`; `budget`: the size to pad to, or `None` for the sum of the sizes.

    **Raises:** `ValueError` for no graphs, graphs of different kinds, or a budget that is too
    small.
    """
    if not graphs:
        raise ValueError("pack: expected at least one graph")
    kinds = {(type(g.layout), jax.tree.structure(_fields(g)), g.box, g.n_graph) for g in graphs}
    if len(kinds) > 1 or graphs[0].n_graph != 1:
        raise ValueError("pack: all graphs need the same kind of layout, fields and box")
    slots = max(g.layout.edge_shape[-1] for g in graphs)
    if isinstance(graphs[0].layout, Table):
        graphs = [pad(g, Budget(g.n_nodes, slots)) for g in graphs]
    n = sum(g.n_nodes for g in graphs)
    reverse = all(g.layout.reverse is not None for g in graphs)
    layout, order = _concatenate([g.layout for g in graphs], n, reverse)
    n_graph = len(graphs) if budget is None else budget.graphs
    if n_graph < len(graphs):
        raise ValueError(f"pack: {len(graphs)} graphs exceed the budget of {n_graph}")
    ids = np.repeat(np.arange(len(graphs)), [g.n_nodes for g in graphs])
    node_mask = jnp.concatenate([g.mask() for g in graphs])
    fields = [_fields(g) for g in graphs]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *fields)
    if order is not None and joined["edge"] is not None:
        joined["edge"] = joined["edge"][order]
    glob = None
    if graphs[0].glob is not None:
        glob = jnp.stack([g.glob for g in graphs])  # pyright: ignore
        glob = jnp.pad(glob, [(0, n_graph - len(graphs))] + [(0, 0)] * (glob.ndim - 1))
    packed = Graph(
        layout=layout,
        glob=glob,
        graph_id=jnp.where(node_mask, jnp.asarray(ids, jnp.int32), n_graph),
        n_graph=n_graph,
        box=graphs[0].box,
        **(joined | {"node_mask": node_mask}),
    )
    return packed if budget is None else pad(packed, budget)


def bucket(sizes: ArrayLike, growth: float = 1.3, *, smallest: int = 16) -> Int[np.ndarray, "*n"]:
    """For each size the least of a few sizes that holds it: `smallest`, then `growth` times more.

    Padding to these keeps the number of compiled programs small: it is logarithmic in the range of
    the sizes, and at most a share `growth − 1` of the work is wasted.

    **Raises:** `ValueError` for growth ≤ 1, `smallest` < 1 or negative sizes.
    """
    wanted = np.asarray(sizes)
    if not growth > 1:
        raise ValueError(f"bucket: growth must be > 1, got {growth}")
    if smallest < 1 or np.any(wanted < 0):
        raise ValueError("bucket: sizes must not be negative, and smallest at least 1")
    steps = [smallest]
    while steps[-1] < wanted.max(initial=0):
        steps.append(math.ceil(steps[-1] * growth))
    return np.asarray(steps)[np.searchsorted(steps, wanted)]


def grid_layout(grid: Grid, stencil: ArrayLike) -> Table:
    """Every point of a grid hears the points at fixed offsets; periodic axes wrap.

    Nodes are the grid's points in C order (the last axis fastest), as in `u.reshape(c, -1)`. Slot
    k of point i is the point i + `stencil[k]`. If the stencil is symmetric, so is the graph, and
    the table has its `reverse`.

    **Arguments:** `grid`; `stencil`: integer offsets "k d" (for one axis also "k"), such as
    `[-1, 1]`.

    **Raises:** `ValueError` for offsets of another number of axes, repeated ones, or ones as long
    as a periodic axis (two slots would hold the same point); `TypeError` for offsets that are no
    integers.
    """
    offsets = np.asarray(stencil)
    if not np.issubdtype(offsets.dtype, np.integer):
        raise TypeError(f"grid_layout: stencil must hold integers, got dtype {offsets.dtype}")
    offsets = offsets[:, None] if offsets.ndim == 1 else offsets
    if offsets.ndim != 2 or offsets.shape[1] != grid.n_dims or not len(offsets):
        raise ValueError(
            f"grid_layout: stencil must have shape (k, {grid.n_dims}), got {np.shape(stencil)}"
        )
    wrapped = np.where(grid.periodic, offsets % np.asarray(grid.shape), offsets)
    if len(np.unique(wrapped, axis=0)) < len(offsets):
        raise ValueError("grid_layout: two offsets of the stencil lead to the same point")
    n = math.prod(grid.shape)
    points = np.stack(np.unravel_index(np.arange(n), grid.shape), axis=-1)
    target = points[:, None] + offsets
    target = np.where(grid.periodic, target % np.asarray(grid.shape), target)
    inside = np.all((target >= 0) & (target < np.asarray(grid.shape)), axis=-1)
    target = np.where(inside[..., None], target, 0)
    senders = np.where(
        inside, np.ravel_multi_index(tuple(np.moveaxis(target, -1, 0)), grid.shape), n
    )
    opposite = np.where(grid.periodic, -offsets % np.asarray(grid.shape), -offsets)
    same = np.all(opposite[:, None] == wrapped[None], axis=-1)
    reverse = None
    if same.any(axis=1).all():
        slots = len(offsets)
        reverse = np.where(inside, senders * slots + same.argmax(axis=1), n * slots)
        reverse = jnp.asarray(reverse, jnp.int32)
    return Table(jnp.asarray(senders, jnp.int32), n, n, reverse)


def _fields(graph: Graph) -> dict[str, Array | None]:
    """What is concatenated when graphs are packed."""
    names = ("x", "pos", "edge", "node_type")
    return {name: getattr(graph, name) for name in names}


def _pad_layout(layout: AbstractLayout, budget: Budget) -> AbstractLayout:
    n = budget.nodes
    room = budget.edges - layout.edge_shape[-1]
    if room < 0:
        raise ValueError(
            f"pad: {layout.edge_shape[-1]} edges (or slots) exceed the budget of {budget.edges}"
        )
    senders = jnp.where(layout.edge_mask(), layout.senders, n)
    size = layout.senders.size
    if isinstance(layout, Coo):
        receivers = jnp.where(layout.edge_mask(), layout.receivers, n)
        widths = [(0, room)]
        reverse = layout.reverse
        if reverse is not None:
            reverse = jnp.where(reverse < size, reverse, size + room)
            reverse = jnp.pad(reverse, widths, constant_values=size + room)
        return Coo(
            jnp.pad(senders, widths, constant_values=n),
            jnp.pad(receivers, widths, constant_values=n),
            n,
            n,
            reverse,
        )
    widths = [(0, n - layout.n_dst), (0, room)]
    slots, wider = layout.edge_shape[-1], budget.edges
    reverse = layout.reverse
    if reverse is not None:
        moved = reverse // slots * wider + reverse % slots
        reverse = jnp.where(reverse < size, moved, n * wider)
        reverse = jnp.pad(reverse, widths, constant_values=n * wider)
    return Table(jnp.pad(senders, widths, constant_values=n), n, n, reverse)


def _concatenate(
    layouts: Sequence[AbstractLayout], n: int, with_reverse: bool
) -> tuple[AbstractLayout, Int[Array, " edges"] | None]:
    """Layouts side by side; node and edge numbers are shifted, padding goes to the new end.

    Also the order that this brings the edges in, if it changes.
    """
    size = sum(layout.senders.size for layout in layouts)
    senders, receivers, reverse = [], [], []
    node = edge = 0
    for layout in layouts:
        mask = layout.edge_mask()
        senders.append(jnp.where(mask, layout.senders + node, n))
        receivers.append(jnp.where(mask, layout.receivers + node, n))
        if layout.reverse is not None:
            there = layout.reverse < layout.senders.size
            reverse.append(jnp.where(there, layout.reverse + edge, size))
        node, edge = node + layout.n_src, edge + layout.senders.size
    back = jnp.concatenate(reverse) if with_reverse else None
    s, r = jnp.concatenate(senders), jnp.concatenate(receivers)
    if isinstance(layouts[0], Table):
        return Table(s, n, n, back), None
    # Padding of the parts moves behind all edges.
    order = jnp.argsort(r, stable=True)
    if back is not None:
        place = jnp.argsort(order).astype(back.dtype)
        back = jnp.take(place, back[order], mode="fill", fill_value=size)
    return Coo(s[order], r[order], n, n, back), order
