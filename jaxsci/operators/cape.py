"""CAPE: any operator made aware of an equation's parameters, by attention over channels.

    y = x + N(A(x; λ))    or    y = x (1 + N(A(x; λ))),    G(x; λ) = M base([x, y])

A is a small block that guesses the next field; what it does is steered by the parameters λ through
one factor a channel. The base operator itself never sees λ.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.nn import ChannelLinear, Conv, Fourier, InstanceNorm, SpectralConv
from jaxsci.nn import padding_modes as check_padding

from .metrics import relative_l2
from .recipes import Auxiliary
from .stepping import check_count

Combine = Literal["add", "multiply"]
Parameters = Literal["raw", "saturating"]

# The spectral branch works on a grid that is coarser by this factor.
_POOL = 4


class ChannelAttention(eqx.Module):
    """The block A: three views of a field, each channel weighted by a function of λ.

        h = σ(conv₅ x)                                         c → w/2
        A = W₃ σ( Σ_i f_i(λ) ⊙ B_i(h) + W₂ h )                 B_i: w/2 → w,  f_i: MLP of λ

    with B₁ a spectral convolution on the field averaged over blocks of 4 points (and repeated
    afterwards), B₂ a map of channels, B₃ a convolution of each channel by itself.

    **Arguments:**

    - `dim`: grid axes. `c_in`, `c_out`: channels.
    - `n_params`: length of λ.
    - `width`: w, even. 64 in the paper.
    - `kernel`: points of the convolutions, odd.
    - `modes`: wavenumbers of B₁; the coarse grid has n/8.
    - `padding`: see `jaxsci.nn.padding_modes`; "wrap" for periodic fields.
    - `parameters`: "raw", or "saturating": λ/(1 + λ), for positive ones over several decades.

    **Raises:** `ValueError` for sizes that are not positive, an odd width, unknown choices, a grid
    that 4 does not divide, λ of another shape; a run-time error for λ ≤ 0 with "saturating".

    Reference: Takamoto, Alesiani & Niepert, arXiv:2304.14118.
    """

    enter: Conv
    spectral: SpectralConv
    pointwise: ChannelLinear
    depthwise: Conv
    skip: ChannelLinear
    leave: ChannelLinear
    gates: eqx.nn.MLP
    width: int = eqx.field(static=True)
    n_params: int = eqx.field(static=True)
    parameters: Parameters = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        c_in: int,
        c_out: int,
        n_params: int,
        *,
        width: int = 64,
        kernel: int = 5,
        modes: int = 12,
        padding: Any = "wrap",
        parameters: Parameters = "raw",
        key: PRNGKeyArray,
    ):
        for name, value in (("n_params", n_params), ("width", width), ("modes", modes)):
            check_count(f"ChannelAttention: {name}", value)
        check_padding(padding, dim)
        if width % 2:
            raise ValueError(f"ChannelAttention: width must be even, got {width}")
        if isinstance(kernel, bool) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"ChannelAttention: kernel must be odd, got {kernel}")
        if parameters not in ("raw", "saturating"):
            raise ValueError(
                f"ChannelAttention: parameters must be 'raw' or 'saturating', got {parameters!r}"
            )
        half, keys = width // 2, jr.split(key, 7)
        self.enter = Conv(dim, c_in, half, kernel, padding=padding, key=keys[0])
        self.spectral = SpectralConv(Fourier((modes,) * dim), half, width, key=keys[1])
        self.pointwise = ChannelLinear(half, width, key=keys[2])
        self.depthwise = Conv(dim, half, width, kernel, padding=padding, groups=half, key=keys[3])
        self.skip = ChannelLinear(half, width, key=keys[4])
        self.leave = ChannelLinear(width, c_out, key=keys[5])
        # One MLP for the three factors: with a block-diagonal second layer it is the paper's three.
        self.gates = eqx.nn.MLP(n_params, 3 * width, 3 * half, 1, jax.nn.gelu, key=keys[6])
        self.width, self.n_params, self.parameters = width, n_params, parameters

    def __call__(
        self, x: Float[Array, "c_in *grid"], cond: Float[Array, " p"]
    ) -> Float[Array, "c_out *grid"]:
        """A(x; λ), before the norm."""
        grid = x.shape[1:]
        if any(n % _POOL for n in grid):
            raise ValueError(
                f"ChannelAttention: every axis must be divisible by {_POOL}, got the grid {grid}"
            )
        if np.shape(cond) != (self.n_params,):
            raise ValueError(
                f"cond: expected {self.n_params} parameters, got shape {np.shape(cond)}"
            )
        theta = jnp.asarray(cond, x.dtype)
        if self.parameters == "saturating":
            theta = eqx.error_if(theta, theta <= 0, "ChannelAttention: parameters must be positive")
            theta = theta / (1 + theta)
        gates = self.gates(theta).reshape(3, self.width, *(1,) * len(grid))
        h = jax.nn.gelu(self.enter(x))
        branches = (_repeat(self.spectral(_pool(h))), self.pointwise(h), self.depthwise(h))
        mixed = sum(g * b for g, b in zip(gates, branches, strict=True)) + self.skip(h)
        return self.leave(jax.nn.gelu(mixed))


class CAPE(eqx.Module):
    """An operator whose input is extended by parameter-aware channels.

        y = x + N(A(x; λ))  (combine "add"),   y = x (1 + N(A(x; λ)))  ("multiply")
        G(x; λ) = M base([x, y])

    with A a `ChannelAttention` to k c channels (x repeated k times), N a norm, M a map of channels.

    **Arguments:**

    - `base`: an operator of (1 + k) c channels in and out; it is called without parameters.
    - `c`: channels of the field.
    - `n_params`, `width`, `kernel`, `modes`, `padding`, `parameters`: of `ChannelAttention`.
    - `k`: how many fields y holds: guesses of the next k frames. 1 in the paper.
    - `ndim`: grid axes.
    - `combine`: "add" (the paper in one dimension) or "multiply" (in two).
    - `norm`: N, a layer from field to field; `None` is an instance norm without weights, which
      serves every resolution. The paper's layer norm over the grid is
      `equinox.nn.LayerNorm((k * c, *grid))`; it fixes the resolution.

    **Raises:** `TypeError` if `base` is not callable; `ValueError` for sizes that are not positive,
    unknown choices, fields of another shape, or a base with other channels.

    Reference: Takamoto, Alesiani & Niepert, arXiv:2304.14118.
    """

    base: Callable[..., Array]
    attention: ChannelAttention
    norm: Callable[[Array], Array]
    mix: ChannelLinear
    c: int = eqx.field(static=True)
    k: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    combine: Combine = eqx.field(static=True)

    def __init__(
        self,
        base: Callable[..., Array],
        c: int,
        n_params: int,
        width: int = 64,
        kernel: int = 5,
        modes: int = 12,
        k: int = 1,
        ndim: int = 1,
        *,
        combine: Combine = "add",
        norm: Callable[[Array], Array] | None = None,
        padding: Any = "wrap",
        parameters: Parameters = "raw",
        key: PRNGKeyArray,
    ):
        if not callable(base):
            raise TypeError(f"CAPE: base must be an operator, got {base!r}")
        for name, value in (("c", c), ("k", k), ("ndim", ndim)):
            check_count(f"CAPE: {name}", value)
        if combine not in ("add", "multiply"):
            raise ValueError(f"CAPE: combine must be 'add' or 'multiply', got {combine!r}")
        attention_key, mix_key = jr.split(key)
        self.base = base
        self.attention = ChannelAttention(
            ndim,
            c,
            k * c,
            n_params,
            width=width,
            kernel=kernel,
            modes=modes,
            padding=padding,
            parameters=parameters,
            key=attention_key,
        )
        self.norm = InstanceNorm(k * c, affine=False) if norm is None else norm
        self.mix = ChannelLinear((1 + k) * c, c, key=mix_key)
        self.c, self.k, self.ndim, self.combine = c, k, ndim, combine

    def guess(
        self, u: Float[Array, "c *grid"], cond: Float[Array, " p"]
    ) -> Float[Array, "k*c *grid"]:
        """y: the field that the attention block makes, a guess of the next k frames."""
        change = self.norm(self.attention(u, cond))
        repeated = jnp.tile(u, (self.k, *(1,) * self.ndim))
        return repeated + change if self.combine == "add" else repeated * (1 + change)

    def __call__(
        self,
        u: Float[Array, "c *grid"],
        *,
        cond: Float[Array, " p"] | None = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *grid"]:
        """Applies the operator; `out` and `key` are part of every operator's signature."""
        del out, key
        if u.ndim != self.ndim + 1 or u.shape[0] != self.c:
            raise ValueError(
                f"u: expected {self.c} channels and {self.ndim} grid axes, got shape {u.shape}"
            )
        if cond is None:
            raise ValueError("cond: CAPE needs the parameters")
        new = self.base(jnp.concatenate([u, self.guess(u, cond)]))
        if new.shape != ((1 + self.k) * self.c, *u.shape[1:]):
            raise ValueError(
                f"CAPE: base must keep its {(1 + self.k) * self.c} channels, got {new.shape}"
            )
        return self.mix(new)


