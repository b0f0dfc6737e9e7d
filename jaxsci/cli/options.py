"""The options of each command, as dataclasses that tyro turns into command lines."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

_OUT = (
    "Folder for the results, by default runs/SLUG. It belongs to the run: what an earlier run left "
    "in it moves to `previous` inside it. A folder with anything else in it is refused."
)
_SWEEP_OUT = (
    "Folder for the results, by default runs/sweeps/SLUG. Runs that are finished there are read "
    "and not repeated. Several hosts may share it."
)
_LEDGER = (
    "The ledger to write, by default experiments/RESULTS.md in the checkout, which lists the "
    "project's own experiments only."
)


@dataclasses.dataclass(frozen=True)
class List:
    """List the experiments, with their room, title and presets."""

    room: Annotated[str | None, tyro.conf.arg(metavar="ROOM")] = None
    """Only the experiments of this room, for instance `operators`."""

    json: bool = False
    """Print a JSON array of {slug, number, title, room, presets, path, has_result}."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Run an experiment: a slug of `jaxsci list`, or a Python file of your own.

    Every field of its configuration is an option, `--config.FIELD VALUE`; `jaxsci run SLUG --help`
    lists them.

    Exit status: 0 all claims hold; 1 a claim fails; 2 a mistake in the call; 3 the experiment
    raised, or its loss is not finite; 75 another process of the job is gone (resume it); 130
    Ctrl-C; 143 SIGTERM.
    """

    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SLUG|FILE")]
    """What to run; write it before the options."""

    preset: str = "quick"
    """The size of the run: smoke (seconds), quick (under a minute), full (minutes), paper."""

    seed: int = 0
    """Seed of all random numbers."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help=_OUT)] = None

    resume: bool = False
    """Go on with the run in the folder where it was stopped; start it if there is none."""

    platform: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What to compute on: cpu, gpu or tpu. By default the best there is."""

    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Make the host's processor count as so many devices; implies --platform cpu."""

    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also send the metrics to these trackers."""

    quiet: bool = False
    """Print nothing but errors."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Run experiments one after the other, and say whose claims hold.

    Each runs in a process of its own.

    Exit status: 0 all claims hold; 1 a claim fails; 2 a mistake in the call; 3 an experiment raised
    or was stopped; 130 Ctrl-C; 143 SIGTERM.
    """

    experiments: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[SLUG|FILE ...]")
    ] = ()
    """Which; all by default."""

    preset: str = "quick"
    """The preset to run of each."""

    seed: int = 0
    """Seed of all random numbers."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/verify")
    """Folder for the results; each experiment has a folder in it."""

    platform: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What to compute on: cpu, gpu or tpu. By default the best there is."""

    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Make the host's processor count as so many devices; implies --platform cpu."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run an experiment with several seeds at every point of a grid of configurations.

    A field of the configuration takes a list, `--config.FIELD A,B,C`; several lists make a grid. A
    sweep goes on where it was stopped, and ends with a table, sweep.json, sweep.csv and sweep.png.

    Exit status: 0 all runs are finished and all claims hold; 1 a claim fails; 2 a mistake in the
    call; 3 a run raised (the others went on); 75 another process has runs of this part, call again;
    130 Ctrl-C; 143 SIGTERM.
    """

    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SLUG|FILE")]
    """What to run; write it before the options."""

    preset: str = "quick"
    """The preset that the points differ from."""

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """How many seeds; an experiment that has `run_seeds` computes them at once."""

    seed: int = 0
    """The first of them."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help=_SWEEP_OUT)] = None

    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Run the I-th of N parts, so that N hosts share the work. By default as the launcher says
    (Slurm's or JAX's number of this process), and else everything."""

    metric: tuple[str, ...] = ()
    """Show these metrics in the figure in place of the claims."""

    platform: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What to compute on: cpu, gpu or tpu. By default the best there is."""

    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Make the host's processor count as so many devices; implies --platform cpu."""

    resume: bool = False
    """Changes nothing: a sweep always goes on where it stopped."""

    quiet: bool = False
    """Print nothing but errors."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Bring the ledger of results up to date from the result files of runs.

    Rows of experiments that have no result file here stay as they are.
    """

    results: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILE|FOLDER ...]")
    ] = (Path("runs"),)
    """Result files, or folders to search for them."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=_LEDGER)] = None


@dataclasses.dataclass(frozen=True)
class Info:
    """Show versions, devices and folders."""

    json: bool = False
    """Print them as JSON."""

    platform: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Look for the devices of this platform."""


COMMANDS: dict[str, type] = {
    "list": List,
    "run": Run,
    "verify": Verify,
    "sweep": Sweep,
    "report": Report,
    "info": Info,
}
