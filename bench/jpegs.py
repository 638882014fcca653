"""JPEGs decoded on the GPU beside the service's own decoder; on a CPU it only shows that it works.

    python3 -m bench.jpegs [--bundle FOLDER]        where torch, torchvision and the service's packages are installed

Prints for each kind of picture how many a second either way decodes, resizes and cuts, what that costs of a core, and
how far pixels and answers then are from those of the exact decoder. A GPU's pixels are left where they are.

The service does not decode on the GPU. torchvision gives nvJPEG no flag for smooth chroma, so that the usual JPEGs
come out otherwise than from libjpeg (sgl-project/sglang#34163); it may write into memory that other streams still read
(pytorch/vision#9606); and one damaged file fails its whole batch. What would be gained for that is measured here.
"""

import argparse
import functools
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from app.bundle import manifest as manifests
from app.bundle import verify
from app.engines.agreement import disagreement
from app.engines.engine import Pixels
from app.engines.torch_engine import TorchEngine, choose_device
from app.images.decoder import Decoder
from app.images.geometry import Geometry
from bench import bound
from bench.figures import table
from bench.gpu import make_bundle

# A phone's photograph.
LARGE = (4000, 3000)
_Work = Callable[[Sequence[bytes]], Any]


def enlarged(content: bytes) -> bytes:
    """The picture as a phone would have taken it."""
    target = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(target, "JPEG")
    return target.getvalue()


class OnDevice:
    """Decodes, resizes and cuts a batch of JPEGs on a device."""

    def __init__(self, settings: manifests.Input, device: str) -> None:
        self._geometry = Geometry(settings)
        self._interpolation = settings.interpolation
        self._device = device

    def __call__(self, contents: Sequence[bytes]) -> Tensor:
        """The pictures in the model's input size, colors first."""
        files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
        pictures = decode_jpeg(files, mode=ImageReadMode.RGB, device=self._device)
        # The decoder has streams of its own.
        bound.finish(self._device)
        return torch.stack([self._fit(picture) for picture in pictures])

    def _fit(self, picture: Tensor) -> Tensor:
        width, height = self._geometry.sides(picture.shape[2], picture.shape[1])
        window = self._geometry.place(width, height).window
        resized = interpolate(picture[None].float(), (height, width), mode=self._interpolation, antialias=True)
        rows, columns = window.slices
        return resized[0, :, rows, columns].round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Row:
    """What one way to decode one kind of picture takes, and how far it is from the exact decoder."""

    picture: str
    decoded_by: str
    rate: float
    cpu_us: float
    largest_change: int
    mean_change: float
    answers_change: float
    agrees: bool

    def cells(self) -> list[str]:
        """As a table shows it."""
        answers = f"{self.answers_change:.2g}{'' if self.agrees else ', refused'}"
        pixels = f"{self.largest_change} ({self.mean_change:.2f})"
        return [self.picture, self.decoded_by, f"{self.rate:.0f}", f"{self.cpu_us:.0f}", pixels, answers]


def compare(folder: Path, kinds: Mapping[str, Sequence[bytes]], device: str, batch: int, seconds: float) -> list[Row]:
    """The figures of each kind of picture, judged by the answers of a bundle's model."""
    verified = verify.verify(folder)
    manifest = verified.manifest
    engine = TorchEngine(verified.module, manifest.input, manifest.activation, device, batch)
    tolerance = manifests.read_golden(folder / manifest.golden.file).tolerance
    exact, fast = (Decoder(manifest.input, manifests.GOLDEN_PIXELS, mode) for mode in ("exact", "fast"))
    on_device = OnDevice(manifest.input, device)

    def by_service(contents: Sequence[bytes]) -> list[Pixels]:
        return [fast.decode(content).pixels for content in contents]

    def by_device(contents: Sequence[bytes]) -> list[Pixels]:
        return [picture.permute(1, 2, 0).cpu().numpy() for picture in on_device(contents)]

    ways: dict[str, tuple[_Work, _Work]] = {
        "the service, one core": (by_service, by_service),
        f"torchvision, {device}": (on_device, by_device),
    }
    rows = []
    for kind, contents in kinds.items():
        files = [contents[number % len(contents)] for number in range(batch)]
        expected = [exact.decode(content).pixels for content in contents]
        for name, (work, shown) in ways.items():
            rate, cost = bound.cost(functools.partial(work, files), batch, seconds, device)
            pixels = shown(contents)
            off = np.abs(np.stack(pixels).astype(int) - np.stack(expected))
            change = disagreement(engine.predict(expected), engine.predict(pixels))
            figures = (rate, cost, int(off.max()), float(off.mean()), change)
            rows.append(Row(kind, name, *figures, agrees=change <= tolerance))
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.jpegs", description="Decode JPEGs on the GPU, too.")
    parser.add_argument("--bundle", type=Path, help="what judges by its answers; otherwise one with random weights")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--small", action="store_true", help="leave out large pictures")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    device = choose_device(options.device, require_gpu=options.device == "cuda")
    golden = [path.read_bytes() for path in sorted((manifests.DATA / "golden").glob("*.jpg"))]
    kinds = {"golden": golden}
    if not options.small:
        kinds["{}x{}".format(*LARGE)] = [enlarged(content) for content in golden]
    # One core, as a decoder's thread has it.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = options.bundle or make_bundle(Path(made), "mobilenetv3_small_050")
        rows = compare(folder, kinds, device, options.batch, options.seconds)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    head = ["picture", "decoded by", "a second", "µs of a core", "pixels off by (mean)", "answers change by"]
    print(table(head, [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
