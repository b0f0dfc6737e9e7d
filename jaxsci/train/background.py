"""Work that goes on while training does: one piece at a time, in a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time behind the caller's back.

    What a piece raises is raised by the next `start`, by `wait` or by `close`.

    **Arguments:**

    - `name`: of the thread.
    """

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._future: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Starts a piece of work, once the one before it is finished."""
        self.wait()
        self._future = self._pool.submit(work)

    def wait(self) -> None:
        """Returns when there is nothing to do."""
        future = self._future
        if future is None:
            return
        try:
            future.result()
        finally:
            if future.done():  # Else Ctrl-C came while this waited.
                self._future = None

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
