"""Being stopped from outside: SIGTERM as an exception, and moments that no signal may cut short."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from jaxsci.experiment.processes import process_count


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM), as batch systems do before they kill it.

    A `SystemExit` with status 143 = 128 + 15, the status of a program that SIGTERM ends: where
    nobody catches it, a script saves what it saves on the way out and ends with that status.
    """

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "SIGTERM"


class _Handler:
    """Raises `Terminated` once; batch systems like to send the signal several times."""

    def __init__(self) -> None:
        self._received = False

    def __call__(self, signum: int, frame: object) -> None:
        if not self._received:
            self._received = True
            raise Terminated

    def check(self) -> None:
        # An exception that a signal raises inside a destructor is swallowed by Python.
        if self._received:
            raise Terminated


@contextlib.contextmanager
def terminable() -> Iterator[Callable[[], None]]:
    """While it is open, SIGTERM raises `Terminated`: `with terminable() as check:`.

    Only in the main thread, and only if nobody else has taken the signal; else it does nothing. In
    a job of several processes JAX takes it, so that all of them stop at the same step.

    **Returns:** (as the context's value) `check`, which raises `Terminated` again if the signal
    has come and the exception was lost; a loop calls it between two pieces of work.
    """
    if threading.current_thread() is not threading.main_thread() or process_count() > 1:
        yield lambda: None
        return
    found = signal.getsignal(signal.SIGTERM)
    if isinstance(found, _Handler):
        yield found.check
    elif found is not signal.SIG_DFL:
        yield lambda: None
    else:
        handler = _Handler()
        signal.signal(signal.SIGTERM, handler)
        try:
            yield handler.check
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def interruptible_together() -> Iterator[Callable[[], bool]]:
    """In a job of several processes, Ctrl-C in one of them stops all at the same step.

    While it is open, SIGINT does what SIGTERM does, on which JAX makes the processes agree; a
    second one interrupts this process at once. In a process that is alone it does nothing.

    **Returns:** (as the context's value) a function that says whether SIGINT has come here. Where
    it has, and the block ends before the processes have stopped, `KeyboardInterrupt` is raised.
    """
    alone = process_count() == 1 or threading.current_thread() is not threading.main_thread()
    if alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    came: list[int] = []

    def handler(signum: int, frame: object) -> None:
        came.append(signum)
        if len(came) > 1:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays SIGINT and SIGTERM to the end of the block, for what must happen whole or not at all.

    Between the moment a compiled program has taken an array's memory and the moment its result has
    a name, there is no state to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = [signal.SIGINT]
    if process_count() == 1:  # Else SIGTERM belongs to JAX, whose handler Python cannot put back.
        numbers.append(signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda signum, frame: came.append(signum))
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
