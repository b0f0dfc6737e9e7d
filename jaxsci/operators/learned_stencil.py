"""Temporal stencil modelling: a coarse finite-volume solver whose stencils a network chooses.

    w = w_classical + Σ_m ℓ_m Σ_s N_ms u_s      at each face, u_s the cells around it
    ℓ = scale · net(features of the past)       at each cell

The rows of N span the weights that change nothing for polynomials of low degree, so the values at
the faces stay as accurate as asked for whatever the network says, and the solver's flux form keeps
what it conserves. With ℓ = 0 it is the classical scheme, bit by bit. Learned interpolation sees the
present frame (`history=None`); temporal stencil modelling sees a `HippoHistory` too.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import Buffer, Conv
from jaxsci.pde import AbstractFluxForm

from .stepping import AbstractHistoryStepper, check_count


def polynomial_constraints(
    offsets: Sequence[Float[np.ndarray, " n"]], derivative: Sequence[int], order: int = 1
) -> tuple[Float[np.ndarray, "k s"], Float[np.ndarray, " k"]]:
    """A and b, so that weights c with A c = b are accurate to an order.

        Σ_s c_s ⟨x^α⟩_s = ∂^β x^α |₀    for all |α| < order + |β|

    ⟨·⟩_s is the average over the cell with its centre at s; cells have the width 1. For order 1 and
    β = 0 that is Σ c_s = 1.

    **Arguments:**

    - `offsets`: centres of the cells along each axis, seen from the place of the value; the stencil
        is their product, the last axis runs fastest.
    - `derivative`: β, an order for each axis.
    - `order`: at least 1.

    **Raises:** `ValueError` for an order below 1 or another number of derivatives than axes.

    Bar-Sinai et al., PNAS 116 (2019), arXiv:1808.04930.
    """
    check_count("order", order)
    if len(offsets) != len(derivative):
        raise ValueError(f"derivative: expected {len(offsets)} orders, got {tuple(derivative)}")
    degree = order + sum(derivative) - 1
    rows, values = [], []
    for powers in itertools.product(range(degree + 1), repeat=len(offsets)):
        if sum(powers) > degree:
            continue
        row = np.ones(1)
        for x, p in zip(offsets, powers, strict=True):
            x = np.asarray(x, float)
            row = np.kron(row, ((x + 0.5) ** (p + 1) - (x - 0.5) ** (p + 1)) / (p + 1))
        rows.append(row)
        values.append(
            math.prod(math.factorial(p) for p in powers) if powers == tuple(derivative) else 0.0
        )
    return np.array(rows), np.array(values)


class HippoHistory(eqx.Module):
    """What a cell keeps of its past: coefficients of translated Laguerre functions.

        h' = A h + B v,  A = 1/2 − tril(1),  B = 1,   h_n(t) = ∫₀^∞ v(t − s) L_n(s) exp(−s/2) ds
        h ← (1 − Δ/2 A)⁻¹ ((1 + Δ/2 A) h + Δ B v)        with each new frame v

    As A is one number below its diagonal, both sides are running sums: a step costs O(n). (The
    matrices are `jaxsci.dynamics.hippo("lagt", n)`, the step is `discretize(…, "s4")`.)

    **Arguments:**

    - `n`: coefficients, at least 1. Good values: 8 to 32 (the paper: 256).
    - `frames`: true frames that warm up h from 0, at least 2. Good value: 2 n or fewer.
    - `dt`: Δ, in frames: what is 4 n/Δ frames ago is hardly seen.

    **Raises:** `ValueError` for n < 1, fewer than 2 frames, Δ not in (0, 4): from 4 on, the step of
    the diagonal oscillates.

    Gu et al., arXiv:2008.07669; Sun, Yang & Yoo, arXiv:2302.08105.
    """

    n: int = eqx.field(static=True)
    frames: int = eqx.field(static=True, default=16)
    dt: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        check_count("HippoHistory: n", self.n)
        check_count("HippoHistory: frames", self.frames)
        if self.frames < 2:
            raise ValueError(f"HippoHistory: frames must be at least 2, got {self.frames}")
        if not 0 < self.dt < 4:
            raise ValueError(f"HippoHistory: dt must lie between 0 and 4, got {self.dt}")

    def init(self, frames: Float[Array, "k c *grid"]) -> Float[Array, "n c *grid"]:
        """The coefficients after these frames, from h = 0."""
        empty = jnp.zeros((self.n, *frames.shape[1:]), frames.dtype)
        return jax.lax.scan(lambda h, v: (self.update(h, v), None), empty, frames)[0]

    def update(
        self, h: Float[Array, "n c *grid"], v: Float[Array, "c *grid"]
    ) -> Float[Array, "n c *grid"]:
        """The coefficients with one more frame."""
        half = self.dt / 2
        diagonal = 1 + half / 2

        def row(sums: tuple[Array, Array], old: Array) -> tuple[tuple[Array, Array], Array]:
            before, after = sums
            before = before + old
            new = (diagonal * old - half * (before + after) + self.dt * v) / diagonal
            return (before, after + new), new

        zero = jnp.zeros_like(v)
        return jax.lax.scan(row, (zero, zero), h)[1]


class StencilNet(eqx.Module):
    """Convolutions of 3 points an axis, the last of 1, with a ReLU between them; periodic.

    **Arguments:**

    - `n_dims`: axes. `c_in`, `c_out`: channels, see `LearnedStencil.channels`.
    - `width`: channels in between. Good values: 32 to 64 (the paper: 256).
    - `depth`: number of convolutions, at least 2. The paper: 7, and 3 points for the last one
        too, which with bundles would be most of the work.

    **Raises:** `ValueError` for sizes out of range.
    """

    convs: tuple[Conv, ...]

    def __init__(
        self,
        n_dims: int,
        c_in: int,
        c_out: int,
        *,
        width: int = 64,
        depth: int = 7,
        key: PRNGKeyArray,
    ):
        if depth < 2:
            raise ValueError(f"StencilNet: depth must be at least 2, got {depth}")
        sizes = [c_in, *[width] * (depth - 1), c_out]
        self.convs = tuple(
            Conv(n_dims, a, b, points, padding="wrap", key=k)
            for a, b, points, k in zip(
                sizes[:-1], sizes[1:], [3] * (depth - 1) + [1], jr.split(key, depth), strict=True
            )
        )

    def __call__(self, u: Float[Array, "c_in *grid"]) -> Float[Array, "c_out *grid"]:
        """The network at every cell."""
        *hidden, last = self.convs
        for conv in hidden:
            u = jax.nn.relu(conv(u))
        return last(u)


class StencilState(NamedTuple):
    """The last bundle of frames, what is kept of the past, and the time since the start."""

    frames: Float[Array, "b c *grid"]
    memory: Float[Array, "n c *grid"] | None
    time: Float[Array, ""]


class LearnedStencil(AbstractHistoryStepper):
    """A finite-volume solver with learned values at the faces.

    A stepper for `forecast`, `rollout` and the recipes: `unrolled(n, remat=True)` trains it through
    n calls of the network. The state is updated with the model's own frames.

    ```python
    grid = Grid(0.0, 2 * jnp.pi, (32, 32), periodic=True)
    flow = StaggeredFlow(grid, dt=0.05, viscosity=5e-3, drag=0.1, amplitude=1.0)
    history = HippoHistory(16, frames=16)
    c_in, c_out = LearnedStencil.channels(flow, channels=2, history=history, bundle=4)
    net = StencilNet(2, c_in, c_out, key=key)
    model = LearnedStencil(flow, net, history, bundle=4)
    frames = forecast(model, past, 100)  # past: (16, 2, 32, 32)
    ```

    **Arguments:**

    - `solver`: a `jaxsci.pde.AbstractFluxForm`, such as `BurgersFlux` or `StaggeredFlow`.
    - `net`: from features "c_in *grid" (the present frame, then the history's coefficients) to
        logits "c_out *grid"; `channels` says how many of each.
    - `history`: a `HippoHistory`; `None` is learned interpolation.
    - `bundle`: b, steps for which one call of the network chooses the weights. They change from
        step to step, and act on the frames as they come.
    - `stencil`: cells along each axis; half of them, or one less, lie below the value's cell.
    - `order`: polynomials of degree below it (plus a derivative's order) are kept exact.
    - `scale`: of the logits; small, so that training starts near the classical scheme.

    **Raises:** `TypeError` for a solver that is none or a net that cannot be called; `ValueError`
    for a stencil too small for the order, a classical stencil less accurate than it, a bundle below
    1, and a net of another number of channels.

    Kochkov et al., arXiv:2102.01010; Sun, Yang & Yoo, arXiv:2302.08105.
    """

    solver: AbstractFluxForm
    net: Callable[[Array], Array]
    history: HippoHistory | None
    nullspaces: tuple[Buffer, ...]
    stencil: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    n_history: int = eqx.field(static=True)
    n_bundle: int = eqx.field(static=True)

    def __init__(
        self,
        solver: AbstractFluxForm,
        net: Callable[[Array], Array],
        history: HippoHistory | None = None,
        *,
        bundle: int = 1,
        stencil: int = 4,
        order: int = 1,
        scale: float = 0.1,
    ):
        if not callable(net):
            raise TypeError(f"LearnedStencil: net must be callable, got {net!r}")
        check_count("LearnedStencil: bundle", bundle)
        self.nullspaces = tuple(
            Buffer(jnp.asarray(rows, float)) for rows in _nullspaces(solver, stencil, order)
        )
        self.solver, self.net, self.history = solver, net, history
        self.stencil, self.scale = stencil, scale
        self.n_history, self.n_bundle = 1 if history is None else history.frames, bundle

    @staticmethod
    def channels(
        solver: AbstractFluxForm,
        channels: int,
        history: HippoHistory | None = None,
        *,
        bundle: int = 1,
        stencil: int = 4,
        order: int = 1,
    ) -> tuple[int, int]:
        """The channels that a net takes and returns; `channels` are the field's.

        **Raises:** as the constructor does.
        """
        logits = sum(len(rows) for rows in _nullspaces(solver, stencil, order))
        return channels * (1 if history is None else 1 + history.n), bundle * logits

    def weights(self, logits: Float[Array, "m *grid"]) -> list[Float[Array, "s *grid"]]:
        """For each of the solver's faces, what the logits add to its classical weights."""
        parts = jnp.split(logits, np.cumsum([rows.bits.shape[0] for rows in self.nullspaces])[:-1])
        return [
            jnp.tensordot(rows.value.astype(part.dtype), part, ((0,), (0,)))
            for rows, part in zip(self.nullspaces, parts, strict=True)
        ]

    def interpolate(
        self, logits: Float[Array, "m *grid"], u: Float[Array, "c *grid"]
    ) -> Float[Array, "faces *grid"]:
        """The values at the faces."""
        around = _around(u, self.stencil)
        learned = [
            jnp.sum(weights * around[:, face.channel], 0)
            for face, weights in zip(self.solver.faces, self.weights(logits), strict=True)
        ]
        return self.solver.interpolate(u) + jnp.stack(learned)

    def init(self, u0: Float[Array, "k c *grid"], args: Any = None) -> StencilState:
        """The state after k true frames; the time of the last one is 0."""
        if u0.ndim != 2 + self.solver.grid.n_dims or u0.shape[0] != self.n_history:
            raise ValueError(
                f"LearnedStencil: expected {self.n_history} frames (k, c, *grid) to start from, "
                f"got shape {u0.shape}"
            )
        u, time = self.solver.init(u0[-1], args)
        memory = None if self.history is None else self.history.init(u0)
        return StencilState(jnp.broadcast_to(u, (self.n_bundle, *u.shape)), memory, time)

    def step(
        self, state: StencilState, args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> StencilState:
        """One call of the network and b steps of the solver."""
        del key
        u, grid = state.frames[-1], state.frames.shape[2:]
        features = u
        if state.memory is not None:
            features = jnp.concatenate([u, state.memory.reshape(-1, *grid)])
        logits = self.net(features)
        each = sum(rows.bits.shape[0] for rows in self.nullspaces)
        if logits.shape != (self.n_bundle * each, *grid):
            raise ValueError(
                f"LearnedStencil: net must return {self.n_bundle} x {each} channels on the grid "
                f"{grid}, got {logits.shape}"
            )
        logits = (self.scale * logits).reshape(self.n_bundle, each, *grid)

        frames, memory, time = [], state.memory, state.time
        for chosen in logits:
            u = self.solver.advance(u, time, lambda v, c=chosen: self.interpolate(c, v), args)
            if self.history is not None and memory is not None:
                memory = self.history.update(memory, u)
            frames.append(u)
            time = time + self.solver.dt
        return StencilState(jnp.stack(frames), memory, time)

    def output(self, state: StencilState) -> Float[Array, "b c *grid"]:
        """The frames of the last bundle."""
        return state.frames

    def predict(
        self,
        history: Float[Array, "k c *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b c *grid"]:
        """The b frames after k true ones."""
        return self.step(self.init(history, args), args, key=key).frames


def _lowest(stencil: int) -> int:
    return -((stencil - 1) // 2)


def _around(u: Float[Array, "c *grid"], stencil: int) -> Float[Array, "s c *grid"]:
    """The cells of every cell's stencil, the last axis fastest."""
    low, axes = -_lowest(stencil), range(1, u.ndim)
    padded = jnp.pad(u, [(0, 0), *[(low, stencil - 1 - low)] * (u.ndim - 1)], mode="wrap")
    return jnp.stack(
        [
            padded[
                (slice(None), *(slice(i, i + u.shape[a]) for a, i in zip(axes, at, strict=True)))
            ]
            for at in itertools.product(range(stencil), repeat=u.ndim - 1)
        ]
    )


def _nullspaces(
    solver: AbstractFluxForm, stencil: int, order: int
) -> list[Float[np.ndarray, "m s"]]:
    """For each face, an orthonormal basis of the weights that low polynomials do not see."""
    if not isinstance(solver, AbstractFluxForm):
        raise TypeError(f"LearnedStencil: solver must be an AbstractFluxForm, got {solver!r}")
    check_count("LearnedStencil: stencil", stencil)
    found = []
    for number, face in enumerate(solver.faces):
        own = [
            first + np.arange(n) - shift
            for first, n, shift in zip(face.first, face.weights.shape, face.shift, strict=True)
        ]
        A, b = polynomial_constraints(own, face.derivative, order)
        if not np.allclose(A @ face.weights.ravel(), b):
            raise ValueError(
                f"LearnedStencil: order={order}, but the classical weights of face {number} are "
                "not that accurate"
            )
        offsets = [_lowest(stencil) + np.arange(stencil) - shift for shift in face.shift]
        A, _ = polynomial_constraints(offsets, face.derivative, order)
        if len(A) >= A.shape[1]:
            raise ValueError(
                f"LearnedStencil: stencil={stencil} has {A.shape[1]} weights for the {len(A)} "
                f"conditions of order={order}; nothing is left to learn"
            )
        found.append(np.linalg.svd(A)[2][len(A) :])
    return found
