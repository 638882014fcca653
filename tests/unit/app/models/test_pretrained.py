"""timm's own weights: from the hub, from a file that was brought from there, or a sentence that says how."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from PIL import Image

from app.bundle.__main__ import main
from tests.unit.app.support import CAT, ROOT, serve, timm_model, timm_transform, wait_for

# timm has some for tests: seconds matter here.
ARCHITECTURE = "test_resnet"
TAGGED = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    safetensors.torch.save_file(timm_model(ARCHITECTURE, 1000).state_dict(), path)
    return path


def order(folder: Path, source: str, architecture: str = ARCHITECTURE) -> list[str]:
    return ["create", "--pretrained", source, "--architecture", architecture, "--name", "own", "--version", "1",
            "--output", str(folder), "--image-size", "64"]  # fmt: skip


def test_a_file_from_the_hub_becomes_a_bundle_with_its_tag(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(order(tmp_path, str(weights))) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["architecture"], made["num_classes"]) == (TAGGED, 1000)
    with serve(tmp_path, bundle_path=made["path"], decode="exact", precision="fp32") as server:
        wait_for(server.ready)
        body = server.post(content=CAT.read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
    model = timm_model(ARCHITECTURE, 1000)
    picture = timm_transform(model)(Image.open(CAT).convert("RGB")).unsqueeze(0)
    expected = model(picture).softmax(1)[0].tolist()
    for item in body["top_5_predictions"]:
        assert item["confidence"] == pytest.approx(expected[item["class_id"]], abs=1e-3)


def test_a_file_that_was_brought_leaves_the_hub_alone(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(order(tmp_path, str(weights.parent))) == 0
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.fixture
def hub(weights: Path) -> Iterator[str]:
    """Answers as the model hub does, for one repository."""
    content = weights.read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(content)

        def answer(self, body: bytes) -> None:
            found = self.path == f"/timm/{TAGGED}/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"one"')
                self.send_header("X-Repo-Commit", "0" * 40)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(arguments: list[str], endpoint: str) -> Any:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "app.bundle", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_hub_is_asked_for_the_architectures_weights(tmp_path: Path, hub: str) -> None:
    done = run(order(tmp_path, "hub"), hub)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["architecture"] == TAGGED
    assert json.loads((tmp_path / "own" / "1" / "bundle.json").read_text())["source"]["checkpoint"] == TAGGED


def test_without_a_hub_it_is_said_what_to_bring(tmp_path: Path) -> None:
    done = run(order(tmp_path, "hub"), "http://127.0.0.1:9")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"error[hub_unreachable]: timm/{TAGGED} cannot be fetched from the model hub (")
    assert said.endswith("bring its model.safetensors here and give that file instead of `hub`.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "architecture", "code"),
    [
        ("nowhere.safetensors", ARCHITECTURE, "checkpoint_missing"),
        (".", ARCHITECTURE, "checkpoint_missing"),
        ("hub", "test_resnet.nope", "unknown_tag"),
        ("hub", "resnet26t_nothing", "unknown_architecture"),
    ],
)
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, source: str, architecture: str, code: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(order(tmp_path / "out", source, architecture)) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]: ")
    assert not (tmp_path / "out").exists()
