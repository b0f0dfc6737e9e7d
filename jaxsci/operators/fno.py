"""The Fourier neural operator.

    v_0 = P(u, x),    v_{l+1} = σ(K_l v_l + W_l v_l + b_l),    G(u) = Q(v_L)
    (K_l v)(x) = F⁻¹(R_l · F v)(x)

P and Q act at every point, K_l is a convolution whose kernel is given by a few Fourier
coefficients, so the same weights act on every resolution of the input.
"""

from collections.abc import Callable
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxsci.nn import (
    ChannelLinear,
    ChannelMLP,
    Fourier,
    SpectralConv,
    append_coordinates,
    wavenumbers,
)

Skip = Literal["linear", "identity"] | None
MixingKind = Literal["dense", "diagonal", "cp", "tucker"]
Init = Literal["uniform", "normal"]


class FNOBlock(eqx.Module):
    """One Fourier layer, v ← σ(K v + W v + b), optionally followed by v ← σ(MLP(v) + g ⊙ v_in).

    The optional second half, an MLP over channels with a gate g per channel, is the block of the
    `neuraloperator` library.
    """

    spectral: SpectralConv
    skip: ChannelLinear | None
    bias: Float[Array, " c"]
    mlp: ChannelMLP | None
    gate: Float[Array, " c"] | None
    identity: bool = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        modes: tuple[int, ...],
        *,
        skip: Skip,
        mixing: MixingKind,
        rank: float | tuple[int, ...] | None,
        init: Init,
        channel_mlp: float | None,
        activation: Callable[[Array], Array],
        key: PRNGKeyArray,
    ):
        spectral_key, skip_key, mlp_key = jr.split(key, 3)
        self.spectral = SpectralConv(
            Fourier(modes), width, width, mixing=mixing, rank=rank, init=init, key=spectral_key
        )
        self.skip = (
            ChannelLinear(width, width, use_bias=False, key=skip_key) if skip == "linear" else None
        )
        self.identity = skip == "identity"
        self.bias = jnp.zeros(width)
        self.mlp = self.gate = None
        if channel_mlp is not None:
            hidden = max(1, round(channel_mlp * width))
            self.mlp = ChannelMLP(width, width, hidden=hidden, activation=activation, key=mlp_key)
            self.gate = jnp.ones(width)
        self.activation = activation

    def __call__(
        self,
        v: Float[Array, "c *grid"],
        mode_mask: Float[Array, "*modes"] | None,
        activate: bool,
    ) -> Float[Array, "c *grid"]:
        per_channel = (-1, *(1,) * (v.ndim - 1))
        activation = jax.checkpoint(self.activation)  # as in ChannelMLP: less memory, no more time
        out = self.spectral(v, mode_mask=mode_mask) + self.bias.astype(v.dtype).reshape(per_channel)
        if self.skip is not None:
            out = out + self.skip(v)
        elif self.identity:
            out = out + v
        out = activation(out) if activate else out
        if self.mlp is None or self.gate is None:
            return out
        out = self.mlp(out) + self.gate.astype(v.dtype).reshape(per_channel) * v
        return activation(out) if activate else out


