"""Benchmark problems by name, and their splits into training, validation and test data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ..cache import cached
from ..problems.dataset import Dataset, Problem
from ..problems.trajectories import Trajectories, TrajectorySet

Data = TypeVar("Data")
Values = float | Sequence[float]


class Splits(NamedTuple, Generic[Data]):
    """Training, validation and test data; a part that was not asked for is `None`."""

    train: Data
    valid: Data | None
    test: Data | None


def pairs(
    problem: Problem,
    *,
    train: int,
    valid: int = 0,
    test: int = 0,
    seed: int = 0,
    folder: str | Path | None = None,
    dtype: Any = np.float32,
    say: Callable[[str], None] | None = None,
) -> Splits[Dataset]:
    """Any problem's pairs of functions, in three independent parts.

    **Arguments:**

    - `problem`: a benchmark problem.
    - `train`, `valid`, `test`: numbers of pairs; 0 for none.
    - `seed`: of the whole; the parts have the seeds 3 seed, 3 seed + 1 and 3 seed + 2.
    - `folder`, `dtype`, `say`: as in `cached`.

    **Raises:** `ValueError` for a negative number or no training pairs, and as `cached`.
    """
    sizes = {"train": train, "valid": valid, "test": test}
    for name, n in sizes.items():
        least = 1 if name == "train" else 0
        if isinstance(n, bool) or not isinstance(n, int) or n < least:
            raise ValueError(f"{name}: expected an integer, at least {least}, got {n!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an integer, at least 0, got {seed!r}")
    parts = [
        cached(problem, 3 * seed + i, n, folder, dtype=dtype, say=say) if n else None
        for i, n in enumerate(sizes.values())
    ]
    assert parts[0] is not None
    return Splits(parts[0], parts[1], parts[2])


def trajectories(
    problem: Trajectories,
    *,
    train: int,
    valid: int = 0,
    test: int = 0,
    seed: int = 0,
    folder: str | Path | None = None,
    dtype: Any = np.float32,
    say: Callable[[str], None] | None = None,
    unseen: Trajectories | None = None,
) -> Splits[TrajectorySet]:
    """Trajectories of a time-dependent problem, in three independent parts.

    **Arguments:** as `pairs`; `problem` is one of this module's, `unseen` another one whose
    trajectories make the test part (other parameters, longer ones).

    **Raises:** `TypeError` if the problem has no trajectories, and as `pairs`.
    """
    testing = problem if unseen is None else unseen
    for name, value in (("problem", problem), ("unseen", testing)):
        if not isinstance(value, Trajectories):
            raise TypeError(
                f"{name}: expected Trajectories, got {type(value).__name__}; "
                "pairs() serves the problems that are not time-dependent"
            )
    options: dict[str, Any] = {"seed": seed, "folder": folder, "dtype": dtype, "say": say}
    found = pairs(problem, train=train, valid=valid, test=test if unseen is None else 0, **options)
    tested = found.test
    if unseen is not None and test:
        tested = cached(unseen, 3 * seed + 2, test, folder, dtype=dtype, say=say)
    return Splits(
        problem.as_trajectories(found.train),
        None if found.valid is None else problem.as_trajectories(found.valid),
        None if tested is None else testing.as_trajectories(tested),
    )


def heat(diffusivity: Values = 0.01, n_dims: int = 1, **options: Any) -> Trajectories:
    """uₜ = ν Δu on the unit torus, dt = 0.05. Solved exactly in time.

    **Arguments:** `diffusivity`: ν, or several, which the trajectories take in turn. `n_dims`: 1 to
    3. `options`: other fields of `Trajectories`.
    """
    return Trajectories("heat", _rows(diffusivity), n_dims, **_over(options, dt=0.05))


def advection(velocity: Values = 1.0, **options: Any) -> Trajectories:
    """uₜ + c uₓ = 0 on the unit circle, dt = 0.05. Solved exactly in time.

    **Arguments:** `velocity`: c, or several. `options`: other fields of `Trajectories`.
    """
    return Trajectories("advection", _rows(velocity), **_over(options, dt=0.05))


def burgers(viscosity: Values = 0.01, **options: Any) -> Trajectories:
    """uₜ + u uₓ = ν uₓₓ on the unit circle, dt = 0.05.

    128 points, solved on twice as many; fronts are about ν/|u| wide, so that ν = 0.002 and less
    need a finer grid (`oversample`).

    **Arguments:** `viscosity`: ν, or several, which the trajectories take in turn; the test set at
    unseen ones is `trajectories(burgers([0.01, 0.04]), …, unseen=burgers([0.02]))`. `options`:
    other fields of `Trajectories`.
    """
    options = _over(options, resolution=128, oversample=2, dt=0.05, substeps=20)
    return Trajectories("burgers", _rows(viscosity), **options)


def korteweg_de_vries(dispersion: Values = 1.0, **options: Any) -> Trajectories:
    """uₜ + 6 u uₓ + δ uₓₓₓ = 0 on a circle of length 20, dt = 0.1: trains of solitons.

    A soliton is (c/2) sech²(√(c/δ)/2 (x − c t)).

    **Arguments:** `dispersion`: δ, or several. `options`: other fields of `Trajectories`.
    """
    options = _over(
        options, length=20.0, resolution=128, dt=0.1, substeps=40, n_modes=3, amplitude=0.5
    )
    return Trajectories("korteweg-de-vries", _rows(dispersion), **options)


def kuramoto_sivashinsky(**options: Any) -> Trajectories:
    """uₜ + u uₓ + uₓₓ + uₓₓₓₓ = 0 on a circle of length 64, dt = 0.2: chaos in space and time.

    256 points; the first 360 frames, in which the chaos develops, are left out. Trajectories that
    start 1e-8 apart are a unit apart after some 200 units of time (the largest Lyapunov exponent is
    about 0.09).

    **Arguments:** `options`: fields of `Trajectories`; `parameters` are rows (1, 1): the factors of
    the second- and fourth-order terms.
    """
    defaults: dict[str, Any] = {"parameters": ((1.0, 1.0),)}
    options = _over(
        options,
        **defaults,
        length=64.0,
        resolution=256,
        dt=0.2,
        substeps=2,
        n_frames=140,
        warmup=360,
        n_modes=8,
    )
    return Trajectories("kuramoto-sivashinsky", **options)


def fisher_kpp(
    diffusivity: Values = 0.01, growth_rate: float = 1.0, n_dims: int = 1, **options: Any
) -> Trajectories:
    """uₜ = ν Δu + r u (1 − u) on the unit torus, dt = 0.1: fronts that travel at 2 √(ν r).

    The initial density is the logistic function of a Gaussian field of standard deviation 3.

    **Arguments:** `diffusivity`: ν, or several. `growth_rate`: r. `n_dims`: 1 to 3. `options`:
    other fields of `Trajectories`.
    """
    options = _over(options, dt=0.1, substeps=4, amplitude=3.0, oversample=2)
    return Trajectories("fisher-kpp", _rows(diffusivity, growth_rate), n_dims, **options)


def wave_box(speed: Values = 1.0, n_dims: int = 2, **options: Any) -> Trajectories:
    """u_tt = c² Δu in the unit box with u = 0 on its walls, dt = 0.05; channels (u, u_t).

    From rest; on midpoints, solved exactly in time (`WaveBox`).

    **Arguments:** `speed`: c, or several. `n_dims`: 1 or more. `options`: other fields of
    `Trajectories`.
    """
    options = _over(options, dt=0.05, channels=2)
    return Trajectories("wave", _rows(speed), n_dims, **options)


def kolmogorov_flow(viscosity: Values = 0.01, drag: float = 0.1, **options: Any) -> Trajectories:
    """wₜ + v·∇w = ν Δw − μ w − 4 cos 4y on a torus of side 2π, dt = 0.25: forced turbulence.

    v = (ψ_y, −ψ_x), −Δψ = w; the forcing is the curl of (sin 4y, 0). The Reynolds number is 1/ν:
    100 by default, for which 64² points, solved on 128², do; 1000 needs 256² and more. The first
    40 frames are left out.

    **Arguments:** `viscosity`: ν, or several. `drag`: μ. `options`: other fields of `Trajectories`.

    Reference: Chandler & Kerswell 2013, doi:10.1017/jfm.2013.122; Kochkov et al.,
    arXiv:2102.01010.
    """
    options = _over(
        options,
        length=2 * np.pi,
        resolution=64,
        oversample=2,
        dt=0.25,
        substeps=25,
        n_frames=40,
        warmup=40,
        alpha=2.5,
        n_modes=8,
        amplitude=3.0,
    )
    return Trajectories("kolmogorov", _rows(viscosity, drag), 2, **options)


def lorenz_96(
    forcing: Values = 20.0, coupling: float = 1.0, n_fast: int = 10, **options: Any
) -> Trajectories:
    """The two-scale Lorenz-96 system (`TwoScaleLorenz96`) with 36 slow variables, dt = 0.05.

    Channels: X, then its J fast variables.

    **Arguments:** `forcing`: F, or several. `coupling`: h. `n_fast`: J. `options`: other fields of
    `Trajectories`; `resolution` is the number of slow variables.
    """
    options = _over(
        options, length=36.0, resolution=36, dt=0.05, substeps=25, warmup=40, channels=1 + n_fast
    )
    return Trajectories("lorenz-96", _rows(forcing, coupling), **options)


def _rows(values: Values, *others: float) -> tuple[tuple[float, ...], ...]:
    each = (values,) if isinstance(values, int | float) else tuple(values)
    return tuple((float(value), *(float(other) for other in others)) for value in each)


def _over(options: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    return defaults | options
