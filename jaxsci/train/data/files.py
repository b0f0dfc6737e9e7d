"""Trajectories in HDF5 and Zarr files, cut into windows and batched by grain."""

import abc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

Sample = dict[str, np.ndarray]


class ArrayFile:
    """An HDF5 file or a Zarr store, opened when it is first read and once in each process.

    The handle is neither pickled nor used after a fork, so a reader can be handed to grain's
    worker processes.

    **Arguments:**

    - `path`: `.h5` or `.hdf5` for HDF5; a folder, or a name ending in `.zarr` or `.zip`, for Zarr.

    **Raises:** `FileNotFoundError` if there is nothing at `path`; `ValueError` if it cannot be
    opened; `ImportError` if the library that reads it is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        self._handle: Any = None
        self._process: int | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"no data file {self.path}")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handle": None, "_process": None}

    def open(self) -> Any:
        """The root group; `group[name]`, `group.attrs` and `name in group` work as in h5py."""
        if self._handle is None or self._process != os.getpid():
            self._handle, self._process = self._open(), os.getpid()
        return self._handle

    def require(self, name: str, n_dims: int | None = None) -> Any:
        """The array of this name.

        **Raises:** `ValueError` that says what is missing and what is there instead.
        """
        group = self.open()
        if name not in group:
            raise ValueError(f"{self.path}: expected an array {name!r}, found {self.contents()}")
        array = group[name]
        if n_dims is not None and len(getattr(array, "shape", ())) != n_dims:
            raise ValueError(
                f"{self.path}: expected {name!r} to have {n_dims} axes, found "
                f"{list(getattr(array, 'shape', []))}"
            )
        return array

    def contents(self) -> str:
        """The names and shapes at the top of the file, for messages."""
        entries = []
        group = self.open()
        for name in sorted(group.keys())[:20]:
            shape = getattr(group[name], "shape", None)
            entries.append(f"{name}/" if shape is None else f"{name}{list(shape)}")
        return ", ".join(entries) or "nothing"

    def _open(self) -> Any:
        is_zarr = self.path.is_dir() or self.path.suffix in (".zarr", ".zip")
        try:
            if is_zarr:
                import zarr

                return zarr.open_group(str(self.path), mode="r")
            import h5py

            return h5py.File(self.path, "r")
        except ImportError as error:
            raise ImportError(
                f"reading {self.path} needs {error.name}: pip install 'jaxsci[data]'"
            ) from error
        except Exception as error:
            kind = "a Zarr store" if is_zarr else "an HDF5 file"
            raise ValueError(f"{self.path} cannot be read as {kind}: {error}") from error


class AbstractTrajectories(abc.ABC):
    """Solutions of a partial differential equation on disk: trajectories u_i(t, x), channels first.

    - `channels`: the names of the channels.
    - `n_times`: the number of stored times of each trajectory.
    - `coords`: the coordinates of the grid points, one 1-D array an axis.
    - `times`: the stored times.
    """

    channels: tuple[str, ...]
    n_times: Sequence[int]
    coords: tuple[np.ndarray, ...]
    times: np.ndarray

    @abc.abstractmethod
    def read(self, trajectory: int, times: slice) -> Float[np.ndarray, "t c *grid"]:
        """The solution of one trajectory at some of its times, in single precision."""

    @abc.abstractmethod
    def constants(self, trajectory: int) -> Sample:
        """What does not change in time, by name: coefficients, forces, parameters; may be empty."""

    def __len__(self) -> int:
        return len(self.n_times)


class Windows:
    """All windows of consecutive times in a set of trajectories, as a grain data source.

    Window (i, s) of a trajectory u_i has the inputs u_i(t_s), ..., u_i(t_{s + (m−1) k}) and, as
    outputs, the n times after them, each k stored times apart.

    **Arguments:**

    - `data`: the trajectories.
    - `n_inputs`, `n_outputs`: m and n.
    - `every`: k.
    - `trajectories`: which ones (`range(0, 900)` for training, the rest for the test); None: all.
    - `check_finite`: refuse windows with NaN or infinity.

    An item is `{"inputs": "m c *grid", "outputs": "n c *grid", **constants}`.

    **Raises:** `ValueError` for counts below 1, an index out of range, trajectories that are too
    short, or no trajectory at all; and, when such an item is read, for data that are not finite.
    """

    def __init__(
        self,
        data: AbstractTrajectories,
        n_inputs: int = 1,
        n_outputs: int = 1,
        *,
        every: int = 1,
        trajectories: Iterable[int] | None = None,
        check_finite: bool = True,
    ):
        for name, value in (("n_inputs", n_inputs), ("n_outputs", n_outputs), ("every", every)):
            if value < 1:
                raise ValueError(f"Windows: {name}={value!r}, expected at least 1")
        chosen = range(len(data)) if trajectories is None else list(trajectories)
        if len(chosen) == 0:
            raise ValueError("Windows: trajectories is empty")
        for i in chosen:
            if not 0 <= i < len(data):
                raise ValueError(f"Windows: trajectory {i}, expected 0 to {len(data) - 1}")
        span = 1 + every * (n_inputs + n_outputs - 1)
        counts = np.array([data.n_times[i] - span + 1 for i in chosen])
        if counts.min() < 1:
            raise ValueError(
                f"Windows: {n_inputs} inputs and {n_outputs} outputs, {every} apart, span {span} "
                f"times, but trajectory {chosen[int(counts.argmin())]} has "
                f"{data.n_times[chosen[int(counts.argmin())]]}"
            )
        self._data, self._chosen = data, chosen
        self._n_inputs, self._every, self._span = n_inputs, every, span
        self._ends = np.cumsum(counts)
        self._check_finite = check_finite

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"window {index}, expected 0 to {len(self) - 1}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = index - (int(self._ends[which - 1]) if which else 0)
        trajectory = self._chosen[which]
        window = self._data.read(trajectory, slice(start, start + self._span, self._every))
        sample = {"inputs": window[: self._n_inputs], "outputs": window[self._n_inputs :]}
        sample |= self._data.constants(trajectory)
        if self._check_finite:
            require_finite(sample, f"trajectory {trajectory} from time {start} on", self._data)
        return sample


def require_finite(sample: Sample, where: str, data: Any) -> None:
    """Refuses a sample with NaN or infinity, naming where it is."""
    for name, array in sample.items():
        if not np.isfinite(array).all():
            source = getattr(data, "path", type(data).__name__)
            raise ValueError(
                f"{source}: {name} of {where} have NaN or infinity "
                "(check_finite=False accepts them)"
            )


def pipeline(
    source: Any,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    transform: Callable[[Sample], Any] | None = None,
    workers: int = 0,
) -> Any:
    """Endless batches from a random-access source, by grain, for `fit`.

    Each epoch has a new order that follows from `seed`. A last incomplete batch is left out, as in
    `ArraySource`. The iterator's position is part of the checkpoint.

    **Arguments:**

    - `source`: `Windows`, or anything with `__len__` and `__getitem__` whose items are pytrees of
        arrays of the same shapes.
    - `batch_size`: at most the number of items.
    - `transform`: applied to an item before it is batched, for example
        `lambda s: (s["inputs"][0], s["outputs"][0])`. With workers it must be picklable.
    - `workers`: processes that read ahead; 0 reads in threads of this process. A program that
        uses them must guard its start with `if __name__ == "__main__"`.

    **Returns:** a `grain.IterDataset`.

    **Raises:** `ValueError` for a batch size out of range or negative `workers`.
    """
    import grain

    if not 1 <= batch_size <= len(source):
        raise ValueError(f"pipeline: batch_size={batch_size}, expected 1 to {len(source)} (items)")
    if workers < 0:
        raise ValueError(f"pipeline: workers={workers}, expected 0 or more")
    data = grain.MapDataset.source(source)
    if shuffle:
        data = data.shuffle(seed=seed)
    if transform is not None:
        data = data.map(transform)
    data = data.batch(batch_size, drop_remainder=True).repeat()
    # Read-ahead in batches: enough to hide a slow disk, small against memory.
    data = data.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8))
    if workers > 0:
        # Grain's worker processes read absl's flags, which only an absl program has parsed.
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return data


def as_text(value: Any) -> str:
    """An attribute as text; HDF5 gives bytes for some strings."""
    return value.decode() if isinstance(value, bytes) else str(value)


def plain_attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a file that are one number or a text."""
    found = {}
    for name, value in attrs.items():
        if isinstance(value, bytes | str):
            found[name] = as_text(value)
        elif np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
            found[name] = np.asarray(value).item()
    return found
