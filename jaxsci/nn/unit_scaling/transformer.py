"""A decoder in u-muP: embedding, blocks of attention and gated feed-forward, norm, logits.

    x₀ = E[tokens],   x ← (τ f(norm x) + x)/√(1 + τ²) for each branch f,   logits = A W norm(x_L)

Every module takes whole batches, and a `tap(name, x) -> x` that sees each tensor on its way
(`tensor_scales` measures their sizes through it).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .float8 import Precision
from .functions import attention, silu_glu
from .layers import Embedding, Linear, RMSNorm
from .residual import Size, residual_add, residual_split, residual_taus

Tap = Callable[[str, Array], Array]


def no_tap(name: str, x: Array) -> Array:
    """Lets a tensor pass."""
    del name
    return x


def rotate(x: Float[Array, "*batch n heads d"], base: float = 10_000.0) -> Array:
    """Rotary positions: pairs (x_i, x_{i+d/2}) at place t turned by the angle t base^(−2i/d).

    A rotation: sizes of values and gradients stay what they were (Su et al., arXiv:2104.09864).

    **Arguments:** `x`: queries or keys, with d even. `base`: 10,000 is usual.

    **Raises:** `ValueError` for an odd d.
    """
    n, d = x.shape[-3], x.shape[-1]
    if d % 2:
        raise ValueError(f"x: expected an even head size, got {d}")
    angles = jnp.arange(n)[:, None] * base ** (-jnp.arange(0, d, 2) / d)
    cos, sin = (f(angles)[:, None, :].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class SelfAttention(eqx.Module):
    """Attention of a sequence to itself: joint linear map to q, k, v, heads, linear map back.

    **Arguments:**

    - `c`: channels. `heads`: must divide c. `mult`: α of `attention`.
    - `causal`: whether a place sees those before it alone.
    - `rotary`: turn queries and keys by their places; else order is seen through the mask alone.
    - `depth`, `precision`: see `Linear`. `key`: for the weights.

    **Raises:** `ValueError` for heads that do not divide c.
    """

    qkv: Linear
    out: Linear
    heads: int = eqx.field(static=True)
    mult: float = eqx.field(static=True)
    causal: bool = eqx.field(static=True)
    rotary: bool = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        heads: int,
        *,
        mult: float = 1.0,
        causal: bool = True,
        rotary: bool = True,
        depth: int | None = None,
        precision: Precision = None,
        key: PRNGKeyArray,
    ):
        if heads < 1 or c % heads:
            raise ValueError(f"heads = {heads}: must divide c = {c}")
        qkv_key, out_key = jr.split(key)
        self.qkv = Linear(c, 3 * c, depth=depth, precision=precision, key=qkv_key)
        self.out = Linear(c, c, depth=depth, precision=precision, key=out_key)
        self.heads, self.mult, self.causal, self.rotary = heads, mult, causal, rotary

    def __call__(self, x: Float[Array, "*batch n c"], tap: Tap = no_tap) -> Array:
        """The sequence after attention, of the same shape."""
        *batch, n, c = x.shape
        split = self.qkv(x).reshape(*batch, n, 3, self.heads, c // self.heads)
        q, k, v = (tap(name, split[..., i, :, :]) for i, name in enumerate(("q", "k", "v")))
        if self.rotary:
            q, k = rotate(q), rotate(k)
        y = attention(q, k, v, mult=self.mult, causal=self.causal)
        return self.out(tap("mixed", y.reshape(x.shape)))


class GatedMLP(eqx.Module):
    """W₂ (W₁x ⊙ silu(W_g x)), at each place.

    The factors of W₂'s gradient mirror those of W₁ and W_g, so none of them is constrained.

    **Arguments:** `c`: channels. `expansion`: hidden size over c. `mult`: α of `silu_glu`. `depth`,
    `precision`: see `Linear`. `key`: for the weights.
    """

    up: Linear
    gate: Linear
    down: Linear
    mult: float = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        expansion: int = 4,
        *,
        mult: float = 1.0,
        depth: int | None = None,
        precision: Precision = None,
        key: PRNGKeyArray,
    ):
        up_key, gate_key, down_key = jr.split(key, 3)

        def free(a: int, b: int, key: PRNGKeyArray) -> Linear:
            return Linear(a, b, constraint=None, depth=depth, precision=precision, key=key)

        self.up = free(c, expansion * c, up_key)
        self.gate = free(c, expansion * c, gate_key)
        self.down = free(expansion * c, c, down_key)
        self.mult = mult

    def __call__(self, x: Float[Array, "*batch c"], tap: Tap = no_tap) -> Array:
        """The values after the network, of the same shape."""
        up, gate = tap("up", self.up(x)), tap("gate", self.gate(x))
        return self.down(tap("gated", silu_glu(up, gate, self.mult)))


class Decoder(eqx.Module):
    """A language model that predicts the next token at each place of a sequence.

    **Arguments:**

    - `vocabulary`: number of tokens. `c`: width. `blocks`: each of two residual branches.
    - `heads`: must divide c; fix c/heads as the width grows. `expansion`: of the feed-forward part.
    - `attn_mult`, `ffn_mult`: multipliers α of attention and gate.
    - `res`, `attn_ratio`: see `residual_taus`. `rotary`: see `SelfAttention`.
    - `depth`: by which the branches' rates fall as 1/√depth: the number of branches, or of blocks,
      as in the authors' package; the default.
    - `precision`: of the blocks' products (the last layer is not rounded); see `float8_matmul`.
    - `key`: for the weights.

    **Raises:** `ValueError` for sizes below 1 and multipliers that are not positive.
    """

    embedding: Embedding
    attention: tuple[SelfAttention, ...]
    mlp: tuple[GatedMLP, ...]
    norm: RMSNorm
    logits: Linear
    taus: tuple[Size, ...]

    def __init__(
        self,
        vocabulary: int,
        c: int,
        blocks: int,
        heads: int,
        *,
        expansion: int = 4,
        attn_mult: float = 1.0,
        ffn_mult: float = 1.0,
        res: float = 1.0,
        attn_ratio: float = 1.0,
        rotary: bool = True,
        depth: int | None = None,
        precision: Precision = None,
        key: PRNGKeyArray,
    ):
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
            raise ValueError(f"blocks = {blocks!r}: expected a positive integer")
        depth = blocks if depth is None else depth
        table_key, out_key, *keys = jr.split(key, 2 + 2 * blocks)
        self.embedding = Embedding(vocabulary, c, key=table_key)
        self.attention = tuple(
            SelfAttention(
                c, heads, mult=attn_mult, rotary=rotary, depth=depth, precision=precision, key=k
            )
            for k in keys[::2]
        )
        self.mlp = tuple(
            GatedMLP(c, expansion, mult=ffn_mult, depth=depth, precision=precision, key=k)
            for k in keys[1::2]
        )
        self.norm = RMSNorm(c)
        self.logits = Linear(c, vocabulary, "output", key=out_key)
        self.taus = residual_taus(2 * blocks, res, attn_ratio)

    def __call__(
        self, tokens: Int[Array, "*batch n"], tap: Tap = no_tap
    ) -> Float[Array, "*batch n vocabulary"]:
        """The logits of the token that follows each place."""
        x = tap("embedding", self.embedding(tokens))
        branches = [f for pair in zip(self.attention, self.mlp, strict=True) for f in pair]
        for i, (branch, tau) in enumerate(zip(branches, self.taus, strict=True)):
            name = f"block{i // 2}.{'attention' if i % 2 == 0 else 'mlp'}"
            start, skip = residual_split(x, tau)
            y = branch(
                tap(f"{name}.norm", self.norm(start)),
                lambda part, value, name=name: tap(f"{name}.{part}", value),
            )
            x = tap(f"{name}.sum", residual_add(tap(f"{name}.out", y), skip, tau))
        return tap("logits", self.logits(tap("norm", self.norm(x))))


def tensor_scales(
    fn: Callable[[Tap], Float[Array, ""]],
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Root mean squares of each tapped tensor, and of the gradient of a scalar there.

    **Arguments:** `fn`: a function of a tap that returns a scalar, such as
    `lambda tap: cross_entropy(model(tokens, tap), labels)`. Every name may occur once.

    **Returns:** {name: (rms of the value, rms of the gradient)}.

    **Raises:** `ValueError` for a name that occurs twice.
    """
    shapes: dict[str, jax.ShapeDtypeStruct] = {}

    def note(name: str, x: Array) -> Array:
        if name in shapes:
            raise ValueError(f"tap {name!r} occurs twice")
        shapes[name] = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return x

    jax.eval_shape(lambda: fn(note))

    def shifted(shifts: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        values: dict[str, Array] = {}

        def tap(name: str, x: Array) -> Array:
            values[name] = x
            return x + shifts[name]

        return fn(tap), values

    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    gradients, values = jax.grad(shifted, has_aux=True)(zeros)

    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)) ** 2))

    return {name: (rms(values[name]), rms(gradients[name])) for name in shapes}
