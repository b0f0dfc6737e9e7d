"""Incompressible flow on a staggered grid (marker and cell), in flux form."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .flux_form import AbstractFluxForm, Face, check_flux_form
from .grid import Grid


class StaggeredFlow(AbstractFluxForm):
    """uₜ + ∇·(u ⊗ u) = −∇p + ν Δu − μ u + A sin(k y) eₓ,  ∇·u = 0: two dimensions, periodic.

    Cell (i, j) has its pressure in the middle, u_x on its right face and u_y on its upper face. The
    volume of a velocity component is centred on the component, and the flux through its face along
    axis a is the product of two values there,

        F_ia = ũ_i û_a     (advected, advecting),

    each interpolated from its own component, classically as the mean of the two neighbours: second
    order, no dissipation. Diffusion is explicit; a discrete Poisson equation, solved by FFT, makes
    the discrete divergence zero. Momentum is changed by drag and forcing alone.

    ```python
    flow = StaggeredFlow(Grid(0.0, 2 * jnp.pi, (64, 64), periodic=True), dt=0.01, viscosity=0.01)
    frames = rollout(flow, u0, 100, every=10)  # u0: (2, 64, 64)
    ```

    **Arguments:**

    - `grid`: periodic, two axes.
    - `dt`: Δt; below h/max|u| and h²/(4ν). Euler steps (`stages=1`) of the classical scheme grow
        where Δt > 2ν/|u|²; three stages do not.
    - `viscosity`: ν. `drag`: μ. `amplitude`, `wavenumber`: A and k.
    - `stages`: of the Runge-Kutta method.

    **Raises:** `ValueError` for another grid or number of stages, Δt ≤ 0, ν < 0.

    Harlow & Welch 1965, doi:10.1063/1.1761178; as in Kochkov et al., arXiv:2102.01010.
    """

    grid: Grid = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    viscosity: float = eqx.field(static=True)
    drag: float = eqx.field(static=True)
    amplitude: float = eqx.field(static=True)
    wavenumber: int = eqx.field(static=True)
    stages: int = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        dt: float,
        viscosity: float,
        drag: float = 0.0,
        amplitude: float = 0.0,
        wavenumber: int = 4,
        stages: int = 3,
    ):
        check_flux_form("StaggeredFlow", grid, 2, dt, viscosity, stages)
        self.grid, self.dt, self.viscosity = grid, dt, viscosity
        self.drag, self.amplitude, self.wavenumber = drag, amplitude, wavenumber
        self.stages = stages

    @property
    def faces(self) -> tuple[Face, ...]:
        """For each component, each axis: advected, advecting."""
        found = []
        for channel in range(2):
            for axis in range(2):
                shift = (0.5, 0.0) if axis == 0 else (0.0, 0.5)
                weights = np.full((2, 1) if axis == 0 else (1, 2), 0.5)
                found += 2 * [Face(channel, shift, (0, 0), (0, 0), weights)]
        return tuple(found)

    def slope(
        self,
        u: Float[Array, "2 x y"],
        w: Float[Array, "8 x y"],
        t: Float[Array, ""],
        args: Any = None,
    ) -> Float[Array, "2 x y"]:
        """Convection, diffusion, drag and forcing."""
        del t, args
        advected, advecting = jnp.moveaxis(w.reshape(2, 2, 2, *u.shape[1:]), 2, 0)
        # The face of component i along axis a is that of component a along axis i.
        flux = advected * jnp.swapaxes(advecting, 0, 1)
        change = -self.drag * u if self.drag else jnp.zeros_like(u)
        for axis, h in enumerate(self.grid.spacing):
            change = change - (flux[:, axis] - jnp.roll(flux[:, axis], 1, axis + 1)) / h
            ends = jnp.roll(u, 1, axis + 1) + jnp.roll(u, -1, axis + 1)
            change = change + self.viscosity / h**2 * (ends - 2 * u)
        if self.amplitude:
            y = self.grid.axis(1) + self.grid.spacing[1] / 2
            wave = 2 * math.pi * self.wavenumber / self.grid.lengths[1]
            change = change.at[0].add(jnp.asarray(self.amplitude * np.sin(wave * y), u.dtype))
        return change

    def divergence(self, u: Float[Array, "2 x y"]) -> Float[Array, "x y"]:
        """∇·u in the cells' middles."""
        hx, hy = self.grid.spacing
        return (u[0] - jnp.roll(u[0], 1, 0)) / hx + (u[1] - jnp.roll(u[1], 1, 1)) / hy

    def vorticity(self, u: Float[Array, "2 x y"]) -> Float[Array, "1 x y"]:
        """∂ₓu_y − ∂_y u_x at the cells' upper right corners."""
        hx, hy = self.grid.spacing
        turn = (jnp.roll(u[1], -1, 0) - u[1]) / hx - (jnp.roll(u[0], -1, 1) - u[0]) / hy
        return turn[None]

    def project(self, u: Float[Array, "2 x y"]) -> Float[Array, "2 x y"]:
        """The flow u − ∇q with Δq = ∇·u, q of mean 0."""
        hx, hy = self.grid.spacing
        nx, ny = self.grid.shape
        symbol = np.add.outer(
            (2 * np.cos(2 * np.pi * np.fft.fftfreq(nx)) - 2) / hx**2,
            (2 * np.cos(2 * np.pi * np.fft.rfftfreq(ny)) - 2) / hy**2,
        )
        inverse = np.divide(1.0, symbol, out=np.zeros_like(symbol), where=symbol != 0)
        spectrum = jnp.fft.rfft2(self.divergence(u)) * jnp.asarray(inverse, u.dtype)
        q = jnp.fft.irfft2(spectrum, (nx, ny))
        slopes = [(jnp.roll(q, -1, axis) - q) / h for axis, h in enumerate((hx, hy))]
        return u - jnp.stack(slopes)

    def coarsen(self, u: Float[Array, "2 x y"], factor: int) -> Float[Array, "2 p q"]:
        """The flow on cells `factor` times as wide: what passes through each of their faces.

        Its discrete divergence there is the mean of that here.

        **Raises:** `ValueError` if `factor` does not divide the grid.
        """
        if factor < 1 or any(n % factor for n in self.grid.shape):
            raise ValueError(f"factor: expected a divisor of {self.grid.shape}, got {factor}")
        nx, ny = (n // factor for n in self.grid.shape)
        right = u[0, factor - 1 :: factor].reshape(nx, ny, factor).mean(2)
        upper = u[1, :, factor - 1 :: factor].reshape(nx, factor, ny).mean(1)
        return jnp.stack([right, upper])
