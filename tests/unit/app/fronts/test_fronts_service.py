"""The whole service with front ends, whose device sleeps or is simulated."""

import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from tests.unit.app.support import CAT, Server, serve, wait_for

# What starts the process of the device starts this one instead.
INSTEAD = "import sys\nfrom app.fronts import engine_process\nengine_process.COMMAND = (sys.executable, *{!r})"
SLEEPING = INSTEAD.format(("-m", "tests.unit.app.sleeping"))
SIMULATED = """
from tests.unit.app.gpu import Gpu, simulate
stack = simulate(Gpu({}))
import runpy
runpy.run_module("app.fronts.engine_process", run_name="__main__")
"""


def processes(server: Server, module: str) -> list[int]:
    """The children of the service that run a module."""
    found = []
    for child in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        if module in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
    return found


def photograph(server: Server) -> int:
    """The status of an answer to a photograph; 0 when the connection was lost."""
    try:
        return server.post(content=CAT.read_bytes(), headers={"Content-Type": "image/jpeg"}).status_code
    except httpx.TransportError:
        return 0


def test_front_ends_serve_and_either_side_may_die(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path, SLEEPING, bundle_path=bundle, device="cuda", workers=2) as server:
        wait_for(server.ready)
        answer = server.post(files={"file": CAT.read_bytes()})
        assert answer.status_code == 200
        assert answer.json()["model_info"]["device"] == "cuda"
        info = server.get("/api/v1/model/info").json()
        assert (info["engine"], info["precision"], info["model_name"]) == ("torch", "fp16", "sleeping")
        assert info["num_classes"] == 256
        for _ in range(9):
            server.post(files={"file": CAT.read_bytes()})
        assert server.metric("inference_predictions_total") == 10
        assert server.metric("inference_batch_size_images_sum") == 10
        assert server.metric("inference_queue_depth") == 0
        # The process of the device counts, too.
        [device] = processes(server, "tests.unit.app.sleeping")
        everyone = [server.process.pid, device, *processes(server, "app.workers.worker")]
        taken = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in everyone]
        shown = server.metric("process_resident_memory_bytes") / resource.getpagesize()
        assert abs(shown - sum(taken)) < min(taken) / 2
        # No front end needs what computes.
        for front in processes(server, "app.workers.worker"):
            assert "libtorch" not in Path(f"/proc/{front}/maps").read_text()

        statuses: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                statuses.append(photograph(server))

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        wait_for(lambda: statuses.count(200) > 10)
        before = processes(server, "app.workers.worker")
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(set(processes(server, "app.workers.worker")) - set(before)) == 1)
        wait_for(server.ready)
        answered = statuses.count(200)
        wait_for(lambda: statuses.count(200) > answered + 10)
        [device] = processes(server, "tests.unit.app.sleeping")
        os.kill(device, signal.SIGKILL)
        assert server.process.wait(30) == 70
        stop.set()
        for thread in asking:
            thread.join()
        # Its connections were lost with the front end (0); with the device, requests are refused.
        assert set(statuses) <= {200, 503, 0}
        lines = [line for line in server.lines() if line.get("code") == "device_lost"]
        assert lines
        assert all("The engine's process has ended." in line["detail"] for line in lines)


def top(answer: httpx.Response) -> list[tuple[int, float]]:
    """The best classes and their probabilities."""
    assert answer.status_code == 200, answer.text
    return [(each["class_id"], each["confidence"]) for each in answer.json()["top_5_predictions"]]


def test_front_ends_answer_as_one_process_does_where_recording_fails_too(
    bundle: Path, server: Server, tmp_path: Path
) -> None:
    code = INSTEAD.format(("-c", SIMULATED.format("too_large=2")))
    settings = {"bundle_path": bundle, "device": "cuda", "precision": "fp32", "decode": "exact"}
    with serve(tmp_path, code, **settings, workers=2) as fronts:
        wait_for(fronts.ready)
        expected = top(server.post(files={"file": CAT.read_bytes()}))
        for (one, confidence), (other, other_confidence) in zip(
            expected, top(fronts.post(files={"file": CAT.read_bytes()})), strict=True
        ):
            assert one == other
            assert confidence == pytest.approx(other_confidence, abs=1e-5)
        fronts.terminate()
        # Nobody is left, nor is the device's process.
        assert fronts.process.wait(30) == 0
        [line] = [line for line in fronts.lines() if line.get("code") == "not_recorded"]
        assert "begins again without" in line["detail"]
        assert not [line for line in fronts.lines() if line.get("code") == "worker_died"]


def test_a_model_that_cannot_be_served_ends_all_of_it(tmp_path: Path) -> None:
    # Before any front end could be told.
    code = INSTEAD.format(("-c", "raise SystemExit(65)"))
    with serve(tmp_path, code, bundle_path=tmp_path, device="cuda", workers=2) as server:
        assert server.process.wait(120) == 65


def test_why_a_model_cannot_be_served_is_said_once(tmp_path: Path) -> None:
    code = INSTEAD.format(("-c", SIMULATED.format("")))
    with serve(tmp_path, code, bundle_path=tmp_path, device="cuda", workers=2) as server:
        assert server.process.wait(120) == 65
    assert [line["code"] for line in server.lines() if line["level"] == "error"] == ["bundle_missing"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_front_ends_beside_a_gpu_answer_as_one_process_does(bundle: Path, tmp_path: Path) -> None:
    answers = []
    settings = {"bundle_path": bundle, "device": "cuda", "precision": "fp16", "decode": "exact"}
    for workers in (1, 3):
        with serve(tmp_path, "", **settings, workers=workers) as server:
            wait_for(server.ready)
            assert len(processes(server, "app.fronts.engine_process")) == (workers > 1)
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda _: top(server.post(files={"file": CAT.read_bytes()})), range(64)))
            assert all(each == found[0] for each in found)
            answers.append(found[0])
            server.terminate()
            assert server.process.wait(30) == 0
    for one, other in zip(*answers, strict=True):
        assert one == (other[0], pytest.approx(other[1], abs=1e-3))
