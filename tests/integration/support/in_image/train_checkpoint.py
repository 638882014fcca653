"""Train for one epoch and save as people's trainers do: timm|lightning|fastai FOLDER PHOTOGRAPH.

Writes FOLDER/checkpoint and FOLDER/pictures (class folders), and prints JSON: the options that `bundle create` needs
beside the checkpoint, and the probabilities that plain torch gives for the photograph.
"""

import argparse
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

CLASSES = ("blue", "green", "red", "yellow")
COLORS = ((40, 60, 180), (40, 160, 60), (190, 50, 40), (200, 190, 40))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 64


class Trained(NamedTuple):
    """What is compared: the options, the network that was trained, and how it saw its pictures."""

    options: dict[str, Any]
    network: nn.Module
    transform: Any


def make_pictures(folder: Path) -> None:
    """Write eight pictures of each color."""
    chance = np.random.default_rng(3)
    for name, color in zip(CLASSES, COLORS, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = chance.normal(color, 25, (80, 100, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def train(network: nn.Module, pictures: Path, transform: Any, after_step: Callable[[], None] = lambda: None) -> Any:
    """One epoch; the optimizer comes back, since trainers save it."""
    optimizer = create_optimizer_v2(network, opt="adamw", lr=3e-3)
    data = torch.utils.data.DataLoader(ImageFolder(str(pictures), transform), batch_size=8, shuffle=True)
    network.train()
    for images, labels in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        after_step()
    network.eval()
    return optimizer


def of_timm(folder: Path) -> Trained:
    """As timm's train.py: its own saver, its arguments as a Namespace, and the average of the weights."""
    arguments = argparse.Namespace(
        data_dir=folder / "pictures", dataset="", model="mobilenetv3_small_050", num_classes=len(CLASSES),
        img_size=SIDE, input_size=None, crop_pct=1.0, crop_mode="squash", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5],
        interpolation="bilinear", opt="adamw", lr=3e-3, epochs=1, model_ema=True, model_ema_decay=0.9,
        device_modules=None, aa=None, bce_loss=False, smoothing=0.1, output=None, experiment="", distributed=False,
    )  # fmt: skip
    network = timm.create_model(arguments.model, num_classes=len(CLASSES))
    config = timm.data.resolve_data_config(vars(arguments), model=network)
    transform = timm.data.create_transform(**config, is_training=False)
    average = ModelEmaV3(network, decay=arguments.model_ema_decay)
    optimizer = train(network, folder / "pictures", transform, lambda: average.update(network))
    saver = CheckpointSaver(network, optimizer, arguments, average, checkpoint_dir=str(folder), max_history=1)
    saver.save_checkpoint(0, metric=71.5)
    (folder / "model_best.pth.tar").rename(folder / "checkpoint")
    # timm validates the average, so that is what was named best.
    return Trained(
        {"architecture": arguments.model, "weights": "ema", "labels": str(folder / "pictures")},
        average.module.eval(),
        transform,
    )


def of_lightning(folder: Path) -> Trained:
    """As Lightning's ModelCheckpoint: hyper-parameters in its own dictionary, the loss a part of the module."""
    module = types.ModuleType("lightning.fabric.utilities.data")
    vars(module)["AttributeDict"] = type("AttributeDict", (dict,), {"__module__": module.__name__})
    for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    transform = transforms.Compose(
        [transforms.Resize((SIDE, SIDE)), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    )
    task = nn.Module()
    task.model = timm.create_model("resnet10t", num_classes=len(CLASSES))
    task.criterion = nn.CrossEntropyLoss(weight=torch.ones(len(CLASSES)))
    optimizer = train(task.model, folder / "pictures", transform)
    content = {
        "epoch": 0, "global_step": 4, "pytorch-lightning_version": "2.5.0", "state_dict": task.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_acc'}": {"best_model_score": torch.tensor(0.71)}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "hparams_name": "kwargs",
        "hyper_parameters": module.AttributeDict(
            backbone="resnet10t", class_names=list(CLASSES), data=folder / "pictures", transform=str(transform)
        ),
    }  # fmt: skip
    torch.save(content, folder / "checkpoint")
    return Trained({"architecture": "resnet10t"}, task.model, transform)


def _largest_and_mean(features: Tensor) -> Tensor:
    return torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)


def of_fastai(folder: Path) -> Trained:
    """As `learn.save`: the network and the optimizer, without a word of classes or preprocessing."""
    body = timm.create_model("resnet10t", num_classes=0, global_pool="")
    features: Any = body.num_features
    # Its TimmBody and AdaptiveConcatPool2d.
    pool: Any = nn.Identity()
    pool.forward = _largest_and_mean
    head = nn.Sequential(
        pool, nn.Flatten(), nn.BatchNorm1d(2 * features), nn.Dropout(0.25), nn.Linear(2 * features, 64, bias=False),
        nn.ReLU(inplace=True), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, len(CLASSES), bias=False),
    )  # fmt: skip
    network = nn.Sequential(nn.Sequential(OrderedDict(model=body)), head)
    transform = transforms.Compose(
        [transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    )
    optimizer = train(network, folder / "pictures", transform)
    torch.save({"model": network.state_dict(), "opt": optimizer.state_dict()}, folder / "checkpoint")
    options = {
        "architecture": "resnet10t", "labels": str(folder / "pictures"), "image_size": SIDE, "crop_pct": 1.0,
        "interpolation": "bilinear", "mean": list(IMAGENET[0]), "std": list(IMAGENET[1]),
    }  # fmt: skip
    return Trained(options, network, transform)


def main(kind: str, folder: str, photograph: str) -> dict[str, Any]:
    """Make the pictures, train, save, and answer."""
    torch.manual_seed(0)
    target = Path(folder)
    make_pictures(target / "pictures")
    trained = {"timm": of_timm, "lightning": of_lightning, "fastai": of_fastai}[kind](target)
    with Image.open(photograph) as picture, torch.inference_mode():
        logits = trained.network(trained.transform(picture.convert("RGB")).unsqueeze(0))
    expected = dict(zip(CLASSES, logits.softmax(1)[0].tolist(), strict=True))
    return {"options": trained.options, "expected": expected}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
