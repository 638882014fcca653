"""Engines: what answers a batch of pixels, whatever runs the model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from app.engines.agreement import Ranking

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# An image as models get it: rows, columns, three colors.
type Pixels = NDArray[np.uint8]
Runtime = Literal["torch", "openvino"]
Precision = Literal["fp32", "bf16", "fp16"]

# What Pillow makes gray of the three colors with.
LUMA = (0.299, 0.587, 0.114)
# An image that takes one core this long is always faster on all of them.
LARGE_SECONDS = 0.03


def is_large(seconds: float, threads: int) -> bool:
    """Whether images, of which one took so many seconds with every thread at work, are better computed one by one."""
    return seconds * threads > LARGE_SECONDS


class Engine(ABC):
    """One model on one device: on a GPU used from one thread, on a CPU from as many as share its cores."""

    runtime: Runtime

    def __init__(self, device: str, max_batch: int, precision: Precision) -> None:
        self.device = device
        self.max_batch = max_batch
        self.precision: Precision = precision
        # Batches that `begin` takes before the first of them has its answers.
        self.in_flight = 1

    @abstractmethod
    def predict(self, images: Sequence[Pixels], *, alone: bool = False) -> list[Ranking]:
        """Rank the classes of each image; `alone` when no other thread computes meanwhile."""

    def begin(self, images: Sequence[Pixels]) -> Callable[[], list[Ranking]]:
        """Send a batch on its way; what it returns waits for the answers. Here they are there already."""
        rankings = self.predict(images)
        return lambda: rankings

    def as_served(self) -> AbstractContextManager[None]:
        """While it lasts, compute as requests will have it, to be compared; by default that is always so."""
        return nullcontext()

    @abstractmethod
    def prepare(self, seconds: float) -> None:
        """Make the first requests pay for nothing; `seconds` is what an image was measured to take."""


class NotBuiltError(Exception):
    """A runtime cannot make an engine of this model, or not on this device."""


Build = Callable[[Runtime, Precision], Engine]
