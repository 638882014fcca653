"""Clients that post while something is done to the service."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import itertools
import json
import queue
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# How much of a slow upload goes out at once.
PIECE_BYTES = 125_000


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for one request; an exception is an answer with status 0."""

    at: float
    seconds: float
    status: int
    model_version: str
    release: str
    fresh_connection: bool
    problem: str = ""
    large: bool = False


def multipart(
    photograph: bytes, filename: str = "photograph.jpg", content_type: str = "image/jpeg"
) -> tuple[bytes, str]:
    """Return the body of an upload form with one file, and its content type."""
    boundary = "----integration-test-boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
    body = f"{head}Content-Type: {content_type}\r\n\r\n".encode() + photograph + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def post(
    port: int, photograph: bytes, *, path: str = "/api/v1/predict", timeout: float = 60
) -> tuple[int, dict[str, Any]]:
    """Post one photograph as a form; return the status and the decoded answer."""
    return post_body(port, *multipart(photograph), path=path, timeout=timeout)


def post_body(
    port: int, body: bytes, content_type: str, *, path: str = "/api/v1/predict", timeout: float = 60
) -> tuple[int, dict[str, Any]]:
    """Post a body as it is; return the status and the decoded answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def get(port: int, path: str, timeout: float = 10) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    """Get a page; return the status, the decoded answer and the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, body: bytes, content_type: str, fresh: bool, pause: float = 0
) -> tuple[Answer, bool]:
    """Post a body, in pieces with a pause between when asked to; return the answer, and whether it was kept alive."""
    began = time.monotonic()
    try:
        if pause:
            connection.putrequest("POST", "/api/v1/predict")
            connection.putheader("Content-Type", content_type)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            for start in range(0, len(body), PIECE_BYTES):
                connection.send(body[start : start + PIECE_BYTES])
                time.sleep(pause)
        else:
            connection.request("POST", "/api/v1/predict", body, {"Content-Type": content_type})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        problem = f"{type(error).__name__}: {error}"
        return Answer(began, time.monotonic() - began, 0, "", "", fresh, problem), False
    answer = Answer(
        at=began,
        seconds=time.monotonic() - began,
        status=response.status,
        model_version=response.headers.get("X-Model-Version", ""),
        release=response.headers.get("X-Release-ID", ""),
        fresh_connection=fresh,
        problem="" if response.status == 200 else content.decode(errors="replace")[:300],
    )
    return answer, not response.will_close


class Answers:
    """What a client got back. Nothing is retried, so that every lost request is seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        """Keep an answer."""
        with self._lock:
            self._answers.append(answer)

    @property
    def answers(self) -> list[Answer]:
        """Everything that came back until now, in order."""
        with self._lock:
            return sorted(self._answers, key=lambda answer: answer.at)

    def __str__(self) -> str:
        count, failed = len(self.answers), len(self.failures)
        return f"{count} requests, {failed} failed, longest gap {self.longest_silence():.2f} s"

    @property
    def failures(self) -> list[Answer]:
        """The answers that are not 200."""
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def model_versions(self) -> list[str]:
        """The model versions that answered, each once, in the order in which they first did."""
        return list(dict.fromkeys(answer.model_version for answer in self.answers if answer.status == 200))

    @property
    def releases(self) -> list[str]:
        """The releases that answered, each once, in the order in which they first did."""
        return list(dict.fromkeys(answer.release for answer in self.answers if answer.status == 200))

    def longest_silence(self, since: float = 0, until: float = float("inf")) -> float:
        """Return the longest time between two good answers to requests of the interval, in seconds."""
        chosen = [answer for answer in self.answers if since <= answer.at < until and answer.status == 200]
        times = sorted(answer.at + answer.seconds for answer in chosen)
        return max((after - before for before, after in itertools.pairwise(times)), default=float("inf"))


class LoadClient(Answers):
    """Posts a photograph continuously: one thread over a kept connection, one over a new connection each time.

    Use it as a context manager.
    """

    def __init__(self, port: int, photograph: Path, pause: float = 0.02, address: str = "127.0.0.1") -> None:
        super().__init__()
        self._address, self._port = address, port
        self._body, self._content_type = multipart(photograph.read_bytes())
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(fresh,), daemon=True) for fresh in (False, True)]

    def __enter__(self) -> Self:
        """Start to post, and wait for the first answers: what happens next happens under load."""
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(self.answers) < 2 * len(self._threads):
            if time.monotonic() > deadline:
                raise TimeoutError(f"port {self._port} gave {len(self.answers)} answers in 60 s")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop after the requests that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=90)

    def _run(self, fresh: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            if connection is None:
                connection = http.client.HTTPConnection(self._address, self._port, timeout=60)
            answer, keep = ask(connection, self._body, self._content_type, fresh)
            self.add(answer)
            if fresh or not keep:
                connection.close()
                connection = None
            self._stop.wait(self._pause)


class SteadyClient(Answers):
    """Sends a request at each tick of a clock, whatever the answers do, so that a silence cannot hide what it costs.

    Every second request uses a kept connection, the others a new one; one in 20 is a slow upload of 2 MB.
    How long an answer took counts from the tick. A kept connection is not used again after five idle seconds, as HTTP
    clients do it: a server may close it any time. Use it as a context manager.
    """

    UPLOAD_EVERY = 20
    UPLOAD_BYTES = 2_000_000
    WORKERS = 64
    IDLE_SECONDS = 5

    def __init__(self, port: int, photograph: Path, per_second: float, address: str = "127.0.0.1") -> None:
        super().__init__()
        self._address, self._port = address, port
        content = photograph.read_bytes()
        self._small = multipart(content)
        # What follows the end of a JPEG is carried, and ignored.
        self._large = multipart(content + b"\0" * (self.UPLOAD_BYTES - len(content)))
        self._interval = 1 / per_second
        self._stop = threading.Event()
        self._kept: queue.LifoQueue[tuple[http.client.HTTPConnection, float]] = queue.LifoQueue()
        self._workers = concurrent.futures.ThreadPoolExecutor(self.WORKERS)
        self._clock = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop after the requests that are under way."""
        self._stop.set()
        self._clock.join()
        self._workers.shutdown()

    def _run(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            tick = began + number * self._interval
            if self._stop.wait(max(0, tick - time.monotonic())):
                return
            self._workers.submit(self._post, number, tick)

    def _post(self, number: int, tick: float) -> None:
        fresh = number % 2 == 1
        large = number % self.UPLOAD_EVERY < 2 and (number // self.UPLOAD_EVERY) % 2 == number % 2
        connection = None if fresh else self._take()
        connection = connection or http.client.HTTPConnection(self._address, self._port, timeout=60)
        body, content_type = self._large if large else self._small
        answer, keep = ask(connection, body, content_type, fresh, pause=0.025 if large else 0)
        late = answer.at - tick
        self.add(dataclasses.replace(answer, at=tick, seconds=answer.seconds + late, large=large))
        if keep and not fresh:
            self._kept.put((connection, time.monotonic()))
        else:
            connection.close()

    def _take(self) -> http.client.HTTPConnection | None:
        try:
            connection, since = self._kept.get_nowait()
        except queue.Empty:
            return None
        if time.monotonic() - since < self.IDLE_SECONDS:
            return connection
        connection.close()
        return None
