"""Message passing: what a node hears from its neighbours, and what it makes of that.

    mₑ = φ(h_{r(e)}, h_{s(e)}, e),    aᵢ = ⊕_{e : r(e) = i} mₑ,    hᵢ ← γ(hᵢ, aᵢ)

Features are rows, one for each node or edge. The layers work on any layout, also between two
different sets of nodes (arXiv:1704.01212).
"""

from collections.abc import Callable
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .graph import AbstractLayout, Reduction
from .initial import uniform


class Message(Protocol):
    """φ: edge rows from the node rows at both ends and the rows of the edges themselves."""

    def __call__(
        self,
        layout: AbstractLayout,
        src: Float[Array, "n_src c"],
        dst: Float[Array, "n_dst b"],
        edge: Float[Array, "*edges e"] | None,
    ) -> Float[Array, "*edges m"]:
        """The messages; what they are where there is no edge does not matter."""
        ...


class MessagePassing(eqx.Module):
    """hᵢ ← γ(hᵢ, ⊕ φ(hᵢ, hⱼ, e_ij)): one round of messages.

    The base of the graph layers: `InteractionNetwork`, `GATv2Conv` and others are a choice of φ
    and γ.

    **Arguments:**

    - `message`: φ, called as `message(layout, src, dst, edge)`; for instance an `EdgeMLP`.
    - `update`: γ, called as `update(dst, a)`.
    - `op`: ⊕, "sum", "mean", "max" or "min".

    **Raises:** `ValueError` for an unknown `op`.
    """

    message: Message
    update: Callable[[Array, Array], Array]
    op: Reduction = eqx.field(static=True, default="sum")

    def __check_init__(self):
        if self.op not in ("sum", "mean", "max", "min"):
            raise ValueError(
                f"MessagePassing: op must be 'sum', 'mean', 'max' or 'min', got {self.op!r}"
            )

    def __call__(
        self,
        layout: AbstractLayout,
        src: Float[Array, "n_src c"],
        dst: Float[Array, "n_dst b"] | None = None,
        edge: Float[Array, "*edges e"] | None = None,
    ) -> Float[Array, "n_dst c_out"]:
        """New rows of the destinations.

        **Arguments:** `layout`; `src`, `dst`: rows of both ends (`None`: the sources are the
        destinations); `edge`: rows of the edges.

        **Raises:** `ValueError` if rows and layout do not fit.
        """
        dst = src if dst is None else dst
        messages = self.message(layout, src, dst, edge)
        return self.update(dst, layout.reduce(messages, self.op))


