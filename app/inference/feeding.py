"""Feeding a GPU: while it computes a batch, the next one is laid out, sent up and waits behind it."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.errors import ServiceError
from app.inference.batching import Batcher, Entry
from app.inference.flights import Flights
from app.inference.watch import Watch
from app.process.metrics import Metrics

if TYPE_CHECKING:
    from app.engines.agreement import Ranking
    from app.engines.engine import Engine
    from app.inference.batching import Batch


class Feeder(Batcher):
    """Feeds the engine of a GPU from one thread; a lone image leaves at once."""

    def __init__(self, engine: "Engine", metrics: Metrics, on_device_lost: Callable[[str], None], watch: Watch) -> None:
        self._flights: Flights[Batch] = Flights(engine, self._device_is_free, self._landed, watch.working)
        super().__init__(engine, metrics, on_device_lost, watch)

    def since(self) -> float | None:
        """When the oldest batch without an answer was given to the device (`perf_counter`); None when there is none."""
        return self._flights.since()

    def abandon(self, error: ServiceError) -> None:
        """Answer whatever waits for a device that will not."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        self._metrics.queue_depth.dec(len(waiting))
        flying = [entry for batch in self._flights.batches() for entry, _ in batch]
        self._answer([*flying, *waiting], error)

    def _work(self) -> None:
        while taken := self._take_for_device():
            if batch := self._decode(taken):
                self._flights.begin(batch, [image.pixels for _, image in batch])
        self._flights.end()

    def _take_for_device(self) -> list[Entry]:
        """The next batch once the device wants one, empty at the end."""
        with self._changed:
            while not self._flights.wanted(len(self._waiting)) and not (self._stopped and not self._waiting):
                self._changed.wait()
            number = min(self._engine.max_batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(number)]
        self._metrics.queue_depth.dec(len(batch))
        return batch

    def _device_is_free(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _landed(self, batch: "Batch", outcome: "Sequence[Ranking] | Exception", began: float) -> None:
        if isinstance(outcome, Exception):
            self._failed(batch, outcome)
        else:
            self._computed(batch, outcome, time.perf_counter() - began)
