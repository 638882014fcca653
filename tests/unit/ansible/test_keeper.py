"""The keeper against a real HTTP server on a Unix socket that answers as Docker does."""

from __future__ import annotations

import json
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils import gateway_replace
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import LABEL_COLOR, LABEL_COLOR_BEFORE
from roles.gateway.files.keeper import (
    AIMED,
    ALIVE_SECONDS,
    AWAY,
    AWAY_SECONDS,
    BALLAST,
    BALLAST_BYTES,
    COLOR_LABELS,
    HANG_SECONDS,
    SIGN_OF_LIFE,
    START_SECONDS,
    UP_ELSEWHERE,
    Ballast,
    Engine,
    EngineError,
    Keeper,
    live_color,
    look_after,
    watch,
)

HEALTHY = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}
HANGING = {"Status": "running", "ExitCode": 0, "Health": {"Status": "unhealthy"}}


def test_it_knows_by_their_names_what_a_run_leaves_for_it() -> None:
    """It runs in the gateway's image, without the collection."""
    assert (f"conf/{AWAY}", COLOR_LABELS) == (gateway_replace.AWAY, (LABEL_COLOR, LABEL_COLOR_BEFORE))


class Answering(BaseHTTPRequestHandler):
    """Answers as Docker does, on a Unix socket."""

    def answer(self, status: int, content: Any) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def address_string(self) -> str:
        return "keeper"

    def log_message(self, *_args: Any) -> None:
        """Keep the test's output quiet."""


