"""The steps that put a gateway in another one's place, and those that lead back.

Its admin socket, its address and the files are real; Docker is a script that keeps a list of containers. What clients
notice is tested with a real engine, in tests/integration/test_gateway.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import CLOSING as CLOSING_SIGN
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import (
    SERVERS,
    ReplaceError,
    Replacement,
    alone,
    ending_connections,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import compare_gateway, read_containers
from ansible_collections.gpu_hosts.timm.plugins.modules import gateway_replace
from ansible_collections.gpu_hosts.timm.plugins.modules.gateway_replace import carry_out
from tests.collection import REPOSITORY
from tests.unit.ansible.instance import serving
from tests.unit.ansible.module_run import Gateway, run_module


def test_a_folder_in_the_place_of_the_lock_makes_room_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "replace.lock").mkdir()
    (tmp_path / "replace.lock" / "notes.txt").write_text("mine\n")
    with alone(tmp_path):
        assert (tmp_path / "replace.lock").is_file()
    (kept,) = tmp_path.glob("replace.lock.aside-*/replace.lock/notes.txt")
    assert kept.read_text() == "mine\n"


def test_who_comes_second_waits_no_longer_than_he_is_told(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ReplaceError, match="another run has been replacing"), alone(tmp_path, 0):
        pass
    with alone(tmp_path, 0):
        pass


REPLACEMENT = Replacement.__module__
# As version 5539c80 wrote them, in short.
FORMER = """global
    maxconn 4096

defaults
    mode http

backend bk_blue
    default-server check resolvers docker init-addr none
    server 0 blue-0:8000
"""
CLOSING = """global
    server-state-file /run/haproxy/servers.state
    maxconn 4096

defaults
    load-server-state-from-file global
    option httpclose
    mode http

backend bk_blue
    default-server check resolvers docker init-addr last,none
    server 0 blue-0:8000
"""


def test_one_that_makes_way_ends_connections_and_keeps_its_servers_addresses() -> None:
    assert ending_connections(FORMER) == CLOSING
    # One that a killed run has left is told the same again.
    assert ending_connections(CLOSING) == CLOSING


def test_a_gateway_of_today_is_told_only_what_it_does_not_know() -> None:
    template = (REPOSITORY / "roles/gateway/templates/haproxy.cfg.j2").read_text()
    added = set(ending_connections(template).splitlines()) - set(template.splitlines())
    assert added == {"    option httpclose"}


ENGINE = """#!{python} -S
import hashlib, json, pathlib, sys
folder, words = pathlib.Path("{folder}"), sys.argv[1:]
with (folder / "asked").open("a") as log:
    log.write(" ".join(words) + "\\n")
fails = folder / "fails"
if fails.exists() and " ".join(words).startswith(fails.read_text()):
    fails.unlink()
    sys.exit("address already in use")
known = folder / "containers.json"
containers = json.loads(known.read_text())

def option(name):
    return words[words.index(name) + 1]

def digest():
    file = option("--file") if "--file" in words else option("--project-directory") + "/docker-compose.yml"
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()

def add(name, running=False, one_off="False", project="svc-gateway", service="gateway"):
    labels = {{"com.docker.compose.service": service, "com.docker.compose.config-hash": digest()}}
    labels["com.docker.compose.project"] = project
    containers.append({{
        "Id": name.replace("svc-", ""), "Name": "/" + name, "Image": "sha256:1",
        "Config": {{"Labels": {{**labels, "com.docker.compose.oneoff": one_off}}}},
        "State": {{"Running": running, "Status": "running" if running else "exited", "ExitCode": 1}},
        "HostConfig": {{"PortBindings": {{"8080/tcp": [{{"HostIp": "127.0.0.1", "HostPort": "{port}"}}]}}}},
    }})

def its(container):
    return words[-1] in (container["Id"], container["Name"].lstrip("/"))

if words[0] == "compose" and "config" in words:
    print("gateway", digest())
    if "keeper" in pathlib.Path(option("--project-directory"), "docker-compose.yml").read_text():
        print("keeper", digest())
elif words[0] == "compose" and "run" in words:
    starts = not (folder / "trial-ends").exists()
    add(option("--name"), running=starts, one_off="True")
    # The one that is only tried listens where the one that serves does.
    if starts:
        pathlib.Path(option("--project-directory"), "run/admin.sock").symlink_to("{socket}")
elif words[0] == "compose" and "--no-start" in words:
    add("svc-gateway-gateway-2")
elif words[0] == "compose" and "of-another" in words:
    for service in ("gateway", "keeper"):
        add("svc2-" + service, running=True, project="svc2-gateway", service=service)
elif words[0] == "compose" and "keeper" in words:
    add("svc-keeper", running=not (folder / "keeper-ends").exists(), service="keeper")
