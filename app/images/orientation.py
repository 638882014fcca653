"""The orientation tag: cameras store a picture as the sensor lies, and say how it has to be turned to stand upright."""

import struct

import numpy as np
from PIL import Image

from app.engines.engine import Pixels

UPRIGHT = 1
_TAG = 0x0112
# A camera's first directory has some twenty entries; what claims more is not searched to its end.
_MAX_ENTRIES = 512
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_NUMBERS = {1: "B", 3: "H", 4: "I"}
# Whether rows and columns change places, and which of them are then reversed.
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def read(image: Image.Image) -> int:
    """EXIF's number for how the picture lies; a PNG may say so behind its pixels, so they are to be loaded first."""
    exif = image.info.get("exif")
    return said(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else UPRIGHT


def said(exif: bytes) -> int:
    """The same of the data alone."""
    orientation = _find(exif) if exif else UPRIGHT
    return orientation if orientation in _TURNS else UPRIGHT


def lies(orientation: int) -> bool:
    """Whether the upright picture's height is what is stored as its width."""
    return orientation != UPRIGHT and _TURNS[orientation][0]


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """The picture, upright; a view of the same bytes."""
    exchanged, reversed_axes = _TURNS[orientation]
    return np.flip(pixels.swapaxes(0, 1) if exchanged else pixels, reversed_axes)


def _find(exif: bytes) -> int:
    """The tag of the first directory. Only it is read: Pillow would copy what every entry points at."""
    order = _BYTE_ORDERS.get(exif[:4])
    if not order:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for position in range(start + 2, start + 2 + 12 * min(entries, _MAX_ENTRIES), 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, position)
            if tag == _TAG and count == 1 and kind in _NUMBERS:
                (value,) = struct.unpack_from(order + _NUMBERS[kind], exif, position + 8)
                return int(value)
    except struct.error:  # it is cut off
        return UPRIGHT
    return UPRIGHT
