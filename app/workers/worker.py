"""`python -m app.workers.worker`: one of several processes that serve what the supervisor hands them."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import uvicorn

from app import settings
from app.fronts import channel as doors
from app.fronts.remote_loader import RemoteLoader
from app.http import server
from app.http.application import create_app
from app.http.protocol import Protocol
from app.inference.part import Part
from app.inference.service import Service
from app.process import cpus, logs, memory
from app.process.lifecycle import EXIT_OK
from app.process.metrics import Metrics
from app.settings import Settings
from app.start.loader import Loader
from app.start.served_model import cpu_threads
from app.workers import counters
from app.workers.board import Board
from app.workers.handed import COMPLETE, LOADED, TAKEN, Handed

log = logging.getLogger("app")

# Connections beside an equal share that are left alone.
_MARGIN = 1.1


class Worker(Part):
    """One part of several; its numbers are on the board."""

    def __init__(self, handed: Handed, channel: socket.socket, limit: float) -> None:
        super().__init__()
        # A worker that says nothing for as long as a thread may work on something counts as one that is overdue.
        self._limit = limit
        self.processes = handed.workers
        self.feeds = handed.door is None
        self._handed = handed
        self._channel = channel
        self._board = Board(handed.board, handed.workers)
        self.row = self._board.rows[handed.number]
        self.row.process = os.getpid()
        self._begin: Callable[[], None] | None = None

    @property
    def cores(self) -> int:
        """Its share of the CPUs, at least one."""
        return max(1, cpus.available() // self.processes) if self._handed.cpu is None else 1

    @property
    def speaks(self) -> bool:
        """Whether this one says what concerns all of them."""
        return self._handed.number == 0 and not self._handed.again

    @property
    def images(self) -> int:
        """The images that all workers hold."""
        return self._board.total("images")

    @property
    def body_bytes(self) -> int:
        """The bytes of bodies that all workers hold."""
        return self._board.total("body_bytes")

    @property
    def in_flight(self) -> int:
        """The requests that all workers are answering."""
        return self._board.total("in_flight")

    @property
    def overdue(self) -> int:
        """The threads of all workers that work on something for too long."""
        now = time.monotonic()
        silent = sum(row.ready and now - row.beat > self._limit for row in self._board.rows)
        return self._board.total("overdue") + silent

    @property
    def predictions(self) -> int:
        """The images that all workers have classified."""
        return self._board.total("predictions")

    @property
    def shared_until(self) -> float:
        """Until when several clients want of the service."""
        return self._board.shared_until

    def deciding(self) -> AbstractContextManager[None]:
        """While it lasts, no other worker takes anything."""
        return self._board.deciding()

    def hold(self, client: str, images: int) -> None:
        """Count a client's images in this worker."""
        self.row.images += images
        self.row.held_by[self._board.place_of(client)] += images

    def held_by(self, client: str) -> int:
        """The images of a client that all workers hold."""
        return self._board.held_by(self._board.place_of(client))

    def notice(self, client: str, until: float) -> None:
        """Know of several clients, whichever worker they ask."""
        self._board.notice(self._board.place_of(client), until)

    def hold_bytes(self, size: int) -> None:
        """Count bytes of bodies in this worker."""
        self.row.body_bytes += size

    def predicted(self) -> None:
        """Count an image that was classified here."""
        self.row.predictions += 1

    def tell(self, in_flight: int, overdue: int) -> None:
        """Put on the board what this worker does now."""
        self.row.in_flight, self.row.overdue, self.row.beat = in_flight, overdue, time.monotonic()

    def used(self) -> int:
        """Bytes of memory that all workers use, each of them as much as this one."""
        return self.processes * memory.used()

    @property
    def crowded(self) -> bool:
        """Whether this worker has more connections than an equal share: one that was replaced has none of them."""
        ready = [row.connections for row in self._board.rows if row.ready]
        return bool(ready) and self.row.connections > 1 + _MARGIN * sum(ready) / len(ready)

    def metrics(self, queue_size: int) -> Metrics:
        """What all workers count."""
        return counters.metrics(self._handed, self._board, queue_size)

    def when_complete(self, begin: Callable[[], None]) -> None:
        """Tell the supervisor that the model is loaded, and begin once it says that all are ready."""
        self._begin = begin
        self.row.ready = 1
        self._channel.send(LOADED)

    def complete(self) -> None:
        """All are ready."""
        if self._begin:
            self._begin()
            self._begin = None


