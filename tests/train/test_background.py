"""One piece of work at a time, and no error that is lost."""

import threading

import pytest

from jaxsci.train.background import Background


def fail():
    raise OSError("disk")


def test_one_at_a_time_and_in_order():
    done, release = [], threading.Event()
    background = Background("test")
    background.start(lambda: (release.wait(10), done.append(1))[-1])
    assert done == []  # It goes on behind the caller's back.
    release.set()
    background.start(lambda: done.append(2))
    assert done[0] == 1
    background.close()
    assert done == [1, 2]


@pytest.mark.parametrize("ask", ["wait", "close", "start"])
def test_errors_are_raised_once_by_whoever_asks_next(ask):
    background = Background("test")
    background.start(fail)
    with pytest.raises(OSError, match="disk"):
        background.start(fail) if ask == "start" else getattr(background, ask)()
    background.close()
