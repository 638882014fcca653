"""Room for decoding: the memory that large pictures may take at once, in the order in which they came."""

import asyncio
import threading
from collections import deque

# A picture that needs less than this share of the room does not wait: there are no more of them than threads.
_SMALL_SHARE = 16


class Stay:
    """A picture's share of the room: from when it is let in until its thread is done with it, whoever still waits."""

    def __init__(self, room: "Room", size: int) -> None:
        self._room = room
        self._size = size
        self._lock = threading.Lock()
        self._begun = self._over = False

    def begin(self) -> bool:
        """Whether the thread may decode, which nobody wants any more after `abandon`."""
        with self._lock:
            self._begun = not self._over
            return self._begun

    def end(self) -> None:
        """Called by the thread once the picture is decoded."""
        with self._lock:
            self._over = True
        self._room.give_back_soon(self._size)

    def abandon(self) -> None:
        """Called when nobody waits any more; what a thread works on stays until that has ended."""
        with self._lock:
            if self._begun or self._over:
                return
            self._over = True
        self._room.give_back(self._size)


class Room:
    """So many bytes and so many large pictures at once; used by the event loop."""

    def __init__(self, size: int, places: int) -> None:
        self.free = size
        self._small = size // _SMALL_SHARE
        self._places = places
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop = asyncio.get_running_loop()

    async def enter(self, size: int) -> Stay:
        """Wait until there is room for a picture."""
        if size <= self._small:
            return Stay(self, 0)
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((size, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._admit()
            else:
                self.give_back(size)
            raise
        return Stay(self, size)

    def give_back(self, size: int) -> None:
        """Let the next ones in."""
        if size:
            self.free += size
            self._places += 1
            self._admit()

    def give_back_soon(self, size: int) -> None:
        """The same, from another thread."""
        if size and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give_back, size)

    def _admit(self) -> None:
        while self._waiting and self._places and self._waiting[0][0] <= self.free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= size
                self._places -= 1
                turn.set_result(None)
