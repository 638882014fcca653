"""Several processes that serve as one: real ones, over real connections."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import derive
from app.process import memory
from app.settings import Settings
from app.start import derived
from app.workers import number
from tests.unit.app.support import CAT, Server, free_port, serve, wait_for

IMAGE: dict[str, Any] = {"content": CAT.read_bytes(), "headers": {"content-type": "image/jpeg"}}
ASKED: dict[str, Any] = {"device": "cpu", "engine": "openvino", "precision": "fp32", "torch_threads": 2}


@pytest.fixture(scope="module")
def root(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what was made of the small bundle for two threads."""
    folder = tmp_path_factory.mktemp("derived")
    derive.derive(Settings(bundle_path=bundle, derived_path=folder, **ASKED))
    return folder


@contextlib.contextmanager
def two(folder: Path, bundle: Path, root: Path, **settings: object) -> Iterator[Server]:
    """A service of two workers that is ready."""
    with serve(folder, bundle_path=bundle, derived_path=root, **(ASKED | {"workers": 2} | settings)) as server:
        wait_for(server.ready)
        yield server


def worker_ids(server: Server) -> list[int]:
    """The ids of the workers, by their numbers."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_text().split("\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if "app.workers.worker" in arguments and parent == server.process.pid:
                found[arguments[3]] = int(path.parent.name)
    return [found[key] for key in sorted(found)]


class Load:
    """Clients that ask again and again over kept connections, and come again when one breaks."""

    def __init__(self, server: Server, clients: int) -> None:
        self.answers: Counter[int] = Counter()
        # By client.
        self.broken: Counter[int] = Counter()
        self._server = server
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
        while not self._ended.is_set():
            try:
                connection.request("POST", "/api/v1/predict", CAT.read_bytes(), {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # Nobody listens any more: the service has ended.
                if isinstance(error, ConnectionRefusedError):
                    return
                with self._lock:
                    self.broken[number] += 1
            else:
                with self._lock:
                    self.answers[answer.status] += 1

    def wait(self, answers: int) -> None:
        """Until there are so many more."""
        most = self.answers.total() + answers
        wait_for(lambda: self.answers.total() >= most)

    def stop(self) -> None:
        """End, and wait for the last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_two_workers_answer_as_one_service(bundle: Path, root: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with two(tmp_path, bundle, root, log_dir=logs) as server:
        with httpx.Client(base_url=server.url) as first, httpx.Client(base_url=server.url) as second:
            answers = [client.post("/api/v1/predict", **IMAGE) for client in (first, second) * 3]
            shown = [client.get("/metrics").text for client in (first, second)]
            predictions = first.get("/api/v1/model/info").json()["speed_metrics"]["predictions"]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["confidence"] for answer in answers}) == 1
        # Whoever is asked shows the sums.
        for text in shown:
            lines = text.splitlines()
            assert "inference_predictions_total 6.0" in lines
            assert 'inference_http_requests_total{method="POST",route="/api/v1/predict",status="200"} 6.0' in lines
            assert "inference_images_admitted 0.0" in lines
            assert "inference_ready 1.0" in lines
            assert len([line for line in lines if line.startswith("inference_ready")]) == 1
            assert len([line for line in lines if line.startswith("inference_queue_depth")]) == 1
            assert len([line for line in lines if line.startswith("# TYPE process_resident_memory_bytes")]) == 1
        assert predictions == 6
        # Both did something, in files of their own.
        assert all('"request"' in (logs / f"api-{number}.log").read_text() for number in (0, 1))
        assert [line["message"] for line in server.lines()].count("The service is ready") == 1
        assert "The service starts" in (logs / "api.log").read_text()
        server.terminate()
        assert server.process.wait(timeout=60) == 0


