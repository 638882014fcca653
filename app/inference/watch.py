"""Threads that work on something for too long: a client that no longer waits does not free its thread."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager


class Watch(AbstractContextManager[None]):
    """Knows since when each thread works on its piece; `late` is told of a piece that took too long."""

    def __init__(self, seconds: float, late: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._late = late
        self._clock = clock
        self._since: dict[int, float] = {}

    def working(self) -> AbstractContextManager[None]:
        """Watch the calling thread while it works on one piece."""
        return self

    def __enter__(self) -> None:
        self._since[threading.get_ident()] = self._clock()

    def __exit__(self, *_: object) -> None:
        if self._clock() - self._since.pop(threading.get_ident()) > self._seconds:
            self._late()

    @property
    def overdue(self) -> int:
        """How many threads work on their piece for too long now."""
        now = self._clock()
        return sum(now - since > self._seconds for since in list(self._since.values()))