class RowLinear(eqx.Module):
    """x ↦ W x + b on the last axis, whatever axes come before.

    **Arguments:** `c_in`, `c_out`, `use_bias`. Weights and biases are drawn from U(±1/√c_in).

    **Raises:** `ValueError` for sizes that are not positive, or rows of another length.
    """

    weight: Float[Array, "c_out c_in"]
    bias: Float[Array, " c_out"] | None

    def __init__(self, c_in: int, c_out: int, *, use_bias: bool = True, key: PRNGKeyArray):
        if c_in < 1 or c_out < 1:
            raise ValueError(f"RowLinear: sizes must be positive, got {c_in} and {c_out}")
        weight_key, bias_key = jr.split(key)
        limit = c_in**-0.5
        self.weight = uniform(weight_key, (c_out, c_in), minval=-limit, maxval=limit)
        self.bias = (
            jr.uniform(bias_key, (c_out,), minval=-limit, maxval=limit) if use_bias else None
        )

    def __call__(self, x: Float[Array, "*n c_in"]) -> Float[Array, "*n c_out"]:
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"x: expected rows of {self.weight.shape[1]}, got shape {x.shape}")
        y = x @ self.weight.T.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class RowMLP(eqx.Module):
    """A multi-layer perceptron on the last axis.

    **Arguments:**

    - `c_in`, `c_out`: length of the rows.
    - `hidden`: width of the hidden layers.
    - `n_layers`: number of affine maps, at least 1.
    - `activation`: between the maps; with `activate_last` after the last one, too.

    **Raises:** `ValueError` for sizes that are not positive.
    """

    layers: tuple[RowLinear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    activate_last: bool = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        hidden: int,
        n_layers: int = 2,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        activate_last: bool = False,
        key: PRNGKeyArray,
    ):
        if n_layers < 1:
            raise ValueError(f"RowMLP: n_layers must be at least 1, got {n_layers}")
        sizes = [c_in, *[hidden] * (n_layers - 1), c_out]
        self.layers = tuple(
            RowLinear(a, b, key=k)
            for a, b, k in zip(sizes[:-1], sizes[1:], jr.split(key, n_layers), strict=True)
        )
        self.activation, self.activate_last = activation, activate_last

    def __call__(self, x: Float[Array, "*n c_in"]) -> Float[Array, "*n c_out"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        x = self.layers[-1](x)
        return self.activation(x) if self.activate_last else x


class EdgeLinear(eqx.Module):
    """W [h_r, h_s, e] + b for every edge, without ever forming [h_r, h_s, e].

        W_r h_r + W_s h_s + W_e e + b,    W_r h and W_s h computed once for each node

    For N nodes and E edges this is O((N (c_dst + c_src) + E c_edge) c_out) instead of
    O(E (c_dst + c_src + c_edge) c_out).

    **Arguments:** `c_dst`, `c_src`, `c_edge`: lengths of the rows; 0 leaves that part out;
    `c_out`; `use_bias`. All are drawn from U(±1/√(c_dst + c_src + c_edge)), as for one matrix.

    **Raises:** `ValueError` if nothing goes in or out, or rows have other lengths.
    """

    weight: Float[Array, "c_out c_in"]
    bias: Float[Array, " c_out"] | None
    sizes: tuple[int, int, int] = eqx.field(static=True)

    def __init__(
        self,
        c_dst: int,
        c_src: int,
        c_edge: int,
        c_out: int,
        *,
        use_bias: bool = True,
        key: PRNGKeyArray,
    ):
        self.sizes = (c_dst, c_src, c_edge)
        if min(self.sizes) < 0 or sum(self.sizes) < 1 or c_out < 1:
            raise ValueError(
                f"EdgeLinear: expected rows to go in and out, got {self.sizes} and {c_out}"
            )
        whole = RowLinear(sum(self.sizes), c_out, use_bias=use_bias, key=key)
        self.weight, self.bias = whole.weight, whole.bias

    def __call__(
        self,
        layout: AbstractLayout,
        src: Float[Array, "n_src c"] | None,
        dst: Float[Array, "n_dst b"] | None,
        edge: Float[Array, "*edges e"] | None = None,
    ) -> Float[Array, "*edges c_out"]:
        """The edge rows. `None` stands for a part of length 0."""
        parts = (("dst", dst, layout.dst), ("src", src, layout.src), ("edge", edge, None))
        first, total = 0, None
        for (name, rows, gather), size in zip(parts, self.sizes, strict=True):
            found = 0 if rows is None else rows.shape[-1]
            if size == 0:
                continue
            if rows is None or found != size:
                raise ValueError(f"EdgeLinear: {name} must have rows of {size}, got {found}")
            part = rows @ self.weight[:, first : first + size].T.astype(rows.dtype)
            part = part if gather is None else gather(part)
            total = part if total is None else total + part
            first += size
        assert total is not None
        return total if self.bias is None else total + self.bias.astype(total.dtype)


class EdgeMLP(eqx.Module):
    """A perceptron of [h_r, h_s, e] for every edge, its first layer split as in `EdgeLinear`.

    **Arguments:** `c_dst`, `c_src`, `c_edge` as for `EdgeLinear`; `c_out`, `hidden`, `n_layers`,
    `activation`, `activate_last` as for `RowMLP`, with at least 2 layers.

    **Raises:** `ValueError` for sizes that are not positive.
    """

    first: EdgeLinear
    rest: RowMLP

    def __init__(
        self,
        c_dst: int,
        c_src: int,
        c_edge: int,
        c_out: int,
        *,
        hidden: int,
        n_layers: int = 2,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        activate_last: bool = False,
        key: PRNGKeyArray,
    ):
        if n_layers < 2:
            raise ValueError(f"EdgeMLP: n_layers must be at least 2, got {n_layers}")
        first_key, rest_key = jr.split(key)
        self.first = EdgeLinear(c_dst, c_src, c_edge, hidden, key=first_key)
        self.rest = RowMLP(
            hidden,
            c_out,
            hidden=hidden,
            n_layers=n_layers - 1,
            activation=activation,
            activate_last=activate_last,
            key=rest_key,
        )

    def __call__(
        self,
        layout: AbstractLayout,
        src: Float[Array, "n_src c"] | None,
        dst: Float[Array, "n_dst b"] | None,
        edge: Float[Array, "*edges e"] | None = None,
    ) -> Float[Array, "*edges c_out"]:
        """The edge rows."""
        return self.rest(self.rest.activation(self.first(layout, src, dst, edge)))


class ResidualUpdate(eqx.Module):
    """h ↦ h + ψ([h, a]) (or ψ alone), with a perceptron ψ.

    **Arguments:** `mlp`: of rows c + c_a; `residual`.
    """

    mlp: RowMLP
    residual: bool = eqx.field(static=True, default=True)

    def __call__(self, h: Float[Array, "n c"], a: Float[Array, "n m"]) -> Float[Array, "n c_out"]:
        new = self.mlp(jnp.concatenate([h, a], axis=-1))
        return h + new if self.residual else new


def InteractionNetwork(
    c: int,
    c_edge: int = 0,
    *,
    hidden: int | None = None,
    n_layers: int = 2,
    op: Reduction = "sum",
    activation: Callable[[Array], Array] = jax.nn.gelu,
    key: PRNGKeyArray,
) -> MessagePassing:
    """hᵢ ← hᵢ + ψ([hᵢ, ⊕ φ([hᵢ, hⱼ, e_ij])]) with perceptrons φ and ψ.

    The block of graph network simulators (arXiv:1612.00222, arXiv:2002.09405).

    **Arguments:** `c`: length of node rows; `c_edge`: of edge rows; `hidden` (default c),
    `n_layers`, `activation`: of both perceptrons; `op`.

    **Raises:** `ValueError` for sizes that are not positive or an unknown `op`.
    """
    message_key, update_key = jr.split(key)
    width = c if hidden is None else hidden
    message = EdgeMLP(
        c, c, c_edge, c, hidden=width, n_layers=n_layers, activation=activation, key=message_key
    )
    mlp = RowMLP(2 * c, c, hidden=width, n_layers=n_layers, activation=activation, key=update_key)
    return MessagePassing(message, ResidualUpdate(mlp), op)


class GATv2Conv(eqx.Module):
    """Attention over neighbours, by a score that sees both ends.

        α_e = softmax over e with r(e) = i of  aᵀ LeakyReLU(W_s h_s + W_r h_r + W_e e),
        hᵢ ← Σ_e α_e W_s h_s + b

    with heads side by side (or averaged). Unlike its predecessor it can rank neighbours
    differently for different receivers (arXiv:2105.14491).

    **Arguments:**

    - `c_src`, `c_dst`, `c_edge`: lengths of the rows that come in.
    - `c_out`: length of each head's rows.
    - `heads`; `concat`: whether heads are put side by side (`heads * c_out`) or averaged.
    - `slope`: of LeakyReLU below 0.

    **Raises:** `ValueError` for sizes that are not positive.
    """

    to_src: RowLinear
    to_dst: RowLinear
    to_edge: RowLinear | None
    attention: Float[Array, "heads c_out"]
    bias: Float[Array, " c"]
    concat: bool = eqx.field(static=True)
    slope: float = eqx.field(static=True)

    def __init__(
        self,
        c_src: int,
        c_dst: int,
        c_out: int,
        *,
        c_edge: int = 0,
        heads: int = 1,
        concat: bool = True,
        slope: float = 0.2,
        key: PRNGKeyArray,
    ):
        if heads < 1:
            raise ValueError(f"GATv2Conv: heads must be positive, got {heads}")
        src_key, dst_key, edge_key, attention_key = jr.split(key, 4)
        width = heads * c_out
        self.to_src = RowLinear(c_src, width, key=src_key)
        self.to_dst = RowLinear(c_dst, width, key=dst_key)
        self.to_edge = RowLinear(c_edge, width, use_bias=False, key=edge_key) if c_edge else None
        limit = (6 / (1 + c_out)) ** 0.5  # Glorot's
        self.attention = jr.uniform(attention_key, (heads, c_out), minval=-limit, maxval=limit)
        self.bias = jnp.zeros(width if concat else c_out)
        self.concat, self.slope = concat, slope

    def __call__(
        self,
        layout: AbstractLayout,
        src: Float[Array, "n_src c"],
        dst: Float[Array, "n_dst b"] | None = None,
        edge: Float[Array, "*edges e"] | None = None,
    ) -> Float[Array, "n_dst c_out"]:
        """New rows of the destinations; see `MessagePassing`."""
        if (edge is None) != (self.to_edge is None):
            raise ValueError("edge: rows are needed just if c_edge was given")
        heads, c_out = self.attention.shape
        values = layout.src(self.to_src(src))
        score = values + layout.dst(self.to_dst(src if dst is None else dst))
        if self.to_edge is not None and edge is not None:
            score = score + self.to_edge(edge)
        by_head = (*layout.edge_shape, heads, c_out)
        score = jax.nn.leaky_relu(score, self.slope).reshape(by_head)
        weights = layout.softmax(jnp.sum(score * self.attention.astype(score.dtype), axis=-1))
        messages = weights[..., None] * values.reshape(by_head)
        out = layout.reduce(messages.reshape(*layout.edge_shape, -1))
        if not self.concat:
            out = jnp.mean(out.reshape(-1, heads, c_out), axis=1)
        return out + self.bias.astype(out.dtype)


class EncodeProcessDecode(eqx.Module):
    """h ← enc(x),  h ← block(h) for each of equal blocks,  y ← dec(h).

    The blocks' weights are stacked and run by one `jax.lax.scan`, so compile time does not grow
    with their number.

    **Arguments:**

    - `encode`, `decode`: maps of rows.
    - `make_block`: makes a block from a key; a block is called as `block(layout, h, None, edge)`.
    - `n_blocks`: at least 1.

    **Raises:** `ValueError` for `n_blocks` < 1.
    """

    encode: Callable[[Array], Array]
    blocks: Callable
    decode: Callable[[Array], Array]

    def __init__(
        self,
        encode: Callable[[Array], Array],
        make_block: Callable[[PRNGKeyArray], Callable],
        decode: Callable[[Array], Array],
        n_blocks: int,
        *,
        key: PRNGKeyArray,
    ):
        if n_blocks < 1:
            raise ValueError(f"EncodeProcessDecode: n_blocks must be positive, got {n_blocks}")
        self.encode, self.decode = encode, decode
        self.blocks = eqx.filter_vmap(make_block)(jr.split(key, n_blocks))

    def __call__(
        self,
        layout: AbstractLayout,
        x: Float[Array, "n c_in"],
        edge: Float[Array, "*edges e"] | None = None,
    ) -> Float[Array, "n c_out"]:
        """The decoded rows."""
        weights, static = eqx.partition(self.blocks, eqx.is_array)

        def body(h: Array, block) -> tuple[Array, None]:
            return eqx.combine(block, static)(layout, h, None, edge), None

        h, _ = jax.lax.scan(body, self.encode(x), weights)
        return self.decode(h)
