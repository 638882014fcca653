"""Inside the image: `training PHOTOGRAPHS MODEL FOLDER NAME` teaches a model to tell from which photograph a cut is.

Weights that decide something are what agreement can be measured with; this gives an architecture some, in minutes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL.Image import Image
from torch import Tensor, nn

from app.bundle.__main__ import main as bundle
from app.bundle.manifest import Design
from app.images.decoder import Decoder
from app.models.networks import default_input
from bench.agreement import cut, photographs
from bench.engines import LARGEST

# Smaller than what is served later, as steps cost by the pixel.
_SIDE = 128
_BATCH = 32
_STEPS = 240
_LEARNING_RATE = 1e-3


def batches(photos: list[Image], decoder: Decoder, mean: Tensor, std: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalized cuts of random photographs, as the service decodes them, and the numbers of these photographs."""
    chance = np.random.default_rng(1)
    for _ in range(_STEPS):
        labels = chance.integers(0, len(photos), _BATCH)
        pixels = [decoder.decode(cut(photos[label], chance, _SIDE)).pixels for label in labels]
        yield (
            (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std,
            torch.from_numpy(labels),
        )


def train(photos: list[Image], architecture: str) -> nn.Module:
    """The trained model; its classes are the photographs."""
    torch.manual_seed(0)
    settings = default_input(Design(architecture=architecture, num_classes=len(photos)), "timm", _SIDE)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (settings.mean, settings.std))
    model = timm.create_model(architecture, num_classes=len(photos))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS)
    decoder = Decoder(settings, LARGEST, "fast")
    right = 0.0
    for step, (images, labels) in enumerate(batches(photos, decoder, mean, std)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.to(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = 0.95 * right + 0.05 * float((logits.argmax(1) == labels).float().mean())
        if step % 20 == 19:
            print(f"{step + 1} of {_STEPS} steps: loss {loss:.3f}, {right:.1%} right", flush=True)
    return model.eval()


def main() -> None:
    """Write the bundle `FOLDER/NAME/1`, unless it is there."""
    architecture, target, name = sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    if (target / name / "1").exists():
        return
    checkpoint, labels = target / f"{name}.pth", target / f"{name}.txt"
    photos = photographs(Path(sys.argv[1]))
    labels.write_text("".join(f"{label}\n" for label in photos))
    torch.save(train(list(photos.values()), architecture).state_dict(), checkpoint)
    code = bundle(
        [
            *("create", "--checkpoint", str(checkpoint), "--architecture", architecture, "--labels", str(labels)),
            *("--name", name, "--version", "1", "--output", str(target)),
        ]
    )
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
