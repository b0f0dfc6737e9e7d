"""DPOT: one transformer with Fourier mixing for many equations, trained on noisy histories.

    h_t = E(u_t, x, t) + P            patches of each frame become vectors of D channels
    z   = Σ_t W_t (h_t ⊙ cos γt)      the k frames become one
    z   ← z + MLP(N(AFNO(N(z))))      layer by layer; N normalises groups of channels
    u   = D(z)                        patches become pixels again

Given a history of k frames the network finds out itself which equation it is in. Pre-training with
`denoise`, noise on the history, makes its errors in a rollout look like what it was trained on.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import AFNO, ChannelLinear, ChannelMLP, GroupNorm, append_coordinates

from .stagger import depth_to_space, space_to_depth
from .stepping import AbstractHistoryStepper, check_count

DPOT_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 512, "hidden": 512, "depth": 4, "n_blocks": 4},
    "small": {"width": 1024, "hidden": 1024, "depth": 6, "n_blocks": 8},
    "medium": {"width": 1024, "hidden": 4096, "depth": 12, "n_blocks": 8},
    "large": {"width": 1536, "hidden": 6144, "depth": 24, "n_blocks": 16},
    "huge": {"width": 2048, "hidden": 8192, "depth": 27, "n_blocks": 8},
}
"""The paper's five networks, 7 million to 1 billion weights: `DPOT(c, **DPOT_SIZES["tiny"], …)`."""


class TemporalAggregate(eqx.Module):
    """Frames become one by a matrix for each, after channels have been turned by their times.

        z = Σ_t W_t (h_t ⊙ cos γt),    t = 0 … 1 in k equal steps

    **Arguments:** `t`: frames, k. `c`: channels. γ starts as 2^(-10 … 10), so that channels see
    anything from the mean of the frames to their fastest changes; W_t as N(0, 1/(k² c)).

    **Raises:** `ValueError` for numbers that are not positive, or another shape.

    Reference: Hao et al., arXiv:2403.03542.
    """

    weight: Float[Array, "t c c"]
    frequency: Float[Array, " c"]

    def __init__(self, t: int, c: int, *, key: PRNGKeyArray):
        check_count("TemporalAggregate: t", t)
        check_count("TemporalAggregate: c", c)
        # Drawn flat: XLA compiles random bits of several axes much more slowly.
        self.weight = jr.normal(key, (t * c * c,)).reshape(t, c, c) / (t * math.sqrt(c))
        self.frequency = 2.0 ** jnp.linspace(-10, 10, c)

    def __call__(self, frames: Float[Array, "t c *grid"]) -> Float[Array, "c *grid"]:
        """The one field."""
        t, c = self.weight.shape[:2]
        if frames.shape[:2] != (t, c):
            raise ValueError(f"frames: expected {t} of {c} channels, got shape {frames.shape}")
        phase = jnp.linspace(0, 1, t)[:, None] * self.frequency
        # W_t diag(cos γt) on the weights: they are fewer than the frames' values.
        turned = (self.weight * jnp.cos(phase)[..., None]).astype(frames.dtype)
        mixed = turned.reshape(t * c, c).T @ frames.reshape(t * c, -1)
        return mixed.reshape(c, *frames.shape[2:])


class DPOTBlock(eqx.Module):
    """One layer, z ← z + MLP(N(AFNO(N(z)))). The same weights serve any number of grid axes but
    for `modes`.

    **Arguments:** as `DPOT`; `modes`: for each axis of the patches.
    """

    norm: GroupNorm
    mix: AFNO
    mlp_norm: GroupNorm
    mlp: ChannelMLP

    def __init__(
        self,
        width: int,
        modes: tuple[int, ...],
        *,
        hidden: int,
        n_blocks: int,
        groups: int,
        key: PRNGKeyArray,
    ):
        mix_key, mlp_key = jr.split(key)
        self.norm, self.mlp_norm = GroupNorm(groups, width), GroupNorm(groups, width)
        self.mix = AFNO(width, modes, n_blocks=n_blocks, key=mix_key)
        self.mlp = ChannelMLP(width, width, hidden=hidden, key=mlp_key)

    def __call__(self, z: Float[Array, "c *patches"]) -> Float[Array, "c *patches"]:
        return z + self.mlp(self.mlp_norm(self.mix(self.norm(z))))


