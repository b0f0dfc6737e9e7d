"""Finite volumes whose face values come from outside: a protocol, and Burgers' equation in it.

    du_i/dt = −(F_{i+1/2} − F_{i−1/2})/h + sources,    F from values w at the faces

A scheme says which values w it needs (`Face`) and with which weights it classically takes them from
the cells around; `jaxsci.operators.LearnedStencil` puts learned weights in their place. Whatever w
is, what leaves a cell enters its neighbour: the sum over cells is kept.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .grid import Grid
from .problems.combined import Forcing, godunov
from .stepper import AbstractStepper


class Face(NamedTuple):
    """One value that a scheme takes at a face of every cell, and its classical stencil.

        w(x_i + shift) = Σ_j weights_j u_channel(x_i + first + j)

    in units of the spacing, with periodic ends; a derivative is one with respect to cells, too.

    - `channel`: of the field.
    - `shift`: from the place of the channel's own values to that of w.
    - `derivative`: order along each axis; all 0 is the value itself.
    - `first`: the offset of the first weight along each axis.
    - `weights`: on the host, one axis for each of the grid's.
    """

    channel: int
    shift: tuple[float, ...]
    derivative: tuple[int, ...]
    first: tuple[int, ...]
    weights: np.ndarray

    def __call__(self, u: Float[Array, "c *grid"]) -> Float[Array, "*grid"]:
        """The classical value."""
        axes = tuple(range(u.ndim - 1))
        total = jnp.zeros(u.shape[1:], u.dtype)
        for j in zip(*np.nonzero(self.weights), strict=True):
            offset = tuple(-(first + int(k)) for first, k in zip(self.first, j, strict=True))
            total = total + float(self.weights[j]) * jnp.roll(u[self.channel], offset, axes)
        return total


class AbstractFluxForm(AbstractStepper):
    """A scheme in flux form, as a stepper by a strong-stability-preserving Runge-Kutta method.

        u ← aₛ u₀ + (1 − aₛ) P(u + Δt slope(u, w(u), t)),    s = 1 … stages

    P is a projection on what the equation allows. The state is (u, t), with t from 0.

    A subclass has `grid`, `dt`, `stages` (1: Euler; 2: Heun; 3: Shu and Osher), `faces` and
    `slope`.
    """

    grid: eqx.AbstractVar[Grid]
    dt: eqx.AbstractVar[float]
    stages: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def faces(self) -> tuple[Face, ...]:
        """The values w that `slope` takes, in this order."""

    @abc.abstractmethod
    def slope(
        self,
        u: Float[Array, "c *grid"],
        w: Float[Array, "m *grid"],
        t: Float[Array, ""],
        args: Any = None,
    ) -> Float[Array, "c *grid"]:
        """The time derivative of u, from the values w at the faces."""

    def project(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *grid"]:
        """P; by default the identity."""
        return u

    def interpolate(self, u: Float[Array, "c *grid"]) -> Float[Array, "m *grid"]:
        """The classical values at all faces."""
        return jnp.stack([face(u) for face in self.faces])

    def advance(
        self,
        u: Float[Array, "c *grid"],
        t: Float[Array, ""],
        interpolate: Callable[[Float[Array, "c *grid"]], Float[Array, "m *grid"]],
        args: Any = None,
    ) -> Float[Array, "c *grid"]:
        """u(t + Δt), with any rule for the values at the faces."""

        def stage(u: Array, now: Array) -> tuple[Array, None]:
            share, after = now
            slope = self.slope(u, interpolate(u), t + after * self.dt, args)
            return share * start + (1 - share) * self.project(u + self.dt * slope), None

        # A loop, because XLA would merge and repeat the stages' work if they stood in line.
        start = u
        return jax.lax.scan(stage, u, jnp.asarray(SHARES_AND_TIMES[self.stages], u.dtype))[0]

    def init(
        self, u0: Float[Array, "c *grid"], args: Any = None
    ) -> tuple[Float[Array, "c *grid"], Float[Array, ""]]:
        """(u₀, 0). **Raises:** `ValueError` if u₀ is not on the grid."""
        del args
        if u0.shape[1:] != self.grid.shape:
            raise ValueError(
                f"{type(self).__name__}: u0 has shape {u0.shape}, expected (c, *{self.grid.shape})"
            )
        return u0, jnp.zeros((), u0.dtype)

    def step(
        self,
        state: tuple[Float[Array, "c *grid"], Float[Array, ""]],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "c *grid"], Float[Array, ""]]:
        """The classical scheme."""
        del key
        u, t = state
        return self.advance(u, t, self.interpolate, args), t + self.dt

    def output(
        self, state: tuple[Float[Array, "c *grid"], Float[Array, ""]]
    ) -> Float[Array, "c *grid"]:
        """The field."""
        return state[0]


# The share of the start, and the time of the slope in steps, of each stage.
SHARES_AND_TIMES = {
    1: [(0, 0)],
    2: [(0, 0), (1 / 2, 1)],
    3: [(0, 0), (3 / 4, 1), (1 / 3, 1 / 2)],
}


def check_flux_form(
    name: str, grid: Grid, dims: int, dt: float, viscosity: float, stages: int
) -> None:
    """Raises what the constructors of flux forms share."""
    if grid.n_dims != dims or not all(grid.periodic):
        raise ValueError(
            f"{name}: grid must be periodic with {dims} axes, got {grid.shape}, "
            f"periodic={grid.periodic}"
        )
    if not dt > 0:
        raise ValueError(f"{name}: dt must be positive, got {dt}")
    if viscosity < 0:
        raise ValueError(f"{name}: viscosity must not be negative, got {viscosity}")
    if stages not in (1, 2, 3):
        raise ValueError(f"{name}: stages must be 1, 2 or 3, got {stages}")


class BurgersFlux(AbstractFluxForm):
    """uₜ + (u²/2)ₓ = η uₓₓ + f(t, x), periodic: Godunov's flux of values from both sides of a face.

        F = godunov(u⁻, u⁺) − η uₓ

    u⁻ and u⁺ are classically u_i and u_{i+1} (`order=1`, upwind), or quadratic from the cells
    (−1, 0, 1) and (0, 1, 2) without a limiter (`order=3`); uₓ is the central difference.

    ```python
    grid = Grid(0.0, 2 * jnp.pi, 256, periodic=True)
    burgers = BurgersFlux(grid, dt=0.005, viscosity=0.05)
    frames = rollout(burgers, jnp.sin(grid.coords()), 200)
    ```

    **Arguments:**

    - `grid`: periodic, one axis. Values are averages over cells centred at its points plus h/2.
    - `dt`: Δt; below h/max|u| and h²/(2η).
    - `viscosity`: η.
    - `order`: 1 or 3.
    - `stages`: of the Runge-Kutta method.

    The `args` of a rollout are the `Forcing` f, or `None`; its time is 0 at the first frame.

    **Raises:** `ValueError` for another grid, order or number of stages, Δt ≤ 0, η < 0.

    As in Bar-Sinai et al., PNAS 116 (2019), arXiv:1808.04930.
    """

    grid: Grid = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    viscosity: float = eqx.field(static=True)
    order: int = eqx.field(static=True)
    stages: int = eqx.field(static=True)

    def __init__(self, grid: Grid, dt: float, viscosity: float, order: int = 3, stages: int = 3):
        check_flux_form("BurgersFlux", grid, 1, dt, viscosity, stages)
        if order not in (1, 3):
            raise ValueError(f"BurgersFlux: order must be 1 or 3, got {order}")
        self.grid, self.dt, self.viscosity = grid, dt, viscosity
        self.order, self.stages = order, stages

    @property
    def faces(self) -> tuple[Face, ...]:
        """u⁻, u⁺ and uₓ."""
        if self.order == 1:
            left, right, first = [1.0], [1.0], 0
        else:
            left, right, first = [-1 / 6, 5 / 6, 2 / 6], [2 / 6, 5 / 6, -1 / 6], -1
        return (
            Face(0, (0.5,), (0,), (first,), np.array(left)),
            Face(0, (0.5,), (0,), (first + 1,), np.array(right)),
            Face(0, (0.5,), (1,), (0,), np.array([-1.0, 1.0])),
        )

    def slope(
        self,
        u: Float[Array, "1 x"],
        w: Float[Array, "3 x"],
        t: Float[Array, ""],
        args: Forcing | None = None,
    ) -> Float[Array, "1 x"]:
        """−(F_{i+1/2} − F_{i−1/2})/h, and the average of the forcing over each cell."""
        (h,) = self.grid.spacing
        flux = godunov(w[0], w[1]) - self.viscosity / h * w[2]
        change = -(flux - jnp.roll(flux, 1)) / h
        if args is not None:
            # Waves in x are the same at all times: only these products stay inside a loop.
            k = 2 * jnp.pi / self.grid.lengths[0] * args.wavenumber
            x = k[:, None] * jnp.asarray(self.grid.axis(0) + h / 2, u.dtype)
            amplitude = args.amplitude * jnp.sinc(k * h / (2 * jnp.pi))
            turn = args.frequency * t + args.phase
            waves = jnp.concatenate([jnp.sin(x), jnp.cos(x)])
            parts = jnp.concatenate([jnp.cos(turn), jnp.sin(turn)])
            change = change + jnp.concatenate([amplitude, amplitude]) * parts @ waves
        return change[None]
