"""Images: checked by their header, decoded, and brought to the model's input size exactly as timm does it."""

import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vectorised

from app import appraisal
from app import orientation as orientations
from app.anatomy import Anatomy, without_compressed_texts
from app.appraisal import Cost, Limits
from app.bundle.manifest import Input
from app.errors import ServiceError
from app.timing import shortest

# A scaled JPEG keeps at least this many times the pixels of each side that the resize then averages: with two, one best
# class in forty changed, with three one in three hundred.
FAST_MARGIN = 3
# The sizes that libjpeg-turbo has vectorised code for, the smallest first.
JPEG_DIVISORS = (8, 4, 2)

# What torch resizes bytes with, as Pillow does it but for rounding: no pixel differs by more than one of 255.
VECTORISED = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)

# Pillow's name for a JPEG of so many components.
_MODES = {1: "L", 3: "RGB"}

Mode = Literal["fast", "exact"]
Orientation = Literal["apply", "ignore"]
Step = Callable[[Image.Image | torch.Tensor], Image.Image | torch.Tensor]

# The structure is judged before, with our own limits and our own answers.
Image.MAX_IMAGE_PIXELS = None

# Pillow's reader without its look into directories whose entries may all name the same content: that of EXIF, for the
# dots per inch, and that of a phone's second picture.
_open_jpeg: Callable[[io.BytesIO], Image.Image] = type(
    "Jpeg", (JpegImageFile,), {"_read_dpi_from_exif": lambda _: None}
)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as uint8 CHW pixels of the model's input size, with what was known of the original."""

    pixels: torch.Tensor
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
    size, which its frequency domain gives almost for free, and lets torch resize where its vector units are faster than
    Pillow. `exact` treats every picture exactly as timm does. A picture that its camera stored turned is made upright
    between resize and crop, where it is small.
    """

    def __init__(
        self, settings: Input, max_pixels: int, mode: Mode = "exact", orientation: Orientation = "apply"
    ) -> None:
        # How much memory there is for decoding is known only once the model has its own.
        self.limits = Limits(max_pixels, sys.maxsize)
        self._upright = orientation == "apply"
        # What the resize makes of the short side, times the margin.
        self._enough = round(max(settings.size[1:]) / settings.crop_pct) * FAST_MARGIN if mode == "fast" else 0
        self._steps = _steps(settings, mode)
        # The resize of a picture that lies: to sides that are as they should be once it is upright.
        channels, height, width = settings.size
        lying = settings.model_copy(update={"size": (channels, width, height)})
        self._lying_resize = None if height == width else _steps(lying, mode)[0]

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
        picture: Image.Image | torch.Tensor | None = self._decode_jpeg(known)
        if picture is None:
            picture, mode, orientation = self._decode_by_pillow(known)
        else:
            mode, orientation = _MODES[known.anatomy.components], orientations.said(known.anatomy.exif)
        original = (known.anatomy.width, known.anatomy.height, known.anatomy.format, mode)
        resize, *rest = self._steps
        turned = self._upright and orientation != orientations.UPRIGHT
        if turned and self._lying_resize and orientations.lies(orientation):
            resize = self._lying_resize
        picture = resize(picture)
        if turned:
            picture = orientations.turn(picture, orientation)
        for step in rest:
            picture = step(picture)
        return DecodedImage(_to_tensor(picture), *original, orientation, turned)

    def _divisor(self, found: Anatomy) -> int:
        """The fraction of its size that is enough of a JPEG; 0 for what Pillow has to decode."""
        if not self._enough or found.format != "JPEG" or found.components not in (1, 3):
            return 0
        side = min(found.width, found.height)
        return next((number for number in JPEG_DIVISORS if side >= self._enough * number), 1)

    def _decode_jpeg(self, known: Picture) -> torch.Tensor | None:
        """The pixels of a JPEG, at the smallest size that is enough; nothing where Pillow has to decode it."""
        divisor = self._divisor(known.anatomy)
        if not divisor:
            return None
        sides = (known.anatomy.height, known.anatomy.width)
        height, width = (-(-side // divisor) for side in sides)
        try:
            if simplejpeg.decode_jpeg_header(known.content)[:2] != sides:
                raise _corrupted("its header contradicts itself")
            pixels = simplejpeg.decode_jpeg(known.content, "RGB", min_height=height, min_width=width)
        except ValueError:  # it is damaged; what Pillow makes of it decides
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1)

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


def _steps(settings: Input, mode: Mode) -> list[Step]:
    """timm's own evaluation transform without its last two steps.

    The engine normalises whole batches, which take the pixels as they are; the step before copies them into planes.
    """
    transform = create_transform(
        settings.size,
        is_training=False,
        interpolation=settings.interpolation,
        mean=settings.mean,
        std=settings.std,
        crop_pct=settings.crop_pct,
        crop_mode=settings.crop_mode,
        normalize=False,
    )
    steps: list[Step] = transform.transforms[:-1]
    if mode == "fast":
        steps[0] = _faster(steps[0])
    return steps


def _to_tensor(picture: Image.Image | torch.Tensor) -> torch.Tensor:
    """The pixels as uint8 CHW, lying as the picture's bytes do."""
    if isinstance(picture, torch.Tensor):
        return picture
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _faster(step: Step) -> Step:
    """The step, or the same resize done by torch when that is faster on this CPU, which is measured."""

    def pillow(picture: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        if isinstance(picture, torch.Tensor):
            picture = Image.fromarray(picture.permute(1, 2, 0).numpy())
        return step(picture)

    if not isinstance(step, transforms.Resize) or step.interpolation not in VECTORISED:
        return pillow
    size = [step.size] if isinstance(step.size, int) else list(step.size)

    def resize(picture: Image.Image | torch.Tensor) -> torch.Tensor:
        return vectorised.resize(_to_tensor(picture), size, step.interpolation, step.max_size, antialias=True)

    sample = torch.zeros((375, 500, 3), dtype=torch.uint8).permute(2, 0, 1)
    return min((pillow, resize), key=lambda way: shortest(lambda: way(sample)))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame to RGB; alpha is dropped, as timm does, and 16-bit grey is scaled instead of clipped."""
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