class Api(Answering):
    """Lists one container in the state that the test chose, and notes what is asked of it."""

    state: dict[str, Any]
    asked: list[str]
    label = "inference-service.color"

    def do_GET(self) -> None:
        if self.path.startswith("/containers/json"):
            self.asked.append(self.path)
            labels = {self.label: "blue", "inference-service.instance": "0"}
            self.answer(200, [{"Id": "abc", "Names": ["/svc-blue-0-api-1"], "Labels": labels}])
        else:
            self.answer(200, {"State": self.state})

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.answer(500 if self.state.get("Error") else 204, None)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Engine, dict[str, Any], list[str]]]:
    """A connection to Docker, the container's state, and the paths that were asked."""
    state: dict[str, Any] = dict(HEALTHY)
    asked: list[str] = []
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(
        path, type("Handler", (Api,), {"state": state, "asked": asked})
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Engine(path), state, asked
        server.shutdown()


def test_a_healthy_container_of_the_live_color_is_left_alone(api: Any) -> None:
    engine, _, asked = api
    assert Keeper(engine, "svc").look("blue", now=0) == []
    assert len(asked) == 1
    assert "inference-service.name%3Dsvc" in asked[0]


@pytest.mark.parametrize("label", COLOR_LABELS)
def test_containers_of_a_color_are_found_under_its_former_label_too(
    api: Any, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, state, asked = api
    monkeypatch.setattr(Api, "label", label)
    state.update(Status="exited", ExitCode=137)
    keeper = Keeper(engine, "svc")
    assert keeper.look("green", now=0) == []
    assert keeper.look("blue", now=0) == [("start", "svc-blue-0-api-1")]
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


class Machine(Answering):
    """A host with one container of each color and a gateway; starting and stopping change their states."""

    states: dict[str, dict[str, Any]]
    asked: list[str]
    codes: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/containers/json"):
            gateways = "compose.service%3Dgateway%22" in self.path
            found = [name for name in self.states if (name == "gateway") == gateways]
            listed = [(name, {"inference-service.color": name}) for name in found]
            self.answer(200, [{"Id": name, "Names": [f"/svc-{name}-0-api-1"], "Labels": it} for name, it in listed])
        elif self.path == "/exec/command/json":
            refused = 1 if self.states.get("gateway_refuses") else 0
            self.answer(200, {"ExitCode": self.codes.pop(0) if self.codes else refused})
        elif (state := self.states.get(self.path.split("/")[2])) is None:
            self.answer(404, None)
        else:
            self.answer(200, {"State": state, "NetworkSettings": {"Networks": state.get("networks")}})

    def do_POST(self) -> None:
        name, action = self.path.split("/")[2:]
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if action == "exec":
            self.asked.append(f"exec {name} {' '.join(json.loads(sent)['Cmd'][3:])}")
            self.answer(500 if self.states.get("gateway_fails") else 201, {"Id": "command"})
            return
        if name == "command":
            self.answer(200, None)
            return
        self.asked.append(f"{action} {name}")
        if action == "stop":
            self.states[name].update(Status="exited", Health={"Status": "unhealthy"})
        elif action == "start":
            self.states.setdefault(name, {}).update(Status="running", Health={"Status": "starting"})
        self.answer(500 if self.states.get("gateway_fails") else 204, None)


@pytest.fixture
def machine(tmp_path: Path, states: dict[str, Any]) -> Iterator[tuple[Keeper, list[str]]]:
    asked: list[str] = []
    path = str(tmp_path / "docker.sock")
    handler = type("Handler", (Machine,), {"states": states, "asked": asked})
    with socketserver.ThreadingUnixStreamServer(path, handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Keeper(Engine(path), "svc"), asked
        server.shutdown()


def age(path: Path, seconds: float) -> None:
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)


class TestAbandoned:
    """A run held requests, stopped blue, started green, and died."""

    @pytest.fixture
    def states(self) -> dict[str, dict[str, Any]]:
        return {"blue": {"Status": "exited", "ExitCode": 0}, "green": dict(HEALTHY)}

    @pytest.fixture
    def map_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "live.map"
        path.write_text("live hold-blue\n")
        age(path, ALIVE_SECONDS * 3)
        return path

    def test_what_served_is_started_and_made_live_once_it_is_healthy(
        self, machine: Any, states: dict[str, Any], map_file: Path
    ) -> None:
        keeper, asked = machine
        age(map_file.with_name(SIGN_OF_LIFE), ALIVE_SECONDS + 1)
        assert look_after(keeper, map_file) == [("stop", "svc-green-0-api-1"), ("start", "svc-blue-0-api-1")]
        assert asked == ["stop green", "start blue"]
        # It loads its model.
        assert look_after(keeper, map_file) == []
        assert map_file.read_text() == "live hold-blue\n"
        states["blue"].update(HEALTHY)
        assert look_after(keeper, map_file) == [("live", "blue")]
        assert map_file.read_text() == "live blue\n"
        assert asked[2:] == ["exec svc-gateway blue"]
        assert not map_file.with_name(SIGN_OF_LIFE).exists()
        assert look_after(keeper, map_file) == []

    def test_a_run_that_gives_signs_of_life_is_left_alone(self, machine: Any, map_file: Path) -> None:
        keeper, asked = machine
        age(map_file.with_name(SIGN_OF_LIFE), ALIVE_SECONDS - 10)
        assert look_after(keeper, map_file) == []
        assert asked == []

    @pytest.mark.parametrize("hours", [-24, 24])
    def test_a_clock_that_is_set_neither_ends_a_run_nor_keeps_a_dead_one_alive(
        self, machine: Any, map_file: Path, monkeypatch: pytest.MonkeyPatch, hours: int
    ) -> None:
        keeper, _ = machine
        began, monotonic = time.time(), time.monotonic()
        map_file.with_name(SIGN_OF_LIFE).touch()
        assert look_after(keeper, map_file) == []
        monkeypatch.setattr(time, "time", lambda: began + hours * 3600)
        assert look_after(keeper, map_file) == []
        monkeypatch.setattr(time, "monotonic", lambda: monotonic + ALIVE_SECONDS + 10)
        assert look_after(keeper, map_file) != []

    def test_without_a_sign_the_age_of_the_map_counts(self, machine: Any, map_file: Path) -> None:
        keeper, asked = machine
        age(map_file, ALIVE_SECONDS - 10)
        assert look_after(keeper, map_file) == []
        age(map_file, ALIVE_SECONDS + 1)
        assert look_after(keeper, map_file) != []
        assert asked == ["stop green", "start blue"]

    def test_a_run_that_died_before_it_stopped_anything_costs_no_restart(
        self, machine: Any, states: dict[str, Any], map_file: Path
    ) -> None:
        keeper, asked = machine
        states.update(blue=dict(HEALTHY))
        del states["green"]
        assert look_after(keeper, map_file) == [("live", "blue")]
        assert asked == ["exec svc-gateway blue"]

    @pytest.mark.parametrize(
        ("trouble", "message"), [("gateway_fails", "svc-gateway/exec: 500"), ("gateway_refuses", "did not take blue")]
    )
    def test_a_gateway_that_cannot_be_told_is_told_later(
        self, machine: Any, states: dict[str, Any], map_file: Path, trouble: str, message: str
    ) -> None:
        keeper, _ = machine
        states.update({"blue": dict(HEALTHY), "green": {"Status": "exited"}, trouble: {"Status": "exited"}})
        age(map_file.with_name(SIGN_OF_LIFE), ALIVE_SECONDS + 1)
        with pytest.raises(EngineError, match=message):
            look_after(keeper, map_file)
        assert map_file.read_text() == "live hold-blue\n"
        del states[trouble]
        assert look_after(keeper, map_file) == [("live", "blue")]

    def test_nothing_is_stopped_for_a_color_that_has_no_container(
        self, machine: Any, states: dict[str, Any], map_file: Path
    ) -> None:
        keeper, asked = machine
        del states["blue"]
        assert look_after(keeper, map_file) == []
        assert asked == []


class TestGatewayAway:
    """The host lost its power while a gateway made way for another one."""

    @pytest.fixture
    def states(self) -> dict[str, dict[str, Any]]:
        return {"blue": dict(HEALTHY)}

    @pytest.fixture
    def map_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "live.map"
        path.write_text("live blue\n")
        (tmp_path / AWAY).write_text("former\n")
        age(tmp_path / AWAY, AWAY_SECONDS + 1)
        return path

    def test_it_is_started_again(self, machine: Any, map_file: Path) -> None:
        keeper, asked = machine
        assert look_after(keeper, map_file) == [("start", "svc-gateway")]
        assert asked == ["start former"]
        assert look_after(keeper, map_file) == []

    def test_a_run_that_is_at_it_is_left_alone(self, machine: Any, map_file: Path) -> None:
        keeper, asked = machine
        age(map_file.with_name(AWAY), AWAY_SECONDS - 10)
        assert look_after(keeper, map_file) == []
        assert asked == []

    def test_one_that_runs_is_enough(self, machine: Any, states: dict[str, Any], map_file: Path) -> None:
        keeper, asked = machine
        states["gateway"] = dict(HEALTHY)
        assert look_after(keeper, map_file) == []
        assert asked == []
        assert not map_file.with_name(AWAY).exists()

    def test_one_that_cannot_be_started_is_tried_again_later(
        self, machine: Any, states: dict[str, Any], map_file: Path
    ) -> None:
        keeper, asked = machine
        states.update(former={"Status": "exited"}, gateway_fails={"Status": "exited"})
        with pytest.raises(EngineError):
            look_after(keeper, map_file)
        assert look_after(keeper, map_file) == []
        age(map_file.with_name(AWAY), AWAY_SECONDS + 1)
        del states["gateway_fails"]
        assert look_after(keeper, map_file) == [("start", "svc-gateway")]
        assert asked == ["start former", "start former"]


class TestAddress:
    """Docker's resolver may go on naming the address of a container that died; the gateway keeps that one then."""

    @pytest.fixture
    def states(self) -> dict[str, dict[str, Any]]:
        networks = {"svc": {"IPAddress": "192.0.2.7", "GlobalIPv6Address": "", "Aliases": ["api", "blue-0"]}}
        return {
            "blue": {**HEALTHY, "StartedAt": "1", "networks": networks},
            "svc-gateway": {"Status": "running", "Running": True, "StartedAt": "1"},
        }

    @pytest.fixture
    def codes(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """What the program in the gateway ends with, one after the other, then 0."""
        left: list[int] = []
        monkeypatch.setattr(Machine, "codes", left)
        return left

    def test_the_gateway_is_asked_once_for_each_start_of_either(self, machine: Any, states: dict[str, Any]) -> None:
        keeper, asked = machine
        for now in range(0, 100, 2):
            assert keeper.look("blue", now) == []
        assert asked == ["exec svc-gateway bk_blue 0 192.0.2.7"]
        for number, name in enumerate(("blue", "svc-gateway"), 2):
            states[name]["StartedAt"] = str(number)
            assert keeper.look("blue", number * 100) == keeper.look("blue", number * 100 + 50) == []
            assert len(asked) == number

    @pytest.mark.parametrize("codes_first", [[AIMED], [UP_ELSEWHERE, AIMED], [1, AIMED]])
    def test_an_address_that_it_did_not_have_is_told_and_asked_for_again(
        self, machine: Any, codes: list[int], codes_first: list[int]
    ) -> None:
        keeper, asked = machine
        codes += codes_first
        done = [what for now in range(0, 100, 2) for what in keeper.look("blue", now)]
        assert done == [("aim", "svc-blue-0-api-1")]
        assert len(asked) == len(codes_first) + 1

    @pytest.mark.parametrize(
        "trouble",
        [
            {"blue": {**HEALTHY, "Health": {"Status": "starting"}}},
            {"svc-gateway": {"Status": "exited", "Running": False, "StartedAt": "1"}},
            {"svc-gateway": {"Status": "paused", "Running": True, "Paused": True, "StartedAt": "1"}},
        ],
    )
    def test_nobody_is_asked_while_one_of_them_is_not_there(
        self, machine: Any, states: dict[str, Any], trouble: dict[str, Any]
    ) -> None:
        keeper, asked = machine
        for name, state in trouble.items():
            states[name].update(state)
        assert keeper.look("blue", 0) == []
        del states["svc-gateway"]
        assert keeper.look("blue", 50) == []
        assert asked == []


def test_it_ends_when_the_engine_is_gone_for_good_and_says_why_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that starts anew has another socket, which only a container that starts anew sees."""
    live_map = tmp_path / "live.map"
    live_map.write_text("live blue\n")
    watch(Keeper(Engine(str(tmp_path / "docker.sock")), "svc"), live_map, pause=0.01, patience=0.2)
    assert capsys.readouterr().out.count("No such file or directory") == 1


class TestFullDisk:
    """Docker says for as long as the ballast is there that it has no room."""

    @pytest.fixture
    def live_map(self, tmp_path: Path) -> Path:
        path = tmp_path / "live.map"
        path.write_text("live blue\n")
        return path

    @pytest.fixture
    def full(self, live_map: Path) -> Iterator[tuple[Engine, list[str]]]:
        asked: list[str] = []

        class Full(Answering):
            started = False

            def do_GET(self) -> None:
                labels = {"inference-service.color": "blue"}
                state = HEALTHY if Full.started else {"Status": "exited", "ExitCode": 137}
                listed = [{"Id": "abc", "Names": ["/svc-blue-0-api-1"], "Labels": labels}]
                self.answer(200, listed if "json?" in self.path else {"State": state})

            def do_POST(self) -> None:
                asked.append(self.path)
                where = f"/var/lib/docker/containers/{64 * 'a'}/.tmp-resolv.conf.hash123"
                Full.started = not live_map.with_name(BALLAST).exists()
                if Full.started:
                    self.answer(204, None)
                else:
                    self.answer(500, {"message": f"write {where}: no space left on device"})

        path = str(live_map.with_name("docker.sock"))
        with socketserver.ThreadingUnixStreamServer(path, Full) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield Engine(path), asked
            server.shutdown()

    def scarce(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("roles.gateway.files.keeper.BALLAST_SPARE", 2**40)

    def test_the_ballast_is_given_back_and_the_instance_started_at_once(
        self,
        full: tuple[Engine, list[str]],
        live_map: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine, asked = full
        Ballast(live_map.with_name(BALLAST)).keep()
        self.scarce(monkeypatch)
        threading.Thread(target=watch, args=(Keeper(engine, "svc"), live_map, 0.05, 0.2), daemon=True).start()
        deadline = time.monotonic() + START_SECONDS / 2
        while len(asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert asked == ["/containers/abc/start"] * 2
        assert not live_map.with_name(BALLAST).exists()
        assert "The disk is full" in capsys.readouterr().out

    def test_it_takes_its_room_once_where_there_is_plenty_and_gives_it_back_where_there_is_none(
        self, live_map: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = live_map.with_name(BALLAST)
        ballast = Ballast(path)
        ballast.keep()
        ballast.keep()
        assert path.stat().st_blocks * 512 >= BALLAST_BYTES
        # Docker's files lie elsewhere.
        assert not ballast.release()
        self.scarce(monkeypatch)
        assert ballast.release()
        assert not ballast.release()
        ballast.keep()
        assert not path.exists()


@pytest.mark.parametrize(("content", "color"), [("live green\n", "green"), ("live none\n", ""), ("", ""), (None, "")])
def test_the_live_color(tmp_path: Path, content: str | None, color: str) -> None:
    path = tmp_path / "live.map"
    if content is not None:
        path.write_text(content)
    assert live_color(path) == color
