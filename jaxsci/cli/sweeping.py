"""`jaxsci sweep`: seeds × a grid of configurations."""

import itertools
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxsci.cli.backend import check_backend, keep_compiled_programs, start_backend
from jaxsci.cli.options import Sweep as Options
from jaxsci.cli.parsing import config_lists, is_help, parse, without_config
from jaxsci.cli.running import (
    FAILS,
    HOLDS,
    INTERRUPTED,
    LOST,
    RAISED,
    TERMINATED,
    check_preset,
    print_error,
)
from jaxsci.experiment import (
    Config,
    Experiment,
    Point,
    Progress,
    RunRecord,
    Sweep,
    Terminated,
    UsageError,
    Work,
    check_seed,
    find,
    load,
    run_sweep,
    share,
    sweep_table,
    terminable,
    write_sweep,
)


def sweep(words: Sequence[str]) -> int:
    """`jaxsci sweep`: an experiment with several seeds at every point of a grid.

    **Returns:** 0 if all runs of this part are finished and all claims hold, 1 if one fails, 3 if a
    run raised, 75 if another process has runs of this part, 130 after Ctrl-C, 143 after SIGTERM.

    **Raises:**

    - `UsageError` for a mistake in the call.
    """
    first = words[0] if words else ""
    if is_help(words) and (first.startswith("-") or not first):
        parse(Options, words, prog="jaxsci sweep")
    plain = [word for word in without_config(words) if word not in ("-h", "--help")]
    options = parse(Options, plain, prog="jaxsci sweep")
    if options.seeds < 1:
        raise UsageError(f"--seeds {options.seeds}: expected at least 1")
    check_seed(options.seed)
    part = _part(options.part, os.environ)
    check_backend(options.platform, options.devices)
    experiment = find(options.experiment)
    check_preset(experiment, options.preset)
    os.environ.setdefault("MPLBACKEND", "agg")
    start_backend(options.platform, options.devices)
    with terminable():
        try:
            return _sweep(words, plain, options, experiment, part)
        except (KeyboardInterrupt, Terminated) as stop:
            by_signal = isinstance(stop, Terminated)
            how = "stopped by SIGTERM" if by_signal else "stopped"
            again = shlex.join(["jaxsci", "sweep", *words])
            print(f"jaxsci: {how}; to go on: {again}", file=sys.stderr)
            return TERMINATED if by_signal else INTERRUPTED


def _sweep(
    words: Sequence[str],
    plain: Sequence[str],
    options: Options,
    experiment: Experiment,
    part: tuple[int, int],
) -> int:
    try:
        loaded = load(experiment)
    except UsageError:
        raise
    except Exception as error:
        print_error(error, experiment, "")
        return RAISED
    prog = f"jaxsci sweep {options.experiment}"
    points = _points(words, plain, prog, loaded.preset(options.preset))
    plan = Sweep(
        loaded,
        options.preset,
        points,
        range(options.seed, options.seed + options.seeds),
        options.out or Path("runs") / "sweeps" / experiment.slug,
    )
    keep_compiled_programs()
    report = _Report(Console(quiet=options.quiet), plan)
    report.begin(part)
    progress = run_sweep(
        plan, part=part, started=report.started, finished=report.finished, raised=report.raised
    )
    rows = write_sweep(plan, options.metric)
    report.end(progress, rows, part)
    mine = {(work.point.folder, seed) for work in share(plan, part) for seed in work.seeds}
    records = [row.record for row in rows if (row.point.folder, row.seed) in mine]
    if progress.raised:
        return RAISED
    if any(record is not None and not record.holds for record in records):
        return FAILS
    return LOST if any(record is None for record in records) else HOLDS