class FNO(eqx.Module):
    """The Fourier neural operator, u ↦ Q(v_L): a map between functions on regular grids.

        v_0 = P(u, x),    v_{l+1} = σ(F⁻¹(R_l · F v_l) + W_l v_l + b_l)    (no σ after the last)

    Call it with one function, `"c_in *grid"`; batches by `jax.vmap`. Any resolution is accepted:
    a coarse grid uses the part of R_l that it resolves.

    **Arguments:**

    - `n_dims`: number of grid axes, e.g. 2.
    - `c_in`, `c_out`: channels of the input and of the output function.
    - `width`: channels inside, 20 to 64 is usual.
    - `modes`: kept wavenumbers m, one number or one per axis. In the original paper's meaning:
      0 … m-1 and -m … -1 on every axis but the last, 0 … m-1 on the last. (The
      `neuraloperator` library's `n_modes=2m` keeps the same ones, and one more on the last
      axis.) 12 for Darcy and Navier-Stokes, 16 for Burgers.
    - `depth`: number of Fourier layers.
    - `lifting`, `projection`: hidden channels of P and Q as multiples of `width`; `None` makes
      them a single affine map (the original has `lifting=None` and 128 hidden channels in Q).
    - `padding`: zeros appended at the end of every axis, cropped before Q, for functions that are
      not periodic: a number of points, or (better, as it is the same length at every resolution) a
      fraction of the axis such as 0.1.
    - `skip`: the bypass W_l: `"linear"`, `"identity"` or `None`.
    - `mixing`, `rank`: how R_l is parametrised, see `jaxsci.nn.SpectralConv`; `TFNO` is
      `mixing="tucker"`.
    - `init`: `"uniform"` as in the original, `"normal"` as in `neuraloperator`.
    - `channel_mlp`: expansion of the MLP over channels in every block (0.5 in `neuraloperator`),
      or `None` for the original block.
    - `max_modes`: if given, R_l holds `max_modes` wavenumbers of which the first `modes` are
      switched on; `with_modes` switches more of them on without recompiling.
    - `grid`: appends the coordinates in [0, 1] to the input: `True` for grids without the
      repeated end point, `"endpoint"` for grids that contain both ends, `False` for none.
    - `n_params`: number of scalar parameters `cond`, appended as constant channels.
    - `activation`: σ.

    **Raises:** `ValueError` for sizes that are not positive, `modes` or `max_modes` of a wrong
    length, negative padding, or an unknown option; the call raises `ValueError` for a wrong number
    of axes or channels and `TypeError` for values that are not floating point.

    References: Li et al., arXiv:2010.08895; Kovachki et al., arXiv:2108.08481; incremental modes:
    George et al., arXiv:2211.15188.
    """

    lift: ChannelMLP
    blocks: FNOBlock | None
    last: FNOBlock
    project: ChannelMLP
    n_active: Int[Array, " d"] | None
    n_dims: int = eqx.field(static=True)
    c_in: int = eqx.field(static=True)
    n_params: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    padding: int | float | None = eqx.field(static=True)
    grid: bool | Literal["endpoint"] = eqx.field(static=True)

    def __init__(
        self,
        n_dims: int,
        c_in: int,
        c_out: int,
        *,
        width: int,
        modes: int | tuple[int, ...],
        depth: int = 4,
        lifting: float | None = 2,
        projection: float | None = 2,
        padding: int | float | None = None,
        skip: Skip = "linear",
        mixing: MixingKind = "dense",
        rank: float | tuple[int, ...] | None = None,
        init: Init = "uniform",
        channel_mlp: float | None = None,
        max_modes: int | tuple[int, ...] | None = None,
        grid: bool | Literal["endpoint"] = True,
        n_params: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        for name, n in (
            ("n_dims", n_dims),
            ("c_in", c_in),
            ("c_out", c_out),
            ("width", width),
            ("depth", depth),
        ):
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
                raise ValueError(f"{name}: expected a positive integer, got {n!r}")
        if n_params < 0:
            raise ValueError(f"n_params: expected 0 or more, got {n_params}")
        if padding is not None and padding < 0:
            raise ValueError(f"padding: expected points or a fraction ≥ 0, got {padding}")
        if skip not in ("linear", "identity", None):
            raise ValueError(f"skip: expected 'linear', 'identity' or None, got {skip!r}")
        if grid not in (True, False, "endpoint"):
            raise ValueError(f"grid: expected True, False or 'endpoint', got {grid!r}")
        for name, ratio in (
            ("lifting", lifting),
            ("projection", projection),
            ("channel_mlp", channel_mlp),
        ):
            if ratio is not None and ratio <= 0:
                raise ValueError(f"{name}: expected a positive ratio or None, got {ratio}")
        modes = _per_axis("modes", modes, n_dims)
        stored = modes if max_modes is None else _per_axis("max_modes", max_modes, n_dims)
        if any(m > most for m, most in zip(modes, stored, strict=True)):
            raise ValueError(f"modes: expected at most max_modes={stored}, got {modes}")

        lift_key, block_key, project_key = jr.split(key, 3)
        c_lift = c_in + n_params + (n_dims if grid else 0)
        self.lift = _pointwise(c_lift, width, width, lifting, activation, lift_key)
        self.project = _pointwise(width, c_out, width, projection, activation, project_key)

        def block(k: PRNGKeyArray) -> FNOBlock:
            return FNOBlock(
                width,
                stored,
                skip=skip,
                mixing=mixing,
                rank=rank,
                init=init,
                channel_mlp=channel_mlp,
                activation=activation,
                key=k,
            )

        # All blocks but the last are equal: their weights are stacked along a leading axis. The
        # last one has no activation and stands alone, so that nothing is sliced or padded.
        *keys, last_key = jr.split(block_key, depth)
        self.blocks = eqx.filter_vmap(block)(jnp.stack(keys)) if keys else None
        self.last = block(last_key)
        self.n_active = None if max_modes is None else jnp.asarray(modes)
        self.n_dims, self.c_in, self.n_params, self.depth = n_dims, c_in, n_params, depth
        self.padding, self.grid = padding, grid

    @property
    def modes(self) -> tuple[int, ...]:
        """The wavenumbers that the weights hold (`max_modes` where that was given)."""
        return self.last.spectral.transform.modes

    def with_modes(self, modes: int | tuple[int, ...] | Int[Array, " d"]) -> Self:
        """The same operator with the first `modes` wavenumbers switched on.

        **Raises:** `ValueError` if the operator was made without `max_modes`.
        """
        if self.n_active is None:
            raise ValueError("with_modes: the operator was made without max_modes")
        if not isinstance(modes, jax.Array):
            modes = jnp.asarray(_per_axis("modes", modes, self.n_dims))
        active = jnp.clip(modes, 1, jnp.asarray(self.modes))
        return eqx.tree_at(lambda model: model.n_active, self, active)

    def mode_mask(self) -> Float[Array, "*modes"] | None:
        """1 for the wavenumbers that are switched on and 0 for the others; `None`: all are on."""
        if self.n_active is None:
            return None
        mask = jnp.ones(())
        for axis, m in enumerate(self.modes):
            last = axis == self.n_dims - 1
            k = np.arange(m) if last else wavenumbers(m)
            n = self.n_active[axis]
            mask = mask[..., None] * ((k >= -n) & (k < n))
        return mask.astype(jnp.float32)

    def __call__(
        self,
        u: Float[Array, "c_in *grid"],
        *,
        cond: Float[Array, " p"] | None = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """Applies the operator.

        **Arguments:**

        - `u`: the input function on a grid of any size.
        - `cond`: the parameters, of shape `(n_params,)`.
        - `out`, `key`: part of every operator's signature; the output has the input's grid.
        """
        u = jnp.asarray(u)
        if u.ndim != self.n_dims + 1 or u.shape[0] != self.c_in:
            raise ValueError(
                f"u: expected {self.c_in} channels and {self.n_dims} grid axes, got shape {u.shape}"
            )
        if not jnp.issubdtype(u.dtype, jnp.floating):
            raise TypeError(f"u: expected floating-point values, got dtype {u.dtype}")
        if out is not None:
            raise ValueError(
                "out: a Fourier neural operator answers on the grid of its input; "
                "resample the input to the wanted grid"
            )
        if (0 if cond is None else np.size(cond)) != self.n_params:
            raise ValueError(
                f"cond: expected {self.n_params} parameters, got "
                f"{'none' if cond is None else np.shape(cond)}"
            )
        shape = u.shape[1:]
        if cond is not None:
            constant = jnp.asarray(cond, u.dtype).reshape(-1, *(1,) * self.n_dims)
            u = jnp.concatenate([u, jnp.broadcast_to(constant, (self.n_params, *shape))])
        if self.grid:
            u = append_coordinates(u, endpoint=self.grid == "endpoint")
        v = self.lift(u)
        v = jnp.pad(v, [(0, 0), *((0, self._pad(n)) for n in shape)])
        v = self._layers(v)
        v = v[(slice(None), *(slice(n) for n in shape))]
        return self.project(v)

    def _pad(self, n: int) -> int:
        if self.padding is None:
            return 0
        return round(self.padding * n) if isinstance(self.padding, float) else self.padding

    def _layers(self, v: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        mask = self.mode_mask()
        if self.blocks is not None:
            stacked, static = eqx.partition(self.blocks, eqx.is_array)

            def layer(v: Array, weights: FNOBlock) -> tuple[Array, None]:
                return eqx.combine(weights, static)(v, mask, activate=True), None

            # Unrolled while that compiles in seconds: a loop keeps XLA from fusing across blocks
            # (measured on CPU: a quarter slower).
            v, _ = jax.lax.scan(layer, v, stacked, unroll=self.depth <= 8)
        return self.last(v, mask, activate=False)


def TFNO(
    n_dims: int,
    c_in: int,
    c_out: int,
    *,
    width: int,
    modes: int | tuple[int, ...],
    rank: float | tuple[int, ...] = 0.1,
    key: PRNGKeyArray,
    **options,
) -> FNO:
    """A Fourier neural operator whose spectral weights are Tucker tensors (`mixing="tucker"`).

        R = G ×₁ U¹ … ×_d U^d × A × B

    **Arguments:** as `FNO`; `rank` is the share of the dense weights' parameters.

    Reference: Kossaifi et al., arXiv:2310.00120.
    """
    return FNO(
        n_dims,
        c_in,
        c_out,
        width=width,
        modes=modes,
        mixing="tucker",
        rank=rank,
        key=key,
        **options,
    )


def _per_axis(name: str, value: int | tuple[int, ...], n_dims: int) -> tuple[int, ...]:
    values = (value,) * n_dims if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) != n_dims:
        raise ValueError(f"{name}: expected one number or {n_dims} of them, got {value}")
    if any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 1 for v in values):
        raise ValueError(f"{name}: expected positive integers, got {value}")
    return tuple(int(v) for v in values)


def _pointwise(
    c_in: int,
    c_out: int,
    width: int,
    ratio: float | None,
    activation: Callable[[Array], Array],
    key: PRNGKeyArray,
) -> ChannelMLP:
    if ratio is None:
        return ChannelMLP(c_in, c_out, hidden=width, n_layers=1, activation=activation, key=key)
    return ChannelMLP(c_in, c_out, hidden=round(ratio * width), activation=activation, key=key)
