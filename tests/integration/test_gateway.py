"""A gateway is replaced so that somebody answers all the while, or not at all; a killed run leaves one that serves."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP_PATH, map_of, socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import CLOSING
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import command, live_color
from ansible_collections.gpu_hosts.timm.plugins.module_utils.patience import holds
from roles.gateway.files.keeper import ALIVE_SECONDS, SIGN_OF_LIFE
from tests.integration.support.bundles import SCRIPTS
from tests.integration.support.load import Answers, LoadClient, SteadyClient, get, post
from tests.integration.support.playbooks import ROOT, Host, docker, free_port

# Before each of them a replacement is killed.
STEPS = ("install", "replace_keeper", "make", "free_clients", "make_way", "start", "let_in", "require_answer")
FILES = ("conf/haproxy.cfg", "conf/hold.lua", "keeper/keeper.py", "docker-compose.yml")
USER = 60842
LIMIT = ("mem_limit: 512m", "mem_limit: 500m")


@pytest.fixture(scope="module")
def serving(host: Host) -> Host:
    """The host with release A live."""
    host.deploy()
    return host


def gateway(host: Host) -> dict[str, Any]:
    """Return the inspection of the gateway; there is no other, it has its name, and the keeper is beside it."""
    project = f"--filter=label=com.docker.compose.project={host.name}-gateway"
    names = docker("ps", "--all", "--format={{.Names}}", project).split()
    assert sorted(names) == [f"{host.name}-gateway", f"{host.name}-keeper"]
    found: dict[str, Any] = json.loads(docker("inspect", f"{host.name}-gateway"))[0]
    return found


def seen_for(host: Host, seconds: float) -> set[int]:
    """Return every status that the service answers with meanwhile."""
    deadline, seen = time.monotonic() + seconds, set()
    while time.monotonic() < deadline:
        seen.add(get(host.port, "/health/ready")[0])
        time.sleep(0.2)
    return seen


def require_seamless(old: Answers, new: Answers) -> None:
    """Require that every request is answered at the new address from the first one on that fails at the old one."""
    moved = min((item.at for item in old.failures), default=float("inf"))
    assert [item for item in new.failures if item.at >= moved] == []
    assert [item for item in old.answers if item.at < moved]
    assert new.answers[-1].status == 200


@dataclasses.dataclass
class Outcome:
    """What a replacement said: how the gateway differed, and why it was not replaced."""

    differences: list[str]
    failed: str


class Description:
    """The gateway of a host as it is, to be replaced by one with another text in its Compose file."""

    def __init__(self, host: Host, folder: Path) -> None:
        state = host.state_dir / "gateway"
        self._path = folder / "wanted.json"
        self._files = {name: (state / name).read_text() for name in FILES}
        self._wanted = {
            "name": host.name,
            "state_dir": str(state),
            "image": gateway(host)["Image"],
            "upgrade": False,
            "drain": 5,
        }

    def replace(self, before: str = "", after: str = "", killed_before: str = "", user: int = USER) -> Outcome:
        """Replace the gateway, and be killed before a step if one is named."""
        compose = self._files["docker-compose.yml"]
        assert before in compose
        files = {**self._files, "docker-compose.yml": compose.replace(before, after)}
        folders = {"conf": 0, "keeper": 0, "run": user}
        self._path.write_text(json.dumps({**self._wanted, "files": files, "folders": folders}))
        command = [sys.executable, "-m", "tests.integration.support.killed_replacement", str(self._path), killed_before]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == (-9 if killed_before else 0), done.stderr
        return Outcome(**json.loads(done.stdout)) if done.stdout else Outcome([], "")


@pytest.fixture
def description(serving: Host, tmp_path: Path) -> Description:
    return Description(serving, tmp_path)


def test_it_answers_at_another_port_or_address_before_it_leaves_the_old_one(serving: Host, photograph: Path) -> None:
    port, other = free_port(), "127.0.0.2"
    with LoadClient(serving.port, photograph) as old, LoadClient(port, photograph) as new:
        serving.deploy(inference_service_port=port)
    require_seamless(old, new)
    assert serving.deploy(inference_service_port=port).changed == 0
    with LoadClient(port, photograph) as old, LoadClient(serving.port, photograph, address=other) as new:
        serving.deploy(inference_service_bind=other)
    require_seamless(old, new)
    with LoadClient(serving.port, photograph, address=other) as old, LoadClient(serving.port, photograph) as new:
        serving.deploy()
    require_seamless(old, new)
    gateway(serving)


def test_it_keeps_a_slow_instance_and_addresses_that_nobody_tells_it_also_when_it_reloads(serving: Host) -> None:
    """Nobody stands in for a lone instance. An engine that is down leaves containers where they are (live-restore)."""
    volumes = [f"--volume={serving.state_dir}/gateway/conf:/etc/haproxy/conf:ro", f"--volume={SCRIPTS}:/scripts:ro"]
    where = ["--user=0:0", "--network=none", "--tmpfs=/run/haproxy:mode=1777", "--entrypoint=python3"]
    command = [*where, *volumes, gateway(serving)["Image"], "/scripts/gateway_alone.py"]
    found = json.loads(docker("run", "--rm", *command))
    assert found == {"answering": 200, "slow": 200, "silent": 200, "reloaded": 200, "no such name": 503}


def test_requests_that_wait_for_a_run_that_died_are_answered_when_the_keeper_ends_it(
    serving: Host, photograph: Path
) -> None:
    """The run made them wait and touched its sign of life; then it died before it had stopped anything."""
    folder = serving.state_dir / "gateway"
    color = live_color(socket_of(folder))
    sign = map_of(folder).with_name(SIGN_OF_LIFE)
    sign.touch()
    os.utime(sign, (time.time() - 2 * ALIVE_SECONDS,) * 2)
    command(socket_of(folder), f"set map {MAP_PATH} live hold-{color}")
    map_of(folder).write_text(f"live hold-{color}\n")
    assert post(serving.port, photograph.read_bytes())[0] == 200
    assert map_of(folder).read_text() == f"live {color}\n"


def test_an_instance_is_reached_where_it_is_though_docker_names_the_address_of_a_dead_one_too(serving: Host) -> None:
    """Docker's resolver has been seen to keep the address of a container that died (moby#24800, moby#36797)."""
    keeper, identity, image = f"{serving.name}-keeper", serving.instance()["Id"], gateway(serving)["Image"]
    name = f"{live_color(socket_of(serving.state_dir / 'gateway'))}-0"
    docker("stop", "--time=1", keeper)
    docker("kill", identity)
    nobody = ["--detach", f"--network={serving.name}", f"--network-alias={name}", "--entrypoint=sleep"]
    other = docker("run", *nobody, image, "600").strip()
    try:
        # Docker names one address now, and the gateway takes it.
        time.sleep(3)
        docker("start", identity)
        assert seen_for(serving, 15) == {503}
        docker("start", keeper)
        deadline = time.monotonic() + 30
        while get(serving.port, "/health/ready")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        # It keeps that one too, as long as it is named.
        assert seen_for(serving, 5) == {200}
        assert "told it the address" in docker("logs", keeper)
    finally:
        docker("rm", "--force", other)
        docker("start", keeper)


