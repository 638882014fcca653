from typing import Any

import pytest
import torch

from app.models import networks
from app.bundle.manifest import Design
from app.errors import BundleError
from tests.unit.app.support import CLASSES, SMALL, timm_model

SIZE = (3, 64, 64)


def design(architecture: str, num_classes: int = CLASSES) -> Design:
    return Design(architecture=architecture, num_classes=num_classes)


def load(state: dict[str, Any], num_classes: int = CLASSES) -> Any:
    return networks.load(design(SMALL, num_classes), SIZE, state, "the file")


def refusal(state: dict[str, Any], num_classes: int = CLASSES) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load(state, num_classes)
    assert "the file" in caught.value.detail
    return caught.value


def weights() -> dict[str, Any]:
    return {key: value.clone() for key, value in timm_model().state_dict().items()}


def test_an_unknown_architecture_gets_a_suggestion() -> None:
    with pytest.raises(BundleError) as caught:
        networks.build(design("resnet_50"))
    assert caught.value.code == "unknown_architecture"
    assert "'resnet50" in caught.value.detail


def test_a_name_that_would_download_is_unknown() -> None:
    with pytest.raises(BundleError, match="no architecture"):
        networks.build(design("hf-hub:timm/resnet50"))


def test_a_missing_key_is_named() -> None:
    state = weights()
    del state["conv_stem.weight"]
    error = refusal(state)
    assert error.code == "missing_key"
    assert "conv_stem.weight" in error.detail


def test_an_unexpected_key_is_named() -> None:
    error = refusal(weights() | {"extra.weight": torch.zeros(1)})
    assert error.code == "unexpected_key"
    assert "extra.weight" in error.detail


def test_another_number_of_classes_is_a_shape_mismatch() -> None:
    error = refusal(weights(), num_classes=CLASSES + 1)
    assert error.code == "shape_mismatch"
    assert "classifier.weight" in error.detail


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_named(value: float) -> None:
    state = weights()
    state["conv_head.weight"][0, 0, 0, 0] = value
    error = refusal(state)
    assert error.code == "nan_weights"
    assert "conv_head.weight" in error.detail


def test_huge_weights_are_numbers() -> None:
    state = weights()
    state["classifier.bias"][:] = 3e38
    load(state)


def test_half_precision_weights_become_full_precision() -> None:
    module = load({key: value.half() if value.is_floating_point() else value for key, value in weights().items()})
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_buffers_that_are_computed_and_not_stored_are_filled() -> None:
    original = timm_model("levit_128s", 5)
    module = networks.load(design("levit_128s", 5), (3, 224, 224), original.state_dict(), "the file")
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(module(images), original(images), atol=1e-4)


def test_an_architecture_of_fixed_size_is_built_for_the_size_asked_for() -> None:
    module = networks.build(design("vit_tiny_patch16_224"), (3, 96, 96))
    assert module.state_dict()["pos_embed"].shape[1] == 6 * 6 + 1


def test_the_sequential_head_implies_the_reference_projects_preprocessing() -> None:
    inputs = networks.default_input(design("efficientnet_b3"), "sequential")
    assert inputs.size == (3, 224, 224)
    assert (inputs.crop_mode, inputs.crop_pct, inputs.interpolation) == ("squash", 1.0, "bilinear")
    assert (inputs.mean, inputs.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_timm_head_implies_its_architectures_preprocessing() -> None:
    inputs = networks.default_input(design("tf_efficientnet_lite0"), "timm", 300)
    assert inputs.size == (3, 300, 300)
    assert (inputs.crop_mode, inputs.crop_pct, inputs.interpolation) == ("center", 0.875, "bicubic")
    assert inputs.mean == (0.5, 0.5, 0.5)
