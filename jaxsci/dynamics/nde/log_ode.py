"""The log-ODE method: a controlled equation over long steps, through log-signatures.

Over a window of the series the equation dz = F(z) dX is replaced by the ordinary one

    dz/ds = Σ_k Σ_w ℓ^w (F_{w₁} ⋯ F_{w_k} id)(z),    s from 0 to 1,    words w of length k ≤ depth

with the log-signature ℓ of X over the window and the columns F_i of F as derivations. As ℓ is a Lie
series this is Σ ℓ on a basis times iterated Lie brackets of the F_i. Depth 1 sees the increment of
X alone, depth 2 also the signed areas that it sweeps.
"""

import math
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real

from .cde import control_path
from .problem import AbstractNDE, AbstractRegulariser, NDEOutput, ReversibleAdjoint, solve

Levels = tuple[Array, ...]


def log_signature(xs: Float[Array, "n c"], depth: int) -> Levels:
    """Log of the signature of the path that joins the points by straight lines.

    **Arguments:**

    - `xs`: the points. `depth`: of the truncation.

    **Returns:** the levels 1, …, depth as tensors of shape (c,), (c, c), …; level 1 is the
    increment, level 2 the areas ½ ∫ (X − X₀)ⁱ dXʲ − (X − X₀)ʲ dXⁱ.

    **Raises:** `ValueError` for a depth below 1 and a shape that is no series.

    Morrill, Salvi, Kidger, Foster and Lyons, arXiv:2009.08295.
    """
    if depth < 1:
        raise ValueError(f"depth = {depth}: expected an integer >= 1")
    if jnp.ndim(xs) != 2 or xs.shape[0] < 2:
        raise ValueError(f"xs: expected shape (n, c) with n >= 2, got {jnp.shape(xs)}")

    def extend(signature: Levels, move: Float[Array, " c"]) -> tuple[Levels, None]:
        # Chen's identity: the signature of a straight line is an exponential.
        line = [move]
        for k in range(2, depth + 1):
            line.append(jnp.multiply.outer(line[-1], move) / k)
        product = _product(signature, tuple(line))
        return tuple(a + b + c for a, b, c in zip(signature, line, product, strict=True)), None

    channels = xs.shape[1]
    start = tuple(jnp.zeros((channels,) * k, xs.dtype) for k in range(1, depth + 1))
    signature, _ = jax.lax.scan(extend, start, jnp.diff(xs, axis=0))
    log, power = signature, signature
    for n in range(2, depth + 1):
        power = _product(power, signature)
        log = tuple(a + (-1) ** (n + 1) / n * b for a, b in zip(log, power, strict=True))
    return log


def _product(a: Levels, b: Levels) -> Levels:
    """Of two tensor series without constant term."""
    return tuple(
        sum(
            (jnp.multiply.outer(a[i - 1], b[k - i - 1]) for i in range(1, k)),
            jnp.zeros_like(a[k - 1]),
        )
        for k in range(1, len(a) + 1)
    )


class LogODE(AbstractNDE):
    """A neural controlled equation that takes one window of a long series at a time.

    - `initial`, `field`, `readout`: as in `NeuralCDE`; the channels are time and those of the data.
        Depth > 1 differentiates the field, so it should be smooth.
    - `depth`: of the log-signatures. 1 is the series sampled once a window, 2 a good value; the
        work grows as channels^(depth − 1).
    - `window`: steps of the series in a window. Shorten it until the result no longer changes.
    - `solver`, `controller`, `dt0`, `adjoint`, `max_steps`: of the solve over one window, which
        takes a unit of time; one step of Heun's method by default.

    Take it for series of thousands of steps, or rough ones, whose fine structure matters.

    Morrill, Salvi, Kidger, Foster and Lyons, arXiv:2009.08295; Kidger, arXiv:2202.02435.

    **Raises:** `ValueError` for depth or window below 1.
    """

    initial: Callable[[Array], Array]
    field: Callable[..., Array]
    readout: Callable[[Array], Array]
    depth: int = eqx.field(default=2, static=True)
    window: int = eqx.field(default=16, static=True)
    regulariser: AbstractRegulariser | None = None
    solver: dfx.AbstractSolver = dfx.Heun()
    controller: dfx.AbstractStepSizeController = dfx.ConstantStepSize()
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint = dfx.RecursiveCheckpointAdjoint()
    dt0: float | None = 1.0
    max_steps: int = eqx.field(default=64, static=True)

    def __check_init__(self):
        for name in ("depth", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected an integer >= 1")

    def windows(self, ts: Real[Array, " n"], xs: Float[Array, "n c"]) -> tuple[Levels, Array]:
        """The log-signatures of the windows along a first axis, and the first point of the path.

        They hold all that the equation sees of a series: compute them once, before training.
        Missing values are interpolated; the last window is filled up by standing still.

        **Arguments:**

        - `ts`: increasing times. `xs`: values, NaN where missing, but for the first row.

        **Raises:** as `control_path`.
        """
        path, _ = control_path(ts, xs, "linear")
        points = jax.vmap(path.evaluate)(ts)
        count = math.ceil((ts.shape[0] - 1) / self.window)
        rows = jnp.arange(count)[:, None] * self.window + jnp.arange(self.window + 1)
        pieces = points[jnp.minimum(rows, ts.shape[0] - 1)]
        return jax.vmap(lambda p: log_signature(p, self.depth))(pieces), points[0]

    def __call__(
        self,
        ts: Real[Array, " n"],
        xs: Float[Array, "n c"],
        args: Any = None,
        *,
        evolving: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> NDEOutput:
        """The readout at the end of the series, or with `evolving` at the end of every window.

        **Arguments** and **Raises:** as `NeuralCDE`.
        """
        return self.from_windows(*self.windows(ts, xs), args, evolving=evolving, key=key)

    def from_windows(
        self,
        windows: Levels,
        start: Float[Array, " channels"],
        args: Any = None,
        *,
        evolving: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> NDEOutput:
        """The same from what `windows` returns."""

        def drive(s: Any, z: Array, packed: Any) -> Array:
            field, levels, args = packed
            along = [_act(lambda z: field(s, z, args), tensor, z) for tensor in levels]
            return sum(along[1:], along[0])

        def advance(z: Array, levels: Levels) -> tuple[Array, Any]:
            packed = (self.field, levels, args)
            out = solve(
                self.problem(dfx.ODETerm(drive), z, packed, 0.0, 1.0), self.regulariser, key
            )
            return out.ys, (out.ys if evolving else None, out.reg, out.stats)

        end, (zs, reg, stats) = jax.lax.scan(advance, self.initial(start), windows)
        ys = jax.vmap(self.readout)(zs) if evolving else self.readout(end)
        return NDEOutput(ys, jnp.sum(reg), jax.tree.map(jnp.sum, stats))


def _act(
    field: Callable[[Array], Array], tensor: Array, z: Float[Array, " hidden"]
) -> Float[Array, " hidden"]:
    """Σ_w tensor^w (F_{w₁} ⋯ F_{w_k} id)(z): the first letter of a word differentiates last."""
    columns = field(z)
    if tensor.ndim == 1:
        return columns @ tensor

    def along(column: Array, rest: Array) -> Array:
        return jax.jvp(lambda z: _act(field, rest, z), (z,), (column,))[1]

    return jnp.sum(jax.vmap(along)(columns.T, tensor), axis=0)