class DPOT(AbstractHistoryStepper):
    """A stepper from k frames to the next b for many equations: patches that mix by Fourier layers.

    Channels that an equation does not have are filled with zeros; `args`, a mask of channels, keeps
    their predictions at zero, so that they count neither in a loss nor in a rollout.

    **Arguments:**

    - `c`: channels of a frame.
    - `image`: points on each axis, one number or one for each. The learned positions fix it.
    - `patch`: p, points of a patch on each axis; must divide `image`.
    - `n_history`: k; the paper's value is 10. `n_bundle`: b.
    - `width`: D. `hidden`: of the MLPs. `depth`: layers. `n_blocks`: blocks of the Fourier mixing,
      which must divide D. See `DPOT_SIZES`.
    - `modes`: wavenumbers of the grid of patches that are kept.
    - `groups`: of the normalisations, which must divide D.
    - `head`: channels on the fine grid after the last layer.
    - `n_dims`: grid axes. Blocks of a network in two dimensions can start one in three.
    - `key`: for the weights.

    **Raises:** `ValueError` for numbers that are not positive, patches that do not divide the
    image, blocks or groups that do not divide the width, or a history or mask of another shape.

    Reference: Hao et al., arXiv:2403.03542.
    """

    embed: ChannelMLP
    position: Float[Array, "c *patches"]
    aggregate: TemporalAggregate
    blocks: DPOTBlock
    unfold: ChannelLinear
    unfold_bias: Float[Array, " head"]
    project: ChannelMLP
    n_history: int = eqx.field(static=True)
    n_bundle: int = eqx.field(static=True)
    c: int = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    image: tuple[int, ...] = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        *,
        image: int | tuple[int, ...] = 128,
        patch: int = 8,
        n_history: int = 10,
        n_bundle: int = 1,
        width: int = 512,
        hidden: int = 512,
        depth: int = 4,
        n_blocks: int = 4,
        modes: int = 32,
        groups: int = 8,
        head: int = 32,
        n_dims: int = 2,
        key: PRNGKeyArray,
    ):
        counts = {
            "c": c,
            "patch": patch,
            "n_history": n_history,
            "n_bundle": n_bundle,
            "width": width,
            "hidden": hidden,
            "depth": depth,
            "n_blocks": n_blocks,
            "modes": modes,
            "groups": groups,
            "head": head,
            "n_dims": n_dims,
        }
        for name, value in counts.items():
            check_count(f"DPOT: {name}", value)
        image = (image,) * n_dims if isinstance(image, int) else tuple(image)
        if len(image) != n_dims or any(n < 1 or n % patch for n in image):
            raise ValueError(
                f"DPOT: patch={patch} must divide image, {n_dims} positive numbers, got {image}"
            )
        for name in ("n_blocks", "groups"):
            if width % counts[name]:
                raise ValueError(f"DPOT: {name}={counts[name]} must divide width={width}")
        keys = jr.split(key, 6)
        pixels = patch**n_dims
        self.embed = ChannelMLP(pixels * (c + n_dims + 1), width, hidden=patch * c + 3, key=keys[0])
        patches = tuple(n // patch for n in image)
        size = width * math.prod(patches)
        self.position = 0.02 * jr.normal(keys[1], (size,)).reshape(width, *patches)
        self.aggregate = TemporalAggregate(n_history, width, key=keys[2])
        made = [
            DPOTBlock(
                width, (modes,) * n_dims, hidden=hidden, n_blocks=n_blocks, groups=groups, key=k
            )
            for k in jr.split(keys[3], depth)
        ]
        arrays, static = zip(*(eqx.partition(block, eqx.is_array) for block in made), strict=True)
        self.blocks = eqx.combine(jax.tree.map(lambda *a: jnp.stack(a), *arrays), static[0])
        self.unfold = ChannelLinear(width, pixels * head, use_bias=False, key=keys[4])
        self.unfold_bias = jnp.zeros(head)
        self.project = ChannelMLP(head, n_bundle * c, hidden=head, key=keys[5])
        self.n_history, self.n_bundle, self.c, self.depth = n_history, n_bundle, c, depth
        self.patch, self.image = patch, image

    def predict(
        self,
        history: Float[Array, "k c *grid"],
        args: Float[Array, " c"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b c *grid"]:
        """The next b frames. `args`: 1 for channels that there are, 0 for others; `None`: all."""
        del key
        expected = (self.n_history, self.c, *self.image)
        if history.shape != expected:
            raise ValueError(f"DPOT: history must have shape {expected}, got {history.shape}")
        mask: Any = 1.0
        if args is not None:
            mask = jnp.asarray(args, history.dtype)
            if mask.shape != (self.c,):
                raise ValueError(
                    f"DPOT: args must be a mask of {self.c} channels, got shape {mask.shape}"
                )
            mask = mask.reshape(-1, *(1,) * len(self.image))
        times = jnp.linspace(0, 1, self.n_history, dtype=history.dtype)
        tokens = jax.vmap(self._embed)(history, times)
        z = self.aggregate(tokens)
        stacked, static = eqx.partition(self.blocks, eqx.is_array)

        def layer(z: Array, weights: DPOTBlock) -> tuple[Array, None]:
            return eqx.combine(weights, static)(z), None

        # Unrolled while that compiles in seconds, as in `FNO`.
        z, _ = jax.lax.scan(layer, z, stacked, unroll=self.depth <= 8)
        return mask * self._pixels(z)

    def _embed(self, u: Float[Array, "c *grid"], t: Float[Array, ""]) -> Float[Array, "d *patches"]:
        """A frame's patches as vectors, with where and when they are."""
        when = jnp.broadcast_to(t, (1, *self.image))
        tiles = space_to_depth(append_coordinates(jnp.concatenate([u, when])), self.patch)
        pixels = tiles.reshape(-1, *tiles.shape[2:])
        return self.embed(pixels) + self.position.astype(u.dtype)

    def _pixels(self, z: Float[Array, "d *patches"]) -> Float[Array, "b c *grid"]:
        """The frames of these vectors."""
        tiles = self.unfold(z).reshape(self.patch ** len(self.image), -1, *z.shape[1:])
        bias = self.unfold_bias.astype(z.dtype).reshape(-1, *(1,) * len(self.image))
        fine = jax.nn.gelu(depth_to_space(tiles, self.patch) + bias)
        return self.project(fine).reshape(self.n_bundle, self.c, *self.image)