elif words[0] == "ps":
    label, _, wanted = words[-1].removeprefix("--filter=label=").partition("=")
    print("\\n".join(item["Id"] for item in containers if item["Config"]["Labels"].get(label) == wanted))
elif words[:2] == ["inspect", "--type"]:
    print(json.dumps([container for container in containers if container["Id"] in words]))
elif words[0] == "inspect":
    print(json.dumps([container["State"] for container in containers if its(container)][0]))
elif words[0] == "logs":
    print("it does not like the configuration")
elif words[0] == "rename":
    [container.update(Name="/" + words[2]) for container in containers if words[1] == container["Id"]]
elif words[0] == "rm":
    containers = [container for container in containers if not its(container)]
elif words[0] in ("start", "stop"):
    [container["State"].update(Running=words[0] == "start") for container in containers if its(container)]
known.write_text(json.dumps(containers))
"""
NETWORK_RULES = "iptables", "ip6tables"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Engine:
    """Docker with a gateway that runs, made from the files on the host."""

    def __init__(self, folder: Path, gateway: Gateway, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.gateway = folder, gateway
        self.state = gateway.state_dir
        (folder / "bin").mkdir(parents=True)
        script = ENGINE.format(python=sys.executable, folder=folder, port=port, socket=socket_of(self.state))
        # No rule of this machine's firewall is for a test to change.
        for name, text in (("docker", script), *((name, "#!/bin/sh\nexit 1\n") for name in NETWORK_RULES)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        self.files = {"conf/haproxy.cfg": FORMER, "docker-compose.yml": "services: {}\n"}
        for name, content in self.files.items():
            (self.state / name).write_text(content)
        (folder / "containers.json").write_text("[]")
        run_docker(["compose", "--project-directory", str(self.state), "up", "--no-start"])
        run_docker(["rename", "gateway-gateway-2", "svc-gateway"])
        run_docker(["start", "svc-gateway"])
        known = folder / "containers.json"
        known.write_text(known.read_text().replace('"gateway-gateway-2"', '"old"'))
        # Another service of this host, which is none of this one's business.
        run_docker(["compose", "--project-directory", str(self.state), "of-another"])
        gateway.reloads = lambda: len([line for line in self.asked if line.startswith("kill --signal USR2")])
        (folder / "asked").unlink()

    @property
    def asked(self) -> list[str]:
        log = self.folder / "asked"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def containers(self) -> dict[str, bool]:
        """Name of each container of this service, and whether it runs."""
        return self._containers("svc-")

    @property
    def of_another(self) -> dict[str, bool]:
        """The same of another service."""
        return self._containers("svc2-")

    def _containers(self, beginning: str) -> dict[str, bool]:
        found = json.loads((self.folder / "containers.json").read_text())
        running = {item["Name"].lstrip("/"): item["State"]["Running"] for item in found}
        return {name: runs for name, runs in running.items() if name.startswith(beginning)}

    @property
    def lie_there(self) -> dict[str, str]:
        """The files as they are."""
        return {name: (self.state / name).read_text() for name in self.files}

    def wanted(self, name: str = "conf/haproxy.cfg", content: str = FORMER) -> dict[str, Any]:
        """Return the wanted gateway: that which is there, but for the content of one of its files."""
        return {
            "name": "svc",
            "state_dir": str(self.state),
            "image": "sha256:1",
            "upgrade": False,
            "drain": 1,
            "files": {**self.files, name: content},
            "folders": {"conf": os.getuid(), "run": os.getuid()},
        }

    def run(self, port: int, check: bool = False, **wanted: str) -> dict[str, Any]:
        """Run the module, with another address of the gateway than that of the one that serves."""
        address = {"bind": "127.0.0.1", "port": port, "settings": "inference_service"}
        return run_module(gateway_replace, check=check, wanted={**self.wanted(**wanted), **address})

    def replace(self, name: str, content: str) -> str:
        """Bring the gateway to another content of one of its files; return why it was not."""
        wanted = self.wanted(name, content)
        containers = read_containers("svc-gateway")
        compared = compare_gateway(wanted, containers)
        assert compared.differences
        replacement = Replacement(wanted, compared.files, containers)
        try:
            replacement.prove()
        except ReplaceError as error:
            return str(error)
        return carry_out(replacement)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A host with a gateway that serves."""
    gateway = Gateway(tmp_path / "gw", "blue")
    with gateway.listening(), serving({"/health/ready": (200, {})}) as port:
        engine = Engine(tmp_path / "engine", gateway, port, monkeypatch)
        beside = engine.of_another
        assert len(beside) == 2
        yield engine
        assert engine.of_another == beside


def what_was_done(engine: Engine) -> list[str]:
    """Return what containers went through, but for the one that was only tried."""
    verbs = ("start", "stop", "kill", "rename", "rm")
    return [line for line in engine.asked if line.split()[0] in verbs and "trial" not in line]


