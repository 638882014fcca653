"""Inside the image: a bundle's model as the service would run it on this CPU, or in a way that is asked for."""

from pathlib import Path

from app.bundle.verify import VerifiedBundle
from app.engine import Engine, Layout
from app.imaging import Decoder
from app.precision import Build, Precision, choose
from app.serving import TOLERANCE

# Pixels of the largest picture that is measured with.
LARGEST = 50_000_000


def builder(verified: VerifiedBundle, max_batch: int) -> Build:
    """What makes engines of a bundle's model."""
    manifest = verified.manifest

    def build(precision: Precision, layout: Layout) -> Engine:
        return Engine(verified.module, manifest.input, manifest.activation, "cpu", max_batch, precision, layout)

    return build


def as_served(folder: Path, verified: VerifiedBundle, decoder: Decoder, max_batch: int) -> Engine:
    """The engine that the service would choose; not optimised yet."""
    golden = (folder / sample.file for sample in verified.manifest.golden_samples)
    samples = [decoder.decode(path.read_bytes()).pixels for path in golden]
    return choose("auto", "cpu", builder(verified, max_batch), samples, TOLERANCE)
