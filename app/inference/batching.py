"""Batching: images wait in one queue, and a batch leaves as soon as the model is free."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from app.errors import DeviceLostError, ServiceError
from app.inference.watch import Watch
from app.process import cpus
from app.process.metrics import Metrics

if TYPE_CHECKING:
    from app.engines.agreement import Ranking
    from app.engines.engine import Engine
    from app.images.decoder import DecodedImage

    # Images of one forward, each with who waits for it.
    type Batch = Sequence[tuple["Entry", DecodedImage]]

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """An image as it was decoded, its ranking, and the seconds its batch took."""

    image: "DecodedImage"
    ranking: "Ranking"
    seconds: float


class Entry(NamedTuple):
    """An image that waits: itself or what decodes it, who waits for it, and since when."""

    source: "DecodedImage | Callable[[], DecodedImage]"
    future: "asyncio.Future[Result]"
    arrived: float


def bare(error: Exception) -> Exception:
    """The error without the frames that it came through.

    They hold the image and the entry, which holds the error: a circle that would live until the garbage collector comes
    by, and every upload that is refused with it.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Batcher:
    """Feeds the engine from its threads; `submit` belongs to the event loop.

    There is no waiting window: a lone image leaves at once, and images that arrive during a forward share the next.
    On a CPU every core has a thread of its own, and those that are free share what waits. Such a thread can decode its
    images itself: with as many threads as cores, another one for it would only be one more to switch to.
    """

    def __init__(
        self,
        engine: "Engine",
        metrics: Metrics,
        on_device_lost: Callable[[str], None],
        watch: Watch,
        workers: int = 1,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._on_device_lost = on_device_lost
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._workers = workers
        self._idle = 0
        for number in range(workers):
            threading.Thread(target=self._work, name=f"model-{number}", daemon=True).start()

    async def submit(self, source: "DecodedImage | Callable[[], DecodedImage]") -> Result:
        """Wait for the turn and the result of an image, or of what decodes it on the thread of the model.

        A cancelled caller leaves the queue.
        """
        entry = Entry(source, self._loop.create_future(), time.perf_counter())
        with self._changed:
            if self._stopped:
                raise ServiceError("stopping", "The service is stopping; send the request again.")
            self._metrics.queue_depth.inc()
            self._waiting.append(entry)
            self._changed.notify()
        try:
            return await entry.future
        finally:
            if entry.future.cancelled():
                self._leave(entry)
            # An error knows this frame, and the entry the error.
            del entry

    def stop(self) -> None:
        """Refuse new images and end the threads once nothing waits."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _leave(self, entry: Entry) -> None:
        with self._changed:
            for index, waiting in enumerate(self._waiting):
                if waiting is entry:
                    del self._waiting[index]
                    self._metrics.queue_depth.dec()
                    break

    def _take(self) -> tuple[list[Entry], bool]:
        """The next batch, empty at the end, and whether no other thread has anything to do meanwhile."""
        with self._changed:
            self._idle += 1
            while not self._waiting and not self._stopped:
                self._changed.wait()
            # What waits is shared by the threads that are free: none idles while another has a full batch.
            share = -(-len(self._waiting) // self._idle)
            self._idle -= 1
            batch = [self._waiting.popleft() for _ in range(min(share, self._engine.max_batch))]
            alone = not self._waiting and self._idle == self._workers - 1
        self._metrics.queue_depth.dec(len(batch))
        return batch, alone

    def _take_more(self, room: int) -> list[Entry]:
        """What came while this thread decoded, unless another one is free for it."""
        with self._changed:
            number = 0 if self._idle else min(room, len(self._waiting))
            more = [self._waiting.popleft() for _ in range(number)]
        self._metrics.queue_depth.dec(len(more))
        return more

    def _work(self) -> None:
        cpus.keep_to_one()
        while True:
            taken, alone = self._take()
            if not taken:
                return
            batch: list[tuple[Entry, DecodedImage]] = []
            # Images that come while others are decoded share their forward: a larger batch without a pause.
            while taken:
                batch += self._decode(taken)
                taken = self._take_more(self._engine.max_batch - len(batch))
                alone = alone and not taken
            if batch:
                self._compute(batch, alone=alone)

    def _decode(self, taken: Sequence[Entry]) -> "Batch":
        """Entries with their images; those that cannot be decoded are answered and left out."""
        batch: list[tuple[Entry, DecodedImage]] = []
        for entry in taken:
            if entry.future.done():  # its client left meanwhile
                continue
            self._metrics.queue_wait.observe(time.perf_counter() - entry.arrived)
            try:
                image = entry.source() if callable(entry.source) else entry.source
            except ServiceError as error:
                self._answer([entry], bare(error))
            except Exception as error:  # a defect: in any case the error of this image alone
                log.exception("An image cannot be decoded")
                self._answer([entry], bare(error))
            else:
                batch.append((entry, image))
        return batch

    def _compute(self, batch: "Batch", *, alone: bool) -> None:
        started = time.perf_counter()
        try:
            with self._watch.working():
                rankings = self._engine.predict([image.pixels for _, image in batch], alone=alone)
        except Exception as error:  # whatever a model raises, the thread must live on for the next batch
            self._failed(batch, error)
        else:
            self._computed(batch, rankings, time.perf_counter() - started)

    def _failed(self, batch: "Batch", error: Exception) -> None:
        entries = [entry for entry, _ in batch]
        if isinstance(error, DeviceLostError):
            self._on_device_lost(str(error))
            self._answer(entries, ServiceError("device_lost", "The device stopped working; the service restarts."))
        else:
            log.error("The model failed on a batch of %d", len(batch), exc_info=error)
            self._answer(entries, bare(error))

    def _computed(self, batch: "Batch", rankings: "Sequence[Ranking]", seconds: float) -> None:
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_duration.observe(seconds)
        results = [Result(image, ranking, seconds) for (_, image), ranking in zip(batch, rankings, strict=True)]
        self._answer([entry for entry, _ in batch], results)

    def _answer(self, entries: Sequence[Entry], outcome: Sequence[Result] | Exception) -> None:
        def deliver() -> None:
            for index, entry in enumerate(entries):
                if entry.future.done():
                    continue
                if isinstance(outcome, Exception):
                    entry.future.set_exception(outcome)
                else:
                    entry.future.set_result(outcome[index])

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("A batch ended after the event loop")
