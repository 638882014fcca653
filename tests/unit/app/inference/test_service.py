"""The service: who waits for whom, and what it does on a simulated GPU that misbehaves."""

import threading
from pathlib import Path

import pytest

from tests.unit.app.gpu import on_a_real_one
from tests.unit.app.support import CAT, Server, scans, serve, wait_for

SIMULATE = "from pathlib import Path\nfrom tests.unit.app.gpu import Gpu, simulate\nstack = simulate(Gpu({}))"
# A kernel that takes a minute, before a recording is replayed.
HANG = """
from pathlib import Path
import torch
replay = torch.cuda.CUDAGraph.replay
def hang(graph):
    if Path({!r}).exists():
        torch.cuda._sleep(1 << 37)
    replay(graph)
torch.cuda.CUDAGraph.replay = hang
"""


def test_a_model_that_cannot_be_recorded_is_served_by_a_process_that_does_not_try(bundle: Path, tmp_path: Path) -> None:
    code = SIMULATE.format("too_large=2")
    with serve(tmp_path, code, bundle_path=bundle, device="cuda", precision="fp32") as server:
        wait_for(server.ready)
        answer = server.post(files={"file": CAT.read_bytes()})
        assert answer.status_code == 200
        assert answer.json()["model_info"]["device"] == "cuda"
        lines = server.lines()
        # Once, not again and again, and in the same process.
        assert [line["message"] for line in lines].count("The service starts") == 2
        assert server.process.poll() is None
        [warning] = [line for line in lines if line.get("code") == "not_recorded"]
        assert "out of memory" in warning["detail"]
        assert "begins again without" in warning["detail"]


@pytest.mark.parametrize(
    "code", [pytest.param(SIMULATE.format("hangs=Path({!r}).exists"), id="simulated"), on_a_real_one(HANG)]
)
def test_a_device_that_never_answers_is_lost(bundle: Path, tmp_path: Path, code: str) -> None:
    hung = tmp_path / "hung"
    code = code.format(str(hung))
    settings = {"bundle_path": bundle, "device": "cuda", "precision": "fp32", "request_timeout_seconds": 1}
    with serve(tmp_path, code, **settings) as server:
        wait_for(server.ready)
        assert server.post(files={"file": CAT.read_bytes()}).status_code == 200
        hung.touch()
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(server.post(files={"file": CAT.read_bytes()}).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: server.status("/health/live") == 503)
        assert server.get("/health/ready").json()["code"] == "device_lost"
        assert server.process.wait(20) == 70
        asking.join()
        assert statuses == [504]
    [line] = [line for line in server.lines() if line.get("code") == "device_lost"]
    assert "has not answered to a batch for 1 s" in line["detail"]


def test_small_images_do_not_wait_for_a_large_one_where_there_is_one_thread(server: Server) -> None:
    ended: list[str] = []

    def ask(name: str, content: bytes) -> None:
        assert server.post(content=content, headers={"content-type": "image/jpeg"}).status_code == 200
        ended.append(name)

    # A second of decoding.
    large = threading.Thread(target=ask, args=("large", scans(3000, 60)))
    large.start()
    wait_for(lambda: server.metric("inference_images_admitted") == 1)
    ask("small", CAT.read_bytes())
    large.join()
    assert ended == ["small", "large"]


def test_nobody_waits_behind_a_client_that_has_left(server: Server) -> None:
    def left() -> int:
        return sum(line.get("status") == 499 for line in server.lines())

    before = left()
    # A second of decoding.
    body = scans(3000, 60)
    connections = [server.begin_upload(body, sent=len(body)) for _ in range(3)]
    wait_for(lambda: server.metric("inference_images_admitted") == 3)
    for connection in connections:
        connection.close()
    wait_for(lambda: left() == before + 3)
    assert server.metric("inference_images_admitted") == 0
