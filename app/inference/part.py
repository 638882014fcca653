"""The part that a process has in the service: what it counts with the others, whose bounds are those of the whole."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from app.process import cpus, memory
from app.process.metrics import Metrics


class Part:
    """All of it: the service is one process."""

    # How many processes do what this one does.
    processes = 1
    # Whether its threads feed the device, beside the event loop.
    feeds = True

    def __init__(self) -> None:
        self._images = self._body_bytes = self._in_flight = self._overdue = self._predictions = 0
        self._held_by: Counter[str] = Counter()
        self._latest: str | None = None
        self._shared_until = 0.0

    @property
    def cores(self) -> int:
        """The CPUs that are this process's."""
        return cpus.available()

    @property
    def speaks(self) -> bool:
        """Whether this process says what concerns the whole service."""
        return True

    @property
    def images(self) -> int:
        """The images that the service holds."""
        return self._images

    @property
    def body_bytes(self) -> int:
        """The bytes of bodies that the service holds."""
        return self._body_bytes

    @property
    def in_flight(self) -> int:
        """The requests that are being answered."""
        return self._in_flight

    @property
    def overdue(self) -> int:
        """The threads that work on something for too long."""
        return self._overdue

    @property
    def predictions(self) -> int:
        """The images that were classified."""
        return self._predictions

    @property
    def shared_until(self) -> float:
        """Until when several clients want of the service, on the clock of who noticed."""
        return self._shared_until

    def deciding(self) -> AbstractContextManager[None]:
        """While it lasts, no other process takes anything."""
        return nullcontext()

    def hold(self, client: str, images: int) -> None:
        """Count a client's images; less than none when they leave."""
        self._images += images
        self._held_by[client] += images
        if not self._held_by[client]:
            del self._held_by[client]

    def held_by(self, client: str) -> int:
        """The images of a client that the service holds."""
        return self._held_by[client]

    def notice(self, client: str, until: float) -> None:
        """Know until when somebody else than the latest client is taken to want of the service, too."""
        if client != self._latest:
            # The very first one has no others yet.
            self._shared_until = until if self._latest is not None else 0.0
            self._latest = client

    def hold_bytes(self, size: int) -> None:
        """Count bytes of bodies; less than none when they are given back."""
        self._body_bytes += size

    def predicted(self) -> None:
        """Count an image that was classified."""
        self._predictions += 1

    def tell(self, in_flight: int, overdue: int) -> None:
        """Say what this process does now."""
        self._in_flight, self._overdue = in_flight, overdue

    def used(self) -> int:
        """Bytes of memory that the service uses."""
        return memory.used()

    @property
    def crowded(self) -> bool:
        """Whether others have fewer connections, so that one of these should come again."""
        return False

    def metrics(self, queue_size: int) -> Metrics:
        """What is counted, for /metrics."""
        return Metrics(queue_size)

    def when_complete(self, begin: Callable[[], None]) -> None:
        """Call `begin` once every part has its model; this one has it."""
        begin()
