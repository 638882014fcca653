from pathlib import Path
from typing import Any

import pytest
import torch

from app.bundle.manifest import Design
from app.models.checkpoint import Checkpoint
from app.errors import BundleError
from app.models.recipe import Given, Recipe, settle
from tests.unit.app.support import SMALL, write_labels


def checkpoint(classes: int = 3, **recorded: object) -> Checkpoint:
    """A checkpoint of which only what stands beside the weights counts here."""
    state = {"classifier.weight": torch.zeros(classes, 2)}
    design = Design(architecture=SMALL, num_classes=classes)
    return Checkpoint(state, design, "0" * 64, {}, {"classes": [f"class {n}" for n in range(classes)], **recorded})


def settled(read: Checkpoint, **given: Any) -> Recipe:
    return settle(read, Given(**given))


def refusal(read: Checkpoint, **given: Any) -> BundleError:
    with pytest.raises(BundleError) as caught:
        settled(read, **given)
    return caught.value


def test_the_architectures_own_preprocessing_is_taken_where_nothing_is_known_and_it_is_said() -> None:
    recipe = settled(checkpoint())
    assert recipe.inputs.size == (3, 224, 224)
    assert recipe.warnings == ()
    assert recipe.notes[-1] == (
        "Preprocessing: 224x224 pixels, center (short side scaled, 0.875 of it kept), bicubic, mean "
        "0.485/0.456/0.406, std 0.229/0.224/0.225."
    )


def test_what_the_checkpoint_records_is_used() -> None:
    recipe = settled(checkpoint(args={"img_size": 96, "mean": [0.1, 0.2, 0.3], "crop_mode": "squash"}))
    assert (recipe.inputs.size, recipe.inputs.mean) == ((3, 96, 96), (0.1, 0.2, 0.3))
    assert recipe.inputs.crop_mode == "squash"
    assert recipe.notes[-1].endswith(", crop_mode, mean, size as the checkpoint records.")


def test_what_is_given_counts_and_a_difference_to_the_record_is_said() -> None:
    read = checkpoint(args={"img_size": 96, "mean": [0.1, 0.2, 0.3]})
    recipe = settled(read, image_size=64, preprocessing={"mean": (0.5, 0.5, 0.5), "crop_mode": "border"})
    assert (recipe.inputs.size, recipe.inputs.mean) == ((3, 64, 64), (0.5, 0.5, 0.5))
    assert recipe.inputs.crop_mode == "border"
    assert recipe.warnings == (
        "Preprocessing: image_size 64 was given and is used, but the checkpoint was trained with 96 (its "
        "args.img_size).",
        "Preprocessing: mean 0.5/0.5/0.5 was given and is used, but the checkpoint was trained with 0.1/0.2/0.3 (its "
        "args.mean).",
    )
    assert settled(read, image_size=96, preprocessing={"mean": (0.1, 0.2, 0.3)}).warnings == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image_size": 0}, "--image-size 0 is no side"),
        ({"image_size": 1}, "--image-size 1 is no side"),
        ({"image_size": -224}, "--image-size -224 is no side"),
        ({"image_size": 99999}, "--image-size 99999 is no side"),
        ({"preprocessing": {"mean": (123.675, 116.28, 103.53)}},
         "--mean 123.675,116.28,103.53 counts pixels from 0 to 255; here they run from 0 to 1: give 0.485,0.456,"),
        ({"preprocessing": {"std": (58.395, 57.12, 57.375)}}, "give 0.229,0.224,0.225"),
        ({"preprocessing": {"mean": (-0.5, 0.5, 0.5)}}, "is no mean of pixels from 0 to 1"),
        ({"preprocessing": {"std": (0.0, 0.5, 0.5)}}, "std"),
        ({"preprocessing": {"mean": (float("nan"), 0.5, 0.5)}}, "mean"),
        ({"preprocessing": {"std": (900.0, 1, 1)}}, "is no std of pixels"),
        ({"preprocessing": {"crop_mode": "middle"}}, "crop_mode"),
        ({"preprocessing": {"crop_pct": 0.0}}, "crop_pct"),
    ],
)  # fmt: skip
def test_preprocessing_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    error = refusal(checkpoint(), **given)
    assert error.code == "invalid_option"
    assert said in error.detail


def test_an_option_is_called_as_it_was_given() -> None:
    error = refusal(checkpoint(), preprocessing={"mean": (123.0, 116.0, 103.0)}, prefix="API_")
    assert "API_MEAN" in error.detail
    read = Checkpoint({}, Design(architecture=SMALL, num_classes=12), "0" * 64, {})
    assert "give API_LABELS_PATH" in refusal(read, prefix="API_").detail


def test_a_softmax_over_one_output_is_refused_and_a_sigmoid_asked_for(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.txt", 2)
    for given in ({}, {"activation": "softmax"}, {"labels": labels}):
        error = refusal(checkpoint(1), **given)
        assert error.code == "activation_needed"
        assert "give --activation sigmoid, and one label, or two" in error.detail


def test_one_output_names_one_class_or_tells_two_apart(tmp_path: Path) -> None:
    one = settled(checkpoint(1), activation="sigmoid")
    assert (one.activation, one.threshold, one.labels) == ("sigmoid", 0.5, ("class 0",))
    two = settled(checkpoint(1), activation="sigmoid", labels=write_labels(tmp_path / "two.txt", 2))
    assert (two.activation, two.threshold, two.labels) == ("binary", None, ("class 0", "class 1"))
    assert two.notes[-1] == "Activation: the sigmoid of the one output is the probability of 'class 1'."
    three = refusal(checkpoint(1), activation="sigmoid", labels=write_labels(tmp_path / "three.txt", 3))
    assert three.code == "class_count_mismatch"
    assert refusal(checkpoint(3), activation="binary").code == "invalid_option"


def test_the_activation_is_asked_for_where_the_checkpoint_speaks_of_a_sigmoid() -> None:
    read = checkpoint(args={"loss": "BCEWithLogitsLoss"})
    error = refusal(read)
    assert error.code == "activation_needed"
    assert "'args.loss: BCEWithLogitsLoss'" in error.detail
    assert settled(read, activation="softmax").threshold is None
    assert settled(read, activation="sigmoid").threshold == 0.5


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("0.3", 0.3),
        ("0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("[0.1, 0.2, 0.3]", (0.1, 0.2, 0.3)),
        ('{"class 1": 0.9}', (0.5, 0.9, 0.5)),
    ],
)
def test_a_threshold_is_for_all_classes_or_for_each(text: str, threshold: object) -> None:
    assert settled(checkpoint(), activation="sigmoid", threshold=text).threshold == threshold


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1", "no number between 0 and 1"),
        ("0", "no number between 0 and 1"),
        ("much", "'much' is no number"),
        ("true", "'True' is no number"),
        ("nan", "'nan' is no number"),
        ("0.1,0.2", "has 2 numbers and the model 3 classes"),
        ('{"cat": 0.9}', "names 'cat', which is no class"),
        ("[" * 5000, "no number"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(text: str, said: str) -> None:
    error = refusal(checkpoint(), activation="sigmoid", threshold=text)
    assert error.code == "invalid_option"
    assert said in error.detail


def test_a_threshold_without_a_sigmoid_is_refused() -> None:
    assert "give --activation sigmoid" in refusal(checkpoint(), threshold="0.5").detail
