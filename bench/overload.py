"""Overload: far more clients than the service can serve, and what becomes of everybody."""

import http.client
import json
import statistics
import threading
import time

from bench import figures, machine, servers
from bench.machine import docker

PHOTO = "500x375"
CALM = (8, 16, 64)
# Clients that come back sooner than they were told to.
IMPATIENT_SECONDS = 0.2


class LiveProbe(threading.Thread):
    """Asks the live endpoint twenty times a second over one connection and keeps the latencies."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.milliseconds: list[float] = []
        self.failures = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._ended.wait(0.05):
            began = time.perf_counter()
            try:
                connection.request("GET", "/health/live")
                response = connection.getresponse()
                response.read()
                self.failures += response.status != 200
            except (OSError, http.client.HTTPException):
                self.failures += 1
                connection.close()
            self.milliseconds.append((time.perf_counter() - began) * 1000)

    def stop(self) -> None:
        """End, and wait for the last answer."""
        self._ended.set()
        self.join()


class MemoryProbe(threading.Thread):
    """Reads the memory of a container every few seconds."""

    def __init__(self, container: str) -> None:
        super().__init__(daemon=True)
        self.megabytes: list[float] = []
        self._container = container
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until told to stop."""
        while not self._ended.is_set():
            usage = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", self._container)
            self.megabytes.append(megabytes(usage))
            self._ended.wait(5)

    def stop(self) -> None:
        """End, and wait for the last reading."""
        self._ended.set()
        self.join()


def megabytes(usage: str) -> float:
    """What docker stats says is in use ("512.3MiB / 23GiB"), in MiB."""
    text = usage.split("/")[0].strip()
    for unit, factor in (("GiB", 1024.0), ("MiB", 1.0), ("KiB", 1 / 1024)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(f"docker stats says {usage!r}, which is no amount of memory")


def clients(
    image: str, port: int, count: int, seconds: float, patience: float = 3600.0
) -> list[tuple[int, float, float, bool]]:
    """Run insistent clients and return what each request got: status, seconds, Retry-After, came back after a 503."""
    printed = machine.python(
        image,
        *("-m", "bench.clients", "insistent", "--port", str(port), "--path", "/api/v1/predict"),
        *("--photograph", f"/data/{PHOTO}.jpg", "--clients", str(count), "--seconds", str(seconds)),
        *("--patience", str(patience)),
    )
    return [(int(status), took, retry, after) for status, took, retry, after in json.loads(printed)]


def _successful(answers: list[tuple[int, float, float, bool]], seconds: float) -> float:
    return sum(status == 200 for status, *_ in answers) / seconds


def _single(running: servers.Running, count: int = 15) -> float:
    """The median latency of lone requests, in milliseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        running.ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def run(image: str, model: str, count: int, seconds: int) -> None:
    """Overload the service, once by clients that obey Retry-After and once by impatient ones."""
    server = servers.ours(model, image)
    rows = []
    kinds = {"obey Retry-After": 3600.0, f"come back after {IMPATIENT_SECONDS} s": IMPATIENT_SECONDS}
    for title, patience in kinds.items():
        with servers.running(server, image) as running:
            calm = {number: _successful(clients(image, running.port, number, 8), 8) for number in CALM}
            best = max(calm.values())
            before = _single(running)
            live, memory = LiveProbe(running.port), MemoryProbe(running.containers[0])
            for probe in (live, memory):
                probe.start()
            answers = clients(image, running.port, count, seconds, patience)
            for probe in (live, memory):
                probe.stop()
            time.sleep(2)
            after = _single(running)
        rate = _successful(answers, seconds)
        refused = [took * 1000 for status, took, *_ in answers if status == 503]
        second = [status for status, _, _, came_back in answers if came_back]
        other = sum(status not in (200, 503) for status, *_ in answers)
        rows.append(
            [
                title,
                f"{rate:.1f}/s, {rate / best:.0%} of {best:.1f}/s",
                f"{len(refused)}, median {figures.percentile(refused, 0.5):.1f} ms",
                f"{sum(status == 200 for status in second) / len(second):.0%} of {len(second)}" if second else "none",
                str(other),
                f"{figures.percentile(live.milliseconds, 0.99):.1f} ms, {live.failures} failed",
                f"{memory.megabytes[0]:.0f} to {memory.megabytes[-1]:.0f}, most {max(memory.megabytes):.0f} MiB",
                f"{before:.1f} ms before, {after:.1f} ms 2 s after",
            ]
        )
    head = ["clients", "successful", "503", "served on return", "other answers", "live p99", "memory", "one client"]
    body = figures.table(head, rows)
    calmer = ", ".join(map(str, CALM))
    body += f"\n\n{count} clients for {seconds} s; 100% is the best of {calmer} clients. {machine.description()}."
    figures.record(f"Overload, {model}", body)
