"""The U-Net: one architecture for fields to fields, from radio maps to score networks.

Coarser and coarser levels read the field, finer and finer levels write the answer, and skip
connections hand each level's detail across. What varies between papers is chosen by arguments:
the block, how levels are coarsened and refined, which outputs are skipped, gates on the skips,
attention, and the condition (time, parameters, class) that modulates every block.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import count, repeat, zip_longest
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.nn.attention import AttentionGate, GridAttention
from jaxsci.nn.conv import Conv, MaxPool, NearestConv, Padding, PaddingMode, pad_grid, padding_modes
from jaxsci.nn.embeddings import AbstractEmbedding, FiLM
from jaxsci.nn.norms import FieldMap, Norm, channel_norm


class ConvBlock(eqx.Module):
    """The classic block: (convolution, norm, activation) twice, then dropout.

        h = σ(FiLM_e(norm(W_1 x))),   y = dropout(σ(norm(W_2 h)))

    **Arguments:** as in `ResidualBlock`; `activation` is ReLU by default.

    **Raises:** `ValueError` for sizes that are not positive, a dropout rate outside [0, 1), and an
    input of another shape.

    Ronneberger, Fischer & Brox 2015, arXiv 1505.04597.
    """

    preactivation: ClassVar[bool] = False

    conv_1: Conv
    conv_2: Conv
    norm_1: FieldMap
    norm_2: FieldMap
    film: FiLM | None
    dropout: eqx.nn.Dropout
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        *,
        embed_size: int | None = None,
        norm: Norm = "group",
        padding: Padding = "zero",
        dropout: float = 0.0,
        activation: Callable[[Array], Array] = jax.nn.relu,
        kernel_size: int = 3,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 3)
        self.conv_1 = Conv(dim, c_in, c_out, kernel_size, padding=padding, key=keys[0])
        self.conv_2 = Conv(dim, c_out, c_out, kernel_size, padding=padding, key=keys[1])
        self.norm_1, self.norm_2 = channel_norm(norm, c_out), channel_norm(norm, c_out)
        self.film = None
        if embed_size is not None:
            self.film = FiLM(embed_size, c_out, zero_init=False, key=keys[2])
        self.dropout = _dropout(dropout)
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "c_in *grid"],
        embedding: Float[Array, " e"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """The block's output; `embedding` modulates it where `embed_size` was given."""
        h = self.norm_1(self.conv_1(x))
        if self.film is not None:
            h = self.film(h, _required(embedding))
        h = self.activation(self.norm_2(self.conv_2(self.activation(h))))
        return self.dropout(h, key=key)


