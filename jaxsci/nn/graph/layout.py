"""Who talks to whom: the edges of a graph from source nodes to destination nodes.

    src:     yₑ = h_{s(e)}            node rows to edge rows
    dst:     yₑ = h_{r(e)}
    reduce:  yᵢ = ⊕_{e : r(e) = i} mₑ    edge rows to node rows

These methods are the only place where anything is gathered or scattered. Two storages have them:
`Coo`, a list of edges, and `Table`, a fixed number of slots for each receiver. All shapes are
static; unused entries hold an index one past the end, so no dummy node is stored. Rows gathered by
such an index are 0, and nothing that an unused entry holds reaches a node or a gradient.
"""

import abc
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

Reduction = Literal["sum", "mean", "max", "min"]


def take_rows(
    h: Float[Array, "n c"], index: Int[Array, "*edges"], *, is_sorted: bool = False
) -> Float[Array, "*edges c"]:
    """The rows hᵢ for i in `index`; an index past the end gives zeros, forward and backward.

    Plain indexing would clamp it in the forward pass and drop it in the gradient.
    """
    return jnp.take(h, index, axis=0, mode="fill", fill_value=0, indices_are_sorted=is_sorted)


class AbstractLayout(eqx.Module):
    """Edges from `n_src` source nodes to `n_dst` destination nodes.

    An array over edges has the leading axes `edge_shape`, one over nodes has one leading axis.

    - `senders`: the source of every edge; `n_src` where there is none.
    - `reverse`: of a symmetric graph, the place (in the flattened edges) of the edge that goes the
      other way. With it the derivative of `src` is a gather, too: faster than a scatter on
      accelerators. It has reverse mode only, of any order. See `with_reverse`.
    """

    senders: AbstractVar[Int[Array, "*edges"]]
    reverse: AbstractVar[Int[Array, "*edges"] | None]
    n_src: AbstractVar[int]
    n_dst: AbstractVar[int]

    @property
    @abc.abstractmethod
    def receivers(self) -> Int[Array, "*edges"]:
        """The destination of every edge; `n_dst` where there is none."""

    @abc.abstractmethod
    def _gather_dst(self, h: Float[Array, "n_dst c"]) -> Float[Array, "*edges c"]:
        """`dst`, without checks."""

    @abc.abstractmethod
    def _sum(self, m: Float[Array, "*edges c"]) -> Float[Array, "n_dst c"]:
        """The sum over the edges of every receiver; entries of `m` without an edge are zeros."""

    @abc.abstractmethod
    def _max(self, m: Float[Array, "*edges c"]) -> Float[Array, "n_dst c"]:
        """The largest over the edges of every receiver; −∞ in `m` without an edge, or as result."""

    @abc.abstractmethod
    def _to_coo(self, capacity: int | None) -> "tuple[Coo, Int[Array, ' edges']]":
        """`to_coo`, and which of this layout's (flattened) edges each new entry is."""

    @abc.abstractmethod
    def _to_table(self, slots: int | None) -> "tuple[Table, Int[Array, ' entries']]":
        """`to_table`, and which of this layout's (flattened) edges each new entry is."""

    def to_coo(self, capacity: int | None = None) -> "Coo":
        """The same edges as a list of `capacity` entries (as many as this has, if `None`).

        **Raises:** at run time if there are more edges than `capacity`.
        """
        return self._to_coo(capacity)[0]

    def to_table(self, slots: int | None = None) -> "Table":
        """The same edges with `slots` entries for each receiver.

        `slots=None` is the largest degree, outside jit only.

        **Raises:** `ValueError` for `slots=None` in jit; at run time if a receiver has more edges
        than `slots`.
        """
        return self._to_table(slots)[0]

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """Leading axes of arrays over edges."""
        return self.senders.shape

    def edge_mask(self) -> Bool[Array, "*edges"]:
        """Where there is an edge."""
        return self.senders < self.n_src

    def degree(self) -> Int[Array, " n_dst"]:
        """The number of edges that each destination receives."""
        return self._sum(self.edge_mask().astype(jnp.int32))

    def src(self, h: Float[Array, "n_src c"]) -> Float[Array, "*edges c"]:
        """The row of h at the source of every edge; zeros where there is no edge.

        **Raises:** `ValueError` if `h` has not one row for each source.
        """
        self._check_nodes("src", h, self.n_src)
        if self.reverse is None:
            return take_rows(h, self.senders)
        return _gather_symmetric(self, h)

    def dst(self, h: Float[Array, "n_dst c"]) -> Float[Array, "*edges c"]:
        """The row of h at the destination of every edge; zeros where there is no edge.

        **Raises:** `ValueError` if `h` has not one row for each destination.
        """
        self._check_nodes("dst", h, self.n_dst)
        return self._gather_dst(h)

    def mirror(self, m: Float[Array, "*edges c"]) -> Float[Array, "*edges c"]:
        """Of a symmetric graph, m of the edge that goes the other way: (m − mirror(m))/2 conserves.

        **Raises:** `ValueError` without `reverse`, or if `m` has not the edges' axes.
        """
        self._check_edges("mirror", m)
        if self.reverse is None:
            raise ValueError("mirror: the layout has no reverse; call with_reverse() first")
        return _mirror(self, m)

    def reduce(self, m: Float[Array, "*edges c"], op: Reduction = "sum") -> Float[Array, "n_dst c"]:
        """⊕ of the edge rows of every destination; 0 for a destination without edges.

        Ties of "max" and "min" share the gradient equally.

        **Raises:** `ValueError` if `m` has not the edges' axes, or for an unknown `op`.
        """
        self._check_edges("reduce", m)
        mask = _expand(self.edge_mask(), m)
        match op:
            case "sum":
                return self._sum(jnp.where(mask, m, 0))
            case "mean":
                total = self._sum(jnp.where(mask, m, 0))
                return total / _expand(jnp.maximum(self.degree(), 1), total).astype(total.dtype)
            case "max":
                return self._masked_max(m, mask)
            case "min":
                return -self._masked_max(-m, mask)
        raise ValueError(f"reduce: op must be 'sum', 'mean', 'max' or 'min', got {op!r}")

    def softmax(self, logits: Float[Array, "*edges c"]) -> Float[Array, "*edges c"]:
        """exp(lₑ) / Σ exp(l) over the edges of the same destination; 0 where there is no edge.

        **Raises:** `ValueError` if `logits` has not the edges' axes.
        """
        self._check_edges("softmax", logits)
        mask = _expand(self.edge_mask(), logits)
        largest = self._max(jnp.where(mask, jax.lax.stop_gradient(logits), -jnp.inf))
        largest = jnp.where(jnp.isfinite(largest), largest, 0)
        shifted = jnp.where(mask, logits - self._gather_dst(largest), -jnp.inf)
        weights = jnp.exp(shifted)
        total = self._gather_dst(self._sum(weights))
        return weights / jnp.where(mask, total, 1)

    def with_reverse(self) -> Self:
        """The same layout with `reverse`, found by sorting; in jit as well.

        **Raises:** `ValueError` for different numbers of sources and destinations; at run time if
        some edge has none that goes the other way.
        """
        if self.n_src != self.n_dst:
            raise ValueError(
                f"with_reverse: a symmetric graph has as many sources as destinations, got "
                f"{self.n_src} and {self.n_dst}"
            )
        senders, receivers = self.senders.reshape(-1), self.receivers.reshape(-1)
        there, back = (
            jnp.lexsort(keys) for keys in ((senders, receivers), (receivers, senders))
        )  # the k-th edge by (receiver, sender) reverses the k-th by (sender, receiver)
        n_edges = senders.size
        reverse = jnp.zeros_like(senders).at[there].set(back.astype(senders.dtype))
        reverse = jnp.where(self.edge_mask().reshape(-1), reverse, n_edges)
        wrong = jnp.any(
            jnp.take(senders, reverse, mode="fill", fill_value=self.n_src) != receivers
        ) | jnp.any(jnp.take(receivers, reverse, mode="fill", fill_value=self.n_dst) != senders)
        reverse = eqx.error_if(reverse, wrong, "with_reverse: the graph is not symmetric")
        return eqx.tree_at(
            lambda layout: layout.reverse,
            self,
            reverse.reshape(self.edge_shape),
            is_leaf=lambda leaf: leaf is None,
        )

    def transpose(self) -> "Coo":
        """Every edge the other way round, from the destinations to the sources."""
        return self._transpose()[0]

    def _transpose(self) -> "tuple[Coo, Int[Array, ' edges']]":
        """`transpose`, and which of this layout's (flattened) edges each new edge is."""
        senders, receivers = self.senders.reshape(-1), self.receivers.reshape(-1)
        order = jnp.argsort(senders, stable=True)
        reverse = _relabel(self.reverse, order, senders.size, senders.size)
        return Coo(receivers[order], senders[order], self.n_dst, self.n_src, reverse), order

    def _masked_max(self, m: Array, mask: Array) -> Array:
        # Scatter-max has no derivative in JAX; a weighted sum over the winners has the right one.
        frozen = jnp.where(mask, jax.lax.stop_gradient(m), -jnp.inf)
        largest = self._max(frozen)
        wins = mask & (frozen == self._gather_dst(largest))
        share = self._gather_dst(jnp.maximum(self._sum(wins.astype(m.dtype)), 1))
        return self._sum(jnp.where(wins, m, 0) / jnp.where(wins, share, 1))

    def _check_nodes(self, name: str, h: Array, n: int) -> None:
        if h.ndim < 1 or h.shape[0] != n:
            raise ValueError(f"{name}: expected {n} node rows, got shape {h.shape}")

    def _check_edges(self, name: str, m: Array) -> None:
        shape = self.edge_shape
        if m.shape[: len(shape)] != shape:
            raise ValueError(f"{name}: expected edge rows {shape} + (...), got shape {m.shape}")


