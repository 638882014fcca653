"""Images: checked by their header, decoded, and brought to the model's input size exactly as timm does it."""

import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from app.bundle.manifest import Input
from app.engines.engine import Pixels
from app.errors import ServiceError
from app.images import appraisal
from app.images import orientation as orientations
from app.images.anatomy import Anatomy, without_compressed_texts
from app.images.appraisal import Cost, Limits
from app.images.geometry import Geometry, Window
from app.images.resizing import Padded, by_pillow, by_vectors, size_of
from app.images.resizing import Picture as Decoded

# A scaled JPEG keeps at least this many times the pixels of each side that the resize then averages: with two, one best
# class in forty changed, with three one in three hundred.
FAST_MARGIN = 3
# The sizes that libjpeg-turbo has vectorized code for, the smallest first.
JPEG_DIVISORS = (8, 4, 2)

# Pillow's name for a JPEG of so many components.
_MODES = {1: "L", 3: "RGB"}

Mode = Literal["fast", "exact"]
Orientation = Literal["apply", "ignore"]

# The structure is judged before, with our own limits and our own answers.
Image.MAX_IMAGE_PIXELS = None

# Pillow's reader without its look into directories whose entries may all name the same content: that of EXIF, for the
# dots per inch, and that of a phone's second picture.
_open_jpeg: Callable[[io.BytesIO], Image.Image] = type(
    "Jpeg", (JpegImageFile,), {"_read_dpi_from_exif": lambda _: None}
)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image in the model's input size, with what was known of the original."""

    pixels: Pixels
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    orientation_applied: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that is let in, with what it is and will cost."""

    content: bytes
    anatomy: Anatomy
    cost: Cost


class Decoder:
    """Turns file content into model input; one per model, used by several threads.

    `fast` has libjpeg-turbo decode a JPEG without Pillow's copies, a large one at a half, a quarter or an eighth of its
    size, which its frequency domain gives almost for free, and resizes with vector instructions. `exact` treats every
    picture exactly as timm does. A picture that its camera stored turned is made upright between resize and crop, where
    it is small.
    """

    def __init__(
        self,
        settings: Input,
        max_pixels: int,
        mode: Mode = "exact",
        orientation: Orientation = "apply",
    ) -> None:
        # How much memory there is for decoding is known only once the model has its own.
        self.limits = Limits(max_pixels, sys.maxsize)
        self._upright = orientation == "apply"
        # What the resize makes of the short side, times the margin.
        self._enough = round(max(settings.size[1:]) / settings.crop_pct) * FAST_MARGIN if mode == "fast" else 0
        self._geometry = Geometry(settings)
        self._resize = (by_vectors if mode == "fast" else by_pillow)(settings.interpolation)

    def appraise(self, content: bytes) -> Picture:
        """What an image is and will cost; a ServiceError says why it is refused."""
        found = appraisal.examine(content)
        appraisal.check_size(found, self.limits.max_pixels)
        picture = Picture(content, found, appraisal.cost(found, len(content), self._divisor(found)))
        appraisal.check_cost(found, picture.cost, self.limits)
        return picture

    def decode(self, content: bytes | Picture) -> DecodedImage:
        """Decode one image, checked before or now; a ServiceError says why it is refused."""
        known = content if isinstance(content, Picture) else self.appraise(content)
        picture: Decoded | None = self._decode_jpeg(known)
        if picture is None:
            picture, mode, orientation = self._decode_by_pillow(known)
        else:
            mode, orientation = _MODES[known.anatomy.components], orientations.said(known.anatomy.exif)
        original = (known.anatomy.width, known.anatomy.height, known.anatomy.format, mode)
        turned = self._upright and orientation != orientations.UPRIGHT
        pixels = self._fit(picture, orientation if turned else orientations.UPRIGHT)
        return DecodedImage(pixels, *original, orientation, turned)

    def _fit(self, picture: Decoded, orientation: int) -> Pixels:
        """The picture upright and in the model's input size."""
        width, height = size_of(picture)
        lies = orientations.lies(orientation)
        sides = self._geometry.sides(*((height, width) if lies else (width, height)))
        window, left, top = self._geometry.place(*sides)
        if orientation == orientations.UPRIGHT:
            pixels = self._resize(picture, sides, window)
        else:
            stored = (sides[1], sides[0]) if lies else sides
            whole = self._resize(picture, stored, Window(0, 0, *stored))
            rows, columns = window.slices
            pixels = np.ascontiguousarray(orientations.turn(whole, orientation)[rows, columns])
        if pixels.shape[:2] == (self._geometry.height, self._geometry.width):
            return pixels
        filled = np.empty((self._geometry.height, self._geometry.width, 3), np.uint8)
        filled[:] = self._geometry.fill
        filled[top : top + window.height, left : left + window.width] = pixels
        return filled

    def _divisor(self, found: Anatomy) -> int:
        """The fraction of its size that is enough of a JPEG; 0 for what Pillow has to decode."""
        if not self._enough or found.format != "JPEG" or found.components not in (1, 3):
            return 0
        side = min(found.width, found.height)
        return next((number for number in JPEG_DIVISORS if side >= self._enough * number), 1)

    def _decode_jpeg(self, known: Picture) -> Padded | None:
        """The pixels of a JPEG, at the smallest size that is enough; nothing where Pillow has to decode it."""
        divisor = self._divisor(known.anatomy)
        if not divisor:
            return None
        sides = (known.anatomy.height, known.anatomy.width)
        height, width = (-(-side // divisor) for side in sides)
        try:
            if simplejpeg.decode_jpeg_header(known.content)[:2] != sides:
                raise _corrupted("its header contradicts itself")
            pixels: Padded = simplejpeg.decode_jpeg(known.content, "RGBX", min_height=height, min_width=width)
        except ValueError:  # it is damaged; what Pillow makes of it decides
            return None
        return pixels

    def _decode_by_pillow(self, known: Picture) -> tuple[Image.Image, str, int]:
        """The picture, the mode that it had, and how it lies."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(known) as image:
                mode, divisor = image.mode, self._divisor(known.anatomy)
                if divisor > 1 and mode in _MODES.values():  # a damaged JPEG, at the same fraction of its size
                    image.draft(mode, (image.width // divisor, image.height // divisor))
                picture = _to_rgb(image)
                return picture, mode, orientations.read(image)


def _open(known: Picture) -> Image.Image:
    content = known.content
    if known.anatomy.format == "PNG":
        content = without_compressed_texts(content)
    try:
        file = io.BytesIO(content)
        is_jpeg = known.anatomy.format == "JPEG"
        image = _open_jpeg(file) if is_jpeg else Image.open(file, formats=(known.anatomy.format,))
    except UnidentifiedImageError:
        raise _corrupted("its header is damaged or cut off") from None
    except Exception as error:  # each of Pillow's format readers raises its own kinds on damaged headers
        raise _corrupted(error) from None
    if image.size != (known.anatomy.width, known.anatomy.height):
        raise _corrupted("its header contradicts itself")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame to RGB; alpha is dropped, as timm does, and 16-bit gray is scaled instead of clipped."""
    try:
        image.load()
        if image.mode.startswith("I"):
            return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
        # Of the same mode it would be a copy.
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # each of Pillow's format readers raises its own kinds on damaged data
        raise _corrupted(error) from None


def _corrupted(why: object) -> ServiceError:
    return ServiceError("corrupted_image", f"The image is corrupted or incomplete: {why}.")
