"""Inside the image: `preprocessing FOLDER` trains small models and shows what `bundle create --check` says of mix-ups.

The pictures are made: forms in two shades somewhere in wide and tall pictures, so that both the crop and the
normalization decide something. Ends with 1 when a mix-up is not found, or something is found where all is well.
"""

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from app.bundle.__main__ import main as bundle
from app.bundle.manifest import Input
from app.images.decoder import Decoder

_ARCHITECTURE = "resnet10t"
_SIDE = 64
_FORMS = ("disc", "square", "wide bar", "tall bar")
_SHADES = {"dark": 70, "light": 120}
_CLASSES = tuple(sorted(f"{shade} {form}" for shade in _SHADES for form in _FORMS))
_PICTURES = {"train": 150, "val": 40}
_EPOCHS = 12
_BATCH = 64
_LEARNING_RATE = 2e-3

_NORMS: Mapping[str, Mapping[str, object]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
_CROPS: Mapping[str, Mapping[str, object]] = {
    "squash": {"crop_mode": "squash", "crop_pct": 1.0},
    "center": {"crop_mode": "center", "crop_pct": 0.875},
}


def draw(name: str, chance: np.random.Generator) -> Image.Image:
    """A picture of a class: its form in its shade, not always in the middle, on a rough ground."""
    shade, form = name.split(" ", 1)
    long, short = int(chance.integers(150, 220)), int(chance.integers(96, 120))
    width, height = (long, short) if chance.random() < 0.8 else (short, long)
    ground = chance.normal(165, 18, (height, width, 3)) + chance.normal(0, 8, 3)
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    size = float(chance.uniform(0.22, 0.34)) * short
    across, down = {"wide bar": (1.35, 0.75), "tall bar": (0.75, 1.35)}.get(form, (1.0, 1.0))
    x = float(chance.uniform(size * across, width - size * across))
    y = float(chance.uniform(size * down, height - size * down))
    box = (x - size * across, y - size * down, x + size * across, y + size * down)
    color = tuple(int(value) for value in (_SHADES[shade] + chance.normal(0, 9) + chance.normal(0, 5, 3)).clip(0, 255))
    pen = ImageDraw.Draw(image)
    (pen.ellipse if form == "disc" else pen.rectangle)(box, fill=color)
    return image


def make(folder: Path) -> None:
    """Write the pictures as class folders below `train` and `val`."""
    chance = np.random.default_rng(7)
    for part, count in _PICTURES.items():
        for name in _CLASSES:
            target = folder / part / name
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(name, chance).save(target / f"{number}.jpg", quality=90)


def preprocessing(norm: str, crop: str) -> Input:
    """One of the ways to prepare a picture."""
    values = {"size": (3, _SIDE, _SIDE), "interpolation": "bilinear", **_NORMS[norm], **_CROPS[crop]}
    return Input.model_validate(values)


def train(folder: Path, inputs: Input) -> nn.Module:
    """A model that was really trained with this preprocessing."""
    torch.manual_seed(0)
    decoder = Decoder(inputs, 10**7)
    paths = [(path, number) for number, name in enumerate(_CLASSES) for path in (folder / "train" / name).iterdir()]
    decoded = np.stack([decoder.decode(path.read_bytes()).pixels for path, _ in paths])
    pixels = torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (inputs.mean, inputs.std))
    images, labels = (pixels - mean) / std, torch.tensor([number for _, number in paths])
    model = timm.create_model(_ARCHITECTURE, num_classes=len(_CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    steps = len(paths) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_EPOCHS * steps)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(paths))[: steps * _BATCH].split(_BATCH):
            loss = nn.functional.cross_entropy(model(_flipped(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _flipped(images: Tensor) -> Tensor:
    return images.flip(3) if torch.rand(()) < 0.5 else images


def create(folder: Path, checkpoint: Path, inputs: Input, version: str) -> list[str]:
    """Make a bundle with `--check` and return its notes."""
    mean, std = (",".join(str(number) for number in values) for values in (inputs.mean, inputs.std))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = bundle(
            [
                *(
                    "create",
                    "--checkpoint",
                    str(checkpoint),
                    "--architecture",
                    _ARCHITECTURE,
                    "--name",
                    checkpoint.stem,
                ),
                *("--version", version, "--output", str(folder / "models"), "--labels", str(folder / "train")),
                *("--image-size", str(_SIDE), "--mean", mean, "--std", std, "--interpolation", inputs.interpolation),
                *("--crop-mode", inputs.crop_mode, "--crop-pct", str(inputs.crop_pct), "--check", str(folder / "val")),
            ]
        )
    if code:
        raise SystemExit(code)
    notes: list[str] = json.loads(said.getvalue())["notes"]
    return notes


def main() -> int:
    """Train, mix up, and compare what is said with what was done."""
    folder = Path(sys.argv[1])
    make(folder)
    wrong = 0
    for trained in (("imagenet", "squash"), ("half", "center")):
        checkpoint = folder / f"{'-'.join(trained)}.pth"
        torch.save(train(folder, preprocessing(*trained)).state_dict(), checkpoint)
        for norm in _NORMS:
            for crop in _CROPS:
                notes = create(folder, checkpoint, preprocessing(norm, crop), f"{norm}-{crop}")
                figures = next(note for note in notes if note.startswith("Check: "))
                warning = next((note for note in notes if note.startswith("Warning: ")), "")
                expected = (norm, crop) != trained
                wrong += bool(warning) != expected
                mark = "" if bool(warning) == expected else " UNEXPECTED"
                print(f"trained {'/'.join(trained)}, given {norm}/{crop}:{mark}\n  {figures}\n  {warning}", flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
