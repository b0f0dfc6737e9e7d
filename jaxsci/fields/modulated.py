"""Fields with a code: one network for a family of functions, and codes found by gradient descent.

    f(x; z):   h ← sin(ω₀ (W h + b + φ)),   [φ₁ … φ_L] = M z,   a linear head
    code:      z ← z − a ∇_z (1/n) Σ_i |f(x_i; z) − u_i|²,   a few times from z = 0

The weights are trained through the few steps (second-order meta-learning), so that these suffice.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .networks import Siren

CodedFunction = Callable[[Float[Array, " d"], Float[Array, " m"]], Float[Array, " c"]]


class ModulatedSiren(eqx.Module):
    """A SIREN whose sines are shifted by a code, h ← sin(ω₀ (W h + b + φ)), [φ₁ … φ_L] = M z.

    All functions of a family share the weights; one of them is its code z.

    **Arguments:**

    - `c_in`, `c_out`: dimension of space, and channels of the values.
    - `latent`: numbers in a code. Good values: 16 in one dimension, 64 to 256 in two.
    - `width`, `depth`: of the sine layers. Good values: 64 to 256 and 3 to 6.
    - `omega0`: ω₀, 5 to 20 for coordinates in [−1, 1]: too high a value fits the points and
        invents waves between them.

    **Raises:** `ValueError` for sizes below 1, ω₀ that is not positive, or a code of another size.

    Reference: Dupont et al., arXiv:2201.12204; Serrano et al., arXiv:2306.07266.
    """

    siren: Siren
    modulation: eqx.nn.Linear

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        latent: int = 64,
        width: int = 64,
        depth: int = 3,
        omega0: float = 10.0,
        key: PRNGKeyArray,
    ):
        if latent < 1:
            raise ValueError(f"ModulatedSiren: latent = {latent}, expected at least 1")
        siren_key, key = jr.split(key)
        self.siren = Siren(c_in, c_out, width=width, depth=depth, omega0=omega0, key=siren_key)
        self.modulation = eqx.nn.Linear(latent, depth * width, use_bias=False, key=key)

    @property
    def latent(self) -> int:
        """The size of a code."""
        return self.modulation.weight.shape[1]

    def __call__(self, x: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " c"]:
        """The function of code z at the point x."""
        if z.shape != (self.latent,):
            raise ValueError(f"ModulatedSiren: z must have shape {(self.latent,)}, got {z.shape}")
        *layers, head = self.siren.layers
        shifts = self.modulation(z).reshape(len(layers), -1)
        omega, h = self.siren.omega_first, x
        for layer, shift in zip(layers, shifts, strict=True):
            h = jnp.sin(omega * (layer(h) + shift))
            omega = self.siren.omega0
        return head(h)


class CodedField(eqx.Module):
    """A family of functions with its encoder: a few steps of gradient descent on the code.

        z ← z − a ∇_z (1/n) Σ_i |f(x_i; z) − u_i|²,   from z = 0

    Points come in any number and order; `mask` leaves some out, so that samples with different
    numbers of them go into one batch.

    **Arguments:**

    - `field`: f, from a point and a code to values, such as a `ModulatedSiren`.
    - `latent`: size of a code.
    - `steps`: of the descent. Good value: 3.
    - `rate`: a at the start of training; its logarithm is trained with the weights. Good values:
        0.01 to 1.
    - `first_order`: train as if the gradients in the steps were constant. Cheaper and worse.

    **Raises:** `ValueError` for sizes below 1 or a rate that is not positive.
    """

    field: CodedFunction
    log_rate: Float[Array, ""]
    latent: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    first_order: bool = eqx.field(static=True)

    def __init__(
        self,
        field: CodedFunction,
        latent: int,
        *,
        steps: int = 3,
        rate: float = 0.1,
        first_order: bool = False,
    ):
        for name, value in (("latent", latent), ("steps", steps)):
            if value < 1:
                raise ValueError(f"CodedField: {name} = {value}, expected at least 1")
        if not rate > 0:
            raise ValueError(f"CodedField: rate = {rate}, expected a positive number")
        self.field, self.latent, self.steps, self.first_order = field, latent, steps, first_order
        self.log_rate = jnp.asarray(math.log(rate))

    def decode(self, z: Float[Array, " m"], points: Float[Array, "n d"]) -> Float[Array, "c n"]:
        """The function of code z at n points."""
        return jax.vmap(self.field, (0, None), 1)(points, z)

    def encode(
        self,
        values: Float[Array, "c n"],
        points: Float[Array, "n d"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, " m"]:
        """The code of a function that is known at n points.

        **Raises:** `ValueError` for arrays that do not fit together; when run, an error if the mask
        leaves no point.
        """
        _check_points(values, points, mask)
        if mask is not None:
            values = eqx.error_if(values, ~jnp.any(mask), "encode: the mask leaves no point")
        slope = jax.grad(self.error)
        rate = jnp.exp(self.log_rate).astype(values.dtype)

        def step(z, _):
            direction = slope(z, values, points, mask)
            if self.first_order:
                direction = jax.lax.stop_gradient(direction)
            return z - rate * direction, None

        start = jnp.zeros(self.latent, values.dtype)
        return jax.lax.scan(jax.checkpoint(step), start, None, self.steps)[0]

    def error(
        self,
        z: Float[Array, " m"],
        values: Float[Array, "c n"],
        points: Float[Array, "n d"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """(1/n) Σ_i |f(x_i; z) − u_i|² over the points in the mask."""
        squared = jnp.sum((self.decode(z, points) - values) ** 2, 0)
        if mask is None:
            return jnp.mean(squared)
        return jnp.sum(jnp.where(mask, squared, 0)) / jnp.maximum(jnp.sum(mask), 1)

    def meta_loss(
        self,
        values: Float[Array, "c n"],
        points: Float[Array, "n d"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """The error that is left after encoding: what the weights and the rate are trained on."""
        return self.error(self.encode(values, points, mask), values, points, mask)


def _check_points(values: Array, points: Array, mask: Array | None) -> None:
    if points.ndim != 2 or values.ndim != 2 or values.shape[1] != points.shape[0]:
        raise ValueError(
            f"encode: expected values (c, n) and points (n, d), got {values.shape}, {points.shape}"
        )
    if points.shape[0] == 0:
        raise ValueError("encode: expected at least one point")
    if mask is not None and mask.shape != points.shape[:1]:
        raise ValueError(f"encode: mask must have shape {points.shape[:1]}, got {mask.shape}")