def test_a_worker_that_is_killed_loses_its_own_requests_and_is_replaced(
    bundle: Path, root: Path, tmp_path: Path
) -> None:
    with two(tmp_path, bundle, root) as server:
        load = Load(server, 8)
        load.wait(50)
        before = server.metric("inference_predictions_total")
        killed = worker_ids(server)[0]
        os.kill(killed, signal.SIGKILL)
        load.wait(50)
        # At no time is it taken for one that is not ready.
        assert server.status("/health/ready") == 200
        wait_for(lambda: "A worker is ready again" in server.log.read_text())
        load.wait(50)
        load.stop()
        # What was under way there, and nothing else.
        assert 0 < load.broken.total() == len(load.broken) < 8
        assert set(load.answers) == {200}
        assert killed not in worker_ids(server)
        assert server.metric("inference_predictions_total") >= before
        wait_for(lambda: server.metric("inference_images_admitted") == 0)
        died = next(line for line in server.lines() if line.get("code") == "worker_died")
        assert died["detail"] == (
            "Worker 0 ended by signal SIGKILL; its requests are lost, and another one takes its place."
        )
        # Clients of the other one are sent on until both have their share.
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(httpx.Client(base_url=server.url)) for _ in range(6)]
            for client in clients:
                assert client.post("/api/v1/predict", **IMAGE).status_code == 200


def test_what_a_dying_worker_has_not_taken_goes_to_another_one(bundle: Path, root: Path, tmp_path: Path) -> None:
    with two(tmp_path, bundle, root) as server, ThreadPoolExecutor(4) as clients:
        killed = worker_ids(server)[0]
        # It is handed its share and reads none of it.
        os.kill(killed, signal.SIGSTOP)
        answers = [clients.submit(httpx.post, f"{server.url}/api/v1/predict", timeout=30, **IMAGE) for _ in range(4)]
        wait_for(lambda: sum(answer.done() for answer in answers) >= 2)
        os.kill(killed, signal.SIGKILL)
        assert [answer.result().status_code for answer in answers] == [200] * 4


def test_a_drain_under_load_loses_nothing(bundle: Path, root: Path, tmp_path: Path) -> None:
    with two(tmp_path, bundle, root, drain_seconds=3) as server:
        body = CAT.read_bytes()
        with server.begin_upload(body, len(body) - 1) as late:
            load = Load(server, 8)
            load.wait(50)
            server.terminate()
            wait_for(lambda: server.status("/health/ready") == 503)
            load.wait(20)
            load.stop()
            late.sendall(body[-1:])
            answer = http.client.HTTPResponse(late)
            answer.begin()
            assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert server.process.wait(timeout=60) == 0
        assert (load.broken, set(load.answers)) == ({}, {200})
        assert worker_ids(server) == []


def test_what_uploads_may_hold_is_for_all_workers_together(bundle: Path, root: Path, tmp_path: Path) -> None:
    most = 400_000
    limits = {"max_upload_bytes": most, "max_batch_bytes": most, "max_bytes_in_flight": most}
    with two(tmp_path, bundle, root, **limits) as server:
        body = bytes(300_000)
        # The one goes to one worker, the next one to the other.
        with server.begin_upload(body, 200_000):
            wait_for(lambda: server.metric("inference_body_bytes") >= 200_000)
            with server.begin_upload(body, 250_000) as other:
                answer = http.client.HTTPResponse(other)
                answer.begin()
                assert (answer.status, "queue_full" in answer.read().decode()) == (503, True)
        wait_for(lambda: server.metric("inference_body_bytes") == 0)


