"""Sweeps: every seed at every point of a grid of configurations, in one folder.

    DIR/experiment.json                 whose folder this is
    DIR/rate=0.001/seed-0/result.json   a run like any other, at each point of the grid
    DIR/sweep.json, sweep.csv, sweep.png

What is finished is read, never run again; so a sweep that was stopped goes on where it stopped, a
larger one takes over what a smaller one found, and several hosts work on one folder.
"""

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsci.experiment.atomic import write_json
from jaxsci.experiment.config import Config
from jaxsci.experiment.errors import FolderInUse, UsageError
from jaxsci.experiment.float64 import refuse_float64_on_tpu
from jaxsci.experiment.loading import LoadedExperiment
from jaxsci.experiment.record import RESULT_FILE, RunRecord, read_record
from jaxsci.experiment.run_folder import RUN_FILE
from jaxsci.experiment.runner import check_seed, run_experiment
from jaxsci.experiment.seeds import groups, run_seeds, seed_folder
from jaxsci.experiment.writing import identity_of

SWEEP_MARK = "experiment.json"
"""The file that marks a folder as a sweep's."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a sweep's grid: the swept fields with their values, and the configuration."""

    values: Mapping[str, Any]
    config: Config

    @property
    def text(self) -> str:
        """The point in words: `rate=0.001, width=32`."""
        return ", ".join(f"{name}={value_text(x)}" for name, x in self.values.items())

    @property
    def folder(self) -> str:
        """The name of its folder: the values, or `preset` where nothing is swept."""
        name = ",".join(f"{name}={value_text(x)}" for name, x in self.values.items()) or "preset"
        plain = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", name)[:100]
        # Two values may look alike once they are a folder's name.
        return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A seed at a point: its record once it is finished, or else None."""

    point: Point
    seed: int
    record: RunRecord | None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep consists of.

    **Arguments:**

    - `loaded`: the experiment.
    - `preset`: the preset that the points differ from.
    - `points`: the grid.
    - `seeds`: the seeds of every point.
    - `folder`: where everything is written.

    **Raises:**

    - `UsageError` for a seed that is none, no seeds, no points, or two equal points.
    """

    loaded: LoadedExperiment
    preset: str
    points: Sequence[Point]
    seeds: Sequence[int]
    folder: Path

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UsageError("--seeds 0: expected at least 1")
        for seed in self.seeds:
            check_seed(seed)
        if not self.points:
            raise UsageError("a sweep needs at least one point")
        names = [point.folder for point in self.points]
        for point in self.points:
            if names.count(point.folder) > 1:
                raise UsageError(f"the point {point.text or 'of the preset'} is given twice")

    def path(self, point: Point, seed: int) -> Path:
        """The folder of one run."""
        return seed_folder(self.folder / point.folder, seed)

    def rows(self) -> list[Row]:
        """All runs, with the records of those that are finished.

        **Raises:**

        - `UsageError` if a folder holds the result of another run.
        """
        return [
            Row(point, seed, self._finished(point, seed))
            for point in self.points
            for seed in self.seeds
        ]

    def _finished(self, point: Point, seed: int) -> RunRecord | None:
        folder = self.path(point, seed)
        if not (folder / RESULT_FILE).is_file():
            return None
        record = read_record(folder / RESULT_FILE)
        expected = identity_of(self.loaded, self.preset, seed, point.config)
        for name in ("slug", "preset", "seed", "config"):
            found = getattr(record, name)
            if found != json.loads(json.dumps(expected[name])):
                raise UsageError(
                    f"{folder} holds a run with {name} {found}, not {expected[name]}; "
                    "choose another --out"
                )
        return record


@dataclasses.dataclass(frozen=True)
class Work:
    """What is run in one piece: one seed of a point, or all of its seeds by `run_seeds`."""

    point: Point
    seeds: tuple[int, ...]


@dataclasses.dataclass
class Progress:
    """How a part of a sweep went: pieces run, already there, raised, and left to others."""

    run: int = 0
    already: int = 0
    raised: int = 0
    elsewhere: int = 0


