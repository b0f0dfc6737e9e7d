"""`jaxsci run` and `jaxsci verify`."""

import importlib.util
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import jaxsci
from jaxsci.cli.backend import check_backend, keep_compiled_programs, start_backend
from jaxsci.cli.options import Run, Verify
from jaxsci.cli.parsing import is_help, parse, without_config
from jaxsci.experiment import (
    Experiment,
    LostProcess,
    RunRecord,
    TensorBoard,
    Terminated,
    UsageError,
    WeightsAndBiases,
    check_seed,
    discover,
    find,
    is_first,
    join_processes,
    load,
    nearest,
    print_summary,
    read_record,
    run_experiment,
    terminable,
)

HOLDS, FAILS, MISUSE, RAISED, INTERRUPTED, TERMINATED, LOST = 0, 1, 2, 3, 130, 143, 75


def run(words: Sequence[str]) -> int:
    """`jaxsci run`: one experiment, in this process.

    **Returns:** 0 if all claims hold, 1 if one fails, 3 if the experiment raised or its training
    stopped, 130 after Ctrl-C, 143 after SIGTERM, 75 if another process of the job is gone.

    **Raises:**

    - `UsageError` for a mistake in the call.
    """
    first = words[0] if words else ""
    if is_help(words) and (first.startswith("-") or not first):
        parse(Run, words, prog="jaxsci run")
    # What the file's configuration offers is known only when the file is: so first all the rest is
    # read, and the words of the configuration after the import.
    plain = [word for word in without_config(words) if word not in ("-h", "--help")]
    options = parse(Run, plain, prog="jaxsci run")
    check_seed(options.seed)
    check_backend(options.platform, options.devices)
    _check_trackers(options.track)
    experiment = find(options.experiment)
    check_preset(experiment, options.preset)
    os.environ.setdefault("MPLBACKEND", "agg")
    join_processes()
    start_backend(options.platform, options.devices)
    with terminable():
        return _run(words, options, experiment)


