"""What no bundle can be made of is refused with its own code and the nearest next step, and nothing of it runs."""

import argparse
import datetime
import pathlib
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from app.models import checkpoint

from app.models import reading
from app.models.checkpoint import Wish
from app.errors import BundleError
from tests.unit.app.checkpoints import SMALL, read, refusal
from tests.unit.app.support import CLASSES, timm_model

STATE: dict[str, Any] = timm_model(SMALL).state_dict()
RESNET: dict[str, Any] = timm_model("test_resnet").state_dict()
VIT: dict[str, Any] = timm_model("test_vit").state_dict()


def test_what_only_holds_data_is_read(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, model=SMALL, data=pathlib.PosixPath("pictures")),
        "history": defaultdict(list, {"val_acc": [0.1, np.float32(0.5)]}),
        "counts": Counter("aab"),
        "sizes": OrderedDict(a=np.int64(3), b=np.bool_(True)),
        "means": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": np.array(["cat", "dog"]),
        "objects": np.array(["cat", None], dtype=object),
        "nothing": np.zeros((0, 3)),
        "when": datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC),
        "torch": torch.__version__,
    }
    found = read(tmp_path, {"state_dict": STATE, **beside}).recorded
    assert found["args"] == {"lr": 0.1, "model": SMALL, "data": "pictures"}
    assert found["history"] == {"val_acc": [0.1, 0.5]}
    assert found["sizes"] == {"a": 3, "b": True}
    assert found["means"] == [[0, 1, 2], [3, 4, 5]]
    assert found["columns"] == [[0, 1, 2], [3, 4, 5]]
    assert found["names"] == ["cat", "dog"]
    assert found["objects"] == ["cat", None]


class Runs:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "build",
    [
        lambda proof: Runs(Path.touch, proof),
        lambda proof: Runs(exec, f"open({str(proof)!r}, 'w')"),
        lambda proof: Runs(np.save, str(proof), 1),
        lambda proof: argparse.Namespace(inner=Runs(torch.save, 1, str(proof))),
        lambda proof: np.array([Runs(Path.touch, proof)], dtype=object),
        lambda proof: defaultdict(list, {"a": [Runs(getattr, Runs(__import__, "os"), "system")]}),
    ],
    ids=["method", "exec", "numpy", "namespace", "array", "import"],
)
def test_nothing_of_a_checkpoint_runs_wherever_it_hides(tmp_path: Path, build: Any, old: bool) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": STATE, "args": build(proof)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(BundleError) as caught:
        checkpoint.read(path, Wish(SMALL))
    assert caught.value.code == "unsafe_pickle"
    assert "would run" in caught.value.detail
    assert not proof.exists()


def test_what_may_be_read_is_a_short_list() -> None:
    modules = {name.rpartition(".")[0] for name in reading.SAFE}
    assert modules == {
        "argparse", "types", "collections", "pathlib", "pathlib._local", "builtins", "datetime", "numpy",
        "numpy.core.multiarray", "numpy._core.multiarray", "torch.torch_version",
        "lightning.fabric.utilities.data", "lightning_fabric.utilities.data", "pytorch_lightning.utilities.parsing",
    }  # fmt: skip
    assert not {"eval", "exec", "getattr", "open", "__import__", "compile"} & {
        name.rpartition(".")[2] for name in reading.SAFE
    }


