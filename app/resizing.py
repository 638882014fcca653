"""Resizing: ways to bring pixels to other sides, each as Pillow does it but for rounding."""

import functools
import math
from collections.abc import Callable

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from app.bundle.manifest import Interpolation
from app.engine import Pixels
from app.geometry import Window

type Picture = Image.Image | Pixels
# Makes of a picture what is in the window once it has these sides.
type Resize = Callable[[Picture, tuple[int, int], Window], Pixels]

# The library with vector code keeps the interpreter to itself: it gets so many bytes of a picture at a time.
_STRIP = 2 << 20
# Its names of Pillow's filters, and how many pixels they reach.
_FILTERS = {
    "bilinear": (FilterType.bilinear, 1),
    "bicubic": (FilterType.catmull_rom, 2),
}


def by_pillow(interpolation: Interpolation) -> Resize:
    """Resize with Pillow, which is what timm does."""
    return functools.partial(_by_pillow, Image.Resampling[interpolation.upper()])


def by_vectors(interpolation: Interpolation) -> Resize:
    """Resize with vector instructions where there is code for the filter; no value differs by more than 3 of 255."""
    if interpolation not in _FILTERS:
        return by_pillow(interpolation)
    kind, reach = _FILTERS[interpolation]
    return functools.partial(_by_vectors, ResizeAlg.convolution(kind), reach)


def _by_pillow(resample: Image.Resampling, picture: Picture, sides: tuple[int, int], window: Window) -> Pixels:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    left, top, width, height = window
    return np.array(image.resize(sides, resample).crop((left, top, left + width, top + height)))


def _by_vectors(algorithm: ResizeAlg, reach: int, picture: Picture, sides: tuple[int, int], window: Window) -> Pixels:
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    across, down = width / sides[0], height / sides[1]
    # Rows of the picture that a row of the result needs above and below its own.
    beside = reach * max(1.0, down) + 1
    rows = max(1, int(_STRIP / (3 * width * down)))
    result = np.empty((window.height, window.width, 3), np.uint8)
    for row in range(0, window.height, rows):
        count = min(rows, window.height - row)
        begin = (window.top + row) * down
        first, last = max(0, math.floor(begin - beside)), math.ceil(begin + count * down + beside)
        strip = pixels[first:last]
        # First along the rows, as Pillow does: in the other order every eighth value is rounded otherwise.
        source = ImageData(width, len(strip), PixelType.U8x3, strip.tobytes())
        narrow = ImageData(window.width, len(strip), PixelType.U8x3)
        target = ImageData(window.width, count, PixelType.U8x3)
        left, top = window.left * across, begin - first
        columns = CropBox(left, 0, _within(left, window.width * across, width), len(strip))
        rows_there = CropBox(0, top, window.width, _within(top, count * down, len(strip)))
        for one, other, part in ((source, narrow, columns), (narrow, target, rows_there)):
            Resizer().resize(one, other, ResizeOptions(algorithm, use_alpha=False, crop_box=part))
        result[row : row + count] = np.frombuffer(target.get_buffer(), np.uint8).reshape(count, window.width, 3)
    return result


def _within(begin: float, length: float, limit: int) -> float:
    """The length that a part has which begins there: what is reckoned in fractions may end just behind the limit."""
    length = min(length, limit - begin)
    return length if begin + length <= limit else math.nextafter(length, 0)
