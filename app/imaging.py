"""Images: checked by their header, decoded, and brought to the model's input size exactly as timm does it."""

import io
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

from app import anatomy
from app import orientation as orientations
from app.anatomy import UnsoundError
from app.bundle.manifest import Input
from app.errors import ServiceError
from app.timing import shortest

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MIN_SIDE = 10
# A resize to the model's short side would blow a thin strip up to gigabytes.
MAX_ASPECT_RATIO = 100
# A scaled JPEG keeps at least this many times the pixels of each side that the resize then averages: with two, one best
# class in forty changed, with three one in three hundred.
FAST_MARGIN = 3
# The sizes that libjpeg-turbo has vectorised code for, the smallest first.
JPEG_DIVISORS = (8, 4, 2)

# Samples that a decoder may go through for each of the most pixels. An encoder's ten scans of four components make
# twenty.
MAX_PASSES = 40

# What torch resizes bytes with, as Pillow does it but for rounding: no pixel differs by more than one of 255.
VECTORISED = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)

Mode = Literal["fast", "exact"]
Orientation = Literal["apply", "ignore"]
Step = Callable[[Image.Image | torch.Tensor], Image.Image | torch.Tensor]

# The header is checked below, with our own limit and our own answer.
Image.MAX_IMAGE_PIXELS = None

_JPEG = b"\xff\xd8\xff"
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
        self._max_pixels = max_pixels
        self._upright = orientation == "apply"
        # What the resize makes of the short side, times the margin.
        self._enough = round(max(settings.size[1:]) / settings.crop_pct) * FAST_MARGIN if mode == "fast" else 0
        self._steps = _steps(settings, mode)
        # The resize of a picture that lies: to sides that are as they should be once it is upright.
        channels, height, width = settings.size
        lying = settings.model_copy(update={"size": (channels, width, height)})
        self._lying_resize = None if height == width else _steps(lying, mode)[0]

    def decode(self, content: bytes) -> DecodedImage:
        """Check and decode one image; a ServiceError says why it is refused."""
        if not content:
            raise ServiceError("empty_file", "The file is empty; send the bytes of an image.")
        self._check_work(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = self._open(content)
            with image:
                self._check_size(image.width, image.height)
                original = (image.width, image.height, str(image.format), image.mode)
                picture: Image.Image | torch.Tensor | None = self._decode_jpeg(image, content)
                if picture is None:
                    picture = _to_rgb(image)
                orientation = orientations.read(image)
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

    def _check_work(self, content: bytes) -> None:
        """Refuse a picture whose structure asks for far more work than its pixels."""
        try:
            found = anatomy.examine(content)
        except UnsoundError as error:
            raise _corrupted(error) from None
        if not found:
            return
        self._check_size(found.width, found.height)
        if found.samples > MAX_PASSES * self._max_pixels:
            raise ServiceError(
                "image_too_complex",
                f"The image is too complex: its scans go over {found.samples // 10**6} million samples, and "
                f"{MAX_PASSES * self._max_pixels // 10**6} million are the most; save it again, not progressive.",
            )

    def _decode_jpeg(self, image: Image.Image, content: bytes) -> torch.Tensor | None:
        """The pixels of a JPEG, at the smallest size that is enough; nothing where Pillow has to decode it."""
        if not self._enough or image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return None
        divisor = next((number for number in JPEG_DIVISORS if min(image.size) >= self._enough * number), 1)
        height, width = (-(-side // divisor) for side in (image.height, image.width))
        try:
            pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width)
        except ValueError:  # it is damaged; what Pillow makes of it decides
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _open(self, content: bytes) -> Image.Image:
        try:
            file = io.BytesIO(content)
            return _open_jpeg(file) if content.startswith(_JPEG) else Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            if _looks_accepted(bytes(content[:12])):
                raise _corrupted("its header is damaged or cut off") from None
            raise ServiceError(
                "invalid_file_type",
                f"Invalid file type: the content is not an image this service reads ({_names()}).",
            ) from None
        except Exception as error:  # each of Pillow's format readers raises its own kinds on damaged headers
            raise _corrupted(error) from None

    def _check_size(self, width: int, height: int) -> None:
        if min(width, height) < MIN_SIDE:
            raise ServiceError(
                "image_too_small", f"The image is too small: {width}x{height}; the least is {MIN_SIDE}x{MIN_SIDE}."
            )
        if width * height > self._max_pixels:
            raise ServiceError(
                "image_too_large",
                f"The image dimensions are too large: {width}x{height} is more than {self._max_pixels} pixels.",
            )
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise ServiceError(
                "image_too_large",
                f"The image dimensions are too large: {width}x{height} is longer than {MAX_ASPECT_RATIO} times its "
                "short side.",
            )


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
        return image.convert("RGB")
    except Exception as error:  # each of Pillow's format readers raises its own kinds on damaged data
        raise _corrupted(error) from None


def _names() -> str:
    return ", ".join(FORMATS)


def _looks_accepted(head: bytes) -> bool:
    return head.startswith((_JPEG, b"\x89PNG", b"GIF8")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _corrupted(why: object) -> ServiceError:
    return ServiceError("corrupted_image", f"The image is corrupted or incomplete: {why}.")
