"""What an image file is and how large its decoder's work will be, read from its structure before anything is decoded.

A file of some bytes can promise any number of pixels and any number of passes over them. What is read here is at least
what the decoders will do, so that a limit on it is a limit on them.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Libraries that limit scans for the same reason take 256 (nvJPEG) or 500 (DALI); what encoders write has about ten.
MAX_SCANS = 256
# Headers, profiles and text: cameras that store a depth map write some hundred segments.
MAX_SEGMENTS = 1_024
# Pieces that formats cut data into: libpng's are of 8 KiB, those of a GIF of 255 bytes.
MAX_CHUNKS = 16_384
# How much is searched at once: a search keeps the interpreter to itself.
_WINDOW = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_FILL = re.compile(rb"\xff+")
_EXIF = b"Exif\0\0"
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_BMP_RUN_LENGTHS = (1, 2)
# A JPEG's markers without data, bytes between its segments among them, and those that describe its pixels.
_BARE = frozenset((0, 1, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# What else people send, by what it begins with; the longer ones first where two begin alike.
_OTHERS = (
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypqt", "a QuickTime video"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"data:", "a data URL; send the bytes themselves"),
)


class UnsoundError(ValueError):
    """A file whose structure is damaged, or that nobody but an attacker would write."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The size of a picture, and what its decoder has to go through."""

    format: str
    width: int
    height: int
    components: int = 3
    scans: int = 1
    # Those of every component in every scan, and those that are kept from scan to scan.
    samples: int = 0
    kept: int = 0
    # Coded in a way for which the decoder takes far longer: arithmetic coding, or runs read by Python.
    dear: bool = False
    # What a JPEG's camera says of it, among that how it lies.
    exif: bytes = b""

    @property
    def pixels(self) -> int:
        """The pixels of the picture."""
        return self.width * self.height


