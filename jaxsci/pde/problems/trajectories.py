"""Trajectories of time-dependent equations: one problem class over a small table of equations.

    u⁰ ~ law,    uⁿ⁺¹ = S_λ(uⁿ)

with a solver S in double precision, whose parameters λ may differ from trajectory to trajectory.
The named problems are in `jaxsci.pde.benchmarks`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..etdrk import korteweg_de_vries_step
from ..grid import Grid
from ..random_fields import GaussianRandomField
from ..stepper import AbstractStepper, ExponaxStepper, rollout
from .dataset import (
    Dataset,
    Progress,
    check_count,
    check_positive,
    relative_errors,
    solve_in_chunks,
)

# Numbers that a chunk of trajectories keeps at once: 2^22 doubles are 32 MB.
_NUMBERS_AT_ONCE = 2**22


class TrajectorySet(NamedTuple):
    """Trajectories on one grid, in the host's memory.

    - `frames`: the fields at t = 0, dt, 2 dt, …
    - `cond`: each trajectory's parameters, as `args` of a stepper and `cond` of an operator.
    - `grid`, `dt`: where and when.
    """

    frames: Float[np.ndarray, "n t c *grid"]
    cond: Float[np.ndarray, "n p"]
    grid: Grid
    dt: float

    @property
    def n(self) -> int:
        """The number of trajectories."""
        return self.frames.shape[0]

    def windows(self, length: int, stride: int = 1) -> "TrajectorySet":
        """All stretches of `length` frames, from each `stride`-th frame on, as trajectories.

        **Raises:** `ValueError` for counts below 1 or a length beyond the trajectories'.
        """
        check_count("windows: length", length)
        check_count("windows: stride", stride)
        t = self.frames.shape[1]
        if length > t:
            raise ValueError(f"windows: length={length} is more than the {t} frames there are")
        starts = range(0, t - length + 1, stride)
        frames = np.concatenate([self.frames[:, s : s + length] for s in starts])
        return self._replace(frames=frames, cond=np.tile(self.cond, (len(starts), 1)))


def _exponax(make: Callable[[Any, tuple[int, float, int, float], Array], Any]):
    """A builder of steppers from a function of exponax.stepper, (d, L, N, dt), and λ."""

    def build(problem: "Trajectories", grid: Grid, dt: float, cond: Array) -> AbstractStepper:
        # Imported here because exponax loads plotting libraries, which a user of grids needs not.
        import exponax

        shape = (problem.n_dims, problem.length, grid.shape[0], dt)
        return ExponaxStepper(make(exponax.stepper, shape, cond), fourier=True)

    return build


def _korteweg_de_vries(
    problem: "Trajectories", grid: Grid, dt: float, cond: Array
) -> AbstractStepper:
    # Not exponax's, whose method is first-order for a dispersive term (see `ETDRK4`).
    return korteweg_de_vries_step(problem.length, grid.shape[0], dt, cond[0])


def _wave(problem: "Trajectories", grid: Grid, dt: float, cond: Array) -> AbstractStepper:
    from ..wave import WaveBox

    del problem
    return WaveBox(grid, dt, cond[0])


def _lorenz(problem: "Trajectories", grid: Grid, dt: float, cond: Array) -> AbstractStepper:
    from ..lorenz96 import TwoScaleLorenz96

    del grid
    return TwoScaleLorenz96(dt, problem.channels - 1, cond[0], cond[1])


def _lorenz_start(problem: "Trajectories", key: PRNGKeyArray, grid: Grid) -> Array:
    noise = jr.normal(key, (problem.channels, grid.shape[0]))
    return noise * jnp.where(jnp.arange(problem.channels) == 0, 5.0, 0.1)[:, None]


def _field(problem: "Trajectories", key: PRNGKeyArray, grid: Grid) -> Array:
    return problem.amplitude * problem.unit_field(key, grid)


def _density(problem: "Trajectories", key: PRNGKeyArray, grid: Grid) -> Array:
    return jax.nn.sigmoid(problem.amplitude * problem.unit_field(key, grid))


def _at_rest(problem: "Trajectories", key: PRNGKeyArray, grid: Grid) -> Array:
    field = _field(problem, key, grid)
    return jnp.concatenate([field, jnp.zeros_like(field)])


class _Equation(NamedTuple):
    """How to build a solver and draw initial fields; the names of the parameters λ."""

    build: Callable[["Trajectories", Grid, float, Array], AbstractStepper]
    start: Callable[["Trajectories", PRNGKeyArray, Grid], Array]
    parameters: tuple[str, ...]
    boundary: str = "periodic"


# uₜ = …, in exponax's signs: its convection_scale b stands for uₜ + b/2 (u²)ₓ.
_EQUATIONS: dict[str, _Equation] = {
    "heat": _Equation(
        _exponax(lambda s, shape, p: s.Diffusion(*shape, diffusivity=p[0] * jnp.eye(shape[0]))),
        _field,
        ("diffusivity",),
    ),
    "advection": _Equation(
        _exponax(lambda s, shape, p: s.Advection(*shape, velocity=p[0] * jnp.ones(shape[0]))),
        _field,
        ("velocity",),
    ),
    "burgers": _Equation(
        _exponax(
            lambda s, shape, p: s.Burgers(*shape, diffusivity=p[0], conservative=True, order=4)
        ),
        _field,
        ("viscosity",),
    ),
    "korteweg-de-vries": _Equation(_korteweg_de_vries, _field, ("dispersion",)),
    "kuramoto-sivashinsky": _Equation(
        _exponax(
            lambda s, shape, p: s.KuramotoSivashinskyConservative(
                *shape,
                second_order_scale=p[0],
                fourth_order_scale=p[1],
                order=4,
            )
        ),
        _field,
        ("second order", "fourth order"),
    ),
    "fisher-kpp": _Equation(
        _exponax(
            lambda s, shape, p: s.reaction.FisherKPP(
                *shape, diffusivity=p[0], reactivity=p[1], order=4
            )
        ),
        _density,
        ("diffusivity", "growth rate"),
    ),
    "kolmogorov": _Equation(
        _exponax(
            # Exponax takes +Δψ = w; the sign makes it the usual velocity of −Δψ = w.
            lambda s, shape, p: s.KolmogorovFlowVorticity(
                *shape,
                convection_scale=-1.0,
                diffusivity=p[0],
                drag=-p[1],
                order=4,
            )
        ),
        _field,
        ("viscosity", "drag"),
    ),
    "wave": _Equation(_wave, _at_rest, ("speed",), "dirichlet"),
    "lorenz-96": _Equation(_lorenz, _lorenz_start, ("forcing", "coupling"), "none"),
}


class Trajectories(eqx.Module):
    """Trajectories of one equation from random initial fields.

    The initial field is a Gaussian field of covariance (−Δ + τ²)^(−α) on the unit box, cut at
    `n_modes` and scaled to the standard deviation `amplitude`; trajectory i has the parameters
    λ = `parameters[i mod their number]`. Each frame is `substeps` steps of the solver, on
    `oversample` times as many points as are recorded. Made by the functions of
    `jaxsci.pde.benchmarks`, which say which equation and which good values; a variant by
    `dataclasses.replace(problem, resolution=128)`.

    **Raises:** `ValueError`, `TypeError` for an unknown equation, sizes that are not positive, or
    parameters of a wrong number.
    """

    equation: str = eqx.field(static=True)
    parameters: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    n_dims: int = eqx.field(static=True, default=1)
    channels: int = eqx.field(static=True, default=1)
    length: float = eqx.field(static=True, default=1.0)
    resolution: int = eqx.field(static=True, default=64)
    oversample: int = eqx.field(static=True, default=1)
    dt: float = eqx.field(static=True, default=0.1)
    substeps: int = eqx.field(static=True, default=1)
    n_frames: int = eqx.field(static=True, default=50)
    warmup: int = eqx.field(static=True, default=0)
    alpha: float = eqx.field(static=True, default=2.0)
    tau: float = eqx.field(static=True, default=5.0)
    n_modes: int = eqx.field(static=True, default=5)
    amplitude: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        if self.equation not in _EQUATIONS:
            raise ValueError(
                f"Trajectories: equation must be one of {sorted(_EQUATIONS)}, got {self.equation!r}"
            )
        for name in ("n_dims", "channels", "resolution", "oversample", "substeps", "n_frames"):
            check_count(f"Trajectories: {name}", getattr(self, name))
        for name in ("length", "dt", "alpha", "tau", "amplitude"):
            check_positive(f"Trajectories: {name}", getattr(self, name))
        check_count("Trajectories: n_modes", self.n_modes)
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0:
            raise ValueError(f"Trajectories: warmup must be an integer >= 0, got {self.warmup!r}")
        names = self.parameter_names
        if not self.parameters or any(len(row) != len(names) for row in self.parameters):
            raise ValueError(
                f"Trajectories: parameters must be rows of {names}, got {self.parameters!r}"
            )
        if any(not math.isfinite(value) for row in self.parameters for value in row):
            raise ValueError(f"Trajectories: parameters must be finite, got {self.parameters!r}")
        if self.oversample > 1 and _EQUATIONS[self.equation].boundary != "periodic":
            raise ValueError(
                f"Trajectories: {self.equation} has no finer grid; oversample must be 1"
            )

    @property
    def version(self) -> str:
        """Identifies the numbers that `generate` returns."""
        return "trajectories-1"

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """What the entries of a row of `parameters` are."""
        return _EQUATIONS[self.equation].parameters

    @property
    def grid(self) -> Grid:
        """The grid of the frames."""
        return self._grid(self.resolution)

    @property
    def law(self) -> GaussianRandomField:
        """The law of the initial field on the unit box, before it is scaled."""
        boundary: Any = _EQUATIONS[self.equation].boundary
        return GaussianRandomField(self.alpha, self.tau, boundary=boundary, n_modes=self.n_modes)

    def unit_field(self, key: PRNGKeyArray, grid: Grid) -> Float[Array, "1 *grid"]:
        """A field of the law with standard deviation one (its mean over the box)."""
        law = self.law
        unit = Grid((0.0,) * self.n_dims, (1.0,) * self.n_dims, grid.shape, grid.periodic, False)
        return law.sample(key, unit) / math.sqrt(law.eigenvalues(unit).sum())

    def stepper(self, cond: Float[Array, " p"], dt: float | None = None) -> AbstractStepper:
        """The solver with parameters `cond`, on the grid of the solver; by default one substep."""
        grid = self._grid(self.oversample * self.resolution)
        step = self.dt / self.substeps if dt is None else dt
        return _EQUATIONS[self.equation].build(self, grid, step, jnp.asarray(cond))

    def initial(self, key: PRNGKeyArray) -> Float[Array, "c *grid"]:
        """A random field on the solver's grid, before the warm-up."""
        grid = self._grid(self.oversample * self.resolution)
        return _EQUATIONS[self.equation].start(self, key, grid)

    def solve(
        self, u0: Float[Array, "c *grid"], cond: Float[Array, " p"]
    ) -> Float[Array, "t c *coarse"]:
        """The `n_frames + 1` frames from t = 0, after the warm-up; pure.

        **Arguments:** `u0`: on the solver's grid. `cond`: the parameters λ.
        """
        steps = (self.warmup + self.n_frames) * self.substeps
        frames = rollout(self.stepper(cond), u0, steps, every=self.substeps, include_initial=True)
        stride = (slice(None, None, self.oversample),) * self.n_dims
        return frames[(slice(self.warmup, None), slice(None), *stride)]

    def cond(self, index: Int[Array, ""]) -> Float[Array, " p"]:
        """The parameters of trajectory number `index`."""
        return jnp.asarray(self.parameters)[index % len(self.parameters)]

    def generate(
        self, key: PRNGKeyArray, n: int, *, dtype=np.float32, progress: Progress | None = None
    ) -> Dataset:
        """`n` trajectories in double precision, as pairs (u⁰, later frames).

        **Arguments:** `key`: trajectory i depends on `fold_in(key, i)` alone. `n`, `dtype`,
        `progress`: as for every problem.

        **Returns:** inputs "n c *grid", outputs "n t·c *grid", the later frames one after another;
        `as_trajectories` puts them together.

        **Raises:** `ValueError`, `TypeError` for a bad `n` or `dtype`; `FloatingPointError` if the
        solver blows up.
        """

        def one(key, index):
            frames = self.solve(self.initial(key), self.cond(index))
            return frames[0], frames[1:].reshape(-1, *frames.shape[2:])

        inputs, outputs = solve_in_chunks(
            one, key, n, chunk=self._chunk, dtype=dtype, progress=progress, indexed=True
        )
        return Dataset(inputs, outputs, self.grid)

    def as_trajectories(self, data: Dataset) -> TrajectorySet:
        """What `generate` made, as trajectories with their parameters."""
        shape = (data.n, self.n_frames, *data.inputs.shape[1:])
        frames = np.concatenate([data.inputs[:, None], data.outputs.reshape(shape)], 1)
        cond = np.asarray(self.parameters, data.inputs.dtype)
        return TrajectorySet(
            frames, cond[np.arange(data.n) % len(self.parameters)], data.grid, self.dt
        )

    def accuracy(self, key: PRNGKeyArray, n: int) -> dict[str, float]:
        """Relative L² distance of the last frames from those with Δt and with Δx halved.

        Chaotic equations lose the initial value: take few frames. Where there is no finer grid
        (waves between walls, Lorenz-96) only Δt is halved.

        **Returns:** `halved_dt_mean`, `halved_dt_max` and, if there is one, `halved_dx_mean`,
        `halved_dx_max`.
        """
        half_dt = dataclasses.replace(self, substeps=2 * self.substeps)
        finer = {"halved_dt": half_dt}
        if _EQUATIONS[self.equation].boundary == "periodic":
            finer["halved_dx"] = dataclasses.replace(self, oversample=2 * self.oversample)

        def last(key, index):
            variants = (self, *finer.values())
            return tuple(v.solve(v.initial(key), self.cond(index))[-1] for v in variants)

        base, *others = solve_in_chunks(
            last, key, n, chunk=self._chunk, dtype=np.float64, indexed=True
        )
        errors = {}
        for name, fine in zip(finer, others, strict=True):
            for statistic, value in relative_errors(base, fine).items():
                errors[f"{name}_{statistic}"] = value
        return errors

    def _grid(self, resolution: int) -> Grid:
        periodic = _EQUATIONS[self.equation].boundary != "dirichlet"
        shape = (resolution,) * self.n_dims
        return Grid(
            (0.0,) * self.n_dims, (self.length,) * self.n_dims, shape, periodic, endpoint=False
        )

    @property
    def _chunk(self) -> int:
        frames = (self.warmup + self.n_frames + 1) * self.channels
        return max(
            1, _NUMBERS_AT_ONCE // (frames * (self.oversample * self.resolution) ** self.n_dims)
        )