def share(sweep: Sweep, part: tuple[int, int]) -> list[Work]:
    """The pieces of work of one part.

    **Arguments:**

    - `sweep`: the sweep.
    - `part`: (i, n): the i-th of n parts, counted from 0. Parts have no piece in common, and
        together they have all.
    """
    if sweep.loaded.run_seeds is not None:
        pieces = [Work(point, tuple(sweep.seeds)) for point in sweep.points]
    else:
        pieces = [Work(point, (seed,)) for point in sweep.points for seed in sweep.seeds]
    index, count = part
    if not 0 <= index < count:
        raise UsageError(f"--part {index + 1}/{count}: expected I/N with I from 1 to N")
    return pieces[index::count]


def run_sweep(
    sweep: Sweep,
    *,
    part: tuple[int, int] = (0, 1),
    started: Callable[[int, int, Work], None] = lambda number, total, work: None,
    finished: Callable[[Work, list[RunRecord]], None] = lambda work, records: None,
    raised: Callable[[Work, Exception], None] | None = None,
) -> Progress:
    """Runs what is not finished yet of a part of a sweep.

    **Arguments:**

    - `sweep`: the sweep.
    - `part`: (i, n): the i-th of n parts, from 0; see `share`.
    - `started`, `finished`: called around each piece of work, to report on it.
    - `raised`: called when a run raises; the others go on. None: the error passes through.

    **Returns:** how it went. `sweep.rows()` has the results.

    **Raises:**

    - `UsageError` if the folder belongs to something else or to another version of the experiment's
      file.
    """
    pieces = share(sweep, part)
    # What cannot go well is refused before hours are spent.
    for point in sweep.points:
        refuse_float64_on_tpu(point.config)
    _claim(sweep)
    sweep.rows()
    progress = Progress()
    for number, work in enumerate(pieces, 1):
        if all((sweep.path(work.point, s) / RESULT_FILE).is_file() for s in work.seeds):
            progress.already += 1
            continue
        started(number, len(pieces), work)
        try:
            records = _run(sweep, work)
        except FolderInUse:  # Another process has it, which was given the same part.
            progress.elsewhere += 1
            continue
        except UsageError:
            raise
        except Exception as error:
            if raised is None:
                raise
            progress.raised += 1
            raised(work, error)
            continue
        progress.run += 1
        finished(work, records)
    return progress


def _run(sweep: Sweep, work: Work) -> list[RunRecord]:
    if sweep.loaded.run_seeds is None:
        return [
            run_experiment(
                sweep.loaded,
                preset=sweep.preset,
                config=work.point.config,
                seed=seed,
                out=sweep.path(work.point, seed),
                resume=True,
                quiet=True,
            )
            for seed in work.seeds
        ]
    out = sweep.folder / work.point.folder
    records = []
    for group in groups(out, work.seeds):
        records += run_seeds(
            sweep.loaded, preset=sweep.preset, config=work.point.config, seeds=group, out=out
        )
    return records


def _claim(sweep: Sweep) -> None:
    """Marks the folder as this sweep's; refuses one that belongs to something else."""
    folder, experiment = sweep.folder, sweep.loaded.experiment
    mark = {
        "slug": experiment.slug,
        "preset": sweep.preset,
        "file_crc32": f"{zlib.crc32(experiment.path.read_bytes()):08x}",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = any(not entry.name.startswith(".") for entry in folder.iterdir())
        try:
            found = json.loads((folder / SWEEP_MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found is None and (there or (folder / RUN_FILE).exists()):
            raise UsageError(
                f"--out {folder}: not empty, and not the folder of a sweep; choose another one"
            )
        if found is None:
            write_json(folder / SWEEP_MARK, mark)
            return
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror or error})"
        ) from error
    for name in ("slug", "preset"):
        if found.get(name) != mark[name]:
            what = "experiment" if name == "slug" else name
            raise UsageError(
                f"--out {folder}: holds a sweep of {what} {found.get(name)}, not {mark[name]}; "
                "choose another one"
            )
    if found.get("file_crc32") != mark["file_crc32"]:
        raise UsageError(
            f"--out {folder}: {experiment.path.name} has changed since this sweep was begun; "
            "choose another folder, or remove it to begin again"
        )


def value_text(value: Any) -> str:
    """A field's value as it is written on a command line."""
    if isinstance(value, tuple):
        return " ".join(value_text(entry) for entry in value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value).removesuffix(".0") if abs(value) < 1e16 else repr(value)
    return str(value)