class Coo(AbstractLayout):
    """A list of edges, sorted by receiver: compact where degrees differ, fast on CPUs.

    - `senders`, `receivers`: of equal length; unused entries, all at the end, hold `n_src` and
      `n_dst`.
    - `n_src`, `n_dst`: numbers of nodes.
    - `reverse`: see `AbstractLayout`.

    The constructor trusts the order; `Coo.from_edges` sorts and checks.

    **Raises:** `ValueError` for arrays of different shapes, `TypeError` for indices that are no
    integers.
    """

    senders: Int[Array, " edges"]
    _receivers: Int[Array, " edges"]
    reverse: Int[Array, " edges"] | None
    n_src: int = eqx.field(static=True)
    n_dst: int = eqx.field(static=True)

    def __init__(
        self,
        senders: Int[Array, " edges"],
        receivers: Int[Array, " edges"],
        n_src: int,
        n_dst: int,
        reverse: Int[Array, " edges"] | None = None,
    ):
        _check_index("Coo: senders", senders, 1)
        _check_index("Coo: receivers", receivers, 1)
        if senders.shape != receivers.shape:
            raise ValueError(
                f"Coo: senders {senders.shape} and receivers {receivers.shape} must have "
                "the same length"
            )
        self.senders, self._receivers, self.reverse = senders, receivers, reverse
        self.n_src, self.n_dst = n_src, n_dst

    @property
    def receivers(self) -> Int[Array, " edges"]:
        """The destination of every edge; `n_dst` where there is none."""
        return self._receivers

    @staticmethod
    def from_edges(
        senders: ArrayLike,
        receivers: ArrayLike,
        n_src: int,
        n_dst: int | None = None,
        *,
        capacity: int | None = None,
    ) -> "Coo":
        """Sorts a list of edges on the host and pads it to `capacity` entries.

        **Raises:** `ValueError` for indices outside the nodes, lists of different lengths, or more
        edges than `capacity`; `TypeError` for indices that are no integers.
        """
        n_dst = n_src if n_dst is None else n_dst
        s, r = np.asarray(senders), np.asarray(receivers)
        for name, index, n in (("senders", s, n_src), ("receivers", r, n_dst)):
            _check_index(f"from_edges: {name}", index, 1)
            if index.size and not (index.min() >= 0 and index.max() < n):
                raise ValueError(f"from_edges: {name} must lie in 0..{n - 1}")
        if s.shape != r.shape:
            raise ValueError(f"from_edges: {s.size} senders and {r.size} receivers")
        capacity = s.size if capacity is None else capacity
        if s.size > capacity:
            raise ValueError(f"from_edges: {s.size} edges exceed capacity={capacity}")
        order = np.lexsort((s, r))
        pad = capacity - s.size
        return Coo(
            jnp.asarray(np.pad(s[order], (0, pad), constant_values=n_src), jnp.int32),
            jnp.asarray(np.pad(r[order], (0, pad), constant_values=n_dst), jnp.int32),
            n_src,
            n_dst,
        )

    def _to_coo(self, capacity: int | None) -> "tuple[Coo, Int[Array, ' edges']]":
        old = self.senders.size
        new = old if capacity is None else capacity
        lost = jnp.sum(self.edge_mask()) > new
        order = eqx.error_if(jnp.arange(new), lost, f"to_coo: more than capacity={new} edges")
        senders = jnp.take(self.senders, order, mode="fill", fill_value=self.n_src)
        receivers = jnp.take(self.receivers, order, mode="fill", fill_value=self.n_dst)
        reverse = _relabel(self.reverse, order, old, new)
        return Coo(senders, receivers, self.n_src, self.n_dst, reverse), order

    def _to_table(self, slots: int | None) -> "tuple[Table, Int[Array, ' entries']]":
        if slots is None:
            slots = _concrete_slots(self)
        n_edges = self.senders.size
        first = jnp.searchsorted(self.receivers, jnp.arange(self.n_dst + 1))
        rank = jnp.arange(n_edges) - first[self.receivers]
        lost = jnp.any(self.edge_mask() & (rank >= slots))
        rank = eqx.error_if(rank, lost, f"to_table: a receiver has more than slots={slots} edges")
        place = jnp.where(
            self.edge_mask() & (rank < slots), self.receivers * slots + rank, self.n_dst * slots
        )
        order = jnp.full(self.n_dst * slots, n_edges, place.dtype)
        order = order.at[place].set(jnp.arange(n_edges), mode="drop")
        senders = jnp.take(self.senders, order, mode="fill", fill_value=self.n_src)
        reverse = _relabel(self.reverse, order, n_edges, order.size)
        shape = (self.n_dst, slots)
        table = Table(
            senders.reshape(shape),
            self.n_src,
            self.n_dst,
            None if reverse is None else reverse.reshape(shape),
        )
        return table, order

    def _gather_dst(self, h: Array) -> Array:
        return take_rows(h, self.receivers, is_sorted=True)

    def _sum(self, m: Array) -> Array:
        # Receivers one past the end are dropped.
        return jax.ops.segment_sum(m, self.receivers, self.n_dst, indices_are_sorted=True)

    def _max(self, m: Array) -> Array:
        return jax.ops.segment_max(m, self.receivers, self.n_dst, indices_are_sorted=True)