class ResidualBlock(eqx.Module):
    """The pre-activation residual block of diffusion models and modern PDE surrogates.

        h = W_1 σ(norm(x)),   (γ, β) = W_e σ(e)
        y = s (S x + W_2 dropout(σ(norm(h) (1 + γ) + β)))        modulation "scale_shift"
        y = s (S x + W_2 dropout(σ(norm(h + β))))                modulation "add"

    with S the identity, or a 1x1 convolution where the number of channels changes.

    **Arguments:**

    - `dim`, `c_in`, `c_out`: grid axes and channels.
    - `embed_size`: length of the condition vector e; None: no condition.
    - `norm`, `padding`: see `channel_norm` and `padding_modes`.
    - `dropout`: rate. Good values: 0, or 0.1 for images.
    - `activation`: σ: SiLU for diffusion, GELU for PDE-Refiner.
    - `modulation`: "scale_shift" or "add".
    - `zero_init`: W_2 starts at 0, so that the block starts as s S.
    - `scale`: s; 1/√2 keeps the variance over depth.
    - `kernel_size`: of W_1 and W_2.

    **Raises:** `ValueError` for sizes that are not positive, a dropout rate outside [0, 1), an
    unknown modulation, and an input of another shape.

    Ho, Jain & Abbeel 2020, arXiv 2006.11239; Dhariwal & Nichol 2021, arXiv 2105.05233; Gupta &
    Brandstetter 2022, arXiv 2209.15616.
    """

    preactivation: ClassVar[bool] = True

    conv_1: Conv
    conv_2: Conv
    norm_1: FieldMap
    norm_2: FieldMap
    modulate: FiLM | eqx.nn.Linear | None
    shortcut: Conv | None
    dropout: eqx.nn.Dropout
    activation: Callable[[Array], Array] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        *,
        embed_size: int | None = None,
        norm: Norm = "group",
        padding: Padding = "zero",
        dropout: float = 0.0,
        activation: Callable[[Array], Array] = jax.nn.silu,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
        zero_init: bool = True,
        scale: float = 1.0,
        kernel_size: int = 3,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 4)
        self.conv_1 = Conv(dim, c_in, c_out, kernel_size, padding=padding, key=keys[0])
        self.conv_2 = Conv(
            dim, c_out, c_out, kernel_size, padding=padding, zero_init=zero_init, key=keys[1]
        )
        self.norm_1, self.norm_2 = channel_norm(norm, c_in), channel_norm(norm, c_out)
        if modulation not in ("scale_shift", "add"):
            raise ValueError(f'modulation must be "scale_shift" or "add", got {modulation!r}')
        if embed_size is None:
            self.modulate = None
        elif modulation == "scale_shift":
            self.modulate = FiLM(embed_size, c_out, zero_init=False, key=keys[2])
        else:
            self.modulate = eqx.nn.Linear(embed_size, c_out, key=keys[2])
        self.shortcut = None if c_in == c_out else Conv(dim, c_in, c_out, 1, key=keys[3])
        self.dropout = _dropout(dropout)
        self.activation = activation
        self.scale = scale

    def __call__(
        self,
        x: Float[Array, "c_in *grid"],
        embedding: Float[Array, " e"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """The block's output; `embedding` modulates it where `embed_size` was given."""
        h = self.conv_1(self.activation(self.norm_1(x)))
        match self.modulate:
            case None:
                h = self.norm_2(h)
            case FiLM():
                h = self.modulate(self.norm_2(h), self.activation(_required(embedding)))
            case _:
                shift = self.modulate(self.activation(_required(embedding)))
                h = self.norm_2(h + shift.reshape(-1, *(1,) * (h.ndim - 1)))
        h = self.conv_2(self.dropout(self.activation(h), key=key))
        return self.scale * ((x if self.shortcut is None else self.shortcut(x)) + h)


class _Level(eqx.Module):
    """One level of one side: blocks, attention after each, and the change of resolution.

    On the way up the first `len(gates)` blocks take a skip each, through a gate or as it is.
    """

    blocks: tuple[Callable, ...]
    attentions: tuple[GridAttention | None, ...]
    gates: tuple[AttentionGate | None, ...]
    resample: Callable | None


class UNet(eqx.Module):
    """A U-Net on a grid of any dimension: (c_in, *grid) -> (c_out, *grid).

    With L = len(widths) levels, level l at 1/2^l of the resolution with `widths[l]` channels:

        encode   h ← blocks_l(h),  keep h as skip,  h ← down(h)          l = 0 … L-1
        decode   h ← up(h),  h ← blocks_l([h, gate(skip, h)])            l = L-2 … 0

    Every entry in the catalogue of U-Nets is a choice of the arguments:

    - *Classic* (the defaults): double convolutions, max-pooling, nearest upsampling and a
      convolution, one skip a level; `up=TransposedConv` for the transposed form.
    - *Attention U-Net*: `gate=1` (classic gate) or `gate=3`.
    - *Modern U-Net* of PDE-Refiner: `block=partial(ResidualBlock, activation=jax.nn.gelu)`,
      `down=StridedConv`, `skips="block"`, `n_blocks=2`, `mid_attention=True`, `padding="wrap"`,
      `embed=` a sum of time embeddings, widths (64, 128, 256, 1024).
    - *DDPM and its kin*: `block=ResidualBlock`, `down=StridedConv`, `skips="block"`, `n_blocks=2`,
      attention at the level of 16x16 points, `mid_attention=True`, `dropout=0.1`,
      `embed=TimeEmbedding(…)`, `zero_init=True`, widths (128, 256, 256, 256); with
      `partial(ResidualBlock, scale=2**-0.5)` and `attention_scale=2**-0.5` it is DDPM++'s rescaled
      form.

    Blocks of the pre-activation kind get a 3-point convolution before the first block and
    norm-activation-convolution after the last; the others go straight in and end in a 1x1
    convolution.

    **Arguments:**

    - `dim`: number of grid axes.
    - `c_in`, `c_out`: channels.
    - `widths`: channels of each level, finest first. Good values: (32, 64, 128) for 2-D fields up
      to 64x64 on a CPU, (64, 128, 256, 512, 1024) in the papers.
    - `block`: makes a block: `ConvBlock`, `ResidualBlock`, or any function with their signature.
    - `down`: `MaxPool`, `MeanPool`, `StridedConv`; `up`: `NearestConv`, `TransposedConv`.
    - `n_blocks`: blocks a level (one more on the way up where `skips="block"`).
    - `skips`: "level": one skip a level; "block": every block's and every down's output, and a
      middle of two blocks below the coarsest level.
    - `gate`: kernel size of an `AttentionGate` on every skip; None: no gates.
    - `attention`: levels (0 is the finest) with self-attention after each block.
    - `mid_attention`: self-attention at the bottom. `heads`: of all attention.
    - `norm`: see `channel_norm`; "group" by default, which needs no batch.
    - `padding`: how each axis goes on at its ends, see `padding_modes`: "wrap" for a periodic axis,
      ("reflect", "wrap") for latitude and longitude.
    - `embed`: turns `cond` into the vector that modulates the blocks; None: no condition.
    - `dropout`: rate in every block; the call then needs a key, unless
      `equinox.nn.inference_mode` switched it off.
    - `zero_init`: the last convolution starts at 0, so that the net starts as u -> 0.
    - `skip_scale`: factor on every skip (1/√2 balances deep skips). `attention_scale`: see
      `GridAttention`.
    - `pad_to_fit`: pads an axis that 2^(L-1) does not divide, at its end and by its mode, and cuts
      the result. Not for periodic axes, which it would tear.

    **Raises:** `ValueError` for sizes that are not positive, empty widths, levels that do not
    exist, unknown choices; in the call for another rank or number of channels, for a grid that
    2^(L-1) does not divide, for a condition missing or not expected.

    Ronneberger, Fischer & Brox 2015, arXiv 1505.04597; Oktay et al. 2018, arXiv 1804.03999; Gupta
    & Brandstetter 2022, arXiv 2209.15616; Lippe et al. 2023, arXiv 2308.05732.
    """

    stem: Conv | None
    encoder: tuple[_Level, ...]
    middle: _Level | None
    decoder: tuple[_Level, ...]
    head_norm: FieldMap | None
    head: Conv
    embed: AbstractEmbedding | None
    activation: Callable[[Array], Array] = eqx.field(static=True)
    c_in: int = eqx.field(static=True)
    padding: tuple[PaddingMode, ...] = eqx.field(static=True)
    skips: Literal["level", "block"] = eqx.field(static=True)
    skip_scale: float = eqx.field(static=True)
    pad_to_fit: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        widths: Sequence[int] = (32, 64, 128),
        *,
        block: Callable[..., Any] = ConvBlock,
        down: Callable[..., Any] = MaxPool,
        up: Callable[..., Any] = NearestConv,
        n_blocks: int = 1,
        skips: Literal["level", "block"] = "level",
        gate: int | None = None,
        attention: Sequence[int] = (),
        mid_attention: bool = False,
        heads: int = 4,
        norm: Norm = "group",
        padding: Padding = "zero",
        embed: AbstractEmbedding | None = None,
        dropout: float = 0.0,
        zero_init: bool = False,
        skip_scale: float = 1.0,
        attention_scale: float = 1.0,
        pad_to_fit: bool = False,
        key: PRNGKeyArray,
    ):
        widths = tuple(widths)
        sizes = [("c_in", c_in), ("c_out", c_out), ("n_blocks", n_blocks)]
        for name, size in sizes + [("widths", width) for width in widths]:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be positive integers, got {size!r}")
        depth = len(widths)
        if not widths:
            raise ValueError("widths must name the channels of one level or more, got none")
        if skips not in ("level", "block"):
            raise ValueError(f'skips must be "level" or "block", got {skips!r}')
        if any(level not in range(depth) for level in attention):
            raise ValueError(f"attention must name levels 0 to {depth - 1}, got {attention!r}")
        self.c_in, self.skips, self.skip_scale = c_in, skips, skip_scale
        self.padding, self.pad_to_fit, self.embed = padding_modes(padding, dim), pad_to_fit, embed
        preactivation = _is_preactivation(block)
        keys = _key_stream(key)

        def new_block(c, c_new):
            return block(
                dim,
                c,
                c_new,
                embed_size=None if embed is None else embed.size,
                norm=norm,
                padding=self.padding,
                dropout=dropout,
                key=next(keys),
            )

        def new_attention(c):
            return GridAttention(c, heads, norm=norm, scale=attention_scale, key=next(keys))

        def attention_at(level):
            return new_attention(widths[level]) if level in attention else None

        def gate_on(c_skip, c):
            if gate is None:
                return None
            return AttentionGate(
                dim, c_skip, c, kernel_size=gate, norm=norm, padding=self.padding, key=next(keys)
            )

        c, self.stem = c_in, None
        if preactivation:
            c = widths[0]
            self.stem = Conv(dim, c_in, c, 3, padding=self.padding, key=next(keys))
        kept = [c] if skips == "block" else []
        encoder = []
        for level, width in enumerate(widths):
            blocks, attentions, resample = [], [], None
            for _ in range(n_blocks):
                blocks.append(new_block(c, width))
                attentions.append(attention_at(level))
                c = width
                if skips == "block":
                    kept.append(c)
            if level < depth - 1:
                resample = down(dim, c, padding=self.padding, key=next(keys))
                kept.append(c)
            encoder.append(_Level(tuple(blocks), tuple(attentions), (), resample))
        self.encoder = tuple(encoder)

        bottom = new_attention(c) if mid_attention else None
        if skips == "block":
            self.middle = _Level((new_block(c, c), new_block(c, c)), (bottom, None), (), None)
        else:
            self.middle = None if bottom is None else _Level((), (bottom,), (), None)

        decoder = []
        for level in reversed(range(depth if skips == "block" else depth - 1)):
            width, resample = widths[level], None
            if level < depth - 1:
                c_up = c if skips == "block" else width
                resample = up(dim, c, c_up, padding=self.padding, key=next(keys))
                c = c_up
            blocks, attentions, gates = [], [], []
            for index in range(n_blocks + (skips == "block")):
                c_skip = 0
                if skips == "block" or index == 0:
                    c_skip = kept.pop()
                    gates.append(gate_on(c_skip, c))
                blocks.append(new_block(c + c_skip, width))
                attentions.append(attention_at(level))
                c = width
            decoder.append(_Level(tuple(blocks), tuple(attentions), tuple(gates), resample))
        self.decoder = tuple(decoder)

        self.head_norm = channel_norm(norm, c) if preactivation else None
        self.activation = getattr(self.encoder[-1].blocks[-1], "activation", jax.nn.silu)
        self.head = Conv(
            dim,
            c,
            c_out,
            3 if preactivation else 1,
            padding=self.padding,
            zero_init=zero_init,
            key=next(keys),
        )

    def __call__(
        self,
        u: Float[Array, "c_in *grid"],
        *,
        cond: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """The output field on the input's grid.

        **Arguments:**

        - `u`: one field, channels first; vmap over a batch.
        - `cond`: what `embed` takes: a time, parameters, a class, a tuple.
        - `key`: for dropout.
        """
        grid = u.shape[1:]
        u = self._fit(u)
        if (cond is None) != (self.embed is None):
            given = "no cond was given" if cond is None else "the network was built without embed"
            raise ValueError(f"cond and embed go together: {given}")
        embedding = None if self.embed is None else self.embed(cond)
        keys = self._block_keys(key)
        every_output = self.skips == "block"

        def run(h, block, attend):
            h = h if block is None else block(h, embedding, key=next(keys))
            return h if attend is None else attend(h)

        h = u if self.stem is None else self.stem(u)
        kept = [h] if every_output else []
        for level in self.encoder:
            for block, attend in zip(level.blocks, level.attentions, strict=True):
                h = run(h, block, attend)
                if every_output:
                    kept.append(h)
            if level.resample is not None:
                coarse = level.resample(h)
                kept.append(coarse if every_output else h)
                h = coarse
        if self.middle is not None:
            for block, attend in zip_longest(self.middle.blocks, self.middle.attentions):
                h = run(h, block, attend)
        for level in self.decoder:
            h = h if level.resample is None else level.resample(h)
            for index, (block, attend) in enumerate(
                zip(level.blocks, level.attentions, strict=True)
            ):
                if index < len(level.gates):
                    skip, gate = kept.pop(), level.gates[index]
                    skip = skip if gate is None else gate(skip, h)
                    h = jnp.concatenate([h, self.skip_scale * skip])
                h = run(h, block, attend)
        if self.head_norm is not None:
            h = self.activation(self.head_norm(h))
        return self.head(h)[(slice(None), *(slice(n) for n in grid))]

    def _block_keys(self, key: PRNGKeyArray | None) -> Iterator[Any]:
        if key is None:
            return repeat(None)
        middle = () if self.middle is None else (self.middle,)
        levels = (*self.encoder, *middle, *self.decoder)
        return iter(jax.random.split(key, sum(len(level.blocks) for level in levels)))

    def _fit(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *fitted"]:
        dim, multiple = len(self.padding), 2 ** (len(self.encoder) - 1)
        grid = u.shape[1:]
        if len(grid) != dim or u.shape[0] != self.c_in:
            axes = ", ".join(f"n{axis}" for axis in range(1, dim + 1))
            raise ValueError(
                f"u must have shape ({self.c_in}, {axes}) (vmap over a batch), got {u.shape}"
            )
        missing = tuple(-n % multiple for n in grid)
        if not any(missing):
            return u
        torn = any(m and mode == "wrap" for m, mode in zip(missing, self.padding, strict=True))
        if torn or not self.pad_to_fit:
            advice = "a periodic axis cannot be padded" if torn else "pad_to_fit=True pads it"
            raise ValueError(
                f"the grid {grid} must be divisible by 2^(levels-1) = {multiple} on every axis; "
                f"it lacks {missing} points ({advice})"
            )
        return pad_grid(u, [(0, m) for m in missing], self.padding)


def _is_preactivation(block: Callable) -> bool:
    while isinstance(block, functools.partial):
        block = block.func
    return getattr(block, "preactivation", False)


def _key_stream(key: PRNGKeyArray) -> Iterator[PRNGKeyArray]:
    return (jax.random.fold_in(key, index) for index in count())


def _dropout(rate: float) -> eqx.nn.Dropout:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {rate}")
    return eqx.nn.Dropout(rate)


def _required(embedding: Float[Array, " e"] | None) -> Float[Array, " e"]:
    if embedding is None:
        raise ValueError("embedding is missing: the block was built with embed_size")
    return embedding