def _run(words: Sequence[str], options: Run, experiment: Experiment) -> int:
    """Runs what `run` has found to be in order, and says how it ended."""
    console = Console(quiet=options.quiet or not is_first())
    folder = options.out or Path("runs") / experiment.slug
    try:
        loaded = load(experiment)
        standard = loaded.preset(options.preset)
        prog = f"jaxsci run {options.experiment}"
        config = parse(Run, words, prog=prog, config=standard).config  # pyright: ignore[reportAttributeAccessIssue]
        keep_compiled_programs()
        if not options.quiet:
            console.print(
                f"{experiment.slug}: preset {options.preset}, seed {options.seed}, "
                f"results go to {folder}/",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        record = run_experiment(
            loaded,
            preset=options.preset,
            config=config,
            seed=options.seed,
            out=folder,
            resume=options.resume,
            quiet=options.quiet,
            console=console,
            trackers=[_TRACKERS[name][1] for name in options.track],
        )
    except (KeyboardInterrupt, Terminated) as stop:
        again = shlex.join(["jaxsci", "run", *(w for w in words if w != "--resume"), "--resume"])
        by_signal = isinstance(stop, Terminated)
        how = "stopped by SIGTERM" if by_signal else "stopped"
        print(f"jaxsci: {how}; to go on: {again}", file=sys.stderr)
        return TERMINATED if by_signal else INTERRUPTED
    except UsageError:
        raise
    except LostProcess as error:
        print(f"jaxsci: {experiment.slug}: {error}", file=sys.stderr, flush=True)
        return LOST
    except Exception as error:
        kept = f"; its log is in {folder}/" if (folder / "log.jsonl").exists() else ""
        print_error(error, experiment, "", kept)
        return RAISED
    if not options.quiet:
        print_summary(record, console)
    return HOLDS if record.holds else FAILS


def check_preset(experiment: Experiment, preset: str) -> None:
    """Refuses a preset that an experiment's file does not have, without importing it.

    **Raises:**

    - `UsageError` that names the nearest ones.
    """
    if experiment.presets and preset not in experiment.presets:
        raise UsageError(
            f"{experiment.slug} has no preset {preset!r}" + nearest(preset, experiment.presets)
        )


def print_error(error: Exception, experiment: Experiment, which: str, kept: str = "") -> None:
    """Prints what an experiment raised: one line where that says it all, else a traceback too.

    **Arguments:**

    - `which`: which of its runs it was, if there are several.
    - `kept`: what is left of it.
    """
    name = f"{experiment.slug}, {which}" if which else experiment.slug
    if _says_it_all(error):
        print(f"jaxsci: {name}: {error}", file=sys.stderr)
        return
    _print_traceback(error, experiment.path)
    print(f"jaxsci: {name} raised {type(error).__name__}{kept}", file=sys.stderr)


def verify(words: Sequence[str]) -> int:
    """`jaxsci verify`: several experiments, each in a process of its own.

    **Returns:** 0 if all claims hold, 1 if one fails, 3 if an experiment raised, 130 after Ctrl-C.
    SIGTERM ends this process and the experiment's (status 143).

    **Raises:**

    - `UsageError` for a mistake in the call.
    """
    options = parse(Verify, words, prog="jaxsci verify")
    check_seed(options.seed)
    check_backend(options.platform, options.devices)
    chosen = [find(name) for name in options.experiments] or discover()[0]
    for experiment in chosen:
        check_preset(experiment, options.preset)
    if not chosen:
        raise UsageError("verify: there are no experiments here")
    console = Console()
    table = Table("experiment", "claim", "measured", "target", "holds", "seconds")
    worst = HOLDS
    for number, experiment in enumerate(chosen, 1):
        console.print(f"[{number}/{len(chosen)}] {experiment.slug}", markup=False, highlight=False)
        folder = options.out / experiment.slug
        status, output = _run_apart(experiment.path, folder, options)
        if status == MISUSE:
            raise UsageError(output.strip().splitlines()[-1].removeprefix("jaxsci: "))
        if status in (HOLDS, FAILS):
            _add_rows(table, read_record(folder / "result.json"))
        else:
            print(output, file=sys.stderr)
            table.add_row(experiment.slug, Text("raised", style="bold red"), "", "", "", "")
        worst = max(worst, status if status in (HOLDS, FAILS) else RAISED)
    console.print(table)
    return worst


def _run_apart(path: Path, folder: Path, options: Verify) -> tuple[int, str]:
    # Its own process: memory, the flag for 64-bit types and a crash stay there.
    command = [sys.executable, "-P", "-m", "jaxsci.cli", "run", str(path), "--quiet"]
    command += ["--preset", options.preset, "--seed", str(options.seed), "--out", str(folder)]
    if options.platform is not None:
        command += ["--platform", options.platform]
    if options.devices is not None:
        command += ["--devices", str(options.devices)]
    package = str(Path(jaxsci.__file__).resolve().parents[1])
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with terminable():  # Else the experiment would go on alone.
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": search},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    return done.returncode, done.stdout


def _add_rows(table: Table, record: RunRecord) -> None:
    seconds = f"{record.seconds['total']:.1f}"
    if not record.claims:
        table.add_row(record.slug, "no claims", "", "", "", seconds)
    for index, claim in enumerate(record.claims):
        table.add_row(
            record.slug if index == 0 else "",
            Text(claim.name),
            f"{claim.measured:.4g}",
            f"{claim.op} {claim.target:.4g}",
            Text("yes", style="green") if claim.holds else Text("NO", style="bold red"),
            seconds if index == 0 else "",
        )


def _says_it_all(error: Exception) -> bool:
    """Whether an error is one of training's own, whose message needs no traceback."""
    # An experiment that does not train has not imported it, and raises none of them.
    train = sys.modules.get("jaxsci.train")
    return train is not None and isinstance(error, train.NonFiniteLoss | train.CheckpointError)


def _print_traceback(error: Exception, path: Path) -> None:
    """Prints a traceback that begins in the experiment's file: what runs it is of no interest."""
    frames = error.__traceback__
    inside = frames
    while inside is not None and Path(inside.tb_frame.f_code.co_filename) != path:
        inside = inside.tb_next
    traceback.print_exception(type(error), error, inside or frames)


_TRACKERS = {"tensorboard": ("tensorboardX", TensorBoard), "wandb": ("wandb", WeightsAndBiases)}


def _check_trackers(names: Sequence[str]) -> None:
    # Before the run's folder is touched: an earlier result would move aside for nothing.
    for name in names:
        package = _TRACKERS[name][0]
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"--track {name}: {package} is not installed: pip install 'jaxsci[trackers]'"
            )
