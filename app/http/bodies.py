"""Memory for request bodies, taken before they are read, so that slow or many uploads cannot fill the process."""

from typing import Self

from app.errors import ServiceError
from app.inference.part import Part

# What an upload holds before anything of it has come.
FIRST = 65_536


class Loan:
    """The memory of one body, at most twice what has come of it, until its request is answered."""

    def __init__(self, bodies: "Bodies") -> None:
        self._bodies = bodies
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def reserve(self, size: int, most: int) -> None:
        """Make sure of so many bytes, or refuse; `most` is all that the body can still become."""
        if size > self._size:
            wanted = min(max(size, 2 * self._size, FIRST), max(size, most))
            self._bodies.take(wanted - self._size)
            self._size = wanted

    def give_back(self) -> None:
        """The body is no longer needed."""
        self._bodies.give_back(self._size)
        self._size = 0


class Bodies:
    """The bytes that all bodies together may hold; used by the event loop."""

    def __init__(self, limit: int, part: Part | None = None) -> None:
        self._limit = limit
        self._part = part or Part()

    @property
    def held(self) -> int:
        """The bytes that are held."""
        return self._part.body_bytes

    def loan(self) -> Loan:
        """Memory for one body."""
        return Loan(self)

    def take(self, size: int) -> None:
        """Take bytes, or refuse."""
        with self._part.deciding():
            held = self.held
            if held + size <= self._limit:
                self._part.hold_bytes(size)
                return
        raise ServiceError(
            "queue_full",
            f"The uploads in progress hold {held >> 20} MiB of {self._limit >> 20} MiB; send the request again in 1 s.",
        )

    def give_back(self, size: int) -> None:
        """Bytes that are no longer needed."""
        self._part.hold_bytes(-size)
