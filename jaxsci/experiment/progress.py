"""Progress in the terminal: bars with a rate and an estimate of the time that is left."""

import time
from types import TracebackType
from typing import Self, SupportsFloat

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

REFRESH_SECONDS = 0.2
"""A bar is drawn at most this often, whatever the rate of its updates."""

LINE_SECONDS = 60.0
"""Where there is no terminal to draw a bar in, a line of text appears this often instead."""


class _RateColumn(ProgressColumn):
    """Steps per second, as the bar's recent updates show it."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate_text(speed), style="progress.data.speed")


class Screen:
    """What all bars of a run share: the console and one live display, there while a bar is open.

    **Arguments:**

    - `console`: where to draw.
    - `quiet`: draw and print nothing.
    """

    def __init__(self, console: Console, quiet: bool):
        self.console = console
        self.quiet = quiet
        self._progress: Progress | None = None
        self._open = 0

    def say(self, text: str) -> None:
        """Prints a line of text above the bars."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def add(self, description: str, total: int) -> tuple[Progress, TaskID] | None:
        """Opens a bar; `None` where nothing can be drawn."""
        if self.quiet or not self.console.is_terminal:
            return None
        if self._progress is None:
            # No refreshing thread: the bars are drawn from `update`, at most every
            # REFRESH_SECONDS, so that a training loop pays for a clock reading and no more.
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}"),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            self._progress.start()
        self._open += 1
        task = self._progress.add_task(description, total=total, shown="")
        self._progress.refresh()
        return self._progress, task

    def remove(self, progress: Progress, task: TaskID) -> None:
        """Closes a bar, and the display with the last of them."""
        progress.remove_task(task)
        self._open -= 1
        if self._open == 0:
            progress.stop()
            self._progress = None


class ProgressBar:
    """A bar for a loop of known length; a context manager that `Logger.progress` makes.

        with log.progress(1000, "training") as bar:
            for step in range(1000):
                ...
                bar.update(step + 1, loss=loss)

    `update` costs a clock reading unless the bar is due to be drawn. Only then are the shown
    numbers read, so passing a JAX array does not make the host wait for the device at every step.
    """

    def __init__(self, screen: Screen, total: int, description: str):
        if isinstance(total, bool) or not isinstance(total, int) or total < 0:
            raise ValueError(f"total = {total!r}: expected a number of steps, 0 or more")
        self._screen = screen
        self._total = total
        self._description = description
        self._bar: tuple[Progress, TaskID] | None = None
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Self:
        self._bar = self._screen.add(self._description, self._total)
        self._start = self._last = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._screen.remove(*self._bar)
            self._bar = None

    def update(self, completed: int, **shown: SupportsFloat | str) -> None:
        """Sets the bar to `completed` steps and shows a few numbers or words beside it."""
        if self._first is None:
            # A resumed loop starts in the middle: its rate counts from there.
            self._first = completed
        now = time.monotonic()
        due = REFRESH_SECONDS if self._bar is not None else LINE_SECONDS
        if now - self._last < due and completed < self._total:
            return
        if self._bar is not None:
            self._last = now
            progress, task = self._bar
            progress.update(task, completed=completed, shown=_shown_text(shown))
            progress.refresh()
        elif now - self._last >= due:
            self._last = now
            self._screen.say(self._line(completed, now - self._start, shown))

    def _line(self, completed: int, seconds: float, shown: dict[str, SupportsFloat | str]) -> str:
        rate = (completed - (self._first or 0)) / seconds
        left = f", {(self._total - completed) / rate:.0f} s left" if rate > 0 else ""
        return (
            f"{self._description}: {completed}/{self._total}, {rate_text(rate)}{left} "
            f"{_shown_text(shown)}".rstrip()
        )


def rate_text(per_second: float) -> str:
    """A rate as a reader wants it: `12.3/s`, or `4.0 s each` where it is slow."""
    if per_second >= 1 or per_second <= 0:
        return f"{per_second:.1f}/s" if per_second < 100 else f"{per_second:.0f}/s"
    return f"{1 / per_second:.1f} s each"


def _shown_text(shown: dict[str, SupportsFloat | str]) -> str:
    parts = []
    for name, value in shown.items():
        text = value if isinstance(value, str) else f"{float(value):.4g}"
        parts.append(f"{name} {text}")
    return "  ".join(parts)
