"""The dilated residual network: convolutions whose reach grows and shrinks again in every block."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import Conv, Padding


class DilatedBlock(eqx.Module):
    """v + (σ∘C_{d₁})∘ … applied in turn: one residual step through convolutions of dilations dᵢ."""

    convs: tuple[Conv, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, v: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        """V plus the convolutions of v, an activation after each."""
        change = v
        for conv in self.convs:
            change = self.activation(conv(change))
        return v + change


class DilatedResNet(eqx.Module):
    """Q ∘ B_N ∘ … ∘ B₁ ∘ P: a convolutional network with a wide reach on a fixed resolution.

    P and Q are convolutions; a block B adds the result of convolutions with the dilations
    1, 2, 4, 8, 4, 2, 1, so four blocks see 44 points to each side with kernels of 3. A strong
    baseline for time steppers on regular grids; unlike an `FNO` it is bound to the resolution that
    it was trained on.

    **Arguments:**

    - `n_dims`: number of grid axes.
    - `c_in`, `c_out`: channels.
    - `width`: hidden channels. Good values: 16 to 48.
    - `blocks`: N. Good value: 4.
    - `dilations`: of the convolutions in one block.
    - `kernel_size`: of all convolutions. Good value: 3.
    - `padding`: see `jaxsci.nn.padding_modes`; `"wrap"` for periodic grids.
    - `activation`: after every convolution of a block.

    **Raises:** `ValueError` for sizes that are not positive, empty dilations, unknown padding.

    Reference: Stachenfeld et al., arXiv 2112.15275.
    """

    lift: Conv
    blocks: tuple[DilatedBlock, ...]
    project: Conv

    def __init__(
        self,
        n_dims: int,
        c_in: int,
        c_out: int,
        *,
        width: int = 32,
        blocks: int = 4,
        dilations: Sequence[int] = (1, 2, 4, 8, 4, 2, 1),
        kernel_size: int = 3,
        padding: Padding = "zero",
        activation: Callable[[Array], Array] = jax.nn.relu,
        key: PRNGKeyArray,
    ):
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
            raise ValueError(f"DilatedResNet: blocks must be a positive integer, got {blocks!r}")
        if not dilations:
            raise ValueError("DilatedResNet: dilations must not be empty")

        def conv(inputs, outputs, dilation, key):
            return Conv(
                n_dims,
                inputs,
                outputs,
                kernel_size,
                dilation=dilation,
                padding=padding,
                key=key,
            )

        first, last, *keys = jr.split(key, 2 + blocks)
        self.lift = conv(c_in, width, 1, first)
        self.project = conv(width, c_out, 1, last)
        self.blocks = tuple(
            DilatedBlock(
                tuple(
                    conv(width, width, dilation, k)
                    for dilation, k in zip(dilations, jr.split(each, len(dilations)), strict=True)
                ),
                activation,
            )
            for each in keys
        )

    def __call__(
        self,
        u: Float[Array, "c_in *grid"],
        *,
        cond: None = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """One function on a grid; `cond`, `out` and `key` belong to the protocol, unused here.

        **Raises:** `ValueError` if `cond` or `out` is given.
        """
        del key
        if cond is not None or out is not None:
            raise ValueError("DilatedResNet: takes neither cond nor out")
        v = self.lift(u)
        for block in self.blocks:
            v = block(v)
        return self.project(v)
