"""Admission: how many images the service holds, and how long one more would wait."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app.errors import ServiceError

# How much one more image changes the average: some thirty images and it has followed a change.
_WEIGHT = 0.1
# A single image tells little about throughput: below this many the time bound does not refuse.
_LEAST = 4


class Admission:
    """Places for images, bounded by number and by the time the last of them would wait; used by the event loop.

    An image weighs what it costs: an ordinary one about 1, a large one as many as it keeps waiting.
    Counted from the moment a body is complete, so that a slow upload takes nobody's place.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.held = 0
        self._weight = 0.0
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._cost = 0.0
        # When the image that the service now works on could have been begun.
        self._since = 0.0

    def wait(self, weight: float = 0) -> float:
        """The seconds until what is held, and so much more, would be answered."""
        return (self._weight + weight) * self._cost

    def check(self, images: int, weight: float | None = None) -> None:
        """Refuse when there is no place now, saying when there will be; images are ordinary unless weighed."""
        weight = images if weight is None else weight
        if self.held + images > self._size:
            self._refuse(f"The service holds {self.held} images and takes {self._size}")
        if self.held >= _LEAST and self.wait(weight) > self._seconds:
            self._refuse(f"An answer would take {self.wait(weight):.1f} seconds")

    @contextmanager
    def admit(self, weights: Sequence[float]) -> Iterator[None]:
        """Take places for images, or refuse."""
        images, weight = len(weights), sum(weights)
        self.check(images, weight)
        if not self.held:
            self._since = self._clock()
        self.held += images
        self._weight += weight
        try:
            yield
        finally:
            self.held -= images
            # Without what adding and taking fractions leaves over.
            self._weight = self._weight - weight if self.held else 0.0

    def answered(self, weight: float = 1.0) -> None:
        """Learn from an image that leaves with its answer: the time since the one before is what its weight costs."""
        now = self._clock()
        cost, self._since = (now - self._since) / weight, now
        self._cost = cost if not self._cost else self._cost + _WEIGHT * (cost - self._cost)

    def _refuse(self, why: str) -> None:
        # Half of what waits gone is enough room for a client that comes back.
        seconds = max(1, math.ceil(self.wait() / 2))
        detail = f"{why}, so the queue is full; send the request again in {seconds} s."
        raise ServiceError("queue_full", detail, retry_after=seconds)
