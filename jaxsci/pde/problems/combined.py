"""The forced convection-diffusion-dispersion equation of the message-passing solvers' paper.

    uₜ + (α u²/2 − β uₓ + γ uₓₓ)ₓ = δ(t, x)

in finite volumes: WENO5 reconstruction and Godunov's flux for α u²/2, central differences for the
rest, the classical Runge-Kutta method in time.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..grid import Grid
from .dataset import Progress, check_count, relative_errors, solve_in_chunks
from .trajectories import TrajectorySet

# The largest |u| that the time step is made for; data beyond it blow up, which is reported.
_LARGEST = 5.0
# Trajectories whose frames of 200 cells are computed at once.
_CELLS_AT_ONCE = 2**14


def weno5(u: Float[Array, "*n x"]) -> Float[Array, "*n x"]:
    """U at the right face of every cell, from the cell averages of the five around it.

    Three quadratic reconstructions are mixed by weights that are near (1, 6, 3)/10 where u is
    smooth, which is fifth order, and near 0 for stencils across a jump. Periodic in the last axis;
    the value from the other side is `weno5` of the mirrored field.

    Reference: Jiang & Shu, J. Comput. Phys. 126 (1996), doi:10.1006/jcph.1996.0130.
    """
    n = u.shape[-1]
    around = jnp.pad(u, [(0, 0)] * (u.ndim - 1) + [(2, 2)], mode="wrap")
    a, b, c, d, e = (around[..., i : i + n] for i in range(5))
    candidates = (
        (2 * a - 7 * b + 11 * c) / 6,
        (-b + 5 * c + 2 * d) / 6,
        (2 * c + 5 * d - e) / 6,
    )
    smoothness = (
        13 / 12 * (a - 2 * b + c) ** 2 + 1 / 4 * (a - 4 * b + 3 * c) ** 2,
        13 / 12 * (b - 2 * c + d) ** 2 + 1 / 4 * (b - d) ** 2,
        13 / 12 * (c - 2 * d + e) ** 2 + 1 / 4 * (3 * c - 4 * d + e) ** 2,
    )
    weights = [g / (1e-6 + s) ** 2 for g, s in zip((0.1, 0.6, 0.3), smoothness, strict=True)]
    total = sum(weights, jnp.zeros(()))
    return sum((w / total * q for w, q in zip(weights, candidates, strict=True)), jnp.zeros(()))


def godunov(left: Float[Array, "*n"], right: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The flux u²/2 of the exact solution of the Riemann problem (left, right)."""
    return jnp.maximum(jnp.maximum(left, 0) ** 2, jnp.minimum(right, 0) ** 2) / 2


def face_weights(derivative: int, reach: int = 3) -> Float[np.ndarray, " cells"]:
    """Weights of the `2 reach` cell averages around a face for u's derivative at the face.

    For cells of width 1, exact for polynomials of degree below `2 reach`.

    **Raises:** `ValueError` for a derivative that so many cells do not resolve.
    """
    n = 2 * reach
    if not 0 <= derivative < n:
        raise ValueError(f"face_weights: derivative must lie in 0..{n - 1}, got {derivative}")
    ends = np.arange(-reach, reach + 1.0)
    powers = np.arange(n)[:, None] + 1
    averages = (ends[1:] ** powers - ends[:-1] ** powers) / powers
    exact = np.zeros(n)
    exact[derivative] = math.factorial(derivative)
    return np.linalg.solve(averages, exact)


class Forcing(NamedTuple):
    """δ(t, x) = Σ_j A_j sin(ω_j t + 2π l_j x / L + φ_j)."""

    amplitude: Float[Array, " j"]
    frequency: Float[Array, " j"]
    wavenumber: Float[Array, " j"]
    phase: Float[Array, " j"]

    def cell_averages(
        self, t: Float[Array, ""], centres: Float[Array, " x"], length: float, width: float
    ) -> Float[Array, " x"]:
        """The average of δ(t, ·) over cells of this width."""
        k = self.wavenumber[:, None]
        waves = jnp.sin(
            self.frequency[:, None] * t + 2 * jnp.pi * k * centres / length + self.phase[:, None]
        )
        return jnp.sum(self.amplitude[:, None] * jnp.sinc(k * width / length) * waves, axis=0)