def guess_loss(weight: float = 5.7e-5) -> Auxiliary:
    """CAPE's auxiliary term: weight · ‖y - the next k frames‖ / ‖the next k frames‖.

    For `curriculum(auxiliary=guess_loss())` with a `LearnedStepper` of a `CAPE`. It is added once a
    step; the published code adds the sum over all earlier steps again at each step, so that its
    weight grows along the trajectory.

    **Arguments:** `weight`: 5.7e-5 is the paper's for Burgers' equation.

    **Raises:** `ValueError` for a negative weight; `TypeError` if the stepper's operator is no
    `CAPE`; `ValueError` where the bundle has fewer than k frames.
    """
    if not weight >= 0:
        raise ValueError(f"guess_loss: weight must be 0 or more, got {weight}")

    def auxiliary(
        stepper: Any, state: PyTree, frames: Float[Array, "b c *grid"], cond: Any
    ) -> Float[Array, ""]:
        operator = getattr(stepper, "operator", None)
        if not isinstance(operator, CAPE):
            raise TypeError(f"guess_loss: expected a stepper of a CAPE, got {stepper!r}")
        if frames.shape[0] < operator.k:
            raise ValueError(f"guess_loss: k={operator.k} frames are guessed, got {frames.shape}")
        target = frames[: operator.k].reshape(-1, *frames.shape[2:])
        return weight * relative_l2(operator.guess(state, cond), target)

    return auxiliary


def _pool(h: Float[Array, "c *grid"]) -> Float[Array, "c *coarse"]:
    """Means over blocks of 4 points on every axis."""
    shape = [h.shape[0]]
    for n in h.shape[1:]:
        shape += [n // _POOL, _POOL]
    return jnp.mean(h.reshape(shape), tuple(range(2, len(shape), 2)))


def _repeat(h: Float[Array, "c *coarse"]) -> Float[Array, "c *grid"]:
    for axis in range(1, h.ndim):
        h = jnp.repeat(h, _POOL, axis)
    return h
