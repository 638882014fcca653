"""The keeper against a real HTTP server on a Unix socket that answers as the engine does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from roles.gateway.files.keeper import HANG_SECONDS, START_SECONDS, Engine, EngineError, Keeper, live_colour

HEALTHY = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
HANGING = {"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy"}}


class Api(BaseHTTPRequestHandler):
    """Lists one container in the state that the test chose, and notes what is asked of it."""

    state: dict[str, Any]
    asked: list[str]

    def do_GET(self) -> None:
        if self.path.startswith("/containers/json"):
            self.asked.append(self.path)
            self.answer(200, [{"Id": "abc", "Names": ["/svc-blue-0-api-1"]}])
        else:
            self.answer(200, {"State": self.state})

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.answer(500 if self.state.get("Error") else 204, None)

    def answer(self, status: int, content: Any) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "keeper"

    def log_message(self, *_args: Any) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Engine, dict[str, Any], list[str]]]:
    """A connection to the engine, the container's state, and the paths that were asked."""
    state: dict[str, Any] = dict(HEALTHY)
    asked: list[str] = []
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(
        path, type("Handler", (Api,), {"state": state, "asked": asked})
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Engine(path), state, asked
        server.shutdown()


def test_a_healthy_container_of_the_live_colour_is_left_alone(api: Any) -> None:
    engine, _, asked = api
    assert Keeper(engine, "svc").look("blue", now=0) == []
    assert len(asked) == 1
    assert "inference-service.colour%3Dblue" in asked[0]
    assert "inference-service.name%3Dsvc" in asked[0]


def test_a_killed_container_is_started(api: Any) -> None:
    engine, state, asked = api
    state.update(Status="exited", ExitCode=137)
    assert Keeper(engine, "svc").look("blue", now=0) == [("start", "svc-blue-0-api-1")]
    assert asked[-1] == "/containers/abc/start"


def test_a_container_that_could_not_be_started_is_tried_again(api: Any) -> None:
    """As Docker leaves one with a CDI device after a reboot."""
    engine, state, asked = api
    state.update(Status="exited", ExitCode=255, Error='could not select device driver "cdi" with capabilities: [[gpu]]')
    keeper = Keeper(engine, "svc")
    with pytest.raises(EngineError, match="abc/start: 500"):
        keeper.look("blue", now=0)
    # One that cannot start keeps the others waiting only now and then.
    assert keeper.look("blue", now=START_SECONDS - 1) == []
    asked.clear()
    with pytest.raises(EngineError):
        keeper.look("blue", now=START_SECONDS)
    assert asked[-1] == "/containers/abc/start"


@pytest.mark.parametrize("exit_code", [0, 64, 65])
def test_a_container_that_ended_by_itself_stays_ended(api: Any, exit_code: int) -> None:
    engine, state, _ = api
    state.update(Status="exited", ExitCode=exit_code)
    assert Keeper(engine, "svc").look("blue", now=0) == []


def test_a_hanging_container_is_restarted_after_a_minute_and_then_gets_another(api: Any) -> None:
    engine, state, asked = api
    state.update(HANGING)
    keeper = Keeper(engine, "svc")
    assert keeper.look("blue", now=100) == []
    assert keeper.look("blue", now=100 + HANG_SECONDS - 1) == []
    assert keeper.look("blue", now=100 + HANG_SECONDS) == [("restart", "svc-blue-0-api-1")]
    assert asked[-1] == "/containers/abc/restart"
    assert keeper.look("blue", now=101 + HANG_SECONDS) == []


def test_a_container_that_recovers_is_not_restarted(api: Any) -> None:
    engine, state, _ = api
    keeper = Keeper(engine, "svc")
    state.update(HANGING)
    assert keeper.look("blue", now=0) == []
    state.update(HEALTHY)
    assert keeper.look("blue", now=30) == []
    state.update(HANGING)
    assert keeper.look("blue", now=HANG_SECONDS + 1) == []


def test_an_engine_that_is_away_is_an_error_to_be_logged(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="containers/json"):
        Keeper(Engine(str(tmp_path / "none.sock")), "svc").look("blue", now=0)


@pytest.mark.parametrize(("content", "colour"), [("live green\n", "green"), ("live none\n", ""), ("", ""), (None, "")])
def test_the_live_colour(tmp_path: Path, content: str | None, colour: str) -> None:
    path = tmp_path / "live.map"
    if content is not None:
        path.write_text(content)
    assert live_colour(path) == colour
