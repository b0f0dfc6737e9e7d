"""Generated data sets on disk, each under a key that says exactly what was generated."""

import dataclasses
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs

from .grid import Grid
from .problems.dataset import Dataset, Problem, Progress, check_count


def cache_folder() -> Path:
    """Where generated data are kept: `$JAXSCI_CACHE_DIR`, else the platform's cache folder."""
    chosen = os.environ.get("JAXSCI_CACHE_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("jaxsci"))


def cache_path(
    problem: Problem, seed: int, n: int, folder: str | Path | None = None, *, dtype=np.float32
) -> Path:
    """The file of `cached(problem, seed, n, folder, dtype=dtype)`, whether or not it exists.

    Its name ends in a hash of the problem's class, its fields, its generator's `version`, `seed`,
    `n` and `dtype`: change any of them and the data are generated anew.

    **Raises:** `TypeError`, `ValueError` for a problem whose fields cannot be written down, a
    `seed` that is no non-negative integer, or a bad `n`.
    """
    description = json.dumps(_describe(problem, seed, n, dtype), sort_keys=True)
    digest = hashlib.sha256(description.encode()).hexdigest()[:20]
    root = cache_folder() / "pde" if folder is None else Path(folder)
    return root / f"{type(problem).__name__}-{n}-{digest}.npz"


def cached(
    problem: Problem,
    seed: int,
    n: int,
    folder: str | Path | None = None,
    *,
    dtype=np.float32,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Dataset:
    """`problem.generate(jax.random.key(seed), n)`, from disk if it was generated before.

    The file is written under a temporary name and then renamed, so that a reader never sees half
    of it, and processes that generate the same data at once do not disturb each other. A file
    that cannot be read is generated anew, with a warning.

    **Arguments:**

    - `problem`: a benchmark problem.
    - `seed`: a non-negative integer; the key is the threefry key made of it, whatever JAX's default
        generator is.
    - `n`: number of pairs.
    - `folder`: where the file lies; by default `cache_folder() / "pde"`.
    - `dtype`: floating type of the arrays.
    - `progress`: called as `progress(done, n)` while generating.
    - `say`: called with one line that tells whether the data were read or generated, and where
        they lie; for example `print`.

    **Returns:** a `Dataset`. Whether it will be read from disk: `cache_path(...).exists()`.

    **Raises:** as `cache_path` and the problem's `generate` do; `OSError` if the folder cannot be
    written.
    """
    path = cache_path(problem, seed, n, folder, dtype=dtype)
    description = _describe(problem, seed, n, dtype)
    if path.exists():
        try:
            dataset = _read(path, description)
        except Exception as error:  # A damaged archive can fail in a dozen ways; all mean the same.
            warnings.warn(
                f"{path} cannot be read ({error}); its data are generated anew", stacklevel=2
            )
        else:
            _tell(say, f"{dataset.n} pairs of {type(problem).__name__} read from {path}")
            return dataset
    path.parent.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(seed, impl="threefry2x32")
    dataset = problem.generate(key, n, dtype=dtype, progress=progress)
    _write(path, dataset, description)
    _tell(say, f"{dataset.n} pairs of {type(problem).__name__} generated and written to {path}")
    return dataset


def _tell(say: Callable[[str], None] | None, line: str) -> None:
    if say is not None:
        say(line)


def _describe(problem: Problem, seed: int, n: int, dtype) -> dict[str, Any]:
    if isinstance(problem, type) or not dataclasses.is_dataclass(problem):
        raise TypeError(f"cached: problem must be a module with fields, got {problem!r}")
    if not isinstance(problem, Problem):
        raise TypeError(f"cached: {type(problem).__name__} lacks version, generate or accuracy")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"cached: seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"cached: seed must not be negative, got {seed}")
    check_count("cached: n", n)
    fields = {
        field.name: _plain(f"{type(problem).__name__}.{field.name}", getattr(problem, field.name))
        for field in dataclasses.fields(problem)
    }
    return {
        "class": f"{type(problem).__module__}.{type(problem).__qualname__}",
        "fields": fields,
        "version": problem.version,
        "seed": int(seed),
        "n": int(n),
        "dtype": np.dtype(dtype).name,
    }


def _plain(name: str, value: Any) -> Any:
    """A field's value in terms of JSON, different for different values."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.generic):
        return _plain(name, value.item())
    if isinstance(value, tuple | list):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, Grid):
        return {
            field.name: _plain(name, getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, np.ndarray | jax.Array):
        array = np.ascontiguousarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return [array.dtype.name, list(array.shape), digest]
    raise TypeError(f"cached: the field {name} = {value!r} has no place in a cache's key")


def _write(path: Path, dataset: Dataset, description: dict[str, Any]) -> None:
    grid = dataset.grid
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                inputs=dataset.inputs,
                outputs=dataset.outputs,
                lo=grid.lo,
                hi=grid.hi,
                shape=grid.shape,
                periodic=grid.periodic,
                endpoint=grid.endpoint,
                description=json.dumps(description, sort_keys=True),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path, description: dict[str, Any]) -> Dataset:
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        if json.loads(str(file["description"])) != description:
            raise ValueError("it holds other data")
        grid = Grid(
            file["lo"].tolist(),
            file["hi"].tolist(),
            file["shape"].tolist(),
            file["periodic"].tolist(),
            file["endpoint"].tolist(),
        )
        return Dataset(file["inputs"], file["outputs"], grid)
