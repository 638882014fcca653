import http.client
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from app.process.lifecycle import Lifecycle, State
from tests.unit.app.support import CAT, SMALL, Server, raw_request, reference_checkpoint, serve, wait_for

# Loaded before the service, these act at torch's edge while a file is there.
HOOK = """
import pathlib, time, torch

def act(module, inputs):
    if type(module).__name__ == "MobileNetV3" and pathlib.Path({flag!r}).exists():
        {action}

torch.nn.modules.module.register_module_forward_pre_hook(act)
"""


def slow(flag: Path) -> str:
    return HOOK.format(flag=str(flag), action="time.sleep(3)")


def lost(flag: Path) -> str:
    message = "CUDA error: an illegal memory access was encountered"
    return HOOK.format(flag=str(flag), action=f"raise RuntimeError({message!r})")


def exit_code(server: Server) -> int:
    return server.process.wait(timeout=120)


def answer(connection: socket.socket) -> tuple[int, str | None]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status, response.getheader("connection")


def test_a_signal_before_http_is_up_ends_the_process_in_order(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path, bundle_path=bundle) as server:
        wait_for(lambda: "The service starts" in server.log.read_text())
        server.terminate()
        assert exit_code(server) == 0
        assert "Traceback" not in server.log.read_text()


def test_http_is_up_before_the_model_and_sigterm_then_ends_at_once(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    with serve(tmp_path, slow(tmp_path / "slow"), bundle_path=bundle) as server:
        wait_for(lambda: server.status("/health/live") == 200)
        ready = server.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {
            "status": "loading", "model_loaded": False, "code": "loading", "detail": "The model is being loaded.",
        }  # fmt: skip
        refused = server.post(content=CAT.read_bytes(), headers={"content-type": "image/jpeg"})
        assert (refused.status_code, refused.json()["code"]) == (503, "loading")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-model-version"] == "unknown"
        assert server.get("/api/v1/model/info").status_code == 503
        server.terminate()
        assert exit_code(server) == 0


def test_a_full_queue_a_deadline_and_a_drain(bundle: Path, tmp_path: Path) -> None:
    flag = tmp_path / "slow"
    content = CAT.read_bytes()
    image: dict[str, Any] = {"content": content, "headers": {"content-type": "image/jpeg"}}
    with serve(
        tmp_path,
        slow(flag),
        bundle_path=bundle,
        engine="torch",
        queue_size=2,
        max_files=2,
        request_timeout_seconds=2,
        upload_timeout_seconds=3,
    ) as server:
        wait_for(server.ready)

        # Uploads that do not end take nobody's place, and are their clients' affair.
        stalled = [server.begin_upload(content, sent=100) for _ in range(4)]
        wait_for(lambda: server.metric("inference_http_requests_in_flight") == 4)
        assert server.metric("inference_images_admitted") == 0
        assert server.post(**image).status_code == 200
        assert server.metric("inference_body_bytes") == 4 * len(content)
        assert [answer(connection) for connection in stalled] == [(408, "close")] * 4
        assert server.metric("inference_body_bytes") == 0

        # A slow model: one image in its forward and one behind it fill the queue, a third is told when to come back.
        flag.touch()
        begun = [server.begin_upload(content, sent=len(content)) for _ in range(2)]
        wait_for(lambda: server.metric("inference_images_admitted") == 2)
        refused = server.post(**image)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        # Both pass their deadline, and their places come back.
        assert [answer(connection)[0] for connection in begun] == [504, 504]
        # Their clients are free, the thread of the model is not.
        assert server.get("/health/ready").json() == {
            "status": "overdue",
            "model_loaded": True,
            "detail": "1 thread works on an image or a batch past the deadline.",
            "code": "overdue",
        }
        assert (server.metric("inference_threads_overdue"), server.metric("inference_ready")) == (1, 0)
        wait_for(lambda: server.metric("inference_images_admitted") == 0)
        # A client that leaves while its image waits or computes gives its place back at once.
        leaving = server.begin_upload(content, sent=len(content))
        wait_for(lambda: server.metric("inference_images_admitted") == 1)
        leaving.close()
        wait_for(lambda: server.metric("inference_images_admitted") == 0, seconds=1.5)
        flag.unlink()
        wait_for(lambda: server.post(**image).status_code == 200)
        assert server.ready()
        assert server.metric("inference_overdue_total") >= 1

        # Draining: not ready, yet what is in flight and what still arrives is answered.
        last = server.begin_upload(content, sent=100)
        wait_for(lambda: server.metric("inference_http_requests_in_flight") == 1)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as open_connection:
            server.terminate()
            wait_for(lambda: server.status("/health/ready") == 503)
            assert server.get("/health/ready").json()["status"] == "draining"
            assert server.get("/health/live").status_code == 200
            open_connection.sendall(raw_request(content))
            assert answer(open_connection) == (200, "close")
        last.sendall(content[100:])
        assert answer(last) == (200, "close")
        assert exit_code(server) == 0


def test_a_lost_device_fails_live_and_then_ends_the_process_with_70(bundle: Path, tmp_path: Path) -> None:
    flag = tmp_path / "lost"
    image: dict[str, Any] = {"content": CAT.read_bytes(), "headers": {"content-type": "image/jpeg"}}
    with serve(tmp_path, lost(flag), bundle_path=bundle, engine="torch") as server:
        wait_for(server.ready)
        flag.touch()
        failed = server.post(**image)
        assert (failed.status_code, failed.json()["code"]) == (503, "device_lost")
        assert server.get("/health/live").status_code == 503
        assert server.get("/health/ready").json()["status"] == "device_lost"
        assert server.post(**image).json()["code"] == "device_lost"
        assert exit_code(server) == 70
        line = next(line for line in server.lines() if line.get("code") == "device_lost")
        assert (line["level"], "illegal memory access" in line["detail"]) == ("error", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_demanded_gpu_that_is_missing_keeps_the_process_alive_and_unready(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path, bundle_path=bundle, require_gpu="true") as server:
        wait_for(lambda: server.status("/health/live") == 200)
        wait_for(lambda: server.get("/health/ready").json()["status"] == "gpu_required")
        ready = server.get("/health/ready")
        assert ready.status_code == 503
        assert "nvidia-smi" in ready.json()["detail"]
        assert server.post(content=CAT.read_bytes()).json()["code"] == "gpu_required"
        assert server.get("/health/live").status_code == 200
        server.terminate()
        assert exit_code(server) == 0


def test_a_damaged_bundle_ends_the_process_with_65_and_one_clear_line(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    with serve(tmp_path, bundle_path=damaged) as server:
        assert exit_code(server) == 65
        errors = [line for line in server.lines() if line["level"] == "error"]
        assert [line["code"] for line in errors] == ["checksum_mismatch"]
        assert "model.safetensors" in errors[0]["detail"]


def test_an_engine_that_cannot_be_as_it_was_asked_for_ends_the_process_with_65(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path, bundle_path=bundle, engine="openvino", precision="fp16") as server:
        assert exit_code(server) == 65
        (line,) = [line for line in server.lines() if line["level"] == "error"]
        assert line["code"] == "engine_refused"
        assert "API_ENGINE" in line["detail"]
        assert "fp16" in line["detail"]


def test_an_unknown_setting_ends_the_process_with_64(tmp_path: Path) -> None:
    with serve(tmp_path, bundel_path="/b") as server:
        assert exit_code(server) == 64
        (line,) = server.lines()
        assert (line["level"], line["code"]) == ("error", "unknown_setting")
        assert "API_BUNDLE_PATH" in line["detail"]


def test_a_bare_checkpoint_is_served_the_reference_way_and_a_drain_is_bounded(tmp_path: Path) -> None:
    _, _, state = reference_checkpoint(SMALL)
    path = tmp_path / "best.pth"
    torch.save({"model_state_dict": state, "val_acc": 0.5}, path)
    settings: dict[str, Any] = {
        "checkpoint_path": path,
        "model_name": SMALL,
        "num_classes": 67,
        "image_size": 64,
        "drain_seconds": 1,
    }
    with serve(tmp_path, **settings) as server:
        wait_for(server.ready)
        info = server.get("/api/v1/model/info").json()
        assert (info["model_name"], info["num_classes"], info["image_size"]) == (SMALL, 67, 64)
        assert info["class_names"][0] == "Abyssinian"
        assert info["performance_metrics"] == {"val_acc": 0.5}
        assert info["checkpoint_path"] == str(path)
        assert server.post(content=CAT.read_bytes(), headers={"content-type": "image/jpeg"}).status_code == 200

        # An upload that never ends holds the process only as long as the drain may take.
        with server.begin_upload(CAT.read_bytes(), sent=100):
            wait_for(lambda: server.metric("inference_http_requests_in_flight") == 1)
            started = time.monotonic()
            server.terminate()
            assert exit_code(server) == 0
            assert 1 <= time.monotonic() - started < 20


def test_a_lifecycle_never_becomes_ready_once_it_ends() -> None:
    lifecycle = Lifecycle(drain_seconds=5)
    lifecycle.drain()
    lifecycle.model_loaded()
    assert lifecycle.state is State.DRAINING
    lifecycle.device_lost("gone")
    lifecycle.drain()
    assert (lifecycle.state, lifecycle.exit_code) == (State.DEVICE_LOST, 70)
