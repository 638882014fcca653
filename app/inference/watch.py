"""Threads that work on something for too long: a client that no longer waits does not free its thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watch:
    """Knows since when each thread works on its piece; `late` is told of a piece that took too long."""

    def __init__(self, seconds: float, late: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._late = late
        self._clock = clock
        self._since: dict[int, float] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Watch the calling thread while it works on one piece."""
        thread = threading.get_ident()
        self._since[thread] = self._clock()
        try:
            yield
        finally:
            if self._clock() - self._since.pop(thread) > self._seconds:
                self._late()

    @property
    def overdue(self) -> int:
        """How many threads work on their piece for too long now."""
        now = self._clock()
        return sum(now - since > self._seconds for since in list(self._since.values()))
