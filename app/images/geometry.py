"""Geometry: to which sides a picture is resized and which part of it the model sees, exactly as timm reckons it."""

import math
from typing import NamedTuple

from app.bundle.manifest import Input


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Place(NamedTuple):
    """What stays of a resized picture, and where it lies in the model's input; around it is the color that fills."""

    window: Window
    left: int
    top: int


class Geometry:
    """timm's evaluation transform between decoder and normalization, as numbers."""

    def __init__(self, settings: Input) -> None:
        self.height, self.width = settings.size[1:]
        self._scaled = [math.floor(side / settings.crop_pct) for side in settings.size[1:]]
        self._mode = settings.crop_mode
        # The color around a picture that does not fill the input.
        border = [round(255 * value) for value in settings.mean]
        self.fill = (border * 3)[:3] if self._mode == "border" else [0, 0, 0]

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an upright picture is resized to."""
        tall, wide = self._scaled
        if self._mode == "squash":
            return wide, tall
        if self._mode == "center" and tall == wide:
            # torchvision cuts off what timm rounds.
            short, long = sorted((width, height))
            longer = int(tall * long / short)
            return (tall, longer) if width <= height else (longer, tall)
        ratios = (height / tall, width / wide)
        ratio = max(ratios) if self._mode == "border" else min(ratios)
        return round(width / ratio), round(height / ratio)

    def place(self, width: int, height: int) -> Place:
        """What stays of a picture that was resized to these sides."""
        columns, left, into_left = _along(width, self.width)
        rows, top, into_top = _along(height, self.height)
        return Place(Window(left, top, columns, rows), into_left, into_top)


def _along(side: int, wanted: int) -> tuple[int, int, int]:
    """Of one side: how much stays, where it begins, and where it lies in what is wanted."""
    return min(side, wanted), max(0, round((side - wanted) / 2)), max(0, (wanted - side) // 2)
