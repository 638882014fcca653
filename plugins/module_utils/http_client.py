"""The few HTTP requests that a rollout makes, with the standard library only: hosts need nothing but Python."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class UnreachableError(Exception):
    """No HTTP answer came; the message says why."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers with lower-case names, body, and how long it took in seconds."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Return the body as JSON, or an empty object when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def excerpt(self) -> str:
        """Return the beginning of the body for a message."""
        return self.body[:300].decode(errors="replace").strip()


def request(url: str, body: bytes | None = None, content_type: str = "", timeout: float = 10) -> Answer:
    """GET the http url, or POST the body to it; an error status is an answer, none at all raises UnreachableError.

    No proxy is used: one that is meant for the way out must not stand between a host and its own containers.
    """
    parts = urlsplit(url)
    headers = {"Content-Type": content_type} if body is not None else {}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    started = time.monotonic()
    try:
        connection.request("GET" if body is None else "POST", parts.path or "/", body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return Answer(
        status=response.status,
        headers={name.lower(): value for name, value in response.getheaders()},
        body=content,
        seconds=time.monotonic() - started,
    )
