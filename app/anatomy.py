"""What an image file is and what decoding it will cost, read from its structure before anything is decoded.

A file of some bytes can promise any number of pixels and any number of passes over them. What is read here is at least
what the decoders will do, so that a limit on it is a limit on them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Libraries that limit scans for the same reason take 256 (nvJPEG) or 500 (DALI); what encoders write has about ten.
MAX_SCANS = 256
# Headers, profiles and text: cameras that store a depth map write some hundred segments.
MAX_SEGMENTS = 1_024
# How much is searched at once: a search keeps the interpreter to itself.
_WINDOW = 1 << 20


class UnsoundError(ValueError):
    """A file whose structure is damaged, or that nobody but an attacker would write."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The size of a picture, and the samples that its decoder will go through: those of every component, every scan."""

    format: str
    width: int
    height: int
    samples: int


def examine(content: bytes) -> Anatomy | None:
    """The anatomy of an image; nothing for a format whose decoder does no more than its pixels ask for."""
    return _jpeg(content) if content.startswith(b"\xff\xd8\xff") else None


def _jpeg(content: bytes) -> Anatomy:
    frame: tuple[int, int, int, dict[int, int], int] | None = None
    for marker, start, length in _segments(content):
        if _is_frame(marker):
            if frame:
                raise UnsoundError("it describes its pixels twice")
            frame = (marker, *_frame(content[start : start + length]))
        elif marker == 0xDA:
            if not frame:
                break
            return _of_scans(content, start, *frame)
    raise UnsoundError("it ends before its pixels")


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and length of each segment's data up to the first scan."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        position = content.find(b"\xff", position)
        while position >= 0 and content[position + 1 : position + 2] == b"\xff":
            position += 1
        head = content[position : position + 4]
        if position < 0 or len(head) < 4 or head[1] in (0xD8, 0xD9):
            return
        if head[1] == 0 or head[1] == 1 or 0xD0 <= head[1] <= 0xD7:  # bytes between segments, and markers without data
            position += 2
            continue
        length = int.from_bytes(head[2:])
        yield head[1], position + 4, length - 2
        position += 2 + length
    raise UnsoundError(f"its header has more than {MAX_SEGMENTS} segments")


def _is_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _frame(data: bytes) -> tuple[int, int, dict[int, int], int]:
    """Width, height, the samples of each component in a unit of the picture, and the pixels of that unit."""
    if len(data) < 6 or len(data) < 6 + 3 * data[5]:
        raise UnsoundError("the description of its pixels is cut off")
    height, width = struct.unpack(">HH", data[1:5])
    factors = {data[at]: (data[at + 1] >> 4, data[at + 1] & 15) for at in range(6, 6 + 3 * data[5], 3)}
    across, down = (max((factor[axis] for factor in factors.values()), default=1) or 1 for axis in (0, 1))
    return width, height, {name: factor[0] * factor[1] for name, factor in factors.items()}, across * down


def _of_scans(
    content: bytes, start: int, marker: int, width: int, height: int, components: dict[int, int], unit: int
) -> Anatomy:
    every = sum(components.values())
    interleaved = content[start : start + 1] == bytes([len(components)])
    samples = 0
    # A progressive picture, or one whose components come one after the other, goes on after its first scan.
    starts = [start] if interleaved and marker in (0xC0, 0xC1, 0xC9) else _scans(content, start)
    for scans, begin in enumerate(starts, start=1):
        if scans > MAX_SCANS:
            raise UnsoundError(f"it goes over its pixels more than {MAX_SCANS} times")
        count = content[begin] if begin < len(content) else 0
        named = content[begin + 1 : begin + 1 + 2 * count : 2]
        samples += sum(components.get(name, every) for name in named) or every
    return Anatomy("JPEG", width, height, samples * width * height // unit)


def _scans(content: bytes, first: int) -> Iterator[int]:
    """Where the header of each scan begins, behind its length; at least every one that the decoder will find."""
    yield first
    for window in range(first, len(content), _WINDOW):
        # A marker may lie across the edge of two windows.
        position = content.find(b"\xff\xda", window, window + _WINDOW + 1)
        while position >= 0:
            yield position + 4
            position = content.find(b"\xff\xda", position + 2, window + _WINDOW + 1)