def test_one_that_is_killed_while_it_moves_loses_nothing(
    serving: Host, photograph: Path, description: Description
) -> None:
    before, move = gateway(serving), (f":{serving.port}:", f":{free_port()}:")
    with LoadClient(serving.port, photograph) as client:
        for step in STEPS:
            description.replace(*move, killed_before=step)
            # The next run waits for the process that puts things back, and finds nothing to do.
            assert description.replace() == Outcome([], ""), f"killed before {step}"
            assert gateway(serving)["Id"] == before["Id"]
    assert client.failures == []
    assert serving.deploy().changed == 0


def test_one_that_is_killed_when_the_new_one_has_taken_over_is_completed(
    serving: Host, description: Description
) -> None:
    before, move = gateway(serving), (f":{serving.port}:", f":{free_port()}:")
    description.replace(*move, killed_before="retire")
    left, another = description.replace(*move).differences
    assert left.startswith("the container of gateway was made from another")
    assert another.startswith("an interrupted run left the container ")
    assert gateway(serving)["Id"] != before["Id"]
    assert description.replace(*move) == Outcome([], "")
    assert description.replace().failed == ""
    gateway(serving)


def test_one_of_another_user_takes_over_the_folders_or_leaves_them(serving: Host, description: Description) -> None:
    """The user that it had before 60842 was usually a person's."""
    run = serving.state_dir / "gateway" / "run"
    assert (run / "admin.sock").stat().st_uid == USER
    other = (f'user: "{USER}:{USER}"', 'user: "1000:1000"')
    description.replace(*other, user=1000, killed_before="require_answer")
    assert description.replace() == Outcome([], "")
    for change, user in ((other, 1000), (("", ""), USER)):
        assert description.replace(*change, user=user).failed == ""
        assert (run / "admin.sock").stat().st_uid == user
    assert get(serving.port, "/health/ready")[0] == 200


