"""The process that has the device: takes what waits in all front ends in turn, and answers each by its slots."""

import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.errors import DeviceLostError
from app.fronts import channel as channels
from app.fronts import slots as memories
from app.fronts.slots import Layout, Slots
from app.inference.flights import Flights
from app.process.lifecycle import EXIT_DEVICE, EXIT_OK

if TYPE_CHECKING:
    from app.engines.agreement import Ranking
    from app.engines.engine import Engine

log = logging.getLogger(__name__)

# How often the device is looked after.
_GUARD_SECONDS = 1.0


@dataclass(eq=False)
class _Front:
    """A front end: its channel, its memory, and its slots that wait."""

    channel: socket.socket
    slots: Slots
    waiting: deque[int] = field(default_factory=deque)
    # No thread tells something on a channel that another one closes.
    lock: threading.Lock = field(default_factory=threading.Lock)


_Batch = list[tuple[_Front, int]]


class Device:
    """Computes for every front end that comes through the door, until none can come any more.

    One thread reads what front ends tell and gives batches to the engine; another one tells them the answers. Each
    front end with something to do gets a place in a batch before any gets a second one.
    """

    def __init__(self, engine: "Engine", layout: Layout, about: int, door: socket.socket, limit: float) -> None:
        self._engine = engine
        self._layout = layout
        self._about = about
        self._door = door
        self._limit = limit
        self._selector = selectors.DefaultSelector()
        self._fronts: set[_Front] = set()
        # Those that have something waiting, and how much it is.
        self._turns: deque[_Front] = deque()
        self.waiting = 0
        self._idle = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._flights: Flights[_Batch] = Flights(engine, self._device_is_free, self._answer)
        self._ended = threading.Event()
        self._exit_code = EXIT_OK

    def run(self) -> int:
        """Serve until no front end is left; returns the exit code. Threads may still be inside the device's library."""
        threading.Thread(target=self._feed, name="feeder", daemon=True).start()
        before = None
        while not self._ended.wait(_GUARD_SECONDS):
            since = self._flights.since()
            # Seen late twice: time may have passed while the whole machine stood still.
            if since is not None and since == before and time.perf_counter() - since > self._limit:
                self._lose(f"The device has not answered to a batch for {self._limit:g} s.")
            before = since
        return self._exit_code

    def _feed(self) -> None:
        try:
            self._selector.register(self._door, selectors.EVENT_READ, self._let_in)
            self._selector.register(self._idle, selectors.EVENT_READ, self._take_note)
            while self._door.fileno() >= 0 or self._fronts:
                for key, _ in self._selector.select():
                    react: Callable[[], None] = key.data
                    react()
                while self._flights.wanted(self.waiting):
                    self._launch()
        except Exception:  # whatever it is, front ends must not wait for ever
            log.exception("The engine's process failed")
            self._lose("The engine's process failed.")
        finally:
            self._ended.set()

    def _device_is_free(self) -> None:
        # Where nothing waits the feeder has nothing to do, and would take the interpreter from who tells the answers.
        if self.waiting:
            os.eventfd_write(self._idle, 1)

    def _take_note(self) -> None:
        os.eventfd_read(self._idle)

    def _let_in(self) -> None:
        channel = channels.let_in(self._door)
        if channel is None:
            self._selector.unregister(self._door)
            self._door.close()
            return
        memory = memories.create(self._layout)
        front = _Front(channel, Slots(memory, self._layout))
        try:
            channels.offer(channel, memory, self._about)
        except OSError:  # it has ended again
            channel.close()
            return
        finally:
            os.close(memory)
        self._fronts.add(front)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._read(front))

    def _read(self, front: _Front) -> None:
        slots = channels.posted(front.channel)
        if slots is None:
            self._let_go(front)
            return
        if slots and not front.waiting:
            self._turns.append(front)
        front.waiting.extend(slots)
        self.waiting += len(slots)

    def _let_go(self, front: _Front) -> None:
        """Forget a front end that has ended; what the device has of it gets an answer that nobody reads."""
        self._selector.unregister(front.channel)
        with front.lock:
            front.channel.close()
        self._fronts.remove(front)
        if front.waiting:
            self._turns.remove(front)
            self.waiting -= len(front.waiting)

    def _launch(self) -> None:
        batch: _Batch = []
        skipped: _Batch = []
        while self._turns and len(batch) < self._engine.max_batch:
            front = self._turns.popleft()
            slot = front.waiting.popleft()
            self.waiting -= 1
            if front.waiting:
                self._turns.append(front)
            (skipped if front.slots.left[slot] else batch).append((front, slot))
        for front, places in _by_front(skipped):
            self._tell(front, channels.Batch([skipped[place][1] for place in places]))
        if batch:
            self._flights.begin(batch, [front.slots.pixels[slot] for front, slot in batch])

    def _answer(self, batch: _Batch, outcome: "Sequence[Ranking] | Exception", began: float) -> None:
        if isinstance(outcome, DeviceLostError):
            self._lose(str(outcome))
            return
        seconds = time.perf_counter() - began
        error = ""
        if isinstance(outcome, Exception):
            log.error("The model failed on a batch of %d", len(batch), exc_info=outcome)
            error = f"{type(outcome).__name__}: {outcome}"
        images = len(batch)
        for front, places in _by_front(batch):
            slots = [batch[place][1] for place in places]
            if not isinstance(outcome, Exception):
                front.slots.class_ids[slots] = [outcome[place].class_ids for place in places]
                front.slots.probabilities[slots] = [outcome[place].probabilities for place in places]
            self._tell(front, channels.Batch(slots, images, began, seconds, error))
            # Counted once, by whom it is told first.
            images = 0

    def _tell(self, front: _Front, batch: channels.Batch) -> None:
        try:
            with front.lock:
                channels.answer(front.channel, batch)
        except BlockingIOError:
            log.error("A front end has not read its answers for too long")
            # Both sides then take it for the other one's end.
            front.channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("A front end ended before its answers came")

    def _lose(self, detail: str) -> None:
        """Tell every front end that the device is lost, and end: only a new process can help."""
        log.error("The device is lost", extra={"code": "device_lost", "detail": detail})
        for front in list(self._fronts):
            try:
                channels.lose(front.channel, detail)
            except OSError:
                log.debug("A front end ended before the device")
        self._exit_code = EXIT_DEVICE
        self._ended.set()


def _by_front(batch: _Batch) -> list[tuple[_Front, list[int]]]:
    """The places that each front end has in a batch."""
    found: dict[_Front, list[int]] = {}
    for place, (front, _) in enumerate(batch):
        found.setdefault(front, []).append(place)
    return list(found.items())
