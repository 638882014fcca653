"""What a bundle's model sees of a picture."""

from pathlib import Path

from PIL import Image

from app.bundle import manifest as manifests
from app.bundle.manifest import Input
from app.errors import BundleError, ServiceError
from app.images.decoder import Decoder


def draw(inputs: Input, picture: Path, output: Path) -> Path:
    """Write the pixels that the model gets of a picture as a PNG."""
    try:
        pixels = Decoder(inputs, manifests.GOLDEN_PIXELS).decode(picture.read_bytes()).pixels
    except OSError as error:
        raise BundleError(
            "picture_missing", f"{picture} cannot be read ({error.strerror}); correct --picture."
        ) from None
    except ServiceError as error:
        raise BundleError("picture_invalid", f"{picture} is refused: {error.detail}") from None
    try:
        # The engine makes gray of the colors.
        Image.fromarray(pixels).convert("L" if inputs.size[0] == 1 else "RGB").save(output, "PNG")
    except OSError as error:
        raise BundleError(
            "output_unwritable", f"{output} cannot be written ({error.strerror}); give --output a file that can."
        ) from None
    return output