class Table(AbstractLayout):
    """A fixed number of slots K for each receiver: no scatter anywhere, for TPUs and GPUs.

    - `senders`: row i holds the sources of destination i; unused slots hold `n_src`.
    - `n_src`, `n_dst`: numbers of nodes.
    - `reverse`: see `AbstractLayout`.

    **Raises:** `ValueError` if there is not one row for each destination, `TypeError` for indices
    that are no integers.
    """

    senders: Int[Array, "n_dst slots"]
    reverse: Int[Array, "n_dst slots"] | None
    n_src: int = eqx.field(static=True)
    n_dst: int = eqx.field(static=True)

    def __init__(
        self,
        senders: Int[Array, "n_dst slots"],
        n_src: int,
        n_dst: int,
        reverse: Int[Array, "n_dst slots"] | None = None,
    ):
        _check_index("Table: senders", senders, 2)
        if senders.shape[0] != n_dst:
            raise ValueError(f"Table: senders must have n_dst = {n_dst} rows, got {senders.shape}")
        self.senders, self.reverse, self.n_src, self.n_dst = senders, reverse, n_src, n_dst

    @property
    def receivers(self) -> Int[Array, "n_dst slots"]:
        """The destination of every edge; `n_dst` where there is none."""
        rows = jnp.arange(self.n_dst, dtype=self.senders.dtype)[:, None]
        return jnp.where(self.edge_mask(), rows, self.n_dst)

    def _to_coo(self, capacity: int | None) -> "tuple[Coo, Int[Array, ' edges']]":
        senders, receivers = self.senders.reshape(-1), self.receivers.reshape(-1)
        order = jnp.argsort(receivers, stable=True)
        reverse = _relabel(self.reverse, order, senders.size, senders.size)
        coo = Coo(senders[order], receivers[order], self.n_src, self.n_dst, reverse)
        shorter, kept = coo._to_coo(capacity)
        return shorter, jnp.take(order, kept, mode="fill", fill_value=senders.size)

    def _to_table(self, slots: int | None) -> "tuple[Table, Int[Array, ' entries']]":
        coo, order = self._to_coo(None)
        table, place = coo._to_table(slots)
        return table, jnp.take(order, place, mode="fill", fill_value=self.senders.size)

    def _gather_dst(self, h: Array) -> Array:
        slots = self.senders.shape[1]
        rows = jnp.broadcast_to(h[:, None], (h.shape[0], slots, *h.shape[1:]))
        return jnp.where(_expand(self.edge_mask(), rows), rows, 0)

    def _sum(self, m: Array) -> Array:
        return jnp.sum(m, axis=1)

    def _max(self, m: Array) -> Array:
        return jnp.max(m, axis=1, initial=-jnp.inf)


