"""The board: numbers that the workers of one service share, in memory that all of them map.

A worker writes its own row only, so most of it needs no lock: each number is written whole. What must not be decided
by two at a time is decided under a lock that the kernel takes back from a process that dies.
"""

import ctypes
import fcntl
import functools
import hashlib
import mmap
import operator
import os
import time
from contextlib import AbstractContextManager

# A worker that has not told anything for so long is stuck, or its machine stands still.
_BEAT_SECONDS = 2.0
# Clients are told apart by so many places; two that share one are rare, and then are taken for one.
CLIENTS = 4096


class Row(ctypes.Structure):
    """The numbers of one worker."""

    process: int
    ready: int
    quiet: int
    taken: int
    connections: int
    ended: int
    in_flight: int
    overdue: int
    images: int
    body_bytes: int
    predictions: int
    beat: float
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                # Its id, and 1 once its model is loaded.
                *("process", "ready"),
                # 1 while it drains and has nothing left to do.
                "quiet",
                # Connections that it took of those that were handed to it, open ones, and those that have ended.
                *("taken", "connections", "ended"),
                *("in_flight", "overdue", "images", "body_bytes", "predictions"),
            )
        ),
        # When it last told what it does (`monotonic`).
        ("beat", ctypes.c_double),
        ("held_by", ctypes.c_int32 * CLIENTS),
    ]


class _Head(ctypes.Structure):
    key: bytes
    latest: int
    engine: int
    shared_until: float
    _fields_ = [
        ("key", ctypes.c_uint8 * 16),
        ("latest", ctypes.c_int64),
        # The id of the process that has the device, where the workers are its front ends.
        ("engine", ctypes.c_int64),
        ("shared_until", ctypes.c_double),
    ]


@functools.lru_cache(CLIENTS)
def _place_of(client: str, key: bytes) -> int:
    digest = hashlib.blake2b(client.encode(errors="replace"), key=key, digest_size=4).digest()
    return int.from_bytes(digest) % CLIENTS


def create(workers: int) -> int:
    """The descriptor of memory for a new board."""
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, ctypes.sizeof(_Head) + workers * ctypes.sizeof(Row))
    os.pwrite(descriptor, os.urandom(16), 0)
    return descriptor


class _Deciding:
    """The lock of a board."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class Board:
    """The numbers of all workers."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self._deciding = _Deciding(descriptor)
        memory = mmap.mmap(descriptor, 0)
        self._head = _Head.from_buffer(memory)
        self._key = bytes(self._head.key)
        at, size = ctypes.sizeof(_Head), ctypes.sizeof(Row)
        self.rows = [Row.from_buffer(memory, at + number * size) for number in range(workers)]

    def total(self, name: str) -> int:
        """The sum of one number over all workers."""
        return sum(map(operator.attrgetter(name), self.rows))

    def is_stuck(self, row: Row) -> bool:
        """Whether a worker cannot be expected to answer soon."""
        return row.overdue > 0 or time.monotonic() - row.beat > _BEAT_SECONDS

    def clear(self, number: int) -> None:
        """Forget what a worker held that has died; what it counted stays."""
        row = self.rows[number]
        predictions = row.predictions
        ctypes.memset(ctypes.addressof(row), 0, ctypes.sizeof(row))
        row.predictions = predictions

    def deciding(self) -> AbstractContextManager[None]:
        """While it lasts, no other worker decides."""
        return self._deciding

    def place_of(self, client: str) -> int:
        """The place of a client, which nobody can foresee who does not know the key."""
        return _place_of(client, self._key)

    def held_by(self, place: int) -> int:
        """The images of a client that all workers hold."""
        return sum(row.held_by[place] for row in self.rows)

    def notice(self, place: int, until: float) -> None:
        """Know until when somebody else than the latest client is taken to want of the service, too."""
        # 0 is nobody yet.
        if place + 1 != self._head.latest:
            self._head.shared_until = until if self._head.latest else 0.0
            self._head.latest = place + 1

    @property
    def engine(self) -> int:
        """The process that has the device; 0 where there is none."""
        return self._head.engine

    @engine.setter
    def engine(self, process: int) -> None:
        self._head.engine = process

    @property
    def shared_until(self) -> float:
        """Until when several clients want of the service."""
        return self._head.shared_until
