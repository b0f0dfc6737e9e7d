"""Neural controlled differential equations: a state driven by a path through irregular data.

z(t₀) = ζ(X(t₀)),    dz = F(z) dX,    F(z) a matrix (hidden × channels)
"""

from collections.abc import Callable
from typing import Any, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real

from .latent import check_series
from .problem import AbstractNDE, AbstractRegulariser, NDEOutput, ReversibleAdjoint, solve

Interpolation = Literal["hermite", "linear", "rectilinear"]


def control_path(
    ts: Real[Array, " n"],
    xs: Float[Array, "n c"],
    interpolation: Interpolation = "hermite",
    *,
    counts: bool = False,
) -> tuple[dfx.AbstractPath, Real[Array, " knots"]]:
    """The path X(t) = (t, x(t), counts(t)) through irregular data, and its knots.

    **Arguments:**

    - `ts`: increasing times. `xs`: values, NaN where missing, but for the first row.
    - `interpolation`:
        - `"hermite"`: cubic with backward differences, smooth and causal up to the next observation
            at hand; the one to start with.
        - `"linear"`: its derivative jumps at the knots.
        - `"rectilinear"`: time moves on first and the data follow, so that nothing of an
            observation is known before its time. It has 2 n − 1 knots 0, 1, ….
    - `counts`: add, for every channel, how often it was observed so far.

    Missing values are interpolated (rectilinear: kept as they were), and at the end kept.

    **Returns:** the path, of 1 + c (or 1 + 2 c) channels, and the times of its knots.

    **Raises:** `ValueError` for shapes that do not fit or an unknown interpolation; at run time if
    times do not increase or the first row has a missing value.

    Kidger and others, arXiv:2005.08926; Morrill and others, arXiv:2106.11028.
    """
    check_series(ts, xs)
    if interpolation not in ("hermite", "linear", "rectilinear"):
        raise ValueError(
            f"interpolation = {interpolation!r}: expected 'hermite', 'linear' or 'rectilinear'"
        )
    xs = eqx.error_if(xs, jnp.any(jnp.isnan(xs[0])), "xs: the first row has a missing value")
    channels = [xs]
    if counts:
        channels.append(jnp.cumsum(~jnp.isnan(xs), axis=0).astype(xs.dtype))
    if interpolation == "rectilinear":
        times, values = dfx.rectilinear_interpolation(ts, jnp.concatenate(channels, axis=1))
        data = jnp.concatenate([times[:, None].astype(xs.dtype), values], axis=1)
        knots = jnp.arange(2 * ts.shape[0] - 1).astype(ts.dtype)
        return dfx.LinearInterpolation(knots, data), knots
    data = jnp.concatenate([ts[:, None].astype(xs.dtype), *channels], axis=1)
    if interpolation == "linear":
        filled = dfx.linear_interpolation(ts, data, fill_forward_nans_at_end=True)
        return dfx.LinearInterpolation(ts, filled), ts
    pieces = dfx.backward_hermite_coefficients(ts, data, fill_forward_nans_at_end=True)
    return dfx.CubicInterpolation(ts, pieces), ts


class CDEField(eqx.Module):
    """F: a perceptron from z to a matrix (hidden × channels), between −1 and 1.

    The final tanh keeps F bounded, without which long series blow up.

    - `hidden`: length of z. `channels`: of the path (with time and counts).
    - `width`, `depth`: of the perceptron. 32 and 1 are good values.
    - `activation`: of the hidden layers; `lipswish` in a discriminator.
    """

    mlp: eqx.nn.MLP
    hidden: int = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        hidden: int,
        channels: int,
        width: int,
        depth: int,
        *,
        key: PRNGKeyArray,
        activation: Callable[[Array], Array] = jax.nn.softplus,
    ):
        self.hidden, self.channels = hidden, channels
        self.mlp = eqx.nn.MLP(
            hidden,
            hidden * channels,
            width,
            depth,
            activation=activation,
            final_activation=jnp.tanh,
            key=key,
        )

    def __call__(
        self, t: Any, z: Float[Array, " hidden"], args: Any = None
    ) -> Float[Array, "hidden channels"]:
        return self.mlp(z).reshape(self.hidden, self.channels)


class NeuralCDE(AbstractNDE):
    """Reads a series into a state: dz = F(z) dX, solved as the ODE z' = F(z) X'(t).

    - `initial`: ζ, from the first point of the path to z.
    - `field`: F, `(t, z, args) -> (hidden, channels)`, such as `CDEField`.
    - `readout`: from z to the output.
    - `interpolation`, `counts`: of `control_path`.
    - the rest as in `NeuralODE`. Where X' jumps, an adaptive controller is told the knots. Constant
        steps are not: at a knot they take X' from the interval before, which is right in the limit
        of many steps an interval. For steps from knot to knot `diffrax.Midpoint` is better than
        Heun's method, as its last evaluation is between them.

    Kidger and others, arXiv:2005.08926.
    """

    initial: Callable[[Array], Array]
    field: Callable[..., Array]
    readout: Callable[[Array], Array]
    interpolation: Interpolation = eqx.field(default="hermite", static=True)
    counts: bool = eqx.field(default=False, static=True)
    regulariser: AbstractRegulariser | None = None
    solver: dfx.AbstractSolver = dfx.Tsit5()
    controller: dfx.AbstractStepSizeController = dfx.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint = dfx.RecursiveCheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)

    def __call__(
        self,
        ts: Real[Array, " n"],
        xs: Float[Array, "n c"],
        args: Any = None,
        *,
        evolving: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> NDEOutput:
        """The readout at the end of the series, or with `evolving` at each of its times.

        **Arguments:**

        - `ts`: increasing times. `xs`: values, NaN where missing, but for the first row.
        - `args`: passed to the field.
        - `key`: given in training, for the regulariser.

        **Raises:** as `control_path`; `ValueError` if the field gives no matrix of these channels.
        """
        path, knots = control_path(ts, xs, self.interpolation, counts=self.counts)
        z0 = self.initial(path.evaluate(knots[0]))
        shape = jax.eval_shape(self.field, knots[0], z0, args).shape
        channels = 1 + xs.shape[1] * (2 if self.counts else 1)
        if shape != (*z0.shape, channels):
            raise ValueError(
                f"field: expected a matrix of shape {(*z0.shape, channels)}, got {shape}"
            )

        def drive(t: Any, z: Array, packed: Any) -> Array:
            field, path, args = packed
            return field(t, z, args) @ path.derivative(t)

        controller = self.controller
        if self.interpolation != "hermite" and isinstance(controller, dfx.PIDController):
            controller = dfx.ClipStepSizeController(controller, jump_ts=knots)
        at = None
        if evolving:
            at = knots[::2] if self.interpolation == "rectilinear" else knots
        packed = (self.field, path, args)
        problem = self.problem(dfx.ODETerm(drive), z0, packed, knots[0], knots[-1], at, controller)
        out = solve(problem, self.regulariser, key)
        ys = jax.vmap(self.readout)(out.ys) if evolving else self.readout(out.ys)
        return NDEOutput(ys, out.reg, out.stats)
