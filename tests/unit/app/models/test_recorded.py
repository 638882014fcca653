from types import SimpleNamespace
from typing import Any

import pytest

from app.models.recorded import preprocessing, signs_of_sigmoid

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
EVALUATION = """Compose(
    Resize(size=256, interpolation=bicubic, max_size=None, antialias=True)
    CenterCrop(size=(224, 224))
    ToTensor()
    Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
)"""
SQUARE = "Compose(Resize((192, 160)), ToTensor())"


def values(recorded: dict[str, Any]) -> dict[str, object]:
    return {name: found.value for name, found in preprocessing(recorded).items()}


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (
            {"args": SimpleNamespace(img_size=None, input_size=[3, 192, 160], mean=[0.5] * 3, crop_pct=0.9, std=None)},
            {"size": (192, 160), "mean": (0.5, 0.5, 0.5), "crop_pct": 0.9},
        ),
        ({"hyper_parameters": {"model": {"image-size": 128}}}, {"size": (128, 128)}),
        ({"config": {"image_mean": [0.1, 0.2, 0.3], "interpolation": "bicubic"}},
         {"mean": (0.1, 0.2, 0.3), "interpolation": "bicubic"}),
        ({"mean": [127.5, 127.5, 127.5], "std": [-1, 1, 1]}, {"mean": (0.5, 0.5, 0.5)}),
        ({"args": {"interpolation": "", "mean": "0.5", "crop_pct": True, "img_size": 0}}, {}),
        (
            {"val_transform": EVALUATION, "image_size": 99},
            {**IMAGENET, "size": (224, 224), "crop_mode": "center", "crop_pct": 0.875, "interpolation": "bicubic"},
        ),
        (
            {"transforms": SQUARE},
            {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "size": (192, 160), "crop_mode": "squash",
             "crop_pct": 1.0, "interpolation": "bilinear"},
        ),
        ({"transforms": "Compose(RandomResizedCrop(size=(224, 224)), ToTensor())"}, {}),
        ({"std": 3, "epoch": 5, "optimizer": {"param_groups": [{"lr": 0.1}]}}, {}),
    ],
)  # fmt: skip
def test_preprocessing_is_found_where_trainers_keep_it(recorded: dict[str, Any], expected: dict[str, object]) -> None:
    assert values(recorded) == expected


def test_where_it_was_found_is_said() -> None:
    assert preprocessing({"args": {"model": {"mean": [0.5, 0.5, 0.5]}}})["mean"].where == "args.model.mean"


@pytest.mark.parametrize(
    ("recorded", "sign"),
    [
        ({"loss": "BCEWithLogitsLoss"}, "loss: BCEWithLogitsLoss"),
        ({"args": SimpleNamespace(bce_loss=True)}, "args.bce_loss: True"),
        ({"hyper_parameters": {"task": "multi-label"}}, "hyper_parameters.task: multi-label"),
        # timm's trainer has these switches in every checkpoint.
        ({"args": SimpleNamespace(bce_loss=False, bce_target_thresh=None, bce_pos_weight=0.5)}, ""),
        ({"loss": "CrossEntropyLoss", "epoch": 3}, ""),
    ],
)
def test_a_loss_of_classes_that_do_not_exclude_each_other_is_noticed(recorded: dict[str, Any], sign: str) -> None:
    assert signs_of_sigmoid(recorded) == sign


def test_so_is_the_weight_of_such_a_loss_among_the_weights() -> None:
    assert signs_of_sigmoid({}, ("fc.weight", "criterion.pos_weight")) == "criterion.pos_weight"