@jax.custom_vjp
def _gather_symmetric(layout: AbstractLayout, h: Array) -> Array:
    """`take_rows(h, senders)`, whose transpose sums over receivers what the mirrored edges hold."""
    return take_rows(h, layout.senders)


def _gather_forward(layout: AbstractLayout, h: Array) -> tuple[Array, AbstractLayout]:
    return _gather_symmetric(layout, h), layout


def _gather_backward(layout: AbstractLayout, g: Array) -> tuple[None, Array]:
    # Mirroring also drops what stands where there is no edge: its reverse is past the end.
    return None, layout._sum(_mirror(layout, g))


_gather_symmetric.defvjp(_gather_forward, _gather_backward)


@jax.custom_vjp
def _mirror(layout: AbstractLayout, m: Array) -> Array:
    """mₑ ← m_{reverse(e)}: an involution, hence its own transpose."""
    shape = layout.edge_shape
    assert layout.reverse is not None
    return take_rows(m.reshape(-1, *m.shape[len(shape) :]), layout.reverse)


def _mirror_forward(layout: AbstractLayout, m: Array) -> tuple[Array, AbstractLayout]:
    return _mirror(layout, m), layout


def _mirror_backward(layout: AbstractLayout, g: Array) -> tuple[None, Array]:
    return None, _mirror(layout, g)


_mirror.defvjp(_mirror_forward, _mirror_backward)


def _expand(mask: Array, like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _relabel(
    reverse: Int[Array, "*edges"] | None, order: Int[Array, " new"], n_old: int, n_new: int
) -> Int[Array, " new"] | None:
    """`reverse` after edge `order[k]` has become edge k; an order past the end is no edge."""
    if reverse is None:
        return None
    place = jnp.full(n_old, n_new, reverse.dtype)
    place = place.at[order].set(jnp.arange(n_new, dtype=reverse.dtype), mode="drop")
    old = jnp.take(reverse.reshape(-1), order, mode="fill", fill_value=n_old)
    return jnp.take(place, old, mode="fill", fill_value=n_new)


def _concrete_slots(layout: AbstractLayout) -> int:
    try:
        return max(1, int(jnp.max(layout.degree(), initial=0)))
    except jax.errors.ConcretizationTypeError:
        raise ValueError("to_table: inside jit, slots must be given") from None


def _check_index(name: str, index, n_axes: int) -> None:
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {index.dtype}")
    if index.ndim != n_axes:
        raise ValueError(f"{name} must have {n_axes} axes, got shape {index.shape}")
