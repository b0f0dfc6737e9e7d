"""The wave equation in a box with walls, solved exactly in time by its eigenmodes."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .grid import Grid
from .problems.dataset import check_positive
from .stepper import AbstractStepper


class WaveBox(AbstractStepper):
    """u_tt = c² Δu in a box, with u = 0 or ∂u/∂n = 0 on its walls.

    The field has two channels, (u, u_t). On midpoints the eigenmodes of the Laplacian, products of
    sines (Dirichlet) or cosines (Neumann), are orthogonal, and each turns by its own frequency
    ω = π c |k/L|:

        û(t + Δt) = û cos ωΔt + û_t sin(ωΔt)/ω,    û_t(t + Δt) = û_t cos ωΔt - û ω sin ωΔt

    so that there is no error in time for any Δt, and the energy ∫ u_t² + c² |∇u|² is kept to
    rounding. In space the error is that of the initial field's representation.

    ```python
    grid = Grid((0.0, 0.0), (1.0, 1.0), (64, 64), endpoint=False)
    x, y = grid.coords()
    bump = jnp.exp(-100 * ((x - 0.3) ** 2 + (y - 0.5) ** 2))
    frames = rollout(WaveBox(grid, dt=0.05), jnp.stack([bump, 0 * bump]), 40)
    ```

    **Arguments:**

    - `grid`: midpoints along every axis (`periodic=False, endpoint=False`), of any dimension.
    - `dt`: Δt.
    - `speed`: c; a number or a traced array.
    - `walls`: "dirichlet" (clamped, waves come back with the other sign) or "neumann" (free).

    **Raises:** `ValueError` for another kind of grid, numbers that are not positive, or unknown
    walls; `TypeError` if `grid` is no `Grid`.
    """

    grid: Grid
    dt: float | Float[Array, ""]
    speed: float | Float[Array, ""]
    walls: Literal["dirichlet", "neumann"] = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        dt: float | Float[Array, ""],
        speed: float | Float[Array, ""] = 1.0,
        walls: Literal["dirichlet", "neumann"] = "dirichlet",
    ):
        if not isinstance(grid, Grid):
            raise TypeError(f"WaveBox: grid must be a Grid, got {grid!r}")
        if any(grid.periodic) or any(grid.endpoint):
            raise ValueError(
                "WaveBox: grid must have midpoints along every axis (periodic=False, "
                f"endpoint=False), got {grid}"
            )
        for name, value in (("dt", dt), ("speed", speed)):
            if isinstance(value, int | float):
                check_positive(f"WaveBox: {name}", value)
        if walls not in ("dirichlet", "neumann"):
            raise ValueError(f"WaveBox: walls must be 'dirichlet' or 'neumann', got {walls!r}")
        self.grid, self.dt, self.speed, self.walls = grid, dt, speed, walls

    def init(self, u0: Float[Array, "2 *grid"], args: Any = None) -> Float[Array, "2 *grid"]:
        """The field itself. **Raises:** `ValueError` for another shape than (2, *grid)."""
        del args
        if u0.shape != (2, *self.grid.shape):
            raise ValueError(f"WaveBox: u0 must have shape {(2, *self.grid.shape)}, got {u0.shape}")
        return u0

    def step(
        self,
        state: Float[Array, "2 *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "2 *grid"]:
        """The field Δt later; `args` and `key` are not used."""
        del args, key
        omega = self.speed * jnp.asarray(self._wavenumbers(), state.dtype)
        angle = omega * self.dt
        u, v = self._transform(state, inverse=False)
        # sin(ωΔt)/ω = Δt sinc(ωΔt/π), also for ω = 0.
        slow = self.dt * jnp.sinc(angle / jnp.pi)
        turned = jnp.stack(
            [u * jnp.cos(angle) + v * slow, v * jnp.cos(angle) - u * omega * jnp.sin(angle)]
        )
        return self._transform(turned, inverse=True).astype(state.dtype)

    def energy(self, state: Float[Array, "2 *grid"]) -> Float[Array, ""]:
        """½ ∫ u_t² + c² |∇u|² dx, kept by the equation and by this solver."""
        omega = self.speed * jnp.asarray(self._wavenumbers(), state.dtype)
        u, v = self._transform(state, inverse=False)
        cell = float(np.prod(self.grid.spacing))
        return 0.5 * cell * jnp.sum(v**2 + (omega * u) ** 2)

    def _modes(self, n: int) -> np.ndarray:
        return np.arange(1, n + 1) if self.walls == "dirichlet" else np.arange(n)

    def _wavenumbers(self) -> Float[np.ndarray, "*grid"]:
        squares = np.zeros(())
        for n, length in zip(self.grid.shape, self.grid.lengths, strict=True):
            squares = np.add.outer(squares, (np.pi * self._modes(n) / length) ** 2)
        return np.sqrt(squares)

    def _transform(self, fields: Array, *, inverse: bool) -> Array:
        for axis, n in enumerate(self.grid.shape):
            k = self._modes(n)
            phase = np.pi * np.outer(k, np.arange(n) + 0.5) / n
            basis = np.sin(phase) if self.walls == "dirichlet" else np.cos(phase)
            # Every mode has the norm n/2, but for the constant and the alternating sine: n.
            basis = basis / np.linalg.norm(basis, axis=1, keepdims=True)
            matrix = jnp.asarray(basis.T if inverse else basis, fields.dtype)
            fields = jnp.moveaxis(jnp.tensordot(matrix, fields, ([1], [axis + 1])), 0, axis + 1)
        return fields