class _Report:
    """What a sweep says in the terminal."""

    def __init__(self, console: Console, plan: Sweep):
        self._console, self._plan = console, plan
        self._begin = time.monotonic()

    def begin(self, part: tuple[int, int]) -> None:
        """Says what is going to be run."""
        plan = self._plan
        there = sum(row.record is not None for row in plan.rows())
        at_once = ", seeds at once" if plan.loaded.run_seeds and len(plan.seeds) > 1 else ""
        share_of = f"; this is part {part[0] + 1} of {part[1]}" if part[1] > 1 else ""
        self._say(
            f"{plan.loaded.experiment.slug}: preset {plan.preset}, {len(plan.points)} points × "
            f"{len(plan.seeds)} seeds{at_once}, results go to {plan.folder}/; "
            f"{there} of {len(plan.points) * len(plan.seeds)} runs are there already{share_of}"
        )

    def started(self, number: int, total: int, work: Work) -> None:
        """Says what runs now."""
        self._say(f"[{number}/{total}] {_name(work)}")

    def finished(self, work: Work, records: list[RunRecord]) -> None:
        """Says whether the claims hold."""
        failing = {claim.name for r in records for claim in r.claims if not claim.holds}
        held = "all claims hold" if not failing else f"does not hold: {', '.join(sorted(failing))}"
        self._say(f"    {held} ({time.monotonic() - self._begin:.0f} s since the beginning)")

    def raised(self, work: Work, error: Exception) -> None:
        """Shows what a run raised."""
        where = self._plan.path(work.point, work.seeds[0]).parent
        print_error(error, self._plan.loaded.experiment, f"{_name(work)} (in {where}/)")

    def end(self, progress: Progress, rows: Sequence[Any], part: tuple[int, int]) -> None:
        """The table, and what is missing from it."""
        self._console.print(sweep_table(self._plan, rows))
        missing = sum(row.record is None for row in rows)
        if missing:
            text = f"{missing} of {len(rows)} runs are not finished"
            if progress.raised:
                text += f"; {progress.raised} raised"
            if progress.elsewhere:
                text += f"; another process works on {progress.elsewhere}"
            if part[1] > 1:
                text += "; the part that ends last writes the whole table"
            self._say(text)
        self._say(f"Files in {self._plan.folder}/: sweep.json, sweep.csv, sweep.png")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name(work: Work) -> str:
    seeds = f"seed {work.seeds[0]}"
    if len(work.seeds) > 1:
        seeds = f"seeds {work.seeds[0]} to {work.seeds[-1]}"
    return ", ".join(filter(None, [work.point.text, seeds]))


def _points(words: Sequence[str], plain: Sequence[str], prog: str, standard: Config) -> list[Point]:
    """The grid: every combination of the lists, the last list changing fastest."""
    if is_help(words):
        parse(Options, words, prog=prog, config=standard)
    lists = config_lists(words, Options, prog, standard)
    points = []
    for entries in itertools.product(*lists.values()):
        chosen = [word for entry in entries for word in entry]
        config: Any = parse(Options, [*plain, *chosen], prog=prog, config=standard)
        config = config.config
        points.append(Point({name: _value(config, name) for name in lists}, config))
    return points


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _part(option: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """(i, n) of `--part I/N`, or of the process that a launcher has started; i counts from 0."""
    if option is not None:
        try:
            index, count = (int(word) for word in option.split("/"))
        except ValueError:
            index, count = 0, 0
        if not 1 <= index <= count:
            raise UsageError(f"--part {option}: expected I/N with I from 1 to N, such as 1/4")
        return index - 1, count
    for index_name, count_name, first_name in (
        ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", ""),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ""),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ):
        found = environment.get(index_name), environment.get(count_name)
        if found[0] is None or found[1] in (None, "1"):
            continue
        try:
            index = int(found[0]) - int(environment.get(first_name, "0"))
            count = int(found[1] or "")
        except ValueError:
            index, count = 0, 0
        if not 0 <= index < count:
            raise UsageError(
                f"{index_name}={found[0]}, {count_name}={found[1]}: cannot be shared out; "
                "say which part this is with --part I/N"
            )
        return index, count
    return 0, 1
