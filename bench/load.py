"""Load on this machine from several processes, and what a request costs each thread of the server."""

import asyncio
import http.client
import multiprocessing
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.figures import percentile

# How much later than the end an answer may come.
_LATE_SECONDS = 30


@dataclass
class Load:
    """What clients got: photographs a second, milliseconds, answers that were none; microseconds of the server."""

    rate: float
    p50_ms: float
    p99_ms: float
    refused: dict[str, int]
    loop_us: float = 0.0
    threads_us: list[float] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(port: int) -> bool:
    """Whether the service there takes requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class _Client(asyncio.Protocol):
    """A connection with one request in flight, always."""

    def __init__(self, request: bytes, end: float, times: list[float], refused: dict[str, int]) -> None:
        self._request, self._end, self._times, self._refused = request, end, times, refused
        self._buffer = b""
        self._began = 0.0
        self._waits = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._waits = True
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(length or 0):
            return
        self._buffer = b""
        self._waits = False
        now = time.perf_counter()
        status = head[9:12].decode()
        if status == "200":
            self._times.append(now - self._began)
        else:
            self._refused[status] = self._refused.get(status, 0) + 1
        if now < self._end and b"connection: close" not in head.lower():
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        # The end of a process that had a request need be no error of its connection.
        if error or self._waits:
            self._refused["lost"] = self._refused.get("lost", 0) + 1
        if not self.over.done():
            self.over.set_result(None)


def _work(port: int, request: bytes, clients: int, seconds: float, answers: Any) -> None:
    times: list[float] = []
    refused: dict[str, int] = {}

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        end = time.perf_counter() + seconds
        made = [
            await loop.create_connection(lambda: _Client(request, end, times, refused), "127.0.0.1", port)
            for _ in range(clients)
        ]
        await asyncio.wait([client.over for _, client in made], timeout=seconds + _LATE_SECONDS)

    uvloop.run(ask())
    answers.put((times, refused))


def run(port: int, photograph: Path, clients: int, seconds: float, processes: int, server: int = 0) -> Load:
    """Have so many clients ask for so long, from so many processes; the server's process is looked at."""
    body = photograph.read_bytes()
    head = ("POST /api/v1/predict HTTP/1.1", "Host: bench", "Content-Type: image/jpeg", f"Content-Length: {len(body)}")
    request = "\r\n".join([*head, "", ""]).encode() + body
    # Nothing of this process, like a GPU, must be in the others.
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = min(processes, clients)
    shares = [clients // processes + (number < clients % processes) for number in range(processes)]
    workers = [context.Process(target=_work, args=(port, request, share, seconds, answers)) for share in shares]
    before = cpu_seconds(server)
    for worker in workers:
        worker.start()
    times: list[float] = []
    refused: dict[str, int] = {}
    for _ in workers:
        more, others = answers.get(timeout=seconds + 2 * _LATE_SECONDS)
        times += more
        for status, count in others.items():
            refused[status] = refused.get(status, 0) + count
    for worker in workers:
        worker.join()
    if not times:
        return Load(0.0, 0.0, 0.0, refused)
    load = Load(len(times) / seconds, 1000 * percentile(times, 0.5), 1000 * percentile(times, 0.99), refused)
    spent = {task: 1e6 * (after - before.get(task, 0)) / len(times) for task, after in cpu_seconds(server).items()}
    load.loop_us = round(spent.pop(server, 0.0), 1)
    load.threads_us = sorted((round(value, 1) for value in spent.values() if value >= 1), reverse=True)
    return load


def cpu_seconds(process: int) -> dict[int, float]:
    """Seconds that each thread of a process has computed; some sandboxes only count whole ticks."""
    found: dict[int, float] = {}
    if not process:
        return found
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except (OSError, ValueError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[int(task.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found
