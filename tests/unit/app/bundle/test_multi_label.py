"""Models whose classes do not exclude each other, and those with one output: from a checkpoint to the answer."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from app.bundle.create import Order, create
from tests.unit.app.support import CAT, GOLDEN, Server, serve, timm_transform, wait_for

ARCHITECTURE = "mobilenetv3_small_050"
NAMES = ("indoor", "outdoor", "animal", "night", "water", "people", "food")


def model(classes: int, bias: tuple[float, ...]) -> Any:
    """A model that is sure of its classes, by their bias."""
    torch.manual_seed(0)
    made = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=classes).eval()
    torch.nn.init.normal_(made.classifier.weight, std=0.001)
    made.classifier.bias.data = torch.tensor(bias)
    return made


def made(folder: Path, bias: tuple[float, ...], labels: tuple[str, ...], **options: Any) -> tuple[Any, Path]:
    trained = model(len(bias), bias)
    torch.save(trained.state_dict(), folder / "trained.pth")
    (folder / "labels.txt").write_text("\n".join(labels))
    order = Order(
        checkpoint=folder / "trained.pth", architecture=ARCHITECTURE, labels=folder / "labels.txt", name="tags",
        version="1", output=folder / "models", image_size=64, golden=GOLDEN, activation="sigmoid", **options,
    )  # fmt: skip
    return trained, create(order)[2]


def answer(server: Server) -> httpx.Response:
    wait_for(server.ready)
    return server.post(content=CAT.read_bytes(), headers={"Content-Type": "image/jpeg"})


def probabilities(trained: Any) -> list[float]:
    picture = timm_transform(trained)(Image.open(CAT).convert("RGB"))
    found: list[float] = trained(picture.unsqueeze(0)).sigmoid()[0].tolist()
    return found


def test_a_sigmoid_answers_every_class_that_reaches_its_threshold(tmp_path: Path) -> None:
    bias = (2.0, 2.5, 1.5, 3.0, 1.0, 0.5, -2.0)
    trained, bundle = made(tmp_path, bias, NAMES, threshold='{"water": 0.9}')
    with serve(tmp_path, bundle_path=bundle, decode="exact", precision="fp32") as server:
        body = answer(server).json()
        expected = probabilities(trained)
        # More than five, the best first, without the one below its own threshold and the one below the common one.
        assert [item["class_name"] for item in body["predicted_classes"]] == [
            "night", "outdoor", "indoor", "animal", "people",
        ]  # fmt: skip
        for item in body["predicted_classes"]:
            assert item["confidence"] == pytest.approx(expected[item["class_id"]], abs=1e-3)
        assert (body["predicted_class"], body["confidence"]) == ("night", body["predicted_classes"][0]["confidence"])
        assert len(body["top_5_predictions"]) == 5
        assert body["top_5_predictions"][4]["class_name"] == "water"
        assert server.get("/api/v1/model/info").json()["multi_label"] is True
        batch = server.post("/api/v1/predict/batch", files=[("files", ("cat.jpg", CAT.read_bytes(), "image/jpeg"))])
        assert batch.json()[0]["predicted_classes"] == body["predicted_classes"]


def test_without_a_class_above_its_threshold_there_is_no_predicted_one(tmp_path: Path) -> None:
    _, bundle = made(tmp_path, (-2.0,) * 7, NAMES)
    with serve(tmp_path, bundle_path=bundle) as server:
        body = answer(server).json()
    assert (body["predicted_class"], body["confidence"], body["predicted_classes"]) == (None, None, [])
    assert len(body["top_5_predictions"]) == 5
    assert body["model_info"]["num_classes"] == 7


def test_one_output_tells_two_classes_apart(tmp_path: Path) -> None:
    trained, bundle = made(tmp_path, (1.5,), ("dog", "cat"))
    (expected,) = probabilities(trained)
    with serve(tmp_path, bundle_path=bundle, decode="exact", precision="fp32") as server:
        body = answer(server).json()
        assert server.get("/api/v1/model/classes").json()["num_classes"] == 2
    assert "predicted_classes" not in body
    assert [(item["class_name"], item["confidence"]) for item in body["top_5_predictions"]] == [
        ("cat", pytest.approx(expected, abs=1e-3)),
        ("dog", pytest.approx(1 - expected, abs=1e-3)),
    ]


def test_a_bare_checkpoint_takes_the_same_settings(tmp_path: Path) -> None:
    made(tmp_path, (2.0,) * 7, NAMES)
    with serve(
        tmp_path, checkpoint_path=tmp_path / "trained.pth", model_name=ARCHITECTURE, image_size=64,
        labels_path=tmp_path / "labels.txt", activation="sigmoid", threshold=0.6, crop_mode="squash",
        mean="0.5,0.5,0.5", std="0.5,0.5,0.5",
    ) as server:  # fmt: skip
        body = answer(server).json()
        said = [line["detail"] for line in server.lines() if line.get("code") == "understood"]
    assert len(body["predicted_classes"]) == 7
    assert said[3] == "Labels: 7 names from text, a name a line."
    assert "64x64 pixels, squash" in said[4]
    assert "mean 0.5/0.5/0.5" in said[4]


def test_a_bare_checkpoint_takes_what_is_said_of_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(ARCHITECTURE, num_classes=0, in_chans=1).eval()
    head = torch.nn.Sequential(torch.nn.Linear(1024, 8), torch.nn.Tanh(), torch.nn.Linear(8, 7)).eval()
    plain = torch.nn.ModuleDict({"backbone": backbone, "head": head}).state_dict()
    average = {name: value * 1.01 if value.is_floating_point() else value for name, value in plain.items()}
    torch.save({"state_dict": plain, "state_dict_ema": average}, tmp_path / "trained.pth")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    with serve(
        tmp_path, checkpoint_path=tmp_path / "trained.pth", model_name=ARCHITECTURE, image_size=64, precision="fp32",
        labels_path=tmp_path / "labels.txt", weights="ema", model_args='{"in_chans": 1}', head_activation="tanh",
        decode="exact", mean=0.5, std=0.5, crop_mode="squash", crop_pct=1,
    ) as server:  # fmt: skip
        body = answer(server).json()
    for part, start in ((backbone, "backbone."), (head, "head.")):
        part.load_state_dict({n.removeprefix(start): value for n, value in average.items() if n.startswith(start)})
    gray = transforms.Compose(
        [transforms.Resize((64, 64), InterpolationMode.BICUBIC), transforms.Grayscale(), transforms.ToTensor()]
    )(Image.open(CAT).convert("RGB"))
    expected = head(backbone((gray.unsqueeze(0) - 0.5) / 0.5)).softmax(1)[0].tolist()
    for item in body["top_5_predictions"]:
        assert item["confidence"] == pytest.approx(expected[item["class_id"]], abs=1e-3)


def test_a_limit_for_clients_does_not_refuse_the_bundles_own_pictures(tmp_path: Path) -> None:
    _, bundle = made(tmp_path, (2.0,) * 7, NAMES)
    with serve(tmp_path, bundle_path=bundle, max_pixels=1000) as server:
        assert answer(server).json()["code"] == "image_too_large"


def test_a_checkpoint_that_cannot_serve_ends_with_its_own_code(tmp_path: Path) -> None:
    made(tmp_path, (2.0,), ("dog", "cat"))
    with serve(tmp_path, checkpoint_path=tmp_path / "trained.pth", model_name=ARCHITECTURE) as server:
        assert server.process.wait(60) == 65
        assert [line["code"] for line in server.lines() if line["level"] == "error"] == ["activation_needed"]
