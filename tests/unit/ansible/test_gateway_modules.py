"""What the gateway's modules answer and change: its map in file and memory, and the note of a bake."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import NOTE
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import map_of
from ansible_collections.gpu_hosts.timm.plugins.modules import (
    balancer_info,
    gateway_bake,
    gateway_drain,
    gateway_mend,
    gateway_switch,
)
from tests.unit.ansible.module_run import Docker, Gateway, run_module


@pytest.fixture
def silent(tmp_path: Path) -> Gateway:
    """The folder of a gateway that does not run, with blue live."""
    return Gateway(tmp_path / "gw", "blue")


@pytest.fixture
def gateway(silent: Gateway) -> Iterator[Gateway]:
    """A gateway that runs, with blue live."""
    with silent.listening():
        yield silent


class TestSwitch:
    def switch(self, gateway: Gateway, color: str, **arguments: Any) -> dict[str, Any]:
        return run_module(gateway_switch, state_dir=str(gateway.state_dir), color=color, **arguments)

    def test_it_changes_file_and_memory_once(self, gateway: Gateway) -> None:
        done = self.switch(gateway, "green", servers=["0"])
        assert (done["changed"], done["previous"], done["undrained"]) == (True, "blue", 0)
        assert (gateway.map["live"], gateway.map_file) == ("green", "live green\n")
        assert self.switch(gateway, "green", servers=["0"])["changed"] is False

    def test_a_candidate_that_the_gateway_does_not_reach_gets_nothing(self, gateway: Gateway) -> None:
        gateway.servers["green"]["0"] = False
        done = self.switch(gateway, "green", servers=["0"], timeout=0)
        assert "The gateway does not reach the candidate (green-0: DOWN (L4CON))." in done["msg"]
        assert (gateway.map["live"], gateway.map_file) == ("blue", "live blue\n")

    def test_requests_that_do_not_end_are_counted(self, gateway: Gateway) -> None:
        gateway.busy = 3
        assert self.switch(gateway, "green", drain=0)["undrained"] == 3

    def test_how_long_requests_were_held_is_said(self, gateway: Gateway) -> None:
        self.switch(gateway, "hold-blue")
        assert self.switch(gateway, "blue")["held"] > 0
        assert gateway.map["live"] == "blue"

    def test_one_that_is_to_bake_leaves_a_note(self, gateway: Gateway) -> None:
        gateway.answers["blue"] = 40
        self.switch(gateway, "green", bake=True)
        note = json.loads((gateway.state_dir / NOTE).read_text())
        assert (note["from"], note["to"], note["former"]["requests"]) == ("blue", "green", 40)

    def test_a_gateway_that_does_not_run_is_named(self, silent: Gateway) -> None:
        done = self.switch(silent, "green")
        assert done["msg"].startswith("The gateway could not be switched to green: ")
        assert "admin.sock" in done["msg"]


class TestMend:
    def mend(self, gateway: Gateway, word: str, check: bool = False) -> dict[str, Any]:
        return run_module(gateway_mend, check=check, state_dir=str(gateway.state_dir), word=word)

    def test_what_differs_is_written_and_no_more(self, gateway: Gateway) -> None:
        assert self.mend(gateway, "blue")["changed"] is False
        map_of(gateway.state_dir).write_text("garbled")
        gateway.map.clear()
        assert self.mend(gateway, "blue", check=True)["changed"] is True
        assert (gateway.map, gateway.map_file) == ({}, "garbled")
        assert self.mend(gateway, "blue")["changed"] is True
        assert (gateway.map["live"], gateway.map_file) == ("blue", "live blue\n")

    def test_what_is_in_the_way_is_said_with_the_next_step(self, silent: Gateway) -> None:
        folder = map_of(silent.state_dir).parent
        map_of(silent.state_dir).unlink()
        folder.rmdir()
        folder.touch()
        done = self.mend(silent, "blue")
        assert "cannot be repaired" in done["msg"]
        assert done["msg"].endswith("Free space or fix the permissions there, then run again.")


class TestDrain:
    def drain(self, gateway: Gateway, state: str, check: bool = False, timeout: int = 0) -> dict[str, Any]:
        return run_module(
            gateway_drain, check=check, state_dir=str(gateway.state_dir), state=state, notice=0, timeout=timeout
        )

    def test_a_host_is_drained_and_serves_again(self, gateway: Gateway) -> None:
        assert self.drain(gateway, "drained", check=True)["changed"] is True
        assert "drained" not in gateway.map
        for changed in (True, False):
            done = self.drain(gateway, "drained")
            assert (done["changed"], done["serves"], done["undrained"]) == (changed, True, 0)
        assert gateway.map["drained"] == "yes"
        assert self.drain(gateway, "serving", timeout=1)["changed"] is True
        assert gateway.map == {"live": "blue"}

    def test_requests_that_do_not_end_are_counted(self, gateway: Gateway) -> None:
        gateway.busy = 2
        assert self.drain(gateway, "drained")["undrained"] == 2

    def test_a_host_without_a_live_release_has_nothing_to_drain(self, gateway: Gateway) -> None:
        gateway.map["live"] = "none"
        done = self.drain(gateway, "drained")
        assert (done["changed"], done["serves"]) == (False, False)

    def test_a_gateway_that_does_not_run_sends_nobody_here(self, silent: Gateway) -> None:
        done = self.drain(silent, "drained")
        assert (done["changed"], done["serves"]) == (False, False)

    def test_a_host_that_does_not_come_back_is_said_with_what_to_look_at(self, gateway: Gateway) -> None:
        gateway.servers["blue"]["0"] = False
        done = self.drain(gateway, "serving")
        assert "The service has not answered for 0 s since its host restarted (blue-0: DOWN (L4CON))." in done["msg"]
        assert "docker ps --all" in done["msg"]


class TestBake:
    def note(self, gateway: Gateway, former: int = 100) -> None:
        """Have green be live since now, after blue."""
        counters = {"requests": former, "errors": 0, "milliseconds": 20}
        before = {"requests": 0, "errors": 0, "milliseconds": 20}
        note = {"from": "blue", "to": "green", "at": time.time(), "before": before, "former": counters}
        (gateway.state_dir / NOTE).write_text(json.dumps(note))
        gateway.map["live"] = "green"

    def bake(self, gateway: Gateway, seconds: int = 0) -> dict[str, Any]:
        return run_module(
            gateway_bake, state_dir=str(gateway.state_dir), color="green", servers=["0"], seconds=seconds, drain=0
        )

    def test_without_a_note_there_is_nothing_to_watch(self, gateway: Gateway) -> None:
        done = self.bake(gateway)
        assert (done["former"], done["went_back"], "note" in done) == ("", False, False)

    def test_a_good_release_stays(self, gateway: Gateway) -> None:
        self.note(gateway)
        gateway.answers["green"] = 50
        done = self.bake(gateway)
        assert (done["note"], done["went_back"]) == ("50 requests, 0 errors", False)
        assert gateway.map["live"] == "green"
        assert not (gateway.state_dir / NOTE).exists()

    def test_one_that_fails_gives_the_requests_back(self, gateway: Gateway) -> None:
        self.note(gateway)
        gateway.answers["green"], gateway.errors["green"] = 50, 20
        done = self.bake(gateway, seconds=30)
        assert done["msg"].startswith("20 of 50 requests failed with 500 or 502 (the release before: 0.0%); ")
        assert "the release before got the requests again" in done["msg"]
        assert (done["went_back"], gateway.map["live"], gateway.map_file) == (True, "blue", "live blue\n")

    def test_nothing_is_won_by_going_back_to_a_release_that_is_gone(self, gateway: Gateway) -> None:
        self.note(gateway)
        gateway.servers = {"blue": {"0": False}, "green": {"0": False}}
        done = self.bake(gateway, seconds=30)
        assert done["msg"].startswith("the gateway lost instance 0: it no longer answers /health/ready; ")
        assert done["msg"].endswith("so the gateway was not switched back")
        assert (done["went_back"], gateway.map["live"]) == (False, "green")

    def test_a_gateway_that_does_not_run_is_named(self, silent: Gateway) -> None:
        self.note(silent)
        assert self.bake(silent)["msg"].startswith("The new release could not be watched through the gateway: ")


class TestBalancer:
    def ask(self, gateway: Gateway, *wanted: str) -> dict[str, Any]:
        return run_module(balancer_info, name="svc-balancer", state_dir=str(gateway.state_dir), wanted=list(wanted))

    @pytest.fixture(autouse=True)
    def docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
        return Docker(tmp_path / "docker", monkeypatch)

    def test_hosts_that_are_down_are_named(self, gateway: Gateway, docker: Docker) -> None:
        gateway.servers = {"hosts": {"gpu-1": True, "gpu-2": False}}
        gateway.answers["hosts"] = 0
        docker.says("ps", "")
        found = self.ask(gateway, "gpu-1", "gpu-2", "gpu-3")
        assert found["down"] == {"gpu-2": "DOWN (L4CON)", "gpu-3": "unknown to the gateway"}
        assert [(item["name"], item["up"]) for item in found["servers"]] == [("gpu-1", True), ("gpu-2", False)]
        assert (found["answers"], found["reason"]) == (False, "there is no gateway of svc-balancer")

    def test_docker_that_does_not_answer_is_no_answer_of_the_balancer(self, silent: Gateway) -> None:
        found = self.ask(silent)
        assert found["msg"].startswith("What svc-balancer answers cannot be known: Cannot connect")
