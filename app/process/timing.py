"""Measuring: short work at start, to choose between ways of doing it, and the steps of a start."""

import time
from collections.abc import Callable

# Work that takes this long is not run again: its first run shows enough of it.
_ENOUGH_SECONDS = 0.05
_ROUNDS = 6


def shortest(work: Callable[[], object]) -> float:
    """The seconds of the shortest of some runs: others, and what a first run prepares, disturbed it least."""
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < _ENOUGH_SECONDS:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


class Phases:
    """Takes the time of one step after the other."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._started = time.perf_counter()

    def ended(self, name: str) -> None:
        """Add the seconds since the step before."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._started
        self._started = now

    def rounded(self) -> dict[str, float]:
        """The seconds of each step, to the millisecond."""
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