class _Protocol(Protocol):
    """The protocol, counting connections on the board."""

    part: Worker

    def connection_made(self, transport: Any) -> None:
        """Count it."""
        self.part.row.connections += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count its end."""
        super().connection_lost(exc)
        self.part.row.connections -= 1
        self.part.row.ended += 1


class _Server(server.Server):
    """The server of one worker: it listens nowhere, and leaves once all of them have nothing left to do."""

    def __init__(self, config: uvicorn.Config, service: Service, part: Worker, channel: socket.socket) -> None:
        super().__init__(config, service)
        self._part = part
        self._channel = channel
        self._more_to_come = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Be ready for connections."""
        await super().startup(sockets=[])
        # Of its own class, since uvicorn makes it without a word about us.
        self._protocol = functools.partial(
            type("_Counted", (_Protocol,), {"part": self._part}),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        asyncio.get_running_loop().add_reader(self._channel, self._read)

    def may_leave(self) -> bool:
        """Whether nobody else can send anything here any more."""
        self._part.row.quiet = 1
        return not self._more_to_come or self._lifecycle.remaining() == 0

    async def on_tick(self, counter: int) -> bool:
        """Say what this worker does, and end when it is time."""
        self._part.row.quiet = 0
        return await super().on_tick(counter)

    def _read(self) -> None:
        while self._more_to_come:
            try:
                said, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                said, descriptors = b"", []
            for descriptor in descriptors:
                self._adopt(socket.socket(fileno=descriptor))
                self._part.row.taken += 1
                # Until then the supervisor has it, too. What it has not read wakes it as well.
                with contextlib.suppress(OSError):
                    self._channel.send(TAKEN)
            if said == COMPLETE:
                self._part.complete()
            if not said:
                self._no_more()

    def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connect(connection))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # its client has left
            connection.close()
            self._part.row.ended += 1

    def _no_more(self) -> None:
        """The supervisor sends nothing more, or is no more."""
        self._more_to_come = False
        asyncio.get_running_loop().remove_reader(self._channel)
        self._lifecycle.drain()


def _loader(handed: Handed, configured: Settings) -> Loader:
    """What loads the model here, or waits for that of the engine's process."""
    if handed.door is not None:
        return RemoteLoader(configured, doors.inherited(handed.door))
    whole = configured.model_copy(update={"torch_threads": cpu_threads(configured)})
    # The other CPUs are the other workers'.
    return Loader(configured.model_copy(update={"torch_threads": 1}), whole)


def main() -> int:
    """Serve what the supervisor hands over; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_OK))
    handed = Handed.read(sys.argv[1])
    configured = settings.load()
    logs.configure(configured.log_level, configured.log_dir, f"api-{handed.number}.log")
    channel = socket.socket(fileno=handed.channel)
    channel.set_inheritable(False)
    channel.setblocking(False)
    part = Worker(handed, channel, configured.request_timeout_seconds)
    # The derived model was made for all CPUs, which a process sees until it keeps to its own.
    loading = _loader(handed, configured)
    if handed.cpu is not None:
        os.sched_setaffinity(0, {handed.cpu})
    loading.begin()
    app = create_app(configured, loading, part)
    service: Service = app.state.service
    _Server(server.configuration(configured, app), service, part, channel).run()
    return service.lifecycle.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A model thread may be inside the device's library: an orderly end of the interpreter would wait for it or crash.
    os._exit(code)
