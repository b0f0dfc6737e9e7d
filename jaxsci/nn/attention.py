"""Attention: softmax or as a kernel integral, on sets of points and on grids, and skip gates."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxsci.nn.conv import Conv, Padding
from jaxsci.nn.norms import FieldMap, Norm, RMSNorm, channel_norm


class MultiHeadAttention(eqx.Module):
    """Attention of n query points to m key points, with several heads.

    With q, k, v linear in the inputs and d the head's width, for each head

        softmax    out_i = Σ_j softmax_j(q_i·k_j/√d + b_ij) v_j,   b_ij = 0 or a given bias
        integral   out_i = Σ_j w_j (q_i·k_j/√d) v_j,   w_j = 1/m or given quadrature weights
        none       out_i = Σ_j (q_i·k_j/√d) v_j

    and the heads' outputs are joined by a linear layer. Softmax attention is
    `jax.nn.dot_product_attention`. The integral form is a learned kernel integral ∫ κ(x, y) v(y) dy
    with the quadrature of the grid it is on. Without a pairwise mask the
    linear forms are evaluated as q (kᵀ v), in O((n + m) d) per channel, whenever that is cheaper.

    **Arguments:**

    - `c`: channels of the queries.
    - `heads`: number of heads. Good values: 4 to 8, of width 32 to 64.
    - `c_context`: channels of the keys' points; `c` by default.
    - `c_out`: channels of the output; `c` by default.
    - `head_size`: d; `c // heads` by default.
    - `normalise`: "softmax", "integral" or "none".
    - `qk_norm`: "layer" or "rms" normalises each head's q and k over its channels (with learned
      scales): it bounds the logits, and integral attention needs it to train well. None: nothing.
    - `use_bias`: whether q, k, v have a bias. The last layer always has.
    - `zero_init`: the last layer starts at zero, for a residual branch.

    **Raises:** `ValueError` for sizes that are not positive, heads that do not divide c, an
    unknown `normalise` or `qk_norm`; in the call for inputs, masks, biases or weights of other
    shapes, for weights with softmax, and for a bias without it.

    Vaswani et al. 2017, arXiv 1706.03762; Cao 2021, arXiv 2105.14995; Guo, Cao & Chen 2022,
    arXiv 2209.14977 (integral); Henry et al. 2020, arXiv 2010.04245 (normalised q and k).
    """

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    query_norm: eqx.nn.LayerNorm | RMSNorm | None
    key_norm: eqx.nn.LayerNorm | RMSNorm | None
    c: int = eqx.field(static=True)
    c_context: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    normalise: Literal["softmax", "integral", "none"] = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        heads: int,
        *,
        c_context: int | None = None,
        c_out: int | None = None,
        head_size: int | None = None,
        normalise: Literal["softmax", "integral", "none"] = "softmax",
        qk_norm: Literal["layer", "rms"] | None = None,
        use_bias: bool = True,
        zero_init: bool = False,
        key: PRNGKeyArray,
    ):
        c_context = c if c_context is None else c_context
        c_out = c if c_out is None else c_out
        sizes = {"c": c, "heads": heads, "c_context": c_context, "c_out": c_out}
        if head_size is None:
            if isinstance(heads, int) and heads > 0 and c % heads:
                raise ValueError(f"heads={heads} must divide c={c}, or give head_size")
            head_size = c // heads if heads else 0
        for name, size in (sizes | {"head_size": head_size}).items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        if normalise not in ("softmax", "integral", "none"):
            raise ValueError(
                f'normalise must be "softmax", "integral" or "none", got {normalise!r}'
            )
        self.c, self.c_context, self.heads, self.normalise = c, c_context, heads, normalise
        keys = jax.random.split(key, 4)
        width = heads * head_size
        self.query = eqx.nn.Linear(c, width, use_bias, key=keys[0])
        self.key = eqx.nn.Linear(c_context, width, use_bias, key=keys[1])
        self.value = eqx.nn.Linear(c_context, width, use_bias, key=keys[2])
        out = eqx.nn.Linear(width, c_out, key=keys[3])
        self.out = jax.tree.map(jnp.zeros_like, out) if zero_init else out
        match qk_norm:
            case None:
                self.query_norm = self.key_norm = None
            case "layer":
                self.query_norm, self.key_norm = (eqx.nn.LayerNorm(head_size) for _ in range(2))
            case "rms":
                self.query_norm, self.key_norm = (RMSNorm(head_size) for _ in range(2))
            case _:
                raise ValueError(f'qk_norm must be "layer", "rms" or None, got {qk_norm!r}')

    def __call__(
        self,
        x: Float[Array, "n c"],
        context: Float[Array, "m c_context"] | None = None,
        *,
        mask: Bool[Array, "n m"] | Bool[Array, " m"] | None = None,
        bias: Float[Array, "heads n m"] | None = None,
        weights: Float[Array, " m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "n c_out"]:
        """What each point of `x` gathers from the points of `context` (self-attention: from `x`).

        **Arguments:**

        - `x`: one row for each query point. `context`: one row for each key point.
        - `mask`: True where query i may see key j, or which keys are there at all. A softmax row
          with no True is the mean over all keys; a linear one is 0.
        - `bias`: b, one matrix for each head, for "softmax".
        - `weights`: quadrature weights of the key points, for "integral"; 1/m (over the keys a
          mask keeps) by default.
        - `key`: not used.
        """
        del key
        context = x if context is None else context
        _check_points("x", x, self.c)
        _check_points("context", context, self.c_context)
        n, m = x.shape[0], context.shape[0]
        if mask is not None and mask.shape not in ((n, m), (m,)):
            raise ValueError(f"mask must have shape {(n, m)} or {(m,)}, got {mask.shape}")
        if weights is not None:
            if self.normalise != "integral":
                raise ValueError(f'weights need normalise="integral", not {self.normalise!r}')
            if weights.shape != (m,):
                raise ValueError(f"weights must have shape {(m,)}, got {weights.shape}")
        if bias is not None and (self.normalise != "softmax" or bias.shape != (self.heads, n, m)):
            raise ValueError(
                f'bias must have shape {(self.heads, n, m)} and needs normalise="softmax", got '
                f"{bias.shape} and {self.normalise!r}"
            )
        q = self._heads(self.query, self.query_norm, x)
        k = self._heads(self.key, self.key_norm, context)
        v = self._heads(self.value, None, context)
        if self.normalise == "softmax":
            if mask is not None:
                mask = jnp.broadcast_to(mask, (n, m))[None]
            gathered = jax.nn.dot_product_attention(q, k, v, bias, mask)
        else:
            gathered = self._linear(q, k, v, mask, weights)
        return jax.vmap(self.out)(gathered.reshape(n, -1))

    def _heads(
        self, layer: eqx.nn.Linear, norm: eqx.nn.LayerNorm | RMSNorm | None, x: Float[Array, "n c"]
    ) -> Float[Array, "n heads d"]:
        y = jax.vmap(layer)(x).reshape(x.shape[0], self.heads, -1)
        return y if norm is None else jax.vmap(jax.vmap(norm))(y)

    def _linear(self, q, k, v, mask, weights) -> Float[Array, "n heads d"]:
        n, m, d = q.shape[0], k.shape[0], q.shape[-1]
        q = q / jnp.sqrt(d).astype(q.dtype)
        pairwise = mask if mask is not None and mask.ndim == 2 else None
        if self.normalise == "integral" and weights is None and pairwise is None:
            count = m if mask is None else jnp.maximum(jnp.sum(mask), 1)
            weights = jnp.full(m, 1.0, q.dtype) / count
        # What belongs to the key point alone is folded into its value.
        if mask is not None and mask.ndim == 1:
            v = jnp.where(mask[:, None, None], v, 0)
        if weights is not None:
            v = v * weights[:, None, None].astype(v.dtype)
        if pairwise is None and 2 * n * m > (n + m) * d:
            return jnp.einsum("nhd,hde->nhe", q, jnp.einsum("mhd,mhe->hde", k, v))
        logits = jnp.einsum("nhd,mhd->hnm", q, k)
        if pairwise is not None:
            logits = jnp.where(pairwise, logits, 0)
        out = jnp.einsum("hnm,mhe->nhe", logits, v)
        if pairwise is not None and self.normalise == "integral" and weights is None:
            out = out / jnp.maximum(jnp.sum(pairwise, axis=1), 1)[:, None, None].astype(out.dtype)
        return out


class GridAttention(eqx.Module):
    """A residual self-attention block over all points of a grid: y = x + Attn(norm(x)).

    The grid's points are a set: the block commutes with every permutation of them, so with shifts
    too. The cost of softmax is quadratic in their number: a good place is a U-Net's coarse levels.

    **Arguments:**

    - `c`: channels. `heads`: see `MultiHeadAttention`.
    - `norm`: see `jaxsci.nn.channel_norm`.
    - `normalise`, `qk_norm`: see `MultiHeadAttention`.
    - `zero_init`: start as the identity.
    - `scale`: the sum is multiplied by it (1/√2 keeps the variance).

    **Raises:** `ValueError` as `MultiHeadAttention` does.
    """

    norm: FieldMap
    attention: MultiHeadAttention
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        heads: int = 4,
        *,
        norm: Norm = "group",
        normalise: Literal["softmax", "integral", "none"] = "softmax",
        qk_norm: Literal["layer", "rms"] | None = None,
        zero_init: bool = True,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        self.attention = MultiHeadAttention(
            c, heads, normalise=normalise, qk_norm=qk_norm, zero_init=zero_init, key=key
        )
        self.norm = channel_norm(norm, c)
        self.scale = scale

    def __call__(
        self, x: Float[Array, "c *grid"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c *grid"]:
        """The field with what its points told each other. `key` is not used."""
        del key
        points = self.norm(x).reshape(x.shape[0], -1).T
        return self.scale * (x + self.attention(points).T.reshape(x.shape))


class AttentionGate(eqx.Module):
    """The additive gate of the Attention U-Net: how much of a skip passes, point by point.

        α = sigmoid(norm(ψ(relu(norm(W_x x) + norm(W_g g))))) ∈ (0, 1),   y = α x

    with one α for all channels.

    **Arguments:**

    - `dim`: grid axes.
    - `c_x`, `c_g`: channels of the skip x and of the gating signal g, on the same grid.
    - `c_mid`: channels of W_x x; half of `c_x` by default.
    - `kernel_size`: of all three convolutions: 1 is classic, 3 sees the neighbours.
    - `norm`: see `jaxsci.nn.channel_norm`.
    - `padding`: see `jaxsci.nn.padding_modes`.

    **Raises:** `ValueError` for sizes that are not positive and when x and g differ in their grid.

    Oktay et al. 2018, arXiv 1804.03999.
    """

    from_skip: Conv
    from_gate: Conv
    to_weight: Conv
    skip_norm: FieldMap
    gate_norm: FieldMap
    weight_norm: FieldMap

    def __init__(
        self,
        dim: int,
        c_x: int,
        c_g: int,
        c_mid: int | None = None,
        *,
        kernel_size: int = 1,
        norm: Norm = "group",
        padding: Padding = "zero",
        key: PRNGKeyArray,
    ):
        c_mid = max(c_x // 2, 1) if c_mid is None else c_mid
        keys = jax.random.split(key, 3)
        self.from_skip = Conv(dim, c_x, c_mid, kernel_size, padding=padding, key=keys[0])
        self.from_gate = Conv(dim, c_g, c_mid, kernel_size, padding=padding, key=keys[1])
        self.to_weight = Conv(dim, c_mid, 1, kernel_size, padding=padding, key=keys[2])
        self.skip_norm = channel_norm(norm, c_mid)
        self.gate_norm = channel_norm(norm, c_mid)
        self.weight_norm = channel_norm(norm, 1)

    def __call__(
        self,
        x: Float[Array, "c_x *grid"],
        g: Float[Array, "c_g *grid"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_x *grid"]:
        """The gated skip α x. `key` is not used."""
        del key
        if x.shape[1:] != g.shape[1:]:
            raise ValueError(f"x and g must share one grid, got {x.shape[1:]} and {g.shape[1:]}")
        joint = self.skip_norm(self.from_skip(x)) + self.gate_norm(self.from_gate(g))
        return x * jax.nn.sigmoid(self.weight_norm(self.to_weight(jax.nn.relu(joint))))


def _check_points(name: str, x: Float[Array, "n c"], c: int) -> None:
    if x.ndim != 2 or x.shape[1] != c:
        raise ValueError(f"{name} must have shape (points, {c}) (vmap over a batch), got {x.shape}")
