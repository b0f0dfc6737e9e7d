"""Sound in rooms: the wave equation with walls that reflect or absorb, on a staggered grid."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .grid import Grid
from .problems.dataset import check_positive
from .stepper import AbstractStepper

Impedance = float | Sequence[tuple[float, float]]


class SoundRoom(AbstractStepper):
    """p_t = −c² ∇·v,  v_t = −∇p  (so p_tt = c² Δp), in a room whose walls have an impedance.

        at a wall:  p = ξ c v·n      n outward, ξ ≥ 0 the impedance over that of the air

    A plane wave that meets a wall head-on comes back with the factor R = (ξ − 1)/(ξ + 1): all of it
    from a rigid wall (ξ = ∞), nothing at ξ = 1, with the other sign from ξ = 0.

    Pressures live in the cells, velocities on the faces between them, half a step apart in time
    (leapfrog). At a wall the velocity obeys the same equation over the half cell to the wall, with
    p there from the impedance, at both ends of the step on average:

        v⁺ = [(β − κ) v⁻ + 2 (Δt/h) β p_cell]/(β + κ),    β = 1/ξ,  κ = c Δt/h,  v along n

    Second order in h and Δt; the room's energy never grows.

    ```python
    grid = Grid((0.0, 0.0), (2.0, 1.0), (128, 64), endpoint=False)
    x, y = grid.coords()
    room = SoundRoom(grid, dt=0.01, impedance=10.0, inside=(x < 1) | (y < 0.5))  # an L
    pulse = jnp.exp(-((x - 0.5) ** 2 + (y - 0.6) ** 2) / 0.1**2)
    frames = rollout(room, pulse[None], 200, every=10)
    ```

    **Arguments:**

    - `grid`: midpoints along every axis (`periodic=False, endpoint=False`).
    - `dt`: Δt; c Δt √(Σ 1/h²) ≤ 1 is needed for stability.
    - `speed`: c.
    - `impedance`: ξ of all walls (5 to 50 for usual rooms, `math.inf` for rigid ones), or one pair
        for each axis, (at its lower end, at its upper end).
    - `inside`: which cells of the grid belong to the room, by default all; walls run between those
        that do and those that do not. Such walls need one ξ for all.

    **Raises:** `ValueError` for another kind of grid, numbers that are not positive, an impedance
    below 0 or of another length, a step beyond the limit, an `inside` of another shape or empty, or
    both an `inside` and several impedances; `TypeError` if `grid` is no `Grid`.

    Reference: Botteldooren, J. Acoust. Soc. Am. 98 (1995) 3302, doi:10.1121/1.413817.
    """

    grid: Grid
    dt: float = eqx.field(static=True)
    speed: float = eqx.field(static=True)
    inside: Bool[np.ndarray, "*grid"]
    # For each axis: v⁺ = keep v⁻ + below p_below + above p_above, on its faces.
    keep: tuple[Float[np.ndarray, "*faces"], ...]
    below: tuple[Float[np.ndarray, "*faces"], ...]
    above: tuple[Float[np.ndarray, "*faces"], ...]

    def __init__(
        self,
        grid: Grid,
        dt: float,
        speed: float = 1.0,
        impedance: Impedance = math.inf,
        inside: Bool[Any, "*grid"] | None = None,
    ):
        if not isinstance(grid, Grid):
            raise TypeError(f"SoundRoom: grid must be a Grid, got {grid!r}")
        if any(grid.periodic) or any(grid.endpoint):
            raise ValueError(
                "SoundRoom: grid must have midpoints along every axis (periodic=False, "
                f"endpoint=False), got {grid}"
            )
        check_positive("SoundRoom: dt", dt)
        check_positive("SoundRoom: speed", speed)
        courant = speed * dt * math.sqrt(sum(h**-2 for h in grid.spacing))
        if courant > 1 + 1e-12:
            raise ValueError(
                f"SoundRoom: dt = {dt} is beyond the limit {dt / courant:.6g} of stability"
            )
        walls = _impedances(impedance, grid.n_dims)
        if inside is None:
            room = np.ones(grid.shape, bool)
        else:
            room = np.asarray(inside, bool)
            if room.shape != grid.shape or not room.any():
                raise ValueError(
                    f"SoundRoom: inside must have the grid's shape {grid.shape} and hold a cell, "
                    f"got shape {room.shape} with {room.sum()} cells"
                )
            if len({xi for pair in walls for xi in pair}) > 1:
                raise ValueError("SoundRoom: with inside all walls have one impedance")
        self.grid, self.dt, self.speed, self.inside = grid, float(dt), float(speed), room
        faces = [_faces(room, a, dt, h, speed, walls[a]) for a, h in enumerate(grid.spacing)]
        self.keep, self.below, self.above = zip(*faces, strict=True)

    def init(self, u0: Float[Array, "1 *grid"], args: Any = None):
        """(p, v) from a pressure at rest: v = 0 at t = 0, so v(−Δt/2) = (Δt/2) ∇p away from walls.

        **Raises:** `ValueError` for another shape than (1, *grid).
        """
        del args
        if u0.shape != (1, *self.grid.shape):
            raise ValueError(
                f"SoundRoom: u0 must have shape {(1, *self.grid.shape)}, got {u0.shape}"
            )
        p = jnp.where(self.inside, u0[0], 0)
        # Half of minus the change of the first step, in which v = 0 enters.
        v = tuple(-self._push(p, axis) / 2 for axis in range(self.grid.n_dims))
        return p, v

    def step(self, state, args: Any = None, *, key: PRNGKeyArray | None = None):
        """(p, v) one Δt later; `args` and `key` are not used."""
        del args, key
        p, old = state
        v = tuple(
            jnp.asarray(keep, p.dtype) * each + self._push(p, axis)
            for axis, (keep, each) in enumerate(zip(self.keep, old, strict=True))
        )
        divergence = sum(
            jnp.diff(each, axis=axis) / h
            for axis, (each, h) in enumerate(zip(v, self.grid.spacing, strict=True))
        )
        return jnp.where(self.inside, p - self.dt * self.speed**2 * divergence, 0), v

    def output(self, state) -> Float[Array, "1 *grid"]:
        """The pressure."""
        return state[0][None]

    def _push(self, p: Float[Array, "*grid"], axis: int) -> Float[Array, "*faces"]:
        """What the pressures on both sides add to the velocity on the faces of an axis."""
        sides = [(0, 0)] * p.ndim
        sides[axis] = (1, 1)
        padded = jnp.pad(p, sides)
        n = p.shape[axis] + 1
        lower = jnp.take(padded, np.arange(n), axis)
        upper = jnp.take(padded, np.arange(1, n + 1), axis)
        below, above = (jnp.asarray(each[axis], p.dtype) for each in (self.below, self.above))
        return below * lower + above * upper


def _impedances(impedance: Impedance, n_dims: int) -> tuple[tuple[float, float], ...]:
    if isinstance(impedance, int | float):
        pairs = ((float(impedance), float(impedance)),) * n_dims
    else:
        pairs = tuple((float(lo), float(hi)) for lo, hi in impedance)
    if len(pairs) != n_dims:
        raise ValueError(
            f"SoundRoom: impedance must be a number or {n_dims} pairs, got {impedance!r}"
        )
    if not all(xi >= 0 for pair in pairs for xi in pair):  # NaN is refused too
        raise ValueError(f"SoundRoom: impedance must not be negative, got {impedance!r}")
    return pairs


def _faces(
    room: Bool[np.ndarray, "*grid"],
    axis: int,
    dt: float,
    h: float,
    speed: float,
    walls: tuple[float, float],
):
    """The three coefficients on the faces across one axis, shape n + 1 along it."""
    sides = [(0, 0)] * room.ndim
    sides[axis] = (1, 1)
    padded = np.pad(room, sides)
    n = room.shape[axis] + 1
    lower, upper = padded.take(np.arange(n), axis), padded.take(np.arange(1, n + 1), axis)
    through, end, start = lower & upper, lower & ~upper, ~lower & upper
    keep = through.astype(float)
    below, above = keep * dt / h, -keep * dt / h
    for wall, xi, sign, push in ((start, walls[0], -1, above), (end, walls[1], 1, below)):
        kappa = speed * dt / h
        if xi == 0:  # β = ∞: no pressure at the wall
            keep[wall], push[wall] = 1.0, sign * 2 * dt / h
        else:
            beta = 1 / xi
            keep[wall] = (beta - kappa) / (beta + kappa)
            push[wall] = sign * 2 * (dt / h) * beta / (beta + kappa)
    return keep, below, above
