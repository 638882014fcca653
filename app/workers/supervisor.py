"""The supervisor: starts the workers, hands them connections, watches them, and ends with them.

It accepts connections itself: from one listening socket that workers share, one that is quick takes most of them, and
connections are kept. Each goes to the ready worker that has the fewest.
"""

import contextlib
import logging
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.fronts import engine_process
from app.process import cpus
from app.process.lifecycle import EXIT_BUNDLE, EXIT_DEVICE, EXIT_OK, EXIT_SETTINGS
from app.settings import Settings
from app.workers import board as boards
from app.workers import counters
from app.workers.board import Board
from app.workers.handed import COMPLETE, CONNECTION, TAKEN, Handed
from app.workers.number import on_gpu

log = logging.getLogger(__name__)

EXIT_ADDRESS = 1
_BACKLOG = 2048
_TICK_SECONDS = 0.1
# After the time for a drain, and for workers that are told to end for another reason.
_GRACE_SECONDS = 5.0
# A worker that ends so often before it is ready will not be ready.
_FAILURES = 3
# What concerns the whole service, not the one process that found out.
_FATAL = (EXIT_SETTINGS, EXIT_BUNDLE, EXIT_DEVICE)


@dataclass(eq=False)
class _Child:
    """A worker as the supervisor knows it."""

    number: int
    process: subprocess.Popen[bytes]
    channel: socket.socket
    handed: int = 0
    # Connections that were handed to it and that it has not taken yet: another one gets them if it dies first.
    on_the_way: deque[socket.socket] = field(default_factory=deque)
    loaded: bool = False


