"""Progress bars: rate and time left, drawn by the clock, silent where there is no terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from jaxsci.experiment import Logger
from jaxsci.experiment.progress import rate_text


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("jaxsci.experiment.progress.time.monotonic", lambda: self.now)


class Reading:
    """A number that counts how often it is read, as a JAX array on the device would be."""

    def __init__(self):
        self.count = 0

    def __float__(self):
        self.count += 1
        return 0.25


def terminal(width=200):
    return Console(file=io.StringIO(), force_terminal=True, width=width)


def written(console):
    return console.file.getvalue()


def test_bar_shows_progress_rate_time_left_and_values(tmp_path):
    console = terminal()
    with Logger(tmp_path, console=console).progress(4, "training") as bar:
        for step in range(1, 5):
            time.sleep(0.25)  # Longer than the bar's own rhythm.
            bar.update(step, loss=0.5**step, note="best")
    text = written(console)
    assert "training" in text and "4/4" in text and "loss 0.0625  note best" in text
    # Four a second, or slower on a busy machine; and an estimate of what is left.
    assert re.search(r"[1-4]\.\d/s", text) and "left" in text and "-:--:--" in text


def test_values_are_read_only_when_the_bar_is_drawn(tmp_path, monkeypatch):
    clock, value = Clock(monkeypatch), Reading()
    with Logger(tmp_path, console=terminal()).progress(1000, "x") as bar:
        for step in range(100):
            clock.now += 0.01
            bar.update(step, loss=value)
    # One second at five a second; the last is not due.
    assert 4 <= value.count <= 5


def test_nothing_is_drawn_without_a_terminal_but_a_line_a_minute(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=200)
    with Logger(tmp_path, console=console).progress(1000, "training") as bar:
        for step in range(100, 110):
            clock.now += 10.0
            bar.update(step + 1, loss=0.5)
    # Resumed at 101 and seen at 106 after 60 s: five steps a minute.
    assert written(console) == "training: 106/1000, 12.0 s each, 10728 s left loss 0.5\n"


def test_quiet_draws_nothing(tmp_path):
    console = terminal()
    with Logger(tmp_path, console=console, quiet=True).progress(2, "x") as bar:
        bar.update(2)
    assert written(console) == ""


def test_bars_nest_and_text_goes_between(tmp_path):
    console = terminal()
    log = Logger(tmp_path, console=console)
    with log.progress(2, "outer") as outer:
        with log.scope("fno").progress(2, "inner") as inner:
            inner.update(2)
            log.say("a line of text")
        outer.update(2)
    text = written(console)
    assert "outer" in text and "fno: inner" in text and "a line of text" in text
    with log.progress(1, "again") as bar:
        bar.update(1)
    assert "again" in written(console)


def test_an_exception_closes_the_display(tmp_path):
    console = terminal()
    log = Logger(tmp_path, console=console)
    with pytest.raises(KeyError), log.progress(2, "x"):
        raise KeyError
    with log.progress(2, "y") as bar:
        bar.update(2)
    assert "y" in written(console)


@pytest.mark.parametrize("total", [-1, 1.5, "3", True])
def test_bad_total(total):
    with pytest.raises(ValueError, match=r"total = .*: expected a number of steps"):
        Logger.silent().progress(total, "x")


def test_update_costs_little(tmp_path):
    # 5 ms is a short training step, 3 % of it 150 us; an update that is not due takes about 1 us
    # on a free core, so that 50 us leaves room for a busy machine.
    with Logger(tmp_path, console=terminal()).progress(10**6, "x") as bar:
        start = time.perf_counter()
        for step in range(2000):
            bar.update(step, loss=0.5)
        assert (time.perf_counter() - start) / 2000 < 50e-6


@pytest.mark.parametrize(
    ("rate", "text"), [(250.0, "250/s"), (12.34, "12.3/s"), (0.25, "4.0 s each"), (0.0, "0.0/s")]
)
def test_rate_text(rate, text):
    assert rate_text(rate) == text
