"""Resizing by torch, which leaves the interpreter to others: for the many threads that decode for a GPU."""

import functools

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vectorized

from app.bundle.manifest import Interpolation
from app.engine import Pixels
from app.geometry import Window
from app.resizing import Picture, Resize, by_pillow
from app.timing import shortest

# What torch resizes bytes with, as Pillow does it but for rounding.
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_SAMPLE = np.zeros((375, 500, 3), np.uint8)
_SAMPLE_SIDES = (341, 256)


def by_torch(interpolation: Interpolation) -> Resize:
    """Resize with torch where it has vector code and is faster than Pillow on this CPU, which is measured."""
    pillow = by_pillow(interpolation)
    if interpolation not in _MODES:
        return pillow
    ways: list[Resize] = [pillow, functools.partial(_by_torch, _MODES[interpolation])]
    return min(ways, key=lambda way: shortest(lambda: way(_SAMPLE, _SAMPLE_SIDES, Window(0, 0, *_SAMPLE_SIDES))))


def _by_torch(mode: InterpolationMode, picture: Picture, sides: tuple[int, int], window: Window) -> Pixels:
    pixels = torch.from_numpy(np.array(picture, copy=not isinstance(picture, np.ndarray))).permute(2, 0, 1)
    resized = vectorized.resize(pixels, [sides[1], sides[0]], mode, antialias=True).permute(1, 2, 0).numpy()
    return resized[window.slices]
