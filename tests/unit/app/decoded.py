"""Images as a decoder delivers them, without a picture; apart from `support`, which brings torch."""

from typing import Any

from app.images.decoder import DecodedImage


def as_decoded(pixels: Any) -> DecodedImage:
    """Pixels with all that is said of a picture."""
    return DecodedImage(pixels, 64, 48, "JPEG", "RGB", 1, orientation_applied=False)
