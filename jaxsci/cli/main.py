"""The entry of the `jaxsci` command: which command is meant, and how a mistake is told."""

import dataclasses
import sys
from collections.abc import Callable, Sequence

import jaxsci
from jaxsci.cli.options import COMMANDS
from jaxsci.experiment import UsageError, nearest

_INTERRUPTED = 130

_PURPOSE = "Scientific computing on JAX: run the experiments and check their claims."
STATUSES = (
    "Exit status: 0 all went well and all claims hold; 1 a claim fails; 2 a mistake in the call; "
    "3 an experiment raised; 75 another process of the job is gone or not done yet, call again; "
    "130 Ctrl-C; 143 SIGTERM."
)
"""What the exit status says, for the help text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    **Arguments:**

    - `argv`: the words after `jaxsci`; those of the process by default.

    **Returns:** the exit status: 0 when all went well and all claims hold, 1 when a claim fails, 2
    for a mistake in the call, 3 when an experiment raised, 75 when another process of the job is
    gone, 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UsageError as error:
        print(f"jaxsci: {' '.join(str(error).split()).removeprefix('jaxsci ')}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # tyro ends so after printing a help text.
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("jaxsci: stopped", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # `jaxsci list | head`
        sys.stderr.close()
        return 0


def _dispatch(words: list[str]) -> int:
    if not words:
        raise UsageError(f"say what to do: {', '.join(COMMANDS)}; `jaxsci --help` explains")
    command, rest = words[0], words[1:]
    if command in ("-h", "--help"):
        return _help()
    if command == "--version":
        print(jaxsci.__version__)
        return 0
    if command not in COMMANDS:
        raise UsageError(f"no command {command!r}" + nearest(command, COMMANDS))
    return _handler(command)(rest)


def _handler(command: str) -> Callable[[Sequence[str]], int]:
    # A command imports only what it needs: `list` answers before JAX could be loaded.
    if command in ("run", "verify"):
        from jaxsci.cli import running

        return {"run": running.run, "verify": running.verify}[command]
    if command == "sweep":
        from jaxsci.cli import sweeping

        return sweeping.sweep
    from jaxsci.cli import listing

    return {
        "list": listing.list_experiments,
        "report": listing.report,
        "info": listing.info,
    }[command]


def _help() -> int:
    import tyro

    # One line each; what else there is to say, `jaxsci COMMAND --help` says.
    lines = {
        name: dataclasses.make_dataclass(
            name, [], namespace={"__doc__": (kind.__doc__ or "").splitlines()[0]}
        )
        for name, kind in COMMANDS.items()
    }
    tyro.extras.subcommand_cli_from_dict(
        lines,
        args=["--help"],
        prog="jaxsci",
        description=(
            "Scientific computing on JAX: run the experiments and check their claims.\n\n"
            + STATUSES
        ),
    )
    return 0