def test_an_address_that_is_taken_at_the_last_moment_costs_nothing(
    serving: Host, photograph: Path, description: Description
) -> None:
    before = gateway(serving)
    with socket.create_server(("127.0.0.1", 0)) as taken, LoadClient(serving.port, photograph) as client:
        outcome = description.replace(f":{serving.port}:", f":{taken.getsockname()[1]}:")
    assert "address already in use" in outcome.failed
    assert outcome.failed.endswith("What was there before is back.")
    assert client.failures == []
    assert gateway(serving)["Id"] == before["Id"]
    assert description.replace() == Outcome([], "")


def test_one_in_place_of_the_old_one_keeps_connections_waiting_and_refuses_none(
    serving: Host, photograph: Path, description: Description
) -> None:
    before = gateway(serving)
    with LoadClient(serving.port, photograph) as client:
        assert description.replace(*LIMIT).failed == ""
        assert gateway(serving)["Id"] != before["Id"]
        assert description.replace().failed == ""
    assert client.failures == []
    assert not holds(f"{serving.name}-gateway makes way")


def test_one_in_place_of_the_old_one_closes_no_connection_that_a_client_still_uses(
    serving: Host, photograph: Path, description: Description
) -> None:
    """A client keeps connections for up to five seconds, and uses the one that it used last first."""
    with SteadyClient(serving.port, photograph, 10) as client:
        time.sleep(1)
        assert description.replace(*LIMIT).failed == ""
        assert description.replace().failed == ""
    assert client.failures == []
    assert not (serving.state_dir / "gateway" / CLOSING).exists()


@pytest.mark.trial
def test_one_that_is_killed_in_place_of_the_old_one_brings_that_back(
    serving: Host, photograph: Path, description: Description
) -> None:
    """The new one can have its address only when the old one has left it: connections wait meanwhile."""
    before = gateway(serving)
    for step in STEPS:
        with LoadClient(serving.port, photograph) as client:
            description.replace(*LIMIT, killed_before=step)
            assert description.replace() == Outcome([], ""), f"killed before {step}"
        print(f"killed before {step}: {client}")
        assert client.answers[-1].status == 200
        assert gateway(serving)["Id"] == before["Id"]
        assert client.failures == [], f"killed before {step}"


@pytest.mark.trial
def test_another_image_takes_the_place_of_the_old_one(serving: Host, photograph: Path) -> None:
    tag, image = f"{serving.name}:gateway", gateway(serving)["Image"]
    # A build finds it by a name only.
    docker("tag", image, tag)
    docker("build", "--tag", tag, "--file=-", str(ROOT / "tests"), stdin=f"FROM {tag}\nLABEL another=one\n")
    references = {"inference_image_strategy": "pull", "inference_image_reference": serving.instance()["Image"]}
    upgrade = {**references, "inference_image_gateway_reference": tag, "gateway_upgrade": True}
    try:
        with LoadClient(serving.port, photograph) as client:
            serving.deploy(**upgrade)
        print(f"another image in its place: {client}")
        assert client.failures == []
        assert gateway(serving)["Image"] != image
        # It keeps the image that it has, whatever a later deploy brings.
        assert serving.deploy().changed == 0
    finally:
        docker("image", "rm", "--force", tag)
