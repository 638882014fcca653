"""Measuring short work at start, to choose between ways of doing it."""

import time
from collections.abc import Callable

# Work that takes this long is not run again: its first run shows enough of it.
_ENOUGH_SECONDS = 0.05
_ROUNDS = 6


def shortest(work: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """The shortest of some runs, in seconds of the clock.

    The calling thread's own CPU time, as here by default, does not grow with what else the machine does; the shortest
    run is the one that others, and what a first run prepares, disturbed least.
    """
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < _ENOUGH_SECONDS:
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)
