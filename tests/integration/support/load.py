"""A client that posts without a pause while something is done to the service."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


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


class LoadClient:
    """Posts a photograph continuously: one thread over a kept connection, one over a new connection each time.

    Use it as a context manager. Nothing is retried, so that every lost request is seen.
    """

    def __init__(self, port: int, photograph: Path, pause: float = 0.02) -> None:
        self._port = port
        self._body, self._content_type = multipart(photograph.read_bytes())
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
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

    @property
    def answers(self) -> list[Answer]:
        """Everything that came back until now, in order."""
        with self._lock:
            return sorted(self._answers, key=lambda answer: answer.at)

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

    def longest_silence(self) -> float:
        """Return the longest time between two good answers, in seconds."""
        times = [answer.at + answer.seconds for answer in self.answers if answer.status == 200]
        return max((after - before for before, after in itertools.pairwise(times)), default=float("inf"))

    def _run(self, fresh: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            answer, keep = self._ask(connection, fresh)
            with self._lock:
                self._answers.append(answer)
            if fresh or not keep:
                connection.close()
                connection = None
            self._stop.wait(self._pause)

    def _ask(self, connection: http.client.HTTPConnection, fresh: bool) -> tuple[Answer, bool]:
        began = time.monotonic()
        try:
            connection.request("POST", "/api/v1/predict", self._body, {"Content-Type": self._content_type})
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
