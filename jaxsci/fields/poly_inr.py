"""Poly-INR: a coordinate network that multiplies its way to polynomials, layer by layer."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import stacked

from .networks import check_positive, check_sizes


class PolyINR(eqx.Module):
    """A network whose every layer multiplies by an affine function of the point,

        h₀ = 1,   h_l = clip(σ((1 + s_l) ⊙ (W_l (h_{l−1} ⊙ (A_l x + a_l)) + b_l) + r_l), ±bound)

    with σ the leaky ReLU of slope 0.2, and a linear head. Between the kinks it is a polynomial of
    degree `depth`. The modulations s_l and r_l make one network a family of functions: another one
    for each (s, r), such as those that `jaxsci.operators.PDEformer` finds from an equation.

    **Arguments:**

    - `c_in`, `c_out`: dimension of space, and channels of the values.
    - `width`, `depth`: of the hidden layers, which all have the same size. Good values: 64 to 256
        and 3 to 8.
    - `bound`: of what a layer returns; products of many layers grow fast.
    - `init`: "unit" draws weights so that every factor is of size one for x in [−1, 1]^d; with
        "published", U(±1/√inputs) everywhere, the function is nearly constant at first, and
        training takes longer to begin.

    **Raises:** `ValueError` for sizes below 1, a bound that is not positive, an unknown `init`, or
    modulations of another shape.

    Reference: Singh, Shukla & Turaga, arXiv:2303.11424 (there the A_l are modulated);
    Ye et al., arXiv:2402.12652.
    """

    inputs: eqx.nn.Linear
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear
    depth: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        width: int = 64,
        depth: int = 4,
        bound: float = 256.0,
        init: Literal["unit", "published"] = "unit",
        key: PRNGKeyArray,
    ):
        check_sizes("PolyINR", c_in=c_in, c_out=c_out, width=width, depth=depth)
        check_positive("PolyINR", bound=bound)
        input_key, hidden_key, head_key = jr.split(key, 3)

        if init not in ("unit", "published"):
            raise ValueError(f"PolyINR: init must be 'unit' or 'published', got {init!r}")
        self.inputs = stacked(lambda k: eqx.nn.Linear(c_in, width, key=k), input_key, depth)
        self.hidden = stacked(lambda k: eqx.nn.Linear(width, width, key=k), hidden_key, depth)
        if init == "unit":
            # Weights are from U(±1/√inputs): variances of 1/3 of what keeps a size.
            gains = (lambda m: m.weight, 3**0.5 * c_in**0.5), (lambda m: m.bias, c_in**0.5)
            for part, gain in gains:
                self.inputs = eqx.tree_at(part, self.inputs, replace_fn=lambda a, g=gain: g * a)
            self.hidden = eqx.tree_at(
                lambda m: m.weight, self.hidden, replace_fn=lambda a: 6**0.5 * a
            )
        self.head = eqx.nn.Linear(width, c_out, key=head_key)
        self.depth, self.width, self.bound = depth, width, bound

    def __call__(
        self,
        x: Float[Array, " d"],
        scale: Float[Array, "depth width"] | None = None,
        shift: Float[Array, "depth width"] | None = None,
    ) -> Float[Array, " c"]:
        """The value at one point.

        **Arguments:** `x`: the point. `scale`, `shift`: the modulations s and r, by default 0.
        """
        shape = (self.depth, self.width)
        for name, modulation in (("scale", scale), ("shift", shift)):
            if modulation is not None and modulation.shape != shape:
                raise ValueError(f"PolyINR: {name} must have shape {shape}, got {modulation.shape}")
        modulations = [jnp.zeros(shape, x.dtype) if m is None else m for m in (scale, shift)]

        def layer(h, each):
            inputs, hidden, s, r = each
            # Vector times matrix: batches of points become products without a transpose.
            h = h * (x @ inputs.weight.T + inputs.bias)
            h = (1 + s) * (h @ hidden.weight.T + hidden.bias) + r
            return jnp.clip(jax.nn.leaky_relu(h, 0.2), -self.bound, self.bound), None

        start = jnp.ones(self.width, x.dtype)
        each = (self.inputs, self.hidden, *modulations)
        h, _ = jax.lax.scan(layer, start, each, unroll=self.depth <= 8)
        return h @ self.head.weight.T + jnp.asarray(self.head.bias)
