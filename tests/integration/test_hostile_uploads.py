"""Hostile uploads through the gateway, with honest clients beside.

INFERENCE_TEST_UPLOADS says how many; a hundred thousand take half an hour on two busy cores. What each kind is, says
tests/integration/support/in_image/siege.py. What was found is in .reports/hostile-uploads.json.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.edge import Edge
from tests.integration.support.load import LoadClient, get
from tests.integration.support.playbooks import ROOT, docker

pytestmark = pytest.mark.trial

EDGE = f"{NAME}-siege"
UPLOADS = int(os.environ.get("INFERENCE_TEST_UPLOADS", "4000"))
ATTACKERS = 8
# At addresses of their own, and at that of the attackers.
HONEST_PAIRS, HONEST_NEIGHBORS = 4, 2
PAUSE = 0.5
CALM_SECONDS = 20
# What allocators keep once every kind has come by.
FLAT = 64 << 20
WARM_UPLOADS = 1_000
# Longer than headers and bodies may take.
HOLD_SECONDS = 40
HELD_REPORT = ROOT / ".reports" / "held-connections.json"
REPORT = ROOT / ".reports" / "hostile-uploads.json"


class Engine(http.client.HTTPConnection):
    """Docker's own figures of a container."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=60)

    def connect(self) -> None:
        """Connect to its socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    @classmethod
    def stats(cls, container: str) -> dict[str, Any]:
        """Return what a container uses now."""
        engine = cls()
        engine.request("GET", f"/containers/{container}/stats?stream=false&one-shot=true")
        found: dict[str, Any] = json.load(engine.getresponse())
        engine.close()
        return found


def memory(container: str) -> int:
    """Return the bytes of a container that are no cache of files."""
    counted = Engine.stats(container)["memory_stats"]["stats"]
    return int(counted.get("anon") or counted["rss"])


def processor_seconds(container: str) -> float:
    """Return the seconds of processors that a container has used."""
    return float(Engine.stats(container)["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


class Watcher(threading.Thread):
    """Asks for readiness and memory every second."""

    def __init__(self, port: int, container: str) -> None:
        super().__init__(daemon=True)
        self.ready: list[int] = []
        self.memory: list[int] = []
        self._port, self._container = port, container
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._over.wait(1):
            try:
                self.ready.append(get(self._port, "/health/ready")[0])
            except OSError:
                self.ready.append(0)
            self.memory.append(memory(self._container))

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self.join()


class Siege:
    """The attackers, in a container beside the gateway, which so has an address of its own."""

    def __init__(self, image: str, network: str) -> None:
        words = [
            "docker",
            "run",
            "--rm",
            "--interactive",
            f"--name={network}-siege",
            f"--network={network}",
            "--tmpfs=/tmp",
        ]
        words += ["--env=HOME=/tmp", "--env=PYTHONDONTWRITEBYTECODE=1", f"--volume={ROOT}:/src:ro", "--workdir=/src"]
        words += [image, "python", "-m", "tests.integration.support.in_image.siege", f"{network}-gateway", "8080"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, **order: object) -> dict[str, Any]:
        """Have something done."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        """Let them go."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture
def edge(tmp_path: Path, images: dict[str, str], models: Path) -> Iterator[Edge]:
    """The service behind its gateway, with the limits of a small deploy."""
    made = Edge(tmp_path, EDGE, images["gateway"], "/health/ready")
    settings = [
        f"--user={os.getuid()}:{os.getgid()}",
        "--read-only",
        "--tmpfs=/tmp",
        "--cpus=2",
        "--memory=2g",
        "--pids-limit=512",
    ]
    settings += [
        f"--volume={models}:/models:ro",
        f"--env=API_BUNDLE_PATH=/models/{MODEL}/A",
        "--env=API_PRECISION=fp32",
        "--env=API_TRUSTED_PROXIES=172.16.0.0/12",
    ]
    made.start(*settings, images["runtime"], seconds=90)
    yield made
    made.remove()


@pytest.fixture
def siege(edge: Edge, images: dict[str, str]) -> Iterator[Siege]:
    begun = Siege(images["test"], edge.name)
    yield begun
    begun.end()


def p99(seconds: list[float]) -> float:
    return round(sorted(seconds)[int(len(seconds) * 0.99)] * 1000, 1)