class Supervisor:
    """The workers of one service, and the socket that it listens on."""

    def __init__(self, settings: Settings, workers: int, listener: socket.socket, folder: Path) -> None:
        self._settings = settings
        self._workers = workers
        self._listener = listener
        self._folder = folder
        self._memory = boards.create(workers)
        self._board = Board(self._memory, workers)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._engine: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._failures = [0] * workers
        self._complete = False
        self._signals = 0
        self._end_at: float | None = None
        self._exit_code = EXIT_OK

    def run(self) -> int:
        """Serve until told to stop, or until it cannot go on; returns the exit code."""
        # A signal interrupts the wait for something to happen.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, self._signaled)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(64))
        if on_gpu(self._settings):
            self._engine, self._door = engine_process.start()
            self._board.engine = self._engine.pid
        for number in range(self._workers):
            self._start(number)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while self._children:
            for key, _ in self._selector.select(_TICK_SECONDS):
                react: Callable[[], object] = key.data
                react()
            self._reap()
            self._look_after_engine()
            self._tick()
        self._part_with_engine()
        return self._exit_code

    def _look_after_engine(self) -> None:
        """End when the model cannot be served; any other end of the engine's process is noticed by each front end."""
        code = self._engine.poll() if self._engine else None
        if code in (EXIT_SETTINGS, EXIT_BUNDLE) and self._end_at is None:
            self._end(code)

    def _part_with_engine(self) -> None:
        """Let the engine's process end, which it does without front ends."""
        if self._engine and self._door:
            self._door.close()
            try:
                self._engine.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._engine.kill()

    def _start(self, number: int, *, again: bool = False) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handed = Handed(
            number=number,
            workers=self._workers,
            channel=theirs.fileno(),
            board=self._memory,
            counters=str(self._folder),
            # Front ends decode in threads of their own.
            cpu=None if self._door else cpus.own(number, self._workers),
            again=again,
            door=self._door.fileno() if self._door else None,
        )
        with theirs:
            process = handed.start("app.workers.worker")
        mine.setblocking(False)
        child = _Child(number, process, mine)
        self._children[number] = child
        self._selector.register(mine, selectors.EVENT_READ, lambda: self._hear(child))

    def _signaled(self, number: int, _: object) -> None:
        self._signals += 1

    def _hear(self, child: _Child) -> None:
        """The model of a worker is loaded, it has taken connections, or it has closed its end."""
        try:
            said = child.channel.recv(1)
        except OSError:
            said = b""
        if not said:
            self._selector.unregister(child.channel)
            return
        if said == TAKEN:
            self._release(child)
            return
        child.loaded = True
        self._failures[child.number] = 0
        if self._complete:
            self._say(child, COMPLETE)
            log.info("A worker is ready again", extra={"worker": child.number})
        elif len(self._children) == self._workers and all(other.loaded for other in self._children.values()):
            self._complete = True
            for other in self._children.values():
                self._say(other, COMPLETE)

    def _say(self, child: _Child, what: bytes) -> None:
        with contextlib.suppress(OSError):
            child.channel.send(what)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            for _ in range(_BACKLOG):
                self._hand_over(self._listener.accept()[0])

    def _hand_over(self, connection: socket.socket) -> None:
        """Give a connection to the best worker that takes it; where none does, its client hears of the end of it."""
        for child in sorted(self._children.values(), key=self._load):
            try:
                socket.send_fds(child.channel, [CONNECTION], [connection.fileno()])
            except OSError:  # it has died, or does not read
                continue
            child.handed += 1
            child.on_the_way.append(connection)
            return
        connection.close()

    def _release(self, child: _Child) -> None:
        """Let go of the connections that a worker has taken: as long as they are open here, none of them ends."""
        waiting = child.handed - self._board.rows[child.number].taken
        while len(child.on_the_way) > waiting:
            child.on_the_way.popleft().close()

    def _load(self, child: _Child) -> tuple[bool, bool, int]:
        row = self._board.rows[child.number]
        return not row.ready, self._board.is_stuck(row), child.handed - row.ended

    def _reap(self) -> None:
        for child in list(self._children.values()):
            code = child.process.poll()
            if code is None:
                continue
            self._bury(child)
            if self._end_at is not None:
                continue
            if code in _FATAL:
                self._end(code)
            else:
                self._replace(child, code)

    def _bury(self, child: _Child) -> None:
        del self._children[child.number]
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)
        child.channel.close()
        self._release(child)
        self._board.clear(child.number)
        counters.forget(self._folder, child.number)
        for connection in child.on_the_way:
            self._hand_over(connection)

    def _replace(self, child: _Child, code: int) -> None:
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._failures[child.number] += not child.loaded
        if self._failures[child.number] >= _FAILURES:
            detail = f"Worker {child.number} ended {_FAILURES} times before it was ready, the last time by {why}."
            log.error("The service cannot go on", extra={"code": "worker_failed", "detail": detail})
            self._end(EXIT_DEVICE)
            return
        detail = f"Worker {child.number} ended by {why}; its requests are lost, and another one takes its place."
        log.error("A worker died", extra={"code": "worker_died", "detail": detail})
        self._start(child.number, again=True)

    def _tick(self) -> None:
        """See whether it is time to end."""
        if self._signals and self._end_at is None:
            self._end(EXIT_OK, self._settings.drain_seconds)
        if self._signals > 1:
            self._signals = 1
            self._terminate()
        if self._end_at is None:
            return
        if time.monotonic() > self._end_at + _GRACE_SECONDS:
            for child in self._children.values():
                child.process.kill()
        elif self._listener.fileno() >= 0 and all(self._board.rows[number].quiet for number in self._children):
            self._close()

    def _end(self, code: int, seconds: float = 0.0) -> None:
        """Have all workers end, with so much time for what they are doing."""
        self._exit_code = code
        self._end_at = time.monotonic() + seconds
        self._terminate()
        if code != EXIT_OK:
            self._close()

    def _terminate(self) -> None:
        for child in self._children.values():
            child.process.send_signal(signal.SIGTERM)

    def _close(self) -> None:
        """Listen no more, and let the workers know that nothing comes any more."""
        self._accept()
        self._selector.unregister(self._listener)
        self._listener.close()
        for child in self._children.values():
            with contextlib.suppress(OSError):
                child.channel.shutdown(socket.SHUT_WR)


def run(settings: Settings, workers: int) -> int:
    """Serve with so many workers until told to stop; returns the exit code."""
    try:
        listener = socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=_BACKLOG,
        )
    except OSError as error:
        detail = f"API_HOST and API_PORT cannot be listened on: {error.strerror}."
        log.error("The service cannot listen", extra={"code": "address_refused", "detail": detail})
        return EXIT_ADDRESS
    listener.setblocking(False)
    folder = Path(tempfile.mkdtemp(prefix="counters-"))
    try:
        return Supervisor(settings, workers, listener, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
