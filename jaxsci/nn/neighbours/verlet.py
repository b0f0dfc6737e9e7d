"""Neighbour lists that are kept while points move little.

A list within r + s holds every pair within r as long as no point has moved by more than s/2.
"""

from typing import Any, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..graph import AbstractLayout, Box, Table, displacement
from .search import radius


class VerletList(eqx.Module):
    """All pairs of moving points within r, searched again only when they may have changed.

    Make one with `VerletList.init`; carry it through a `jax.lax.scan` and `update` it each step.

    - `layout`: a table within r + `skin` of the positions of the last search.
    - `ref_pos`: these positions.
    - `overflow`: whether some neighbours ever did not fit.
    - `n_searches`: searches so far.
    """

    layout: Table
    ref_pos: Float[Array, "n d"]
    overflow: Bool[Array, ""]
    n_searches: Array
    r: float = eqx.field(static=True)
    skin: float = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    box: Box | None = eqx.field(static=True)
    engine: Literal["auto", "cell", "brute"] = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        pos: Float[Array, "n d"],
        *,
        r: float,
        skin: float,
        capacity: int,
        box: Box | None = None,
        engine: Literal["auto", "cell", "brute"] = "auto",
    ) -> "VerletList":
        """The first search.

        **Arguments:** `skin` ≥ 0: 0 searches at every update (the choice under `jax.vmap`, where a
        condition becomes a selection and both sides are computed anyway); a fifth of r is a good
        start. `capacity`: slots for each point, for the neighbours within r + skin. The others are
        those of `radius`.

        **Raises:** `ValueError` for a negative skin, `engine="host"`, and as `radius`.
        """
        if skin < 0:
            raise ValueError(f"VerletList: skin must not be negative, got {skin}")
        if engine not in ("auto", "cell", "brute"):
            raise ValueError(
                f"VerletList: engine must be 'auto', 'cell' or 'brute', got {engine!r}"
            )
        layout, overflow = radius(pos, r=r + skin, capacity=capacity, box=box, engine=engine)
        frozen = jax.lax.stop_gradient(pos)
        one = jnp.ones((), jnp.int32)
        table: Any = layout
        return cls(table, frozen, overflow, one, r, skin, capacity, box, engine)

    def update(self, pos: Float[Array, "n d"]) -> Self:
        """The list for new positions of the same points.

        **Raises:** `ValueError` if `pos` has another shape.
        """
        if pos.shape != self.ref_pos.shape:
            raise ValueError(f"update: expected positions {self.ref_pos.shape}, got {pos.shape}")
        pos = jax.lax.stop_gradient(pos)

        def search(_: None):
            layout, overflow = radius(
                pos, r=self.r + self.skin, capacity=self.capacity, box=self.box, engine=self.engine
            )
            return layout.senders, pos, self.overflow | overflow, self.n_searches + 1

        def keep(_: None):
            return self.layout.senders, self.ref_pos, self.overflow, self.n_searches

        if self.skin == 0:
            new = search(None)
        else:
            moved = jnp.max(jnp.sum(displacement(pos, self.ref_pos, self.box) ** 2, axis=-1))
            # Not "moved > …": a position that is NaN should search, not keep an old list.
            still = moved <= (self.skin / 2) ** 2
            new = jax.lax.cond(still, keep, search, None)
        return eqx.tree_at(
            lambda v: (v.layout.senders, v.ref_pos, v.overflow, v.n_searches), self, new
        )

    def within(self, pos: Float[Array, "n d"]) -> AbstractLayout:
        """Of the list, the pairs that are within r now.

        **Raises:** `ValueError` if `pos` has another shape.
        """
        frozen = jax.lax.stop_gradient(pos)
        gap = displacement(self.layout.dst(frozen), self.layout.src(frozen), self.box)
        near = self.layout.edge_mask() & (jnp.sum(gap**2, axis=-1) <= self.r**2)
        n = self.layout.n_src
        return Table(jnp.where(near, self.layout.senders, n), n, n)
