"""SIGTERM as an exception, and blocks that no signal cuts short."""

import signal
import subprocess
import sys
import threading

import pytest

from jaxsci.experiment import (
    Logger,
    Terminated,
    interruptible_together,
    terminable,
    uninterrupted,
)


def test_sigterm_raises_once_and_can_be_asked_for_again():
    with terminable() as check:
        check()
        with pytest.raises(Terminated) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.code == 143
        signal.raise_signal(signal.SIGTERM)  # The second one does not disturb the saving.
        with terminable() as inner, pytest.raises(Terminated):
            inner()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_users_own_stays():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        with terminable() as check:
            signal.raise_signal(signal.SIGTERM)
            check()
        assert came == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_waits_for_the_end_of_the_block(number, error):
    done = []
    with terminable(), pytest.raises(error):
        with uninterrupted():
            signal.raise_signal(number)
            done.append(1)
        done.append(2)
    assert done == [1]


def test_other_threads_are_left_alone():
    failures = []

    def work():
        try:
            with terminable() as check, uninterrupted():
                check()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_a_plain_script_ends_with_143():
    code = (
        "import signal\nfrom jaxsci.experiment import terminable\n"
        "with terminable():\n    try:\n        signal.raise_signal(signal.SIGTERM)\n"
        "    finally:\n        print('saved')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "saved\n", "")


def test_a_scope_keeps_the_runs_identity():
    log = Logger(None, identity={"slug": "x"}, quiet=True)
    assert log.scope("a").scope("b").identity == {"slug": "x"}
    assert Logger.silent().identity == {}


def test_ctrl_c_in_one_of_several_processes_is_passed_on(monkeypatch):
    """Once as SIGTERM, on which the processes agree; and it is not lost if they never do."""
    monkeypatch.setattr("jaxsci.experiment.signals.process_count", lambda: 2)
    came = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: came.append(signum))
    try:
        with pytest.raises(KeyboardInterrupt), interruptible_together() as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGINT)
            assert interrupted() and came == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        steps = []
        with pytest.raises(KeyboardInterrupt), interruptible_together():
            signal.raise_signal(signal.SIGINT)
            steps.append(1)
            signal.raise_signal(signal.SIGINT)  # The second is meant at once.
            steps.append(2)
        assert steps == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_in_a_process_that_is_alone_stays_what_it_is():
    with pytest.raises(KeyboardInterrupt), interruptible_together() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