def test_a_bundle_that_is_refused_ends_all_with_its_code(bundle: Path, root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "models" / "1"
    shutil.copytree(bundle, broken)
    (broken / "labels.txt").write_text("changed\n")
    with serve(tmp_path, bundle_path=broken, derived_path=root, **ASKED, workers=2) as server:
        assert server.process.wait(timeout=60) == 65
        assert "checksum" in server.log.read_text()


def test_an_address_in_use_ends_the_service(bundle: Path, root: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        serve(tmp_path, bundle_path=bundle, derived_path=root, **ASKED, workers=2, port=port) as server,
    ):
        assert server.process.wait(timeout=60) == 1
        line = next(line for line in server.lines() if line.get("code") == "address_refused")
        assert line["detail"] == (
            "API_HOST and API_PORT cannot be listened on: Address already in use (while attempting to bind on "
            f"address ('127.0.0.1', {port}))."
        )


def test_workers_that_end_again_and_again_end_the_service(bundle: Path, root: Path, tmp_path: Path) -> None:
    with serve(tmp_path, bundle_path=bundle, derived_path=root, **ASKED, workers=2) as server:

        def kill() -> bool:
            for process in worker_ids(server)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return server.process.poll() is not None

        wait_for(kill)
        assert server.process.wait() == 70
        line = next(line for line in server.lines() if line.get("code") == "worker_failed")
        assert line["detail"].endswith("times before it was ready, the last time by signal SIGKILL.")


def test_workers_end_when_the_supervisor_does(bundle: Path, root: Path, tmp_path: Path) -> None:
    with two(tmp_path, bundle, root) as server:
        processes = worker_ids(server)
        server.process.kill()
        wait_for(lambda: not any(Path(f"/proc/{process}/cmdline").read_bytes() for process in alive(processes)))


def alive(processes: list[int]) -> list[int]:
    """Those of the processes that have not ended."""
    return [process for process in processes if Path(f"/proc/{process}/cmdline").exists()]


def test_workers_on_one_core_each_share_what_was_made_for_all_of_them(bundle: Path, tmp_path: Path) -> None:
    everything = ASKED | {"torch_threads": 0}
    root = tmp_path / "derived"
    root.mkdir()
    derive.derive(Settings(bundle_path=bundle, derived_path=root, **everything))
    with two(tmp_path, bundle, root, torch_threads=0) as server:
        assert server.get("/api/v1/model/info").json()["derived_model"]
        assert "derived_missing" not in server.log.read_text()


def test_as_many_processes_as_are_worth_it(
    bundle: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def asked(**options: Any) -> Settings:
        return Settings(**{"bundle_path": bundle, "derived_path": root, **ASKED, **options})

    assert number.workers(asked(workers=1)) == 1
    assert number.workers(asked(workers=5)) == 5
    # Where each would convert and choose by itself, one serves; who wanted more hears of it.
    assert number.workers(asked(workers="auto", derived_path=tmp_path)) == 1
    assert not caplog.records
    assert number.workers(asked(workers=2, derived_path=tmp_path)) == 1
    assert caplog.records[0].__dict__["code"] == "one_process"
    choice = derived.choice(asked())
    assert choice

    def automatic(seconds: float = 0.002, engine: str = "openvino", gib: int = 8, workers: str | None = "auto") -> int:
        changed = choice.model_copy(update={"seconds": seconds, "engine": engine})
        monkeypatch.setattr(derived, "choice", lambda _, proved=False: changed)
        monkeypatch.setattr(memory, "limit", lambda: gib << 30)
        return number.workers(asked(workers=workers))

    assert automatic() == 2
    assert automatic(workers=None) == 2
    # Each needs memory for its model and a large picture.
    assert automatic(gib=1) == 1
    # An image that is worth all cores gets them.
    assert automatic(seconds=0.02) == 1
    assert automatic(engine="torch") == 1


def test_what_is_damaged_is_converted_by_one_process_only(
    bundle: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = shutil.copytree(root, tmp_path / "derived")
    asked = Settings(**{"bundle_path": bundle, "derived_path": copied, **ASKED, "workers": 2})
    assert number.workers(asked) == 2
    with next(copied.glob(f"*/{derived.WEIGHTS}")).open("r+b") as weights:
        weights.write(b"?" * 64)
    assert number.workers(asked) == 1
    assert [record.__dict__["code"] for record in caplog.records] == ["one_process"]


def test_the_number_of_workers_is_a_number_or_auto() -> None:
    assert Settings.model_validate({"workers": "3"}).workers == 3
    assert Settings.model_validate({"workers": "auto"}).workers == "auto"
    assert Settings.model_validate({}).workers is None
    for wrong in ("0", "many", "-1", "1.5"):
        with pytest.raises(ValueError, match="workers"):
            Settings.model_validate({"workers": wrong})
