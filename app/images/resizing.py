"""Resizing: ways to bring a picture to other sides, each as Pillow does it but for rounding."""

import functools
from collections.abc import Callable

import numpy as np
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from app.bundle.manifest import Interpolation
from app.engines.engine import Pixels
from app.images.geometry import Window

# Rows, columns, three colors and a byte that means nothing: how Pillow keeps RGB, so that nothing has to be copied.
type Padded = NDArray[np.uint8]
# As an image, in mode RGB.
type Picture = Image.Image | Padded
# Makes of a picture what is in the window once it has these sides.
type Resize = Callable[[Picture, tuple[int, int], Window], Pixels]

# The filters that the library with vector code has under other names than Pillow.
_FILTERS = {"bilinear": FilterType.bilinear, "bicubic": FilterType.catmull_rom}


def size_of(picture: Picture) -> tuple[int, int]:
    """Its width and height."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def by_pillow(interpolation: Interpolation) -> Resize:
    """Resize with Pillow, which is what timm does."""
    return functools.partial(_by_pillow, Image.Resampling[interpolation.upper()])


def by_vectors(interpolation: Interpolation) -> Resize:
    """Resize with vector instructions where there is code for the filter; no value differs by more than 3 of 255."""
    if interpolation not in _FILTERS:
        return by_pillow(interpolation)
    return functools.partial(_by_vectors, ResizeAlg.convolution(_FILTERS[interpolation]))


def _by_pillow(resample: Image.Resampling, picture: Picture, sides: tuple[int, int], window: Window) -> Pixels:
    image = picture if isinstance(picture, Image.Image) else _as_image(picture, "RGBX").convert("RGB")
    left, top, width, height = window
    return np.array(image.resize(sides, resample).crop((left, top, left + width, top + height)))


def _by_vectors(algorithm: ResizeAlg, picture: Picture, sides: tuple[int, int], window: Window) -> Pixels:
    # CMYK, because the library takes any four bytes that are called so as they are.
    source = picture if isinstance(picture, Image.Image) else _as_image(picture, "CMYK")
    width, height = source.size
    across, down = width / sides[0], height / sides[1]
    # First along the rows, as Pillow does: in the other order every eighth value is rounded otherwise.
    narrow = Image.new(source.mode, (window.width, height))
    target = Image.new(source.mode, (window.width, window.height))
    left, top = window.left * across, window.top * down
    columns = CropBox(left, 0, min(window.width * across, width - left), height)
    rows = CropBox(0, top, window.width, min(window.height * down, height - top))
    for one, other, part in ((source, narrow, columns), (narrow, target, rows)):
        Resizer().resize_pil(one, other, ResizeOptions(algorithm, crop_box=part))
    whole = np.asarray(target)
    pixels = np.empty((*whole.shape[:2], 3), np.uint8)
    # One color after the other: numpy would copy three bytes at a time, which takes five times as long.
    for color in range(3):
        pixels[..., color] = whole[..., color]
    return pixels


def _as_image(pixels: Padded, mode: str) -> Image.Image:
    """The same bytes as an image of four channels."""
    return Image.frombuffer(mode, size_of(pixels), pixels, "raw", mode, 0, 1)