@contextlib.contextmanager
def honest(edge: Edge, photograph: Path) -> Iterator[list[LoadClient]]:
    """Honest clients, each of two threads, at an address of their own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(LoadClient(edge.port, photograph, PAUSE)) for _ in range(HONEST_PAIRS)]


def good(clients: list[LoadClient]) -> list[float]:
    """Return how long the good answers took."""
    return [answer.seconds for client in clients for answer in client.answers if answer.status == 200]


def bad(clients: list[LoadClient]) -> list[str]:
    """Return the other answers."""
    return [f"{answer.status} {answer.problem}" for client in clients for answer in client.failures]


def test_hostile_uploads_harm_nobody(edge: Edge, siege: Siege, photograph: Path) -> None:
    container = f"{edge.name}-instance"
    with honest(edge, photograph) as calm:
        time.sleep(CALM_SECONDS)
    siege.do(do="attack", first=UPLOADS, count=min(UPLOADS // 10, WARM_UPLOADS), attackers=ATTACKERS, honest=0)
    began = time.monotonic()
    with Watcher(edge.port, container) as watcher, honest(edge, photograph) as beside:
        found = siege.do(do="attack", first=0, count=UPLOADS, attackers=ATTACKERS, honest=HONEST_NEIGHBORS)
    seconds = time.monotonic() - began
    costs = []
    for _, number, kind in found["slowest"]:
        before = processor_seconds(container)
        again = siege.do(do="again", number=number)
        costs.append((round(processor_seconds(container) - before, 2), number, kind, again["bytes"], again["status"]))
    third = len(watcher.memory) // 3
    early, late = (statistics.median(part) for part in (watcher.memory[:third], watcher.memory[-third:]))
    neighbors = [took for status, took in found["honest"] if status == 200]
    report = {
        "uploads": UPLOADS,
        "seconds": round(seconds),
        "answers": found["answers"],
        "wrong": found["wrong"],
        "honest_requests": len(good(calm)) + len(good(beside)) + len(neighbors),
        "honest_refused": bad(calm) + bad(beside),
        "honest_p99_ms": {"calm": p99(good(calm)), "beside": p99(good(beside)), "same address": p99(neighbors)},
        "memory_mib": {"early": round(early / 2**20), "late": round(late / 2**20), "most": max(watcher.memory) >> 20},
        "not_ready": [status for status in watcher.ready if status != 200],
        "dearest": sorted(costs, reverse=True)[:10],
        "load": os.getloadavg(),
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    assert found["wrong"] == report["honest_refused"] == []
    assert len(neighbors) == len(found["honest"])
    assert report["not_ready"] == []
    assert late - early < FLAT
    inspected = json.loads(docker("inspect", container))[0]
    assert (inspected["State"]["Status"], inspected["RestartCount"]) == ("running", 0)
    lines = docker("logs", container).splitlines()
    assert not [line for line in lines if '"level":"error"' in line.replace(" ", "")]


def test_one_address_that_holds_all_that_it_can_leaves_others_served(
    edge: Edge, siege: Siege, photograph: Path
) -> None:
    with honest(edge, photograph) as calm:
        time.sleep(CALM_SECONDS)
    with honest(edge, photograph) as beside:
        held = siege.do(do="hold", headers=100, bodies=200, load=256, seconds=HOLD_SECONDS)
    answers = [answer for client in beside for answer in client.answers]
    served = [answer.seconds for answer in answers if answer.status == 200]
    report = {
        **held,
        "others": {"requests": len(answers), "served": len(served)},
        "others_p99_ms": {"calm": p99(good(calm)), "beside": p99(served)},
        "load_of_machine": os.getloadavg(),
    }
    HELD_REPORT.parent.mkdir(exist_ok=True)
    HELD_REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    assert len(served) == len(answers) > 0
    assert set(held["headers"]) <= {"408", "closed", "held"}
    assert set(held["bodies"]) <= {"408", "closed", "held", "429", "503"}


def test_no_input_costs_much_more_than_an_honest_one(images: dict[str, str]) -> None:
    """Each alone, measured within the image: the trial itself is one of the service's own tests."""
    words = ["docker", "run", "--rm", "--network=none", "--memory=2g", "--tmpfs=/tmp", "--env=HOME=/tmp"]
    words += ["--env=PYTHONDONTWRITEBYTECODE=1", f"--volume={ROOT}:/src:ro", "--workdir=/src", images["test"]]
    words += [
        "python",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-s",
        "-m",
        "trial",
        "tests/unit/app/images/test_hostile.py",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