def scripted(path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(path)


@pytest.mark.parametrize(
    ("write", "code", "said"),
    [
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "git_lfs_pointer",
         "git lfs pull"),
        (scripted, "torchscript", "torch.jit.load(FILE).state_dict()"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "other_format", "is a web page"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n"), "other_format", "Keras"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "other_format", "unpack it"),
        (lambda path: np.savez(path.with_suffix(".npz"), a=1) or path.with_suffix(".npz").rename(path),
         "other_format", "NumPy"),
        (lambda path: path.write_bytes(b""), "checkpoint_unreadable", "is empty"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "pickle_protocol", "torch.save"),
        (lambda path: path.write_bytes((50).to_bytes(8, "little") + b'{"a"'), "checkpoint_unreadable", "damaged"),
        (lambda path: path.mkdir(), "checkpoint_missing", "is a folder"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, write: Any, code: str, said: str) -> None:
    path = tmp_path / "some.pth"
    write(path)
    with pytest.raises(BundleError) as caught:
        checkpoint.read(path, Wish(SMALL))
    assert caught.value.code == code
    assert said in caught.value.detail


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "model.bin"
    safetensors.torch.save_file(STATE, path)
    assert checkpoint.read(path, Wish(SMALL)).num_classes == CLASSES


def without(state: dict[str, Any], *starts: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not name.startswith(starts)}


HEAD = nn.Linear(256, 5).state_dict()
BODY = without(STATE, "classifier.")
LAYERED = nn.Sequential(nn.Linear(256, 8), nn.ReLU(), nn.Linear(9, 5)).state_dict()


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def without_statistics(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if "running_" not in name and "num_batches" not in name}


# Thirty files and more that must not become a bundle: content, what was named, and the code.
WRONG: list[tuple[str, Any, str, dict[str, Any], str]] = [
    ("another family", lambda: RESNET, SMALL, {}, "missing_key"),
    ("another family, wrapped", lambda: {"model": under("module.", RESNET)}, SMALL, {}, "missing_key"),
    ("a shallower sibling", lambda: timm_model("resnet10t").state_dict(), "resnet14t", {}, "missing_key"),
    ("a deeper sibling", lambda: timm_model("resnet14t").state_dict(), "resnet10t", {}, "unexpected_key"),
    ("a wider sibling", lambda: timm_model("mobilenetv3_small_075").state_dict(), "mobilenetv3_small_050", {},
     "shape_mismatch"),
    ("a sibling by its own record", lambda: {"arch": "tf_mobilenetv3_small_100", "state_dict": STATE}, SMALL, {},
     "architecture_mismatch"),
    ("a sibling by its arguments", lambda: {"args": argparse.Namespace(model="resnet18"), "state_dict": STATE}, SMALL,
     {}, "architecture_mismatch"),
    ("a size that was not trained", lambda: VIT, "test_vit", {"image_size": 224}, "wrong_size"),
    ("another window", lambda: VIT, "test_vit2", {}, "missing_key"),
    ("gray images, not said", lambda: timm.create_model(SMALL, in_chans=1).state_dict(), SMALL, {}, "shape_mismatch"),
    ("color images, gray said", lambda: STATE, SMALL, {"model_args": {"in_chans": 1}}, "shape_mismatch"),
    ("one layer more", lambda: {**STATE, "more.weight": torch.zeros(1)}, SMALL, {}, "unexpected_key"),
    ("a second network", lambda: {**under("student.", STATE), **under("teacher.", RESNET)}, SMALL, {},
     "unexpected_key"),
    ("its own normalization", lambda: {**under("model.", STATE), "normalize.mean": torch.ones(3)}, SMALL, {},
     "unexpected_key"),
    ("no last layer", lambda: BODY, SMALL, {}, "head_missing"),
    ("no last layer, wrapped", lambda: under("backbone.", BODY), SMALL, {}, "head_missing"),
    ("one layer lost", lambda: without(STATE, "conv_head."), SMALL, {}, "missing_key"),
    ("half of it lost", lambda: without(STATE, "blocks.2.", "blocks.3."), SMALL, {}, "missing_key"),
    ("a head of other features", lambda: {**under("backbone.", BODY), **under("head.", nn.Linear(99, 5).state_dict())},
     SMALL, {}, "head_mismatch"),
    ("two heads", lambda: {**under("backbone.", BODY), **under("age.", HEAD), **under("breed.", HEAD)}, SMALL, {},
     "unexpected_key"),
    ("a head that breaks off", lambda: {**under("backbone.", BODY), **under("head.", LAYERED)}, SMALL, {},
     "unexpected_key"),
    ("a head of an unknown kind", lambda: {**under("backbone.", BODY), "head.weight_v": torch.ones(5, 256)}, SMALL, {},
     "unexpected_key"),
    ("layers between unknown", lambda: {**under("b.", BODY), **under("h.", nn.Sequential(
        nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 5)).state_dict())}, SMALL, {}, "head_activation_unknown"),
    ("int8", lambda: {name: (value * 9).to(torch.int8) for name, value in STATE.items()}, SMALL, {},
     "quantized_weights"),
    ("float8", lambda: {name: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value
                        for name, value in STATE.items()}, SMALL, {}, "quantized_weights"),
    ("an adapter", lambda: {"base_model.model.conv_stem.lora_A.default.weight": torch.ones(2, 2)}, SMALL, {},
     "adapter_weights"),
    ("torchvision's layers", lambda: {"features.0.0.weight": torch.ones(2), "classifier.1.weight": torch.ones(5, 2)},
     SMALL, {}, "foreign_layout"),
    ("transformers' layers", lambda: {"vit.embeddings.cls_token": torch.ones(1, 1, 2)}, "test_vit", {},
     "foreign_layout"),
    ("two sets of weights", lambda: {"a": STATE, "b": {name: value + 1 for name, value in STATE.items()}}, SMALL, {},
     "several_weights"),
    ("only an optimizer", lambda: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, SMALL, {},
     "not_a_state_dict"),
    ("two heads, one with the name of a metric", lambda: {**under("model.", STATE), **under("metric_fc.", HEAD)}, SMALL,
     {}, "unexpected_key"),
    ("the weights of an angular loss", lambda: {**under("backbone.", BODY), "metric_fc.weight": HEAD["weight"]}, SMALL,
     {}, "head_mismatch"),
    ("an angular loss on an embedding", lambda: {
        **under("backbone.", BODY), **under("neck.", nn.Linear(256, 8).state_dict()),
        "arc_face.weight": torch.ones(5, 8)}, SMALL, {"head_activation": "none"}, "head_mismatch"),
    ("a last layer that is called a loss", lambda: {**under("backbone.", BODY), **under("criterion.", HEAD)}, SMALL, {},
     "head_missing"),
    ("a last layer without outputs", lambda: {**BODY, "classifier.weight": torch.zeros(5), "classifier.bias":
     torch.zeros(5)}, SMALL, {}, "head_mismatch"),
    ("a sibling by a part of its configuration", lambda: {"cfg": {"model": {"name": "resnet18"}}, "model": STATE},
     SMALL, {}, "architecture_mismatch"),
    ("parameters without buffers", lambda: without_statistics(STATE), SMALL, {}, "missing_key"),
    ("no weights", lambda: {"epoch": 3, "loss": [0.1]}, SMALL, {}, "not_a_state_dict"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "architecture", "wish", "code"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_none_of_the_wrong_files_is_taken(
    tmp_path: Path, content: Any, architecture: str, wish: dict[str, Any], code: str
) -> None:
    assert len(WRONG) >= 30
    error = refusal(tmp_path, content(), architecture, **wish)
    assert error.code == code, error.detail
    assert "checkpoint.pth" in error.detail
    assert len(error.detail) < 600


def test_the_right_architecture_is_found_among_the_family(tmp_path: Path) -> None:
    shallow, deep = timm_model("resnet10t").state_dict(), timm_model("resnet14t").state_dict()
    assert "They are the weights of resnet14t" in refusal(tmp_path, deep, "resnet10t").detail
    assert "They are the weights of resnet10t" in refusal(tmp_path, shallow, "resnet14t").detail


@pytest.mark.parametrize(
    ("content", "architecture", "wish", "said"),
    [
        (lambda: without_statistics(STATE), SMALL, {}, "save model.state_dict(), not model.parameters()"),
        (lambda: timm.create_model("test_vit", num_classes=3, global_pool="avg", fc_norm=True).state_dict(),
         "test_vit", {}, 'model_args {"global_pool": "avg"}'),
        (lambda: timm.create_model("test_vit", num_classes=3, reg_tokens=2).state_dict(), "test_vit", {},
         'model_args {"reg_tokens": 2}'),
        (lambda: {**under("1.", STATE), "0.mean": torch.zeros(3, 1, 1), "0.std": torch.ones(3, 1, 1)}, SMALL, {},
         "give mean and std by their options"),
        (lambda: {**under("backbone.", BODY), **under("criterion.", HEAD)}, SMALL, {},
         "and not under the name of a loss, as criterion.weight."),
        (lambda: STATE, SMALL, {"weights": "ema"}, "holds one set of weights; leave weights out"),
        (lambda: STATE, SMALL, {"model_args": {"global_pool": "nope"}, "image_size": 64}, "Invalid pool type: nope"),
    ],
)  # fmt: skip
def test_the_advice_is_the_nearest_step(
    tmp_path: Path, content: Any, architecture: str, wish: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, content(), architecture, **wish).detail


def test_another_size_is_named(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=96, num_classes=3).state_dict()
    assert "give image_size 96" in refusal(tmp_path, state, "test_vit", image_size=160).detail
    found = read(tmp_path, state, "test_vit")
    assert found.image_size == 96
    assert "Image size: 96, which the weights were made for." in found.notes


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("resnet50.foo", "unknown_tag", "a1_in1k"),
        ("tf_efficientnet_b0_ns.foo", "unknown_architecture", "tf_efficientnet_b0.ns_jft_in1k"),
        ("vit_b_16", "torchvision_architecture", "vit_base_patch16_224"),
        ("mobilenet_v3_small", "torchvision_architecture", "mobilenetv3_small_100"),
        ("alexnet", "torchvision_architecture", "timm has no such network"),
        ("efficientnet-b0", "unknown_architecture", "did you mean 'efficientnet_b0'?"),
        ("ResNet50", "unknown_architecture", "did you mean 'resnet50'?"),
        ("timm/resnet50.a1_in1k", "unknown_architecture", "did you mean 'resnet50'?"),
        ("yolov8n", "unknown_architecture", "nor one of a similar name"),
        ("qwen3_vit_88m_enc", "not_a_classifier", "encoder"),
        ("", "unknown_architecture", "nor one of a similar name"),
    ],
)
def test_an_architecture_that_cannot_be_built_gets_its_own_answer(
    tmp_path: Path, name: str, code: str, said: str
) -> None:
    error = refusal(tmp_path, STATE, name)
    assert error.code == code
    assert said in error.detail
