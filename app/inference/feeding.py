"""Feeding a GPU: while it computes a batch, the next one is laid out, sent up and waits behind it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import ServiceError
from app.inference.batching import Batcher, Entry
from app.inference.watch import Watch
from app.process.metrics import Metrics

if TYPE_CHECKING:
    from app.engines.engine import Engine, Pixels, Ranking


@dataclass(eq=False)
class _Flight:
    """A batch that was given to the device, until its answers are there."""

    batch: Sequence[Entry]
    began: float
    answers: "Callable[[], list[Ranking]] | None" = None


class Feeder(Batcher):
    """Feeds the engine of a GPU from one thread, and takes its answers in another.

    A lone image leaves at once. A second batch goes behind the one that is computed only when it is full: until then it
    grows, and the device has enough to do.
    """

    def __init__(self, engine: "Engine", metrics: Metrics, on_device_lost: Callable[[str], None], watch: Watch) -> None:
        self._flights: deque[_Flight] = deque()
        self._launched: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()
        super().__init__(engine, metrics, on_device_lost, watch)
        threading.Thread(target=self._collect, name="answers", daemon=True).start()

    def since(self) -> float | None:
        """When the oldest batch without an answer was given to the device (`perf_counter`); None when there is none."""
        flights = list(self._flights)
        return flights[0].began if flights else None

    def abandon(self, error: ServiceError) -> None:
        """Answer whatever waits for a device that will not."""
        with self._changed:
            waiting, flights = list(self._waiting), list(self._flights)
            self._waiting.clear()
        self._metrics.queue_depth.dec(len(waiting))
        for batch in (*(flight.batch for flight in flights), waiting):
            self._answer(batch, error)

    def _work(self) -> None:
        while taken := self._take_for_device():
            batch: list[Entry] = []
            pixels: list[Pixels] = []
            self._decode(taken, batch, pixels)
            if batch:
                self._launch(batch, pixels)
        self._launched.put(None)

    def _take_for_device(self) -> list[Entry]:
        """The next batch once the device wants one, empty at the end."""
        with self._changed:
            while not self._wanted() and not (self._stopped and not self._waiting):
                self._changed.wait()
            number = min(self._engine.max_batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(number)]
        self._metrics.queue_depth.dec(len(batch))
        return batch

    def _wanted(self) -> bool:
        if not self._flights:
            return bool(self._waiting)
        return len(self._flights) < self._engine.in_flight and len(self._waiting) >= self._engine.max_batch

    def _launch(self, batch: Sequence[Entry], pixels: "Sequence[Pixels]") -> None:
        flight = _Flight(batch, time.perf_counter())
        self._flights.append(flight)
        try:
            flight.answers = self._engine.begin(pixels)
        except Exception as error:  # whatever a model raises, the thread must live on for the next batch
            self._landed(flight)
            self._failed(batch, error)
        else:
            self._launched.put(flight)

    def _collect(self) -> None:
        while flight := self._launched.get():
            if flight.answers is None:
                raise AssertionError(flight)
            try:
                with self._watch.working():
                    rankings = flight.answers()
            except Exception as error:  # the same
                self._landed(flight)
                self._failed(flight.batch, error)
            else:
                # The next batch leaves before these answers do.
                self._landed(flight)
                self._computed(flight.batch, rankings, time.perf_counter() - flight.began)

    def _landed(self, flight: _Flight) -> None:
        with self._changed:
            self._flights.remove(flight)
            self._changed.notify_all()
