"""Flights: the batches that a device has been given, until their answers are there."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.engines.agreement import Ranking
    from app.engines.engine import Engine, Pixels


@dataclass(eq=False)
class _Flight[Batch]:
    batch: Batch
    began: float
    answers: "Callable[[], list[Ranking]] | None" = None


class Flights[Batch]:
    """Begins batches in the calling thread, and takes their answers in another.

    A second batch goes behind the one that is computed only when it is full: until then it grows, and the device has
    enough to do. `free` is told that the device wants more before `landed` gets the answers, or what the batch failed
    with, and when it was begun.
    """

    def __init__(
        self,
        engine: "Engine",
        free: Callable[[], None],
        landed: "Callable[[Batch, Sequence[Ranking] | Exception, float], None]",
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._engine = engine
        self._free = free
        self._landed = landed
        self._working = working
        self._flights: deque[_Flight[Batch]] = deque()
        self._begun: queue.SimpleQueue[_Flight[Batch] | None] = queue.SimpleQueue()
        threading.Thread(target=self._collect, name="answers", daemon=True).start()

    def since(self) -> float | None:
        """When the oldest batch without an answer was given to the device (`perf_counter`); None when there is none."""
        flights = list(self._flights)
        return flights[0].began if flights else None

    def batches(self) -> list[Batch]:
        """The batches without an answer."""
        return [flight.batch for flight in list(self._flights)]

    def wanted(self, waiting: int) -> bool:
        """Whether the device wants a batch, when so many images wait."""
        if not self._flights:
            return waiting > 0
        return len(self._flights) < self._engine.in_flight and waiting >= self._engine.max_batch

    def begin(self, batch: Batch, pixels: "Sequence[Pixels]") -> None:
        """Give a batch to the device."""
        flight = _Flight(batch, time.perf_counter())
        self._flights.append(flight)
        try:
            flight.answers = self._engine.begin(pixels)
        except Exception as error:  # whatever a model raises, the thread must live on for the next batch
            self._land(flight, error)
        else:
            self._begun.put(flight)

    def end(self) -> None:
        """End the thread once every batch has its answers."""
        self._begun.put(None)

    def _collect(self) -> None:
        while flight := self._begun.get():
            if flight.answers is None:
                raise AssertionError(flight)
            try:
                with self._working():
                    outcome: Sequence[Ranking] | Exception = flight.answers()
            except Exception as error:  # the same
                outcome = error
            self._land(flight, outcome)
            # A thread without work would keep its last batch.
            del flight, outcome

    def _land(self, flight: _Flight[Batch], outcome: "Sequence[Ranking] | Exception") -> None:
        # The next batch leaves before these answers do.
        self._flights.remove(flight)
        self._free()
        self._landed(flight.batch, outcome, flight.began)
