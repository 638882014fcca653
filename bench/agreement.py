"""Inside the image: `agreement BUNDLE PHOTOGRAPHS` compares every mode with the reference that it replaces."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform

from app.bundle import verify
from app.bundle.manifest import read
from app.engines.engine import Engine
from app.engines.selection import Way, ways
from app.images.decoder import Decoder, Mode
from bench import engines

# Short sides of what is sent: the size of the web, of small cameras and of phones.
SHORT_SIDES = (375, 1200, 3000)
CUTS = 5
DECODES: tuple[Mode, ...] = ("exact", "fast")
FORMATS = (".jpg", ".jpeg", ".png", ".tiff")


def photographs(folder: Path) -> dict[str, Image.Image]:
    """The photographs of a folder that are large enough, by the names of their files."""
    opened = {path.stem: Image.open(path) for path in sorted(folder.iterdir()) if path.suffix in FORMATS}
    return {name: photo.convert("RGB") for name, photo in opened.items() if min(photo.size) >= 200}


def cut(photo: Image.Image, chance: np.random.Generator, side: int) -> bytes:
    """A random part of a photograph with this shorter side, as a JPEG file of some quality."""
    share = chance.uniform(0.6, 1)
    width, height = round(photo.width * share), round(photo.height * share)
    left, top = (int(chance.integers(0, room + 1)) for room in (photo.width - width, photo.height - height))
    scale = side / min(width, height)
    size = (round(width * scale), round(height * scale))
    part = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    target = io.BytesIO()
    part.save(target, "JPEG", quality=int(chance.choice((75, 85, 95))))
    return target.getvalue()


def jpegs(folder: Path) -> Iterator[bytes]:
    """Cuts of every photograph, in sizes that cameras deliver."""
    chance = np.random.default_rng(0)
    for photo in photographs(folder).values():
        for side in SHORT_SIDES:
            for _ in range(CUTS):
                yield cut(photo, chance, side)


class Probabilities:
    """The probabilities of the best classes, as one engine computes them behind one way to decode."""

    def __init__(self, folder: Path, decode: Mode, engine: Engine) -> None:
        self.decoder = Decoder(read(folder)[0].input, engines.LARGEST, decode)
        self.engine = engine

    def __call__(self, content: bytes) -> dict[int, float]:
        """The best classes of one file."""
        ranking = self.engine.predict([self.decoder.decode(content).pixels])[0]
        return dict(zip(ranking.class_ids, ranking.probabilities, strict=True))


class Timm:
    """The reference: timm's own transform and the module as timm builds it, one picture at a time."""

    def __init__(self, folder: Path) -> None:
        verified = verify.verify(folder)
        settings = verified.manifest.input
        self.module = verified.module
        self.probabilities = torch.softmax if verified.manifest.activation == "softmax" else _sigmoid
        self.transform = create_transform(
            settings.size,
            is_training=False,
            interpolation=settings.interpolation,
            mean=settings.mean,
            std=settings.std,
            crop_pct=settings.crop_pct,
            crop_mode=settings.crop_mode,
        )

    def __call__(self, content: bytes) -> dict[int, float]:
        """The probability of every class."""
        with torch.inference_mode():
            batch = self.transform(Image.open(io.BytesIO(content)).convert("RGB")).unsqueeze(0)
            return dict(enumerate(self.probabilities(self.module(batch), 1)[0].tolist()))


def _sigmoid(logits: torch.Tensor, _: int) -> torch.Tensor:
    return logits.sigmoid()


def changes(reference: dict[int, float], found: dict[int, float]) -> tuple[bool, float]:
    """Whether the best class is the same, and the largest change among the best classes that both know."""
    same = max(reference, key=lambda name: reference[name]) == max(found, key=lambda name: found[name])
    return same, max(abs(reference[name] - found[name]) for name in reference.keys() & found.keys())


def _ways() -> list[Way]:
    """What may serve here; torch only in fp32, as it does."""
    return [way for way in ways("auto", "auto", "cpu") if way[0] != "torch" or way[1] == "fp32"]


def main() -> None:
    """Print one row per mode as JSON."""
    bundle, folder = Path(sys.argv[1]), Path(sys.argv[2])
    timm = Timm(bundle)
    # What is named is used whatever it changes; only what serves is compared with the golden samples.
    build, served = engines.build(bundle, 1), engines.as_served(bundle, 1).engine
    ways = {f"{runtime} {precision}": build(runtime, precision) for runtime, precision in _ways()}
    modes = {
        f"{decode}, {way}": Probabilities(bundle, decode, engine) for way, engine in ways.items() for decode in DECODES
    }
    modes[f"as served: fast, {served.runtime} {served.precision}"] = Probabilities(bundle, "fast", served)
    seen: dict[str, list[tuple[bool, float]]] = {name: [] for name in modes}
    for content in jpegs(folder):
        expected = timm(content)
        for name, mode in modes.items():
            seen[name].append(changes(expected, mode(content)))
    rows = [
        {
            "mode": name,
            "photographs": len(pairs),
            "top1": sum(same for same, _ in pairs) / len(pairs),
            "largest": max(change for _, change in pairs),
            "mean": sum(change for _, change in pairs) / len(pairs),
        }
        for name, pairs in seen.items()
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
