"""Admission: how many images the service holds, and how long one more would wait."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app.errors import ServiceError
from app.inference.part import Part

# How much one more image changes the average: some thirty images and it has followed a change.
_WEIGHT = 0.1
# A single image tells little about throughput: below this many the time bound does not refuse.
_LEAST = 4
# What takes longer to decode, in seconds of one core, tells nothing about what an ordinary image costs.
_LIGHT = 0.05
# And what takes so long waits for its turn among its like (`room.py`): one core is left to the others.
LARGE = 0.5
# One address leaves so much of either bound to others, as long as there are any: seconds since one of them asked.
_SHARE = 0.5
_OTHERS_SECONDS = 60


class Admission:
    """Places for images, bounded by number and by the time the last of them would wait; used by the event loop.

    What decoding takes is estimated for each image, in seconds of one core; what an image takes beside that, model and
    all, is learned from those that leave with their answer.
    Counted from the moment a body is complete, so that a slow upload takes nobody's place. An address that holds most
    of the service keeps to half of it while others ask, so that nobody waits in front of a queue that one client fills.
    """

    def __init__(
        self,
        size: int,
        seconds: float,
        cores: int,
        part: Part | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Here; what `part` counts is in the whole service.
        self.held = 0
        self._part = part or Part()
        self._ordinary = 0
        self._work = self._large_work = 0.0
        self._size = size
        self._seconds = seconds
        self._cores = cores
        self._clock = clock
        self._cost = 0.0
        # When the image that the service now works on could have been begun.
        self._since = 0.0

    def wait(self, works: Sequence[float] = ()) -> float:
        """The seconds until what is held, and images that take so long to decode each, would be answered."""
        ordinary, large = _apart(works)
        seconds = (self._ordinary + len(ordinary)) * self._cost + (self._work + sum(ordinary)) / self._cores
        if large or self._cores == 1:
            seconds += (self._large_work + sum(large)) / max(1, self._cores - 1)
        return seconds

    def check(self, works: Sequence[float] = (0,), client: str = "") -> None:
        """Refuse when there is no place now for a client's images, decoded so long each, saying when there will be."""
        now, part = self._clock(), self._part
        part.notice(client, now + _OTHERS_SECONDS)
        images, held, mine = len(works), part.images, part.held_by(client)
        # Whether the address holds most of the service while others want of it, too.
        crowding = mine > 0 and 2 * (mine + images) > held + images and now < part.shared_until
        share = _SHARE if crowding else 1
        seconds = self.wait(works)
        if held + images > self._size * share:
            why = f"The service holds {held} images and takes {self._size}"
        elif self.held >= _LEAST and seconds > self._seconds * share:
            why = f"An answer would take {seconds:.1f} seconds"
        else:
            return
        # Half of what waits gone is enough room for a client that comes back.
        again = max(1, math.ceil(seconds / 2))
        if crowding:
            why += f", and {mine} of {held} images are of your address"
            raise ServiceError("too_many_requests", f"{why}; send fewer at once, this one again in {again} s.", again)
        raise ServiceError("queue_full", f"{why}, so the queue is full; send the request again in {again} s.", again)

    @contextmanager
    def admit(self, works: Sequence[float], client: str = "") -> Iterator[None]:
        """Take places for a client's images that take so long to decode each, or refuse."""
        with self._part.deciding():
            self.check(works, client)
            self._part.hold(client, len(works))
        images, (ordinary, large) = len(works), _apart(works)
        work, large_work = sum(ordinary), sum(large)
        if not self.held:
            self._since = self._clock()
        self.held += images
        self._ordinary += len(ordinary)
        self._work += work
        self._large_work += large_work
        try:
            yield
        finally:
            self.held -= images
            self._part.hold(client, -images)
            self._ordinary -= len(ordinary)
            # Without what adding and taking fractions leaves over.
            self._work = self._work - work if self.held else 0.0
            self._large_work = self._large_work - large_work if self.held else 0.0

    def answered(self, work: float = 0) -> None:
        """Learn from an image that leaves with its answer: the time since the one before, without its decoding."""
        now = self._clock()
        cost, self._since = max(0.0, now - self._since - work / self._cores), now
        if work <= _LIGHT:
            self._cost = cost if not self._cost else self._cost + _WEIGHT * (cost - self._cost)


def _apart(works: Sequence[float]) -> tuple[list[float], list[float]]:
    """Ordinary images, and large ones."""
    return [work for work in works if work <= LARGE], [work for work in works if work > LARGE]
