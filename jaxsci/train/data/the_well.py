"""A reader of The Well's files."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .files import AbstractTrajectories, ArrayFile, Sample, as_text

_ORDERS = ("t0_fields", "t1_fields", "t2_fields")


class TheWell(AbstractTrajectories):
    """The trajectories of one data set of The Well, or of one split of it.

    A file holds a group for each tensor order: `t0_fields` (scalars, `[n, t, x, ...]`),
    `t1_fields` (vectors, `[n, t, x, ..., d]`) and `t2_fields` (matrices, `[n, t, x, ..., d, d]`).
    A field lacks the axes along which its attributes `sample_varying`, `time_varying` and
    `dim_varying` say it is constant; they are filled in here. Components become channels named as
    `velocity_x`, `velocity_y`. Fields that vary in time are the solution; the others are the
    constants: `"fields": "c *grid"` with the names `constant_channels`, and `"scalars": "s"` with
    the names `scalars` (those that do not vary in time).

    - `boundaries`: the kinds of boundary conditions by name (`{"x_boundary": "PERIODIC"}`).

    **Arguments:**

    - `path`: a file, or a folder of files (`.../data/train`), `.hdf5`, `.h5` or `.zarr`.

    **Raises:** `ValueError` if a file lacks a part of the layout, naming what was found and what
    was expected, if files differ in their grid or fields, or if there are no samples;
    `FileNotFoundError` if there is no file.

    Reference: Ohana et al., The Well: a large-scale collection of diverse physics simulations for
    machine learning, arXiv:2412.00568.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        self._files = [ArrayFile(p) for p in _data_files(self.path)]
        self._where: list[tuple[int, int]] = []
        n_times: list[int] = []
        first: Any = None
        for i, file in enumerate(self._files):
            layout, n, t = self._inspect(file)
            if first is None:
                first = layout
            elif layout != first:
                raise ValueError(
                    f"{file.path}: expected the grid and fields of {self._files[0].path}, {first}; "
                    f"found {layout}"
                )
            self._where += [(i, j) for j in range(n)]
            n_times += [t] * n
        if not self._where or 0 in n_times:
            raise ValueError(f"{self.path}: no samples")
        self.n_times: Sequence[int] = n_times
        self._shape, self.channels, self.constant_channels, self.scalars = first
        root = self._files[0].open()
        self._axes = [as_text(a) for a in root["dimensions"].attrs["spatial_dims"]]
        dimensions = root["dimensions"]
        self.coords = tuple(
            np.asarray(dimensions[a][0] if dimensions[a].ndim > 1 else dimensions[a][...])
            for a in self._axes
        )
        time = dimensions["time"]
        self.times = np.asarray(time[0] if time.ndim > 1 else time[...])
        bounds = root["boundary_conditions"] if "boundary_conditions" in root else {}
        self.boundaries = {name: as_text(bounds[name].attrs["bc_type"]) for name in bounds}

    def read(self, trajectory: int, times: slice) -> Float[np.ndarray, "t c *grid"]:
        file, sample = self._where[trajectory]
        n = len(range(*times.indices(self.n_times[trajectory])))
        root = self._files[file].open()
        parts = [
            self._field(field, order, sample, times, n)
            for order, field in self._fields(root, time_varying=True)
        ]
        return np.concatenate(parts, axis=1)

    def constants(self, trajectory: int) -> Sample:
        file, sample = self._where[trajectory]
        root = self._files[file].open()
        constants = {}
        parts = [
            self._field(field, order, sample, slice(None), 1)[0]
            for order, field in self._fields(root, time_varying=False)
        ]
        if parts:
            constants["fields"] = np.concatenate(parts, axis=0)
        if self.scalars:
            values = []
            for name in self.scalars:
                scalar = root["scalars"][name]
                value = scalar[sample] if scalar.attrs["sample_varying"] else scalar[...]
                values.append(np.asarray(value, np.float32).reshape(-1)[0])
            constants["scalars"] = np.stack(values)
        return constants

    def _inspect(self, file: ArrayFile) -> tuple[Any, int, int]:
        """The layout that all files share, and the numbers of samples and times of this one."""
        root = file.open()
        for name in ("dimensions", *_ORDERS):
            if name not in root:
                raise ValueError(
                    f"{file.path}: expected a file of The Well with a group {name!r}, found "
                    f"{file.contents()}"
                )
        for group, name in (
            (root, "n_trajectories"),
            (root["dimensions"], "spatial_dims"),
            *((root[order], "field_names") for order in _ORDERS),
        ):
            if name not in group.attrs:
                raise ValueError(
                    f"{file.path}: expected an attribute {name!r} of {group.name}, found "
                    f"{sorted(group.attrs)}"
                )
        axes = [as_text(a) for a in root["dimensions"].attrs["spatial_dims"]]
        for axis in [*axes, "time"]:
            file.require(f"dimensions/{axis}")
        shape = tuple(int(root["dimensions"][a].shape[-1]) for a in axes)
        names: dict[bool, list[str]] = {True: [], False: []}
        for order, group in enumerate(_ORDERS):
            suffixes = ["".join(c) for c in itertools.product(axes, repeat=order)]
            for field in root[group].attrs["field_names"]:
                varying = file.require(f"{group}/{as_text(field)}").attrs["time_varying"]
                names[bool(varying)] += [
                    f"{as_text(field)}_{s}" if s else as_text(field) for s in suffixes
                ]
        if not names[True]:
            raise ValueError(f"{file.path}: expected a field that varies in time, found none")
        scalars = []
        if "scalars" in root:
            listed = [as_text(s) for s in root["scalars"].attrs.get("field_names", [])]
            scalars = [s for s in listed if not root["scalars"][s].attrs["time_varying"]]
        layout = (shape, tuple(names[True]), tuple(names[False]), tuple(scalars))
        n_times = int(root["dimensions"]["time"].shape[-1])
        return layout, int(root.attrs["n_trajectories"]), n_times

    def _fields(self, root: Any, time_varying: bool) -> list[tuple[int, Any]]:
        found = []
        for order, group in enumerate(_ORDERS):
            for name in root[group].attrs["field_names"]:
                field = root[group][as_text(name)]
                if bool(field.attrs["time_varying"]) == time_varying:
                    found.append((order, field))
        return found

    def _field(
        self, field: Any, order: int, sample: int, times: slice, n: int
    ) -> Float[np.ndarray, "t c *grid"]:
        """One field at some times, with its constant axes filled in and its components first."""
        index: list[Any] = []
        if field.attrs["sample_varying"]:
            index.append(sample)
        if field.attrs["time_varying"]:
            index.append(times)
        values = np.asarray(field[tuple(index)] if index else field[...], np.float32)
        if not field.attrs["time_varying"]:
            values = values[None]
        varying = [bool(v) for v in field.attrs["dim_varying"]]
        for axis, varies in enumerate(varying):
            if not varies:
                values = np.expand_dims(values, 1 + axis)
        n_dims = len(self._shape)
        components = values.shape[1 + n_dims :]
        values = np.broadcast_to(values, (n, *self._shape, *components))
        values = values.reshape(n, *self._shape, int(np.prod(components)))
        return np.moveaxis(values, -1, 1)


def _data_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}")
    if path.is_file() or path.suffix == ".zarr":
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in (".h5", ".hdf5", ".zarr"))
    if not files:
        raise FileNotFoundError(f"no .hdf5, .h5 or .zarr file in {path}")
    return files