Range = float | tuple[float, float]


class CombinedEquation(eqx.Module):
    """Trajectories of uₜ + (α u²/2 − β uₓ + γ uₓₓ)ₓ = δ(t, x), periodic on [0, L).

    The right-hand side and the initial value are random sums of five waves,

        δ = Σ_j A_j sin(ω_j t + 2π l_j x/L + φ_j),    u(0, x) = δ(0, x),
        A ~ U(−½, ½),    ω ~ U(−0.4, 0.4),    l ∈ {1, 2, 3},    φ ~ U(0, 2π).

    α, β and γ are numbers, or ranges to draw from uniformly. `e1()`, `e2()` and `e3()` are the
    paper's three sets. Frames are cell averages; coarser data are averages of neighbouring cells
    (`coarsen`), that is exact cell averages again.

    The paper writes the flux as α u² − β uₓ + γ uₓₓ and names α = 1/2 Burgers' equation; the
    published code, whose numbers for α are used here, has α u²/2.

    ```python
    data = CombinedEquation.e2(resolution=40).generate(jax.random.key(0), 16)
    data.frames.shape, data.cond.shape  # (16, 251, 1, 40), (16, 3)
    ```

    **Arguments:**

    - `alpha`, `beta`, `gamma`: numbers or pairs (least, largest), not negative.
    - `final_time`, `n_frames`: `n_frames` steps of final_time/n_frames are recorded after u(0).
    - `resolution`: cells that are recorded; `solver_resolution`: cells that are computed with, a
      multiple of it.
    - `length`: L. `wavenumbers`: the largest l (the paper's text has 3; its code 2).

    **Raises:** `ValueError` for negative coefficients, ranges the wrong way round, resolutions that
    do not divide, or counts below 1.

    Reference: Brandstetter, Worrall & Welling, arXiv:2202.03376.
    """

    alpha: Range = eqx.field(default=1.0, static=True)
    beta: Range = eqx.field(default=0.0, static=True)
    gamma: Range = eqx.field(default=0.0, static=True)
    final_time: float = eqx.field(default=4.0, static=True)
    n_frames: int = eqx.field(default=250, static=True)
    resolution: int = eqx.field(default=100, static=True)
    solver_resolution: int = eqx.field(default=200, static=True)
    length: float = eqx.field(default=16.0, static=True)
    wavenumbers: int = eqx.field(default=3, static=True)
    refine_dt: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        for name in ("alpha", "beta", "gamma"):
            low, high = _bounds(getattr(self, name))
            if not 0 <= low <= high < math.inf:
                raise ValueError(
                    f"CombinedEquation: {name} must be a number or range (least, largest), not "
                    f"negative, got {getattr(self, name)}"
                )
        for name in ("n_frames", "resolution", "wavenumbers", "refine_dt"):
            check_count(f"CombinedEquation: {name}", getattr(self, name))
        if not (self.final_time > 0 and self.length > 0):
            raise ValueError("CombinedEquation: final_time and length must be positive")
        if self.solver_resolution % self.resolution or self.solver_resolution < 8:
            raise ValueError(
                f"CombinedEquation: solver_resolution={self.solver_resolution} must be a multiple "
                f"of resolution={self.resolution}, and at least 8"
            )

    @classmethod
    def e1(cls, **options: Any) -> "CombinedEquation":
        """Inviscid Burgers' equation with forcing: shocks."""
        return cls(**options)

    @classmethod
    def e2(cls, **options: Any) -> "CombinedEquation":
        """Burgers' equation with a viscosity from [0, 0.2]."""
        return cls(**{"alpha": 1.0, "beta": (0.0, 0.2), **options})

    @classmethod
    def e3(cls, **options: Any) -> "CombinedEquation":
        """Mixtures of convection, diffusion and dispersion, over half the time."""
        ranges = {"alpha": (0.0, 6.0), "beta": (0.1, 0.4), "gamma": (0.0, 1.0)}
        options = {**ranges, "final_time": 2.0, **options}
        return cls(**options)

    @property
    def version(self) -> str:
        """Identifies the numbers that `generate` returns."""
        return "combined-1"

    @property
    def grid(self) -> Grid:
        """The cells' centres, shifted by half a cell: what counts on a periodic axis is spacing."""
        return Grid(0.0, self.length, self.resolution, periodic=True)

    @property
    def dt(self) -> float:
        """The time between frames."""
        return self.final_time / self.n_frames

    @property
    def steps_per_frame(self) -> int:
        """Runge-Kutta steps between frames, from the stencils' largest symbols."""
        width = self.length / self.solver_resolution
        rate = 0.0
        for name, derivative, scale in (("alpha", 0, _LARGEST), ("beta", 1, 1), ("gamma", 2, 1)):
            largest = _bounds(getattr(self, name))[1] * scale
            rate += largest * _largest_symbol(derivative) / width ** (derivative + 1)
        return self.refine_dt * max(1, math.ceil(self.dt * rate / 2.5))

    def sample(self, key: PRNGKeyArray) -> tuple[Forcing, Float[Array, " 3"]]:
        """A random forcing, and (α, β, γ)."""
        forcing_key, theta_key = jr.split(key)
        keys = jr.split(forcing_key, 4)
        forcing = Forcing(
            jr.uniform(keys[0], (5,), minval=-0.5, maxval=0.5),
            jr.uniform(keys[1], (5,), minval=-0.4, maxval=0.4),
            jr.randint(keys[2], (5,), 1, self.wavenumbers + 1).astype(float),
            jr.uniform(keys[3], (5,), maxval=2 * jnp.pi),
        )
        bounds = jnp.asarray([_bounds(v) for v in (self.alpha, self.beta, self.gamma)])
        theta = jr.uniform(theta_key, (3,), minval=bounds[:, 0], maxval=bounds[:, 1])
        return forcing, jnp.where(bounds[:, 0] == bounds[:, 1], bounds[:, 0], theta)

    def solve(
        self,
        u0: Float[Array, " x"],
        forcing: Forcing,
        theta: Float[Array, " 3"],
    ) -> Float[Array, "t x"]:
        """The frames from t = 0 on, as averages over `solver_resolution` cells.

        Pure: it may be jitted, mapped, and differentiated. A coarse one is WENO5 at that
        resolution: the paper's baseline.

        **Raises:** `ValueError` if `u0` has another shape.
        """
        if u0.shape != (self.solver_resolution,):
            raise ValueError(
                f"CombinedEquation.solve: u0 has shape {u0.shape}, expected "
                f"({self.solver_resolution},)"
            )
        steps = self.steps_per_frame
        h = self.dt / steps

        def slope(u: Array, t: Array) -> Array:
            return self.slope(u, t, forcing, theta)

        # The classical method's stages in a loop: the slope is compiled once and not four times.
        stages = jnp.array([(0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)], u0.dtype)

        def step(u: Array, t: Array) -> tuple[Array, None]:
            def stage(carry: tuple[Array, Array], c: Array) -> tuple[tuple[Array, Array], None]:
                total, k = carry
                k = slope(u + c[0] * h * k, t + c[0] * h)
                return (total + c[1] * h * k, k), None

            (new, _), _ = jax.lax.scan(stage, (u, jnp.zeros_like(u)), stages)
            return new, None

        def frame(u: Array, start: Array) -> tuple[Array, Array]:
            u, _ = jax.lax.scan(step, u, start + h * jnp.arange(steps))
            return u, u

        _, frames = jax.lax.scan(frame, u0, self.dt * jnp.arange(self.n_frames))
        return jnp.concatenate([u0[None], frames])

    def slope(
        self,
        u: Float[Array, " x"],
        t: Float[Array, ""],
        forcing: Forcing,
        theta: Float[Array, " 3"],
    ) -> Float[Array, " x"]:
        """duᵢ/dt of the cell averages."""
        alpha, beta, gamma = theta
        width = self.length / self.solver_resolution
        left, mirrored = weno5(jnp.stack([u, u[::-1]]))
        flux = alpha * godunov(left, jnp.roll(mirrored[::-1], -1))
        if _bounds(self.beta)[1] > 0:
            flux = flux - beta / width * _at_faces(u, 1)
        if _bounds(self.gamma)[1] > 0:
            flux = flux + gamma / width**2 * _at_faces(u, 2)
        source = forcing.cell_averages(t, jnp.asarray(self.centres), self.length, width)
        return source - (flux - jnp.roll(flux, 1)) / width

    @property
    def centres(self) -> Float[np.ndarray, " x"]:
        """Centres of the solver's cells."""
        n = self.solver_resolution
        return (np.arange(n) + 0.5) * (self.length / n)

    def coarsen(self, u: Float[Array, "*n x"]) -> Float[Array, "*n y"]:
        """Averages over the `resolution` cells, from those over the solver's."""
        factor = self.solver_resolution // self.resolution
        return jnp.mean(u.reshape(*u.shape[:-1], self.resolution, factor), axis=-1)

    def trajectory(self, key: PRNGKeyArray) -> tuple[Float[Array, "t x"], Float[Array, " 3"]]:
        """A random trajectory on the solver's cells, and its (α, β, γ)."""
        forcing, theta = self.sample(key)
        width = self.length / self.solver_resolution
        zero = jnp.zeros(())
        u0 = forcing.cell_averages(zero, jnp.asarray(self.centres), self.length, width)
        return self.solve(u0, forcing, theta), theta

    def generate(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        dtype: Any = np.float32,
        progress: Progress | None = None,
    ) -> TrajectorySet:
        """`n` trajectories, computed in double precision whatever JAX's flags are.

        **Arguments:** `key`: trajectory i depends on `fold_in(key, i)` alone; `n`; `dtype` of the
        result; `progress`: called as `progress(done, n)`.

        **Returns:** frames "n t 1 x" with t = 1 + `n_frames`, and `cond` = (α, β, γ).

        **Raises:** `ValueError`, `TypeError` for a bad `n` or `dtype`; `FloatingPointError` if a
        solution blows up.
        """

        def one(key: PRNGKeyArray):
            frames, theta = self.trajectory(key)
            return self.coarsen(frames)[:, None], theta

        chunk = max(1, _CELLS_AT_ONCE // self.solver_resolution)
        frames, cond = solve_in_chunks(one, key, n, chunk=chunk, dtype=dtype, progress=progress)
        return TrajectorySet(frames, cond, self.grid, self.dt)

    def accuracy(self, key: PRNGKeyArray, n: int) -> dict[str, float]:
        """Relative L² distance of all frames from those with Δt and with Δx halved.

        **Returns:** `halved_dt_mean`, `halved_dt_max`, `halved_dx_mean`, `halved_dx_max`.
        """
        finer = {
            "halved_dt": dataclasses.replace(self, refine_dt=2 * self.refine_dt),
            "halved_dx": dataclasses.replace(self, solver_resolution=2 * self.solver_resolution),
        }
        base = self.generate(key, n, dtype=np.float64).frames
        errors = {}
        for name, problem in finer.items():
            fine = problem.generate(key, n, dtype=np.float64).frames
            for statistic, value in relative_errors(base, fine).items():
                errors[f"{name}_{statistic}"] = value
        return errors


def _bounds(value: Range) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


def _at_faces(u: Float[Array, "*n x"], derivative: int) -> Float[Array, "*n x"]:
    """U's derivative (times the widths) at the right face of every cell."""
    weights = face_weights(derivative)
    reach = len(weights) // 2
    n = u.shape[-1]
    around = jnp.pad(u, [(0, 0)] * (u.ndim - 1) + [(reach - 1, reach)], mode="wrap")
    return sum((w * around[..., i : i + n] for i, w in enumerate(weights)), jnp.zeros(()))


def _largest_symbol(derivative: int) -> float:
    """Of (difference of two faces) ∘ (derivative at a face), on cells of width 1."""
    if derivative == 0:
        return 1.5  # the fifth-order upwind operator's
    weights = face_weights(derivative)
    angles = np.linspace(0, np.pi, 200)
    shifts = np.arange(len(weights)) - len(weights) // 2 + 1
    face = np.exp(1j * np.outer(angles, shifts)) @ weights
    return float(np.abs(face * (1 - np.exp(-1j * angles))).max())
