import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.bundle.__main__ import main
from app.bundle.create import Order, create
from app.bundle.manifest import Golden, read
from app.bundle.verify import verify
from app.errors import BundleError
from tests.unit.app.support import (
    CLASSES,
    GOLDEN,
    ROOT,
    SMALL,
    reference_checkpoint,
    timm_model,
    timm_transform,
    write_labels,
)


def arguments(order: Order, **changes: object) -> list[str]:
    """The command line of an order."""
    values = {
        "checkpoint": order.checkpoint,
        "architecture": order.architecture,
        "labels": order.labels,
        "name": order.name,
        "version": order.version,
        "output": order.output,
        "image-size": order.image_size,
    } | {key.replace("_", "-"): value for key, value in changes.items()}
    return ["create", *(text for key, value in values.items() if value for text in (f"--{key}", str(value)))]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def edit(bundle: Path, change: dict[str, Any]) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A bundle a test may damage."""
    return shutil.copytree(bundle, tmp_path / "small" / "1")


def refusal(bundle: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    return caught.value


def test_a_bundle_has_the_documented_content(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    assert list(content) == [
        "schema", "name", "version", "architecture", "head", "num_classes", "activation", "input", "weights", "labels",
        "golden", "golden_samples", "created", "source", "notes",
    ]  # fmt: skip
    assert content["schema"] == 1
    assert (content["name"], content["version"], content["architecture"]) == ("small", "1", SMALL)
    assert content["input"]["size"] == [3, 64, 64]
    for entry in [content["weights"], content["labels"], content["golden"], *content["golden_samples"]]:
        data = (bundle / entry["file"]).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert files(bundle) == sorted(
        ["bundle.json", "model.safetensors", "labels.txt", "golden", "golden/golden.json"]
        + [f"golden/{path.name}" for path in GOLDEN.glob("*.jpg")]
    )


def test_others_may_read_a_bundle_and_only_its_maker_writes_it(bundle: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in (bundle, *bundle.rglob("*"))} == {0o755, 0o644}


def test_golden_answers_are_what_timms_pipeline_and_plain_torch_give(bundle: Path) -> None:
    golden = Golden.model_validate_json((bundle / "golden" / "golden.json").read_bytes())
    assert len(golden.samples) == 3
    model = timm_model()
    transform = timm_transform(model)
    for sample in golden.samples:
        image = transform(Image.open(bundle / sample.file).convert("RGB"))
        values, ids = model(image.unsqueeze(0)).softmax(1)[0].topk(5)
        assert [ranked.class_id for ranked in sample.top] == ids.tolist()
        assert [ranked.probability for ranked in sample.top] == pytest.approx(values.tolist(), abs=1e-5)
        assert sample.top[0].class_name == f"class {sample.top[0].class_id}"


def test_create_verify_and_show_agree_on_the_bundle(
    order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(order, output=tmp_path)) == 0
    created = json.loads(capsys.readouterr().out)
    digest = hashlib.sha256((tmp_path / "small" / "1" / "bundle.json").read_bytes()).hexdigest()
    assert (created["name"], created["version"], created["sha256"]) == ("small", "1", digest)
    assert main(["verify", str(tmp_path / "small" / "1")]) == 0
    assert json.loads(capsys.readouterr().out) == created
    assert main(["show", str(tmp_path / "small" / "1")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["sha256"], shown["architecture"]) == (digest, SMALL)


def test_show_needs_no_torch(bundle: Path) -> None:
    code = (
        "import sys; from app.bundle.__main__ import main; main(sys.argv[1:]); print(*sorted(sys.modules), sep='\\n')"
    )
    command = [sys.executable, "-c", code, "show", str(bundle)]
    modules = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "pydantic" in modules
    assert not {"torch", "timm", "numpy", "PIL"} & set(modules)


def test_the_trainers_checkpoint_becomes_a_bundle_with_the_cat_breeds(tmp_path: Path) -> None:
    _, _, state = reference_checkpoint("resnet18")
    path = tmp_path / "trained.pth"
    torch.save({"model_state_dict": state, "epoch": 5, "val_acc": 0.5}, path)
    manifest, _, bundle = create(Order(path, "resnet18", None, "cats", "1", tmp_path / "out", image_size=64))
    assert (manifest.head, manifest.num_classes, manifest.input.crop_mode) == ("sequential", 67, "squash")
    assert manifest.metrics == {"epoch": 5, "val_acc": 0.5}
    assert verify(bundle).labels[66] == "York Chocolate"


def test_preprocessing_can_be_given(order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"output": tmp_path, "mean": "0.5,0.5,0.5", "std": "0.2,0.2,0.2", "interpolation": "bilinear",
               "crop_pct": 0.9, "activation": "sigmoid"}  # fmt: skip
    assert main(arguments(order, **changes)) == 0
    manifest, _ = read(tmp_path / "small" / "1")
    assert manifest.input.mean == (0.5, 0.5, 0.5)
    assert (manifest.input.interpolation, manifest.input.crop_pct) == ("bilinear", 0.9)
    assert manifest.activation == "sigmoid"
    assert capsys.readouterr().err == ""


def test_own_golden_photographs_are_used(order: Order, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    own.mkdir()
    Image.new("RGB", (40, 40), "red").save(own / "red.png")
    manifest, _, _ = create(dataclasses.replace(order, output=tmp_path, golden=own))
    assert [entry.file for entry in manifest.golden_samples] == ["golden/red.png"]


def test_golden_pictures_may_lie_in_class_folders_beside_what_is_none(order: Order, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    for name in ("cat/1.jpg", "dog/1.JPG", "dog/._1.jpg", "__MACOSX/dog/1.jpg"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), "red").save(own / name)
    (own / "x.jpg").mkdir()
    manifest, _, bundle = create(dataclasses.replace(order, output=tmp_path, golden=own))
    assert [entry.file for entry in manifest.golden_samples] == ["golden/cat/1.jpg", "golden/dog/1.JPG"]
    assert verify(bundle).manifest == manifest


def test_what_was_understood_stands_in_the_bundle_and_is_said(
    order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(order, output=tmp_path, crop_mode="squash", mean="0.5,0.5,0.5")) == 0
    said = json.loads(capsys.readouterr().out)["notes"]
    assert said[2].startswith(f"Architecture: {SMALL} as given; the file does not record it")
    assert said[3] == "Labels: 7 names from text, a name a line."
    assert said[4].startswith("Preprocessing: 64x64 pixels, squash (both sides scaled, ")
    manifest, _ = read(tmp_path / "small" / "1")
    assert (manifest.input.crop_mode, list(manifest.notes or ())) == ("squash", said)


def test_a_sigmoids_threshold_is_kept_for_each_class(order: Order, tmp_path: Path) -> None:
    wanted = dataclasses.replace(order, output=tmp_path, activation="sigmoid", threshold='{"class 2": 0.9}')
    manifest, _, bundle = create(wanted)
    assert manifest.threshold == (0.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5)
    assert verify(bundle).manifest == manifest


def nan_checkpoint(folder: Path) -> Path:
    state = timm_model().state_dict()
    state["classifier.bias"][0] = float("nan")
    torch.save(state, folder / "nan.pth")
    return folder / "nan.pth"


def unexpected_checkpoint(folder: Path) -> Path:
    torch.save(timm_model().state_dict() | {"more.weight": torch.zeros(1)}, folder / "more.pth")
    return folder / "more.pth"


def text_file(folder: Path) -> Path:
    (folder / "golden").mkdir()
    (folder / "golden" / "a.jpg").write_text("not a photo")
    return folder / "golden"


@pytest.mark.parametrize(
    ("option", "value", "code", "said"),
    [
        ("checkpoint", lambda folder: folder / "nowhere.pth", "checkpoint_missing", "nowhere.pth"),
        ("checkpoint", nan_checkpoint, "nan_weights", "classifier.bias"),
        ("checkpoint", unexpected_checkpoint, "unexpected_key", "more.weight"),
        ("labels", lambda folder: folder / "nolabels.txt", "labels_missing", "nolabels.txt"),
        ("labels", lambda folder: write_labels(folder / "six.txt", 6), "class_count_mismatch", "6 classes"),
        ("architecture", lambda _: "mobilenet_v3_small_050", "unknown_architecture", "did you mean"),
        ("architecture", lambda _: "resnet18", "missing_key", "conv1.weight"),
        ("golden", lambda folder: folder, "golden_missing", "photographs"),
        ("golden", text_file, "golden_invalid", "a.jpg"),
        ("name", lambda _: "../escape", "invalid_name", "../escape"),
        ("mean", lambda _: "nan,0,0", "invalid_option", "mean"),
        ("std", lambda _: "0,1,1", "invalid_option", "std"),
        ("crop_pct", lambda _: "7", "invalid_option", "crop_pct"),
        ("mean", lambda _: "123.7,116.3,103.5", "invalid_option", "give 0.485,0.456,0.406"),
        ("image_size", lambda _: "1", "invalid_option", "no side that a model is trained with"),
        ("threshold", lambda _: "0.5", "invalid_option", "--activation sigmoid"),
    ],
)
def test_a_refused_order_says_why_and_leaves_nothing(
    order: Order,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: Any,
    code: str,
    said: str,
) -> None:
    given = value(tmp_path_factory.mktemp("given"))
    assert main(arguments(order, output=tmp_path / "new" / "models", **{option: given})) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error[{code}]: ")
    assert output.err.count("\n") == 1
    assert said in output.err
    assert files(tmp_path) == []


def test_an_existing_bundle_is_refused_and_stays(own: Path, order: Order, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    with pytest.raises(BundleError) as caught:
        create(dataclasses.replace(order, output=tmp_path))
    assert caught.value.code == "bundle_exists"
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    assert files(tmp_path / "small") == sorted(["1", *(f"1/{name}" for name in files(own))])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "model.safetensors"),
            "error[storage]: No space left on device: model.saf",
        ),
        (IndexError("list index\nout of range"), "error[unexpected]: IndexError: list index out of range. Nothing was"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_leaves_nothing(
    order: Order,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    assert main(arguments(order, output=tmp_path / "new")) == 1
    output = capsys.readouterr().err
    assert output.startswith(said)
    assert output.count("\n") == 1
    assert files(tmp_path) == []


def test_an_output_that_cannot_be_written_is_named(order: Order, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BundleError) as caught:
        create(dataclasses.replace(order, output=tmp_path / "file"))
    assert caught.value.code == "output_unwritable"


@pytest.mark.parametrize("name", ["model.safetensors", "labels.txt", "golden/golden.json", "golden/cat.jpg"])
def test_a_flipped_bit_in_any_file_is_found(own: Path, name: str) -> None:
    content = bytearray((own / name).read_bytes())
    content[len(content) // 2] ^= 1
    (own / name).write_bytes(content)
    error = refusal(own)
    assert error.code == "checksum_mismatch"
    assert name in error.detail


def test_a_missing_file_is_named(own: Path) -> None:
    (own / "golden" / "cat.jpg").unlink()
    error = refusal(own)
    assert error.code == "file_missing"
    assert "golden/cat.jpg" in error.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema"),
        ({"activation": "tanh"}, "activation"),
        ({"num_classes": 0}, "num_classes"),
        ({"surprise": 1}, "surprise"),
        ({"weights": {"file": "../../secret", "sha256": "0" * 64, "bytes": 1}}, "weights.file"),
        ({"labels": {"file": "/etc/passwd", "sha256": "0" * 64, "bytes": 1}}, "labels.file"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused(own: Path, change: dict[str, Any], said: str) -> None:
    edit(own, change)
    error = refusal(own)
    assert error.code == "manifest_invalid"
    assert said in error.detail


def test_a_manifest_that_is_not_json_or_not_there_is_refused(own: Path) -> None:
    (own / "bundle.json").write_text("{")
    assert refusal(own).code == "manifest_invalid"
    (own / "bundle.json").unlink()
    assert refusal(own).code == "bundle_missing"


def test_weights_of_another_architecture_are_refused_even_with_right_checksums(own: Path) -> None:
    edit(own, {"architecture": "resnet18"})
    assert refusal(own).code == "missing_key"
    edit(own, {"architecture": SMALL, "num_classes": CLASSES + 1})
    assert refusal(own).code == "class_count_mismatch"


def test_mutated_manifests_are_read_or_refused_and_nothing_else_happens(own: Path) -> None:
    chance = np.random.default_rng(5)
    path = own / "bundle.json"
    original = path.read_bytes()
    pieces = (b"", b"{", b"}", b"[", b"null", b"-1", b"1e999", b'"', b"\0", b"\xff", b'"..":', b"9" * 400, b"[" * 300)
    refused = 0
    for _ in range(1000):
        content = bytearray(original)
        place = int(chance.integers(len(content)))
        content[place : place + (1, 2, 20)[chance.integers(3)]] = pieces[chance.integers(len(pieces))]
        path.write_bytes(content)
        try:
            read(own)
        except BundleError as error:
            refused += error.code == "manifest_invalid"
    assert refused > 500
