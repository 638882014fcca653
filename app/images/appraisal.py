"""What decoding an image will cost, in work and memory, and whether it is let in.

The largest honest picture is one of `max_pixels` in the dearest ordinary way, a WebP. Nothing is let in that costs more
than twice as much. The figures are those of `bench/uploads.py`.
"""

import functools
from dataclasses import dataclass

from app.errors import ServiceError
from app.images import anatomy
from app.images.anatomy import Anatomy, UnsoundError

MIN_SIDE = 10
# A resize to the model's short side would blow a thin strip up to gigabytes.
MAX_ASPECT_RATIO = 100
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# Nanoseconds of one core for a pixel, all that comes after the decoder included, and for a byte of the file.
_WORK = {"JPEG": (14, 10), "PNG": (28, 10), "WEBP": (33, 30), "GIF": (24, 10), "BMP": (20, 10)}
_SCALED_JPEG = 1
_SAMPLE = 1.4
# Arithmetic coding takes so many times the work for a sample, run lengths for a byte.
_DEAR = 20
# Bytes for a pixel at the worst moment; those of the file are the bodies' affair.
_MEMORY = {"JPEG": 11, "PNG": 14, "WEBP": 23, "GIF": 11, "BMP": 11}
_COEFFICIENT = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one core and bytes of memory, as estimated."""

    work: int
    memory: int

    @property
    def seconds(self) -> float:
        """The work in seconds of one core."""
        return self.work / 1e9


@functools.cache
def largest(max_pixels: int) -> Cost:
    """What the largest honest picture costs."""
    return cost(Anatomy("WEBP", max_pixels, 1), 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may be and cost; `memory` is what the container leaves for decoding."""

    max_pixels: int
    memory: int

    @property
    def work(self) -> int:
        """Twice the work of the largest honest picture."""
        return 2 * largest(self.max_pixels).work


def examine(content: bytes) -> Anatomy:
    """The anatomy of a sound image of an accepted format."""
    if not content:
        raise ServiceError("empty_file", "The file is empty; send the bytes of an image.")
    try:
        found = anatomy.examine(content)
    except UnsoundError as error:
        raise ServiceError("corrupted_image", f"The image is corrupted or incomplete: {error}.") from None
    if not found:
        seen = anatomy.name_of(content)
        what = f"the content is {seen}" if seen else "the content is no image"
        raise ServiceError("invalid_file_type", f"Invalid file type: {what}; this service reads {', '.join(FORMATS)}.")
    return found


def check_size(found: Anatomy, max_pixels: int) -> None:
    """Refuse a picture that is too small, too large or too thin."""
    width, height = found.width, found.height
    if min(width, height) < MIN_SIDE:
        raise ServiceError(
            "image_too_small", f"The image is too small: {width}x{height}; the least is {MIN_SIDE}x{MIN_SIDE}."
        )
    if found.pixels > max_pixels:
        raise ServiceError(
            "image_too_large",
            f"The image dimensions are too large: {width}x{height} is more than {max_pixels} pixels.",
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ServiceError(
            "image_too_large",
            f"The image dimensions are too large: {width}x{height} is longer than {MAX_ASPECT_RATIO} times its "
            "short side.",
        )


def cost(found: Anatomy, size: int, divisor: int = 0) -> Cost:
    """What decoding costs; a JPEG that libjpeg-turbo decodes directly, at a fraction of its size, has a divisor."""
    of_pixel, of_byte = _WORK[found.format]
    memory = found.pixels * _MEMORY[found.format]
    work = 0.0
    if found.format == "JPEG":
        # What libjpeg-turbo finds damaged is decoded a second time.
        work = found.samples * _SAMPLE * (2 if divisor else 1) if found.scans > 1 else 0
        if found.dear:
            work = found.samples * _SAMPLE * _DEAR
        if divisor > 1:
            of_pixel = _SCALED_JPEG
            # Four bytes, and what it is when only one side has been resized.
            memory = found.pixels * 6 // divisor**2
        memory += found.kept * _COEFFICIENT
    elif found.dear:
        of_byte *= _DEAR
    return Cost(round(work + found.pixels * of_pixel + size * of_byte), memory)


def check_cost(found: Anatomy, needed: Cost, limits: Limits) -> None:
    """Refuse a picture that costs far more than its like."""
    if needed.work > limits.work:
        scans = f"{found.scans} scans over " if found.scans > 1 else ""
        raise ServiceError(
            "image_too_complex",
            f"The image is too complex: {scans}{found.pixels / 1e6:.1f} megapixels take "
            f"{needed.work / limits.work:.1f} times the work that one image may; save it again in an ordinary way.",
        )
    if needed.memory > limits.memory:
        raise ServiceError(
            "image_too_large",
            f"The image dimensions are too large: {found.width}x{found.height} needs {needed.memory >> 20} MiB to be "
            f"decoded and the service has {limits.memory >> 20} MiB; send a smaller one.",
        )
