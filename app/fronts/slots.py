"""Slots: memory that a front end and the engine's process share, with a place for each image and its answer."""

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engines.engine import Pixels

# Enough for a front end whose images are small: with more, its queue is only somewhere else.
_USUAL = 64
# What the usual number may take; larger images get fewer slots.
_USUAL_BYTES = 32 << 20
# Batches that a lone front end has to fill: two that the device has, and one that grows meanwhile.
_BATCHES = 3
# Messages of one slot each that nobody has read must fit into a channel.
MOST = 512
_ALIGNMENT = 4096


@dataclass(frozen=True)
class Layout:
    """How many images of which size a front end's memory holds, and how many classes an answer has."""

    slots: int
    height: int
    width: int
    ranked: int

    @property
    def image_bytes(self) -> int:
        """What one image takes."""
        return self.height * self.width * 3

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        answer = self.ranked * (8 + 4) + 1
        return self.slots * _aligned(self.image_bytes) + _aligned(self.slots * answer)


def layout(sides: tuple[int, int], ranked: int, max_batch: int, most: int) -> Layout:
    """Slots enough for the device, and never more than images may be in the service."""
    height, width = sides
    usual = min(_USUAL, _USUAL_BYTES // (height * width * 3))
    return Layout(min(most, MOST, max(usual, _BATCHES * max_batch)), height, width, ranked)


def create(layout: Layout) -> int:
    """Memory of a layout, as a descriptor; what nobody has touched takes none."""
    memory = os.memfd_create("slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, layout.size)
    # Who has it could else cut it off under the other one's feet.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


class Slots:
    """The memory behind a descriptor, as arrays with one row for each slot."""

    def __init__(self, memory: int, layout: Layout) -> None:
        mapped = mmap.mmap(memory, layout.size)
        self.layout = layout
        stride, count = _aligned(layout.image_bytes), layout.slots
        rows = np.frombuffer(mapped, np.uint8, count * stride).reshape(count, stride)
        self.pixels: list[Pixels] = [row[: layout.image_bytes].reshape(layout.height, layout.width, 3) for row in rows]
        at = count * stride
        self.probabilities: NDArray[np.float64] = np.frombuffer(mapped, np.float64, count * layout.ranked, at).reshape(
            count, layout.ranked
        )
        at += self.probabilities.nbytes
        self.class_ids: NDArray[np.int32] = np.frombuffer(mapped, np.int32, count * layout.ranked, at).reshape(
            count, layout.ranked
        )
        at += self.class_ids.nbytes
        # Set by the front end once nobody waits for an image any more.
        self.left: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8, count, at)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
