"""Readers of PDEBench's files."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .files import AbstractTrajectories, ArrayFile, Sample, plain_attributes, require_finite

_FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
_AXES = ("x", "y", "z")


class PDEBench(AbstractTrajectories):
    """The trajectories of one PDEBench file.

    The layout is recognised from the file's contents (n samples, t times):

    - 1-D advection, Burgers, reaction-diffusion: `tensor[n, t, x]`; channel `u`.
    - Compressible Navier-Stokes in 1-D to 3-D: `density`, `pressure`, `Vx`, `Vy`, `Vz`, each
        `[n, t, x, ...]`; channels of these names, in this order.
    - 2-D incompressible Navier-Stokes: `velocity[n, t, x, y, 2]`, `particles[n, t, x, y, 1]` and
        `force[n, x, y, 2]`; channels `Vx`, `Vy`, `particles`, and the constant `force`.
    - 2-D shallow water, 2-D reaction-diffusion, 1-D diffusion-sorption: a group for each sample,
        `0000/data[t, x, ..., c]`; channels `h` (shallow water) or `u0`, `u1`, ...

    The coordinates are `x-coordinate`, ..., `t-coordinate` (which may have one entry more than
    there are stored times), or `0000/grid/x` and so on. Spatial axes keep the order of the file.
    Files of the 2-D Darcy problem have no time: see `PDEBenchDarcy`.

    - `parameters`: the file's scalar attributes (`beta`, `Nu`, `rho`, `eta`, `zeta`, `M`).

    **Arguments:**

    - `path`: an HDF5 file as PDEBench provides it, or the same arrays in a Zarr store.
    - `every_point`: keep every so many grid points along each axis.

    **Raises:** `ValueError` if the file has none of the layouts, naming what was found and what
    was expected, or has no samples; `FileNotFoundError` if it is not there.

    Reference: Takamoto et al., PDEBench: an extensive benchmark for scientific machine learning,
    arXiv:2210.07182.
    """

    def __init__(self, path: str | os.PathLike, *, every_point: int = 1):
        if every_point < 1:
            raise ValueError(f"PDEBench: every_point={every_point!r}, expected at least 1")
        self.path = ArrayFile(path).path
        self._file = ArrayFile(path)
        self._every = every_point
        root = self._file.open()
        self.parameters = plain_attributes(root.attrs)
        self._keys: list[str] = []
        if "tensor" in root and "nu" in root:
            raise ValueError(f"{self.path}: a Darcy file, which has no time; use PDEBenchDarcy")
        if "tensor" in root:
            self._layout, self.channels = "tensor", ("u",)
            n, t, *grid = self._file.require("tensor", 3).shape
        elif "density" in root:
            self._layout = "flow"
            n, t, *grid = self._file.require("density").shape
            self.channels = _FLOW[: 2 + len(grid)]
            for name in self.channels:
                shape = tuple(self._file.require(name).shape)
                if shape != (n, t, *grid):
                    raise ValueError(
                        f"{self.path}: expected {name!r} to have the shape {[n, t, *grid]} of "
                        f"'density', found {list(shape)}"
                    )
        elif "velocity" in root:
            self._layout = "incompressible"
            n, t, *grid, d = self._file.require("velocity", 5).shape
            self._file.require("particles", 5)
            self._file.require("force", 4)
            self.channels = (*(f"V{axis}" for axis in _AXES[:d]), "particles")
        elif keys := sorted(name for name in root.keys() if name.isdigit()):
            self._layout, self._keys = "groups", keys
            n, (t, *grid, c) = len(keys), self._file.require(f"{keys[0]}/data").shape
            self.channels = ("h",) if c == 1 and len(grid) == 2 else _numbered(c)
        else:
            raise ValueError(
                f"{self.path}: expected a PDEBench file, with 'tensor', 'density', 'velocity' or "
                f"groups '0000', '0001', ...; found {self._file.contents()}"
            )
        if n == 0 or t == 0 or 0 in grid:
            raise ValueError(f"{self.path}: no samples, found {self._file.contents()}")
        self.n_times: Sequence[int] = [t] * n
        self.coords = tuple(
            self._coordinate(axis, size)[::every_point]
            for axis, size in zip(_AXES, grid, strict=False)
        )
        self.times = self._coordinate("t", t)

    def read(self, trajectory: int, times: slice) -> Float[np.ndarray, "t c *grid"]:
        n_dims = len(self.coords)
        points = (slice(None, None, self._every),) * n_dims
        if self._layout == "groups":
            array = self._file.require(f"{self._keys[trajectory]}/data", n_dims + 2)
            return _channels_first(array[(times, *points)])
        root = self._file.open()
        index = (trajectory, times, *points)
        if self._layout == "incompressible":
            parts = [root["velocity"][index], root["particles"][index]]
            return _channels_first(np.concatenate(parts, axis=-1))
        names = ("tensor",) if self._layout == "tensor" else self.channels
        return np.stack([_single(root[name][index]) for name in names], axis=1)

    def constants(self, trajectory: int) -> Sample:
        if self._layout != "incompressible":
            return {}
        points = (slice(None, None, self._every),) * len(self.coords)
        force = self._file.open()["force"][(trajectory, *points)]
        return {"force": np.moveaxis(_single(force), -1, 0)}

    def _coordinate(self, axis: str, size: int) -> np.ndarray:
        root = self._file.open()
        names = [f"{axis}-coordinate", *([f"{self._keys[0]}/grid/{axis}"] if self._keys else [])]
        for name in [*names, axis]:
            if name in root:
                values = np.asarray(root[name][...])
                values = values[0] if values.ndim == 2 else values
                if len(values) >= size:
                    return values[:size]
                raise ValueError(
                    f"{self.path}: expected {name!r} to have {size} entries, found {len(values)}"
                )
        # Incompressible files do not store their uniform grid.
        return (np.arange(size) + 0.5) / size


class PDEBenchDarcy:
    """PDEBench's 2-D Darcy flow, −∇·(a ∇u) = β: pairs of coefficient a and solution u.

    The file has `nu[n, x, y]` (the coefficient a), `tensor[n, 1, x, y]` (u) and the attribute
    `beta`. A grain data source; an item is `{"inputs": "1 x y", "outputs": "1 x y"}`.

    **Arguments:**

    - `path`, `every_point`: as for `PDEBench`.
    - `samples`: which ones; None: all.
    - `check_finite`: refuse samples with NaN or infinity.

    **Raises:** `ValueError` if the file has another layout, naming what was found and what was
    expected, or has no samples.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        every_point: int = 1,
        samples: Sequence[int] | None = None,
        check_finite: bool = True,
    ):
        if every_point < 1:
            raise ValueError(f"PDEBenchDarcy: every_point={every_point!r}, expected at least 1")
        self._file = ArrayFile(path)
        self.path = self._file.path
        n, _, *grid = self._file.require("tensor", 4).shape
        shape = list(self._file.require("nu", 3).shape)
        if shape != [n, *grid]:
            raise ValueError(
                f"{self.path}: expected 'nu' to have shape {[n, *grid]}, found {shape}"
            )
        if 0 in (n, *grid):
            raise ValueError(f"{self.path}: no samples, found {self._file.contents()}")
        self._samples = range(n) if samples is None else samples
        if len(self._samples) == 0 or min(self._samples) < 0 or max(self._samples) >= n:
            raise ValueError(f"PDEBenchDarcy: samples must be among 0 to {n - 1}")
        self._every = every_point
        self._check_finite = check_finite
        self.parameters = plain_attributes(self._file.open().attrs)
        self.coords = tuple(
            np.asarray(self._file.require(f"{axis}-coordinate", 1)[...])[::every_point]
            for axis in ("x", "y")
        )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[int(index)]
        points = (slice(None, None, self._every),) * 2
        root = self._file.open()
        item = {
            "inputs": _single(root["nu"][(sample, *points)])[None],
            "outputs": _single(root["tensor"][(sample, slice(0, 1), *points)]),
        }
        if self._check_finite:
            require_finite(item, f"sample {sample}", self)
        return item


def _single(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _channels_first(array: np.ndarray) -> Float[np.ndarray, "t c *grid"]:
    return np.ascontiguousarray(np.moveaxis(_single(array), -1, 1))


def _numbered(n: int) -> tuple[str, ...]:
    return ("u",) if n == 1 else tuple(f"u{i}" for i in range(n))
