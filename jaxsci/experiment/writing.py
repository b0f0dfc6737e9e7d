"""What is written down at the end of a run: figures, arrays, and `result.json`."""

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsci.experiment.atomic import write_atomically
from jaxsci.experiment.config import Config
from jaxsci.experiment.loading import LoadedExperiment
from jaxsci.experiment.logger import jsonable
from jaxsci.experiment.record import RunRecord
from jaxsci.experiment.result import Result
from jaxsci.experiment.run_folder import started

if TYPE_CHECKING:
    import numpy as np

_PACKAGES = ("jaxsci", "jax", "jaxlib", "equinox", "diffrax", "optax", "orbax-checkpoint", "numpy")


def identity_of(
    loaded: LoadedExperiment, preset: str, seed: int | list[int], config: Config
) -> dict[str, Any]:
    """What a run is, as plain values: it is resumed only as what it was."""
    return {
        "slug": loaded.experiment.slug,
        "preset": preset,
        "seed": seed,
        "config": jsonable(dataclasses.asdict(config)),
    }


def write_result(
    loaded: LoadedExperiment,
    result: Result,
    *,
    preset: str,
    config: Config,
    seed: int,
    folder: Path,
    begin: float,
    compiling: float,
    resumed: bool,
    together: int = 1,
    write: bool = True,
) -> RunRecord:
    """Writes a run's figures and arrays and, last, its `result.json`.

    **Arguments:**

    - `loaded`, `preset`, `config`, `seed`, `folder`: the run.
    - `result`: what it handed back.
    - `begin`: what `time.perf_counter()` said when it began.
    - `compiling`: its seconds of compilation.
    - `resumed`, `together`: see `RunRecord`.
    - `write`: false in the processes of a job that leave writing to the first.
    """
    arrays, figures = _write_files(folder, result, write)
    total = time.perf_counter() - begin
    experiment = loaded.experiment
    record = RunRecord(
        slug=experiment.slug,
        number=experiment.number,
        title=experiment.title,
        room=experiment.room,
        preset=preset,
        seed=seed,
        config=jsonable(dataclasses.asdict(config)),
        overrides=_overrides(loaded.preset(preset), config),
        claims=tuple(result.claims),
        metrics=result.metrics,
        arrays=arrays,
        figures=figures,
        seconds={
            "total": round(total, 3),
            "compile": round(compiling, 3),
            "run": round(max(total - compiling, 0.0), 3),
        },
        resumed=resumed,
        device=device(),
        versions=versions(),
        commit=_commit(experiment.path),
        started=started(folder),
        folder=folder,
        together=together,
    )
    if write:
        record.write()
    return record


def _write_files(
    folder: Path, result: Result, write: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    import numpy as np

    if result.arrays and write:
        arrays: dict[str, Any] = {name: _storable(x) for name, x in result.arrays.items()}
        write_atomically(folder / "arrays.npz", lambda f: np.savez_compressed(f, **arrays))
    names = []
    for name, figure in result.figures.items():
        names.append(f"{name}.png")
        if not write:
            continue
        write_atomically(
            folder / f"{name}.png",
            lambda f, figure=figure: figure.savefig(f, format="png", dpi=150, bbox_inches="tight"),
        )
    if result.figures:
        import matplotlib.pyplot as plt

        for figure in result.figures.values():
            plt.close(figure)
    return tuple(result.arrays), tuple(names)


def _storable(array: "np.ndarray") -> "np.ndarray":
    # .npz knows NumPy's own types; bfloat16 and the 8-bit floats widen without loss.
    foreign = array.dtype.kind == "V" and array.dtype.names is None
    return array.astype("float32") if foreign else array


def _overrides(standard: Config, config: Config) -> dict[str, Any]:
    old, new = jsonable(dataclasses.asdict(standard)), jsonable(dataclasses.asdict(config))
    return {name: value for name, value in new.items() if value != old[name]}


def device() -> dict[str, Any]:
    """What JAX computes on: `platform`, `kind`, `count`, and `cores` of the host."""
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide about the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            import jaxsci

            found[package] = jaxsci.__version__ if package == "jaxsci" else "not installed"
    return found


def _commit(path: Path) -> str | None:
    command = ["git", "-C", str(path.parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude", "*"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
