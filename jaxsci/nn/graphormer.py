"""Graphormer: attention among all nodes of a directed graph, biased by how they are connected."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .attention import MultiHeadAttention
from .initial import normal, stacked
from .mlp import ChannelMLP


class GraphormerLayer(eqx.Module):
    """x ← x + Attn(LN(x); bias), then x ← x + MLP(LN(x)), on all nodes at once.

    **Arguments:** as `Graphormer`.
    """

    attention_norm: eqx.nn.LayerNorm
    attention: MultiHeadAttention
    mlp_norm: eqx.nn.LayerNorm
    mlp: ChannelMLP

    def __init__(self, width: int, heads: int, *, hidden: int, key: PRNGKeyArray):
        attention_key, mlp_key = jr.split(key)
        self.attention_norm, self.mlp_norm = (eqx.nn.LayerNorm(width) for _ in range(2))
        self.attention = MultiHeadAttention(width, heads, key=attention_key)
        self.mlp = ChannelMLP(width, width, hidden=hidden, key=mlp_key)

    def __call__(
        self,
        x: Float[Array, "n c"],
        bias: Float[Array, "heads n n"],
        mask: Array | None = None,
    ) -> Float[Array, "n c"]:
        """The nodes' new vectors."""
        x = x + self.attention(jax.vmap(self.attention_norm)(x), mask=mask, bias=bias)
        return x + self.mlp(jax.vmap(self.mlp_norm)(x).T).T


class Graphormer(eqx.Module):
    """A transformer of the nodes of a directed graph, whose attention knows the paths.

        x_i = z_i + e_kind(i) + e⁻_indegree(i) + e⁺_outdegree(i)
        b_ij = β⁺_φ(i,j) + β⁻_φ(j,i)    for each head, the same in every layer

    φ(i, j) is the number of edges on the shortest path from i to j, cut at `paths` − 2, which also
    stands for "no path". Nodes that have no path either way do not attend to each other; through
    others they still exchange what they know. The order of the nodes is of no consequence.

    Kinds count from 1: 0 is a node that only fills up an array. Nobody attends to it.

    **Arguments:**

    - `width`: of the nodes' vectors. `heads`: must divide it. `depth`: number of layers.
    - `hidden`: of the MLPs; `width` by default.
    - `kinds`: number of kinds of nodes, without the filling. `degrees`: degrees from this number on
        are taken for the next lower one. `paths`: see above.
    - `spread`: standard deviation of the tables at first. The published 0.02 is little beside the
        features, so that kinds are hard to tell for a long time; 0.5 is a good value for short
        training.
    - `key`: for the weights.

    **Raises:** `ValueError` for sizes below 1 (`paths`: 2), heads that do not divide the width, or
    arrays of other shapes.

    Reference: Ying et al., arXiv:2106.05234 (undirected graphs); Ye et al., arXiv:2402.12652.
    """

    kind: Float[Array, "kinds c"]
    in_degree: Float[Array, "degrees c"]
    out_degree: Float[Array, "degrees c"]
    path: Float[Array, "paths heads"]
    path_back: Float[Array, "paths heads"]
    layers: GraphormerLayer

    def __init__(
        self,
        width: int,
        heads: int,
        depth: int,
        *,
        hidden: int | None = None,
        kinds: int = 128,
        degrees: int = 32,
        paths: int = 16,
        spread: float = 0.02,
        key: PRNGKeyArray,
    ):
        hidden = width if hidden is None else hidden
        sizes = {"width": width, "depth": depth, "hidden": hidden, "kinds": kinds}
        for name, size in (sizes | {"degrees": degrees, "paths": paths - 1}).items():
            if size < 1:
                least = 2 if name == "paths" else 1
                raise ValueError(f"Graphormer: {name} must be at least {least}, got {size}")
        layer_key, *keys = jr.split(key, 6)

        def table(key: PRNGKeyArray, rows: int, columns: int) -> Array:
            return spread * normal(key, (rows, columns))

        self.kind = table(keys[0], kinds + 1, width)
        self.in_degree, self.out_degree = (table(k, degrees, width) for k in keys[1:3])
        self.path, self.path_back = (table(k, paths, heads) for k in keys[3:5])
        self.layers = stacked(
            lambda k: GraphormerLayer(width, heads, hidden=hidden, key=k), layer_key, depth
        )

    def bias(self, distance: Int[Array, "n n"]) -> Float[Array, "heads n n"]:
        """b_ij.

        **Arguments:** `distance`: edges on the shortest path from i to j, −1 if there is none.
        """
        longest = self.path.shape[0] - 2
        # Row 0 is that of filling nodes in published weights.
        index = 1 + jnp.where(distance < 0, longest, jnp.minimum(distance, longest))
        return _rows(self.path.T, index) + _rows(self.path_back.T, index.T)

    def __call__(
        self,
        z: Float[Array, "n c"],
        kind: Int[Array, " n"],
        in_degree: Int[Array, " n"],
        out_degree: Int[Array, " n"],
        distance: Int[Array, "n n"],
    ) -> Float[Array, "n c"]:
        """The nodes' vectors after the last layer; those of filling nodes mean nothing.

        **Arguments:** `z`: the nodes' features. `kind`: 0 for filling. `in_degree`, `out_degree`:
        edges to and from a node. `distance`: as `bias`.
        """
        n = z.shape[0]
        shapes = (kind.shape, in_degree.shape, out_degree.shape, distance.shape)
        if z.shape[1:] != self.kind.shape[1:] or shapes != ((n,), (n,), (n,), (n, n)):
            raise ValueError(
                f"Graphormer: expected features (n, {self.kind.shape[1]}), kinds and degrees (n,) "
                f"and distances (n, n), got {z.shape}, {', '.join(map(str, shapes))}"
            )
        real = kind > 0
        top = self.in_degree.shape[0] - 1
        x = z + _rows(self.kind.T, kind).T
        for table, degree in ((self.in_degree, in_degree), (self.out_degree, out_degree)):
            x = x + _rows(table.T, jnp.where(real, jnp.minimum(degree + 1, top), 0)).T
        # The mask, not the cut distance, says who is connected: a long path is one.
        mask = ((distance >= 0) | (distance.T >= 0)) & real
        bias = self.bias(distance).astype(x.dtype)
        stacked, static = eqx.partition(self.layers, eqx.is_array)

        def layer(x: Array, weights: GraphormerLayer) -> tuple[Array, None]:
            return eqx.combine(weights, static)(x, bias, mask), None

        x, _ = jax.lax.scan(layer, x, stacked)
        return x


def _rows(table: Float[Array, "c rows"], index: Int[Array, "*n"]) -> Float[Array, "c *n"]:
    """Columns of a small table as a product, whose derivative is one too and not a scatter."""
    chosen = jax.nn.one_hot(index, table.shape[1], dtype=table.dtype, axis=0)
    return jnp.tensordot(table, chosen, 1)