def examine(content: bytes) -> Anatomy | None:
    """The anatomy of an image; nothing for what is none of the accepted formats."""
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(b"\x89PNG"):
        return _png(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _gif(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content.startswith(b"BM") and int.from_bytes(content[14:18], "little") in _BMP_HEADERS:
        return _bmp(content)
    return None


def name_of(content: bytes) -> str | None:
    """What a file that is not accepted seems to be."""
    for start, magic, name in _OTHERS:
        if content.startswith(magic, start):
            return name
    text = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in content[:1024].lower():
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if text.startswith((b"{", b"[")):
        return "JSON"
    return "text" if content[:64].isascii() and content[:64].decode("ascii").isprintable() else None


def without_compressed_texts(content: bytes) -> bytes:
    """A PNG without its compressed texts and its color profile, which no decoder needs for the pixels.

    Any of them can be a thousand times as large as it looks, so decoders refuse the file for an honest long one.
    """
    kept = [content[:8]]
    for kind, start, end in _chunks(content):
        compressed = kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_compressed(content[start + 8 : end]))
        if not compressed:
            kept.append(content[start:end])
    return b"".join(kept) if sum(map(len, kept)) < len(content) else content


def _is_compressed(text: bytes) -> bool:
    keyword_end = text.find(b"\0", 0, 80)
    return text[keyword_end + 1 : keyword_end + 2] != b"\0"


def _png(content: bytes) -> Anatomy:
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 33:
        raise UnsoundError("its header is damaged or cut off")
    for kind, start, _ in _chunks(content):
        if kind == b"IHDR" and start > 8:
            raise UnsoundError("it describes its pixels twice")
    return Anatomy("PNG", *struct.unpack(">II", content[16:24]))


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk of a PNG; a last one that is cut off ends where the file does."""
    position = 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(content):
            return
        kind = content[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(content[position : position + 4])
        yield kind, position, min(end, len(content))
        if kind == b"IEND":
            return
        position = end
    raise UnsoundError(f"it has more than {MAX_CHUNKS} chunks")


def _gif(content: bytes) -> Anatomy:
    if len(content) < 13:
        raise UnsoundError("its header is cut off")
    width, height, flags = struct.unpack("<HHB", content[6:11])
    position = 13 + _palette(flags)
    blocks = 0
    while content[position : position + 1] == b"!":
        position += 2
        # Texts and profiles, in blocks that begin with their length; an empty one is the last.
        while size := content[position] if position < len(content) else 0:
            position += 1 + size
            blocks += 1
            if blocks > MAX_CHUNKS:
                raise UnsoundError(f"it has more than {MAX_CHUNKS} blocks before its pixels")
        position += 1
        blocks += 1
        if blocks > MAX_CHUNKS:
            raise UnsoundError(f"it has more than {MAX_CHUNKS} blocks before its pixels")
    if content[position : position + 1] != b"," or len(content) < position + 10:
        raise UnsoundError("it ends before its pixels")
    left, top, across, down = struct.unpack("<HHHH", content[position + 1 : position + 9])
    # A frame that is larger than the screen enlarges it.
    return Anatomy("GIF", max(width, left + across), max(height, top + down))


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(content: bytes) -> Anatomy:
    kind, data = content[12:16], content[20:30]
    if kind == b"VP8X" and len(data) == 10:
        return Anatomy("WEBP", 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) == 10:
        width, height = struct.unpack("<HH", data[6:])
        return Anatomy("WEBP", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return Anatomy("WEBP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    raise UnsoundError("its header is damaged or cut off")


def _bmp(content: bytes) -> Anatomy:
    if len(content) < 26:
        raise UnsoundError("its header is cut off")
    if content[14] == 12:
        return Anatomy("BMP", *struct.unpack("<HH", content[18:22]))
    width, height = struct.unpack("<ii", content[18:26])
    compression = int.from_bytes(content[30:34], "little")
    return Anatomy("BMP", abs(width), abs(height), dear=compression in _BMP_RUN_LENGTHS)


def _jpeg(content: bytes) -> Anatomy:
    frame: tuple[int, int, int, dict[int, int], int] | None = None
    exif: list[bytes] = []
    for marker, start, length in _segments(content):
        if marker in _FRAMES:
            if frame:
                raise UnsoundError("it describes its pixels twice")
            frame = (marker, *_frame(content[start : start + length]))
        elif marker == 0xE1 and content.startswith(_EXIF, start):
            # A long one goes on in the next segment.
            exif.append(content[start + len(_EXIF) : start + length])
        elif marker == 0xDA:
            if not frame:
                break
            return _of_scans(content, start, b"".join(exif), *frame)
    raise UnsoundError("it ends before its pixels")


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and length of each segment's data up to the first scan."""
    position, end = 2, len(content) - 4
    for _ in range(MAX_SEGMENTS):
        # Beside what a camera writes, bytes may stand between segments, and any number of them precede a marker.
        if position <= end and (content[position] != 0xFF or content[position + 1] == 0xFF):
            position = content.find(b"\xff", position)
            if position >= 0 and (fill := _FILL.match(content, position)):
                position = fill.end() - 1
        if position < 0 or position > end:
            return
        marker = content[position + 1]
        if marker in (0xD8, 0xD9):
            return
        if marker in _BARE:
            position += 2
            continue
        length = content[position + 2] << 8 | content[position + 3]
        yield marker, position + 4, length - 2
        position += 2 + length
    raise UnsoundError(f"its header has more than {MAX_SEGMENTS} segments")


def _frame(data: bytes) -> tuple[int, int, dict[int, int], int]:
    """Width, height, the samples of each component in a unit of the picture, and the pixels of that unit."""
    if len(data) < 6 or len(data) < 6 + 3 * data[5]:
        raise UnsoundError("the description of its pixels is cut off")
    height, width = struct.unpack(">HH", data[1:5])
    factors = {data[at]: (data[at + 1] >> 4, data[at + 1] & 15) for at in range(6, 6 + 3 * data[5], 3)}
    across, down = (max(axis) or 1 for axis in zip((0, 0), *factors.values(), strict=True))
    return width, height, {name: factor[0] * factor[1] for name, factor in factors.items()}, across * down


def _of_scans(
    content: bytes,
    start: int,
    exif: bytes,
    marker: int,
    width: int,
    height: int,
    components: dict[int, int],
    unit: int,
) -> Anatomy:
    every = sum(components.values())
    interleaved = content[start : start + 1] == bytes([len(components)])
    # A progressive picture, or one whose components come one after the other, goes on after its first scan.
    lasting = not interleaved or marker not in (0xC0, 0xC1, 0xC9)
    scans = samples = 0
    for begin in _scans(content, start) if lasting else (start,):
        scans += 1
        if scans > MAX_SCANS:
            raise UnsoundError(f"it goes over its pixels more than {MAX_SCANS} times")
        count = content[begin] if begin < len(content) else 0
        named = content[begin + 1 : begin + 1 + 2 * count : 2]
        samples += sum(components.get(name, every) for name in named) or every
    area = width * height
    return Anatomy(
        "JPEG",
        width,
        height,
        len(components),
        scans,
        samples * area // unit,
        every * area // unit if lasting else 0,
        dear=marker >= 0xC9,
        exif=exif,
    )


def _scans(content: bytes, first: int) -> Iterator[int]:
    """Where the header of each scan begins, behind its length; at least every one that the decoder will find."""
    yield first
    for window in range(first, len(content), _WINDOW):
        # A marker may lie across the edge of two windows.
        position = content.find(b"\xff\xda", window, window + _WINDOW + 1)
        while position >= 0:
            yield position + 4
            position = content.find(b"\xff\xda", position + 2, window + _WINDOW + 1)
