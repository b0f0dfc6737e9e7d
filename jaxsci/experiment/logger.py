"""What an experiment writes while it runs: lines of text, scalar metrics, progress."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, SupportsFloat

from rich.console import Console

from jaxsci.experiment.claim import scalar
from jaxsci.experiment.progress import ProgressBar, Screen

LOG_FILE = "log.jsonl"


class Sink(Protocol):
    """Where a `Logger` sends what it is told: a file, TensorBoard, Weights & Biases, a list."""

    def metrics(self, scope: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Takes scalars of one step; `seconds` since the run's start."""
        ...

    def say(self, scope: str, text: str, seconds: float) -> None:
        """Takes a line of text."""
        ...

    def close(self) -> None:
        """Writes what is still held back."""
        ...


class JsonLines:
    """A sink that appends each entry as a line of JSON, flushed at once.

    A metrics line reads `{"step": 10, "scope": "fno", "seconds": 1.25, "loss": 0.5}`. JSON has no
    NaN or infinity, so these are the strings `"nan"`, `"inf"` and `"-inf"`, which Python's `float`
    reads back.

    **Arguments:**

    - `path`: the file.
    - `append`: keep what is there, as a resumed run does; a last line that was cut off when the
      run was killed is dropped.
    """

    def __init__(self, path: Path, *, append: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        if append and path.exists():
            kept = path.read_bytes()
            cut = kept.rfind(b"\n") + 1
            if cut < len(kept):
                with path.open("r+b") as file:
                    file.truncate(cut)
        self._file = path.open("a" if append else "w", encoding="utf-8")

    def metrics(self, scope: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Writes `{"step", "scope", "seconds", **values}`."""
        self._write({"step": step, "scope": scope, "seconds": round(seconds, 3), **values})

    def say(self, scope: str, text: str, seconds: float) -> None:
        """Writes `{"say", "scope", "seconds"}`."""
        self._write({"say": text, "scope": scope, "seconds": round(seconds, 3)})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()


class Logger:
    """What `run` is given to write with; the same object drives a training loop's checkpoints.

    **Attributes:**

    - `folder`: the run's own folder, for checkpoints and other files; `None` only for
      `Logger.silent()`, which keeps no files.
    - `resume`: whether the run goes on from what is in `folder`.
    - `identity`: what the run is, as plain values (experiment, preset, seed, configuration), so
      that checkpoints under its folder are taken up by the same run only; empty outside of one.

    **Arguments:**

    - `folder`, `resume`, `identity`: as above.
    - `sinks`: where metrics and text go, besides the terminal.
    - `console`: the rich console to print on; standard output by default.
    - `quiet`: print nothing and draw no bars. Where there is no terminal, bars are replaced by a
      line a minute.
    """

    def __init__(
        self,
        folder: Path | str | None,
        *,
        resume: bool = False,
        identity: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
        console: Console | None = None,
        quiet: bool = False,
    ):
        self.folder = None if folder is None else Path(folder)
        self.resume = resume
        self.identity: Mapping[str, Any] = dict(identity or {})
        self._sinks = tuple(sinks)
        self._screen = Screen(console or Console(), quiet)
        self._scope = ""
        self._start = time.monotonic()

    @classmethod
    def silent(cls, folder: Path | str | None = None) -> "Logger":
        """A logger that prints nothing and keeps no log, for calls from a library or a notebook.

        **Arguments:**

        - `folder`: where checkpoints go; `None`, the default, for none.
        """
        return cls(folder, quiet=True)

    def say(self, text: str) -> None:
        """Prints a line, above the progress bars, and keeps it in the log."""
        self._screen.say(f"{self._scope}: {text}" if self._scope else text)
        self.note(text)

    def note(self, text: str) -> None:
        """Keeps a line in the log without printing it."""
        for sink in self._sinks:
            sink.say(self._scope, text, self._seconds())

    def metrics(
        self,
        step: int,
        values: Mapping[str, SupportsFloat] | None = None,
        **more: SupportsFloat,
    ) -> None:
        """Keeps scalars that belong to one step: `log.metrics(10, {"loss": loss}, rate=1e-3)`.

        Reading a JAX scalar waits for the device, so a loop logs every so many steps.

        **Arguments:**

        - `step`: a count that grows, such as optimiser steps.
        - `values`, `more`: scalars by name; NaN and infinity are kept as such.

        **Raises:**

        - `TypeError` if a value is not one number, or `step` not an integer; `ValueError` for a
          name that the log itself uses (`step`, `scope`, `seconds`, `say`).
        """
        if isinstance(step, bool) or not hasattr(step, "__index__"):
            raise TypeError(f"step = {step!r}: expected an integer")
        row = {name: scalar(name, value) for name, value in {**(values or {}), **more}.items()}
        for name in ("step", "scope", "seconds", "say"):
            if name in row:
                raise ValueError(f"a metric cannot be called {name!r}: the log uses that name")
        for sink in self._sinks:
            sink.metrics(self._scope, int(step), row, self._seconds())

    def progress(self, total: int, description: str) -> ProgressBar:
        """A progress bar with rate and time left: `with log.progress(n, "training") as bar:`.

        Inside, `bar.update(completed, loss=loss)`.

        **Raises:**

        - `ValueError` if `total` is not a number of steps.
        """
        name = f"{self._scope}: {description}" if self._scope else description
        return ProgressBar(self._screen, total, name)

    def scope(self, name: str) -> "Logger":
        """A logger for one part of a run: files under `folder/name`, metrics tagged with `name`.

        **Raises:**

        - `ValueError` if `name` is not a plain folder name.
        """
        if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\"):
            raise ValueError(f"name = {name!r}: expected the name of one folder")
        inner = Logger(
            None if self.folder is None else self.folder / name,
            resume=self.resume,
            identity=self.identity,
            sinks=self._sinks,
        )
        inner._screen = self._screen
        inner._scope = f"{self._scope}/{name}" if self._scope else name
        inner._start = self._start
        return inner

    def path(self, name: str) -> Path:
        """The file `folder/name`, whose folder is made if need be.

        **Raises:**

        - `ValueError` for a silent logger, which has no folder.
        """
        if self.folder is None:
            raise ValueError(f"path({name!r}): this logger keeps no files; give it a folder")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Closes the sinks; the runner does this."""
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._start


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The metrics of a `log.jsonl` file, one dictionary a step, in the order of the steps.

    A run that was killed and resumed repeats the steps since its last checkpoint; the later entry
    of a (scope, step) replaces what the earlier one says. Non-finite numbers come back as floats.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # The line that a killed run did not finish.
        if "step" in row:
            numbers = {name: float(x) for name, x in row.items() if name not in ("step", "scope")}
            entry = rows.setdefault((row["scope"], row["step"]), {})
            entry.update(scope=row["scope"], step=row["step"], **numbers)
    return list(rows.values())


def jsonable(value: Any) -> Any:
    """The same value in types that JSON has; non-finite floats become `"nan"`, `"inf"`, `"-inf"`.

    NumPy and JAX scalars become numbers, arrays and tuples lists, anything unknown its text.
    """
    if isinstance(value, Mapping):
        return {str(name): jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)