def test_another_configuration_is_a_reload(engine: Engine) -> None:
    assert engine.replace("conf/haproxy.cfg", CLOSING) == ""
    assert what_was_done(engine) == ["kill --signal USR2 old"]
    assert engine.containers == {"svc-gateway": True}
    assert engine.lie_there["conf/haproxy.cfg"] == CLOSING
    assert not (engine.state / SERVERS).exists()


def test_another_container_gets_the_place_when_clients_have_let_go(engine: Engine) -> None:
    assert engine.replace("docker-compose.yml", "services: {another: {}}\n") == ""
    assert what_was_done(engine) == [
        "kill --signal USR2 old",
        "kill --signal USR1 old",
        "stop -t 0 old",
        "start gateway-gateway-2",
        "stop -t 1 old",
        "rm --force old",
        "rename gateway-gateway-2 svc-gateway",
    ]
    assert engine.containers == {"svc-gateway": True}
    # What made the old one end connections is gone.
    assert engine.lie_there["conf/haproxy.cfg"] == FORMER
    assert not (engine.state / CLOSING_SIGN).exists()


def test_one_that_does_not_start_leaves_everything_as_it_was(engine: Engine) -> None:
    (engine.folder / "fails").write_text("start gateway-gateway-2")
    failed = engine.replace("docker-compose.yml", "services: {another: {}}\n")
    assert failed == "address already in use. What was there before is back."
    assert engine.containers == {"svc-gateway": True}
    assert engine.lie_there == engine.files
    assert not (engine.state / CLOSING_SIGN).exists()


def test_one_whose_trial_ends_changes_nothing(engine: Engine) -> None:
    (engine.folder / "trial-ends").touch()
    failed = engine.replace("conf/haproxy.cfg", "nonsense\n")
    assert failed == "the new gateway ended with exit code 1. It said:\nit does not like the configuration"
    assert (what_was_done(engine), engine.lie_there) == ([], engine.files)
    assert not (engine.state / "trial").exists()


def test_a_keeper_that_nobody_wants_any_more_goes(engine: Engine) -> None:
    run_docker(["compose", "--project-directory", str(engine.state), "keeper"])
    assert engine.replace("conf/haproxy.cfg", CLOSING) == ""
    assert engine.containers == {"svc-gateway": True}


class TestModule:
    def test_a_gateway_that_is_as_wanted_is_left_alone(self, engine: Engine) -> None:
        found = engine.run(free_port())
        assert (found["changed"], found["differences"], found["diff"]) == (False, [], [])
        assert what_was_done(engine) == []

    def test_a_preview_shows_the_difference_and_changes_nothing(self, engine: Engine) -> None:
        found = engine.run(free_port(), check=True, content=CLOSING)
        assert found["changed"]
        [shown] = found["diff"]
        assert (shown["before"], shown["after"]) == (FORMER, CLOSING)
        assert shown["before_header"].endswith("conf/haproxy.cfg")
        assert (what_was_done(engine), engine.lie_there) == ([], engine.files)

    def test_it_is_replaced_and_says_what_was_not_as_wanted(self, engine: Engine) -> None:
        found = engine.run(free_port(), content=CLOSING)
        assert found["changed"]
        assert found["differences"] == [f"{engine.state}/conf/haproxy.cfg has another content"]
        # A reload leaves no moment without an answer.
        assert found["gap"] == 0
        assert engine.lie_there["conf/haproxy.cfg"] == CLOSING

    def test_an_address_that_somebody_has_is_refused_before_anything_is_changed(self, engine: Engine) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            refused = engine.run(other.getsockname()[1], content=CLOSING)
        assert refused["failed"]
        assert "Stop it, or set another inference_service_port." in refused["msg"]
        assert (what_was_done(engine), engine.lie_there) == ([], engine.files)

    def test_one_that_fails_says_that_nothing_was_replaced(self, engine: Engine) -> None:
        (engine.folder / "trial-ends").touch()
        failed = engine.run(free_port(), content=CLOSING)
        assert failed["msg"].startswith(
            "The gateway was not replaced: the new gateway ended with exit code 1. It said:"
        )

    def test_docker_that_does_not_answer_is_no_first_gateway(self, engine: Engine) -> None:
        (engine.folder / "fails").write_text("ps")
        failed = engine.run(free_port(), content=CLOSING)
        assert failed["msg"].startswith("The gateway's containers cannot be read: ")
        assert engine.lie_there == engine.files


def test_a_keeper_that_ends_at_once_brings_everything_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{REPLACEMENT}.STAYS_UP_SECONDS", 0)
    (engine.folder / "keeper-ends").touch()
    failed = engine.replace("docker-compose.yml", "services: {keeper: {}}\n")
    assert failed.startswith("the new keeper does not run: exit code 1. It said:")
    assert failed.endswith("What was there before is back.")
    assert (engine.containers, engine.lie_there) == ({"svc-gateway": True}, engine.files)
