"""The engine as a front end sees it: images go into slots, and another process answers to them."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.engines.agreement import Ranking
from app.errors import ServiceError
from app.fronts import channel as channels
from app.fronts.remote_engine import RemoteEngine
from app.inference.batching import Result, bare
from app.process import cpus
from app.process.metrics import Metrics

if TYPE_CHECKING:
    from app.images.decoder import DecodedImage

log = logging.getLogger(__name__)


class EngineError(Exception):
    """The model failed on a batch, in the engine's process, whose log has the reason."""


@dataclass(eq=False, slots=True)
class _Entry:
    source: "DecodedImage | Callable[[], DecodedImage]"
    future: "asyncio.Future[Result]"
    slot: int
    image: "DecodedImage | None" = None
    posted: float = 0.0


class Remote:
    """Decodes images into slots on threads of its own; `submit` belongs to the event loop.

    A slot is an image's from before it is decoded until nobody works on it any more, whoever still waits: so there are
    never more decoded images than slots.
    """

    def __init__(
        self,
        engine: RemoteEngine,
        metrics: Metrics,
        on_device_lost: Callable[[str], None],
        threads: int,
    ) -> None:
        self._channel = engine.channel
        self._slots = engine.slots
        self._metrics = metrics
        self._on_device_lost = on_device_lost
        self._loop = asyncio.get_running_loop()
        # The last one used is taken first: what is never needed takes no memory.
        self._free = list(range(self._slots.layout.slots))
        self._turns: deque[asyncio.Future[int]] = deque()
        self._entries: dict[int, _Entry] = {}
        self._jobs: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._threads = threads
        self._decoded: deque[int] = deque()
        self._posting = threading.Lock()
        self._stopped = self._lost = False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"decode-{number}", daemon=True).start()
        self._loop.add_reader(self._channel.fileno(), self._read)

    async def submit(self, source: "DecodedImage | Callable[[], DecodedImage]") -> Result:
        """Wait for the result of an image, or of what decodes it; a cancelled caller's is left out."""
        slot = await self._take_slot()
        entry = _Entry(source, self._loop.create_future(), slot)
        self._entries[slot] = entry
        self._metrics.queue_depth.inc()
        self._jobs.put(entry)
        try:
            return await entry.future
        finally:
            # Whether it is decoded now or waits for the device: nobody needs to compute it.
            if entry.future.cancelled() and slot in self._entries:
                self._slots.left[slot] = 1
            # An error knows this frame, and the entry the error.
            del entry

    def stop(self) -> None:
        """Refuse new images and end the threads once nothing waits."""
        self._stopped = True
        for _ in range(self._threads):
            self._jobs.put(None)
        self._close_if_done()

    async def _take_slot(self) -> int:
        if self._lost:
            raise _device_lost()
        if self._stopped:
            raise ServiceError("stopping", "The service is stopping; send the request again.")
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[int] = self._loop.create_future()
        self._turns.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self._give_slot(turn.result())
            raise

    def _give_slot(self, slot: int) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(slot)
                return
        self._free.append(slot)

    def _work(self) -> None:
        cpus.keep_to_one()
        while entry := self._jobs.get():
            self._decode(entry)
            # A thread without work would keep its last image.
            del entry

    def _decode(self, entry: _Entry) -> None:
        if entry.future.done():  # its client left meanwhile
            self._soon(entry, None)
            return
        try:
            entry.image = entry.source() if callable(entry.source) else entry.source
            np.copyto(self._slots.pixels[entry.slot], entry.image.pixels, casting="no")
        except ServiceError as error:
            self._soon(entry, bare(error))
        except Exception as error:  # a defect: in any case the error of this image alone
            log.exception("An image cannot be decoded")
            self._soon(entry, bare(error))
        else:
            entry.posted = time.perf_counter()
            self._post(entry.slot)

    def _post(self, slot: int) -> None:
        """Tell the engine's process of a slot; what other threads have meanwhile goes along."""
        self._decoded.append(slot)
        while self._decoded and self._posting.acquire(blocking=False):
            try:
                ready = [self._decoded.popleft() for _ in range(len(self._decoded))]
                if ready:
                    channels.post(self._channel, ready)
            except OSError:
                # The event loop learns of it from the same channel.
                log.debug("The engine's process takes no images any more")
            finally:
                self._posting.release()

    def _soon(self, entry: _Entry, error: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, entry, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("An image was decoded after the event loop")

    def _read(self) -> None:
        said = channels.told(self._channel)
        if isinstance(said, channels.Lost):
            self._lose(said.detail)
        elif said:
            self._answer(said)

    def _answer(self, batch: channels.Batch) -> None:
        if batch.images:
            self._metrics.batch_size.observe(batch.images)
            self._metrics.batch_duration.observe(batch.seconds)
        for slot in batch.slots:
            entry = self._entries[slot]
            if batch.began:
                self._metrics.queue_wait.observe(max(0.0, batch.began - entry.posted))
            if batch.error:
                self._settle(entry, EngineError(batch.error))
            else:
                if entry.image and not entry.future.done():
                    ranking = Ranking(self._slots.class_ids[slot].tolist(), self._slots.probabilities[slot].tolist())
                    entry.future.set_result(Result(entry.image, ranking, batch.seconds))
                self._settle(entry, None)

    def _settle(self, entry: _Entry, error: Exception | None) -> None:
        """Give an image's slot back, which nobody works on any more."""
        if error and not entry.future.done():
            entry.future.set_exception(error)
        if self._entries.pop(entry.slot, None):
            self._metrics.queue_depth.dec()
            self._slots.left[entry.slot] = 0
            self._give_slot(entry.slot)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._stopped and not self._entries and not self._turns:
            self._close()

    def _close(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()

    def _lose(self, detail: str) -> None:
        self._lost = True
        self._close()
        self._on_device_lost(detail)
        waiting: list[asyncio.Future[Any]] = [*self._turns, *(entry.future for entry in self._entries.values())]
        for future in waiting:
            if not future.done():
                future.set_exception(_device_lost())


def _device_lost() -> ServiceError:
    return ServiceError("device_lost", "The device stopped working; the service restarts.")
