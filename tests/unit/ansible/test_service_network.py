"""When a container counts as being on its service's network, and what a network that was made by hand is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.service_network import (
    NetworkError,
    alias_of,
    find_faults,
    is_attached,
    is_ours,
    labels,
    remove_foreign,
    take_off,
)

NETWORK = {"Id": "n1", "Name": "svc", "Labels": labels("svc")}


def container(endpoint: dict[str, Any] | None, running: bool = True, color: str = "blue") -> dict[str, Any]:
    instance = {"inference-service.color": color, "inference-service.instance": "0"} if color else {}
    return {
        "Id": "c1",
        "Name": f"/svc-{color or 'gateway'}",
        "Config": {"Labels": {"inference-service.name": "svc", **instance}},
        "State": {"Running": running},
        "HostConfig": {"NetworkMode": "svc", "RestartPolicy": {"Name": "unless-stopped"}},
        "NetworkSettings": {"Networks": {"svc": endpoint} if endpoint is not None else {}},
    }


def endpoint(network: str = "n1", address: str = "172.18.0.2", *aliases: str) -> dict[str, Any]:
    return {"NetworkID": network, "IPAddress": address, "Aliases": list(aliases)}


@pytest.mark.parametrize(
    ("item", "attached"),
    [
        (container(endpoint("n1", "172.18.0.2", "api", "blue-0")), True),
        # The network was removed under it, or made anew.
        (container(endpoint("n0", "172.18.0.2", "blue-0")), False),
        (container(endpoint("n0", "", "blue-0"), running=False), False),
        # It was taken off, or put back by hand without the name that the gateway looks for.
        (container(None), False),
        (container(endpoint("n1", "172.18.0.2", "api")), False),
        (container(endpoint("n1", "", "blue-0")), False),
        # Not started since it was put there: it gets an address when it is.
        (container(endpoint("n1", "", "blue-0"), running=False), True),
        (container(endpoint("", "", "blue-0"), running=False), True),
        # It ends as often as it is started.
        ({**container(endpoint("n1", "", "blue-0")), "State": {"Running": True, "Restarting": True}}, True),
        # The gateway is looked for by nobody.
        (container(endpoint("n1"), color=""), True),
        (container(endpoint("n1", "", "x"), color=""), False),
    ],
)
def test_a_container_is_attached_when_the_gateway_can_find_it(item: dict[str, Any], attached: bool) -> None:
    assert is_attached(item, "svc", "n1") is attached


def test_an_instance_is_looked_for_by_color_and_index() -> None:
    assert alias_of(container(None, color="green")) == "green-0"
    assert alias_of(container(None, color="")) == ""


def test_faults_are_named() -> None:
    detached, attached = container(None), container(endpoint("n1", "172.18.0.2", "blue-0"))
    assert find_faults("svc", [attached], NETWORK) == []
    assert find_faults("svc", [detached], NETWORK) == ["svc-blue is not on the Docker network svc"]
    assert find_faults("svc", [attached], {}) == ["the Docker network svc is missing"]
    assert find_faults("svc", [attached], {**NETWORK, "Labels": {}}) == ["the Docker network svc was made by hand"]
    # Before the first deploy nothing is missed.
    assert find_faults("svc", [], {}) == []


def test_who_would_stay_down_after_a_reboot_is_named() -> None:
    keeper = container(None, color="")
    keeper["HostConfig"] = {"NetworkMode": "none", "RestartPolicy": {"Name": "no"}}
    assert find_faults("svc", [keeper], NETWORK) == ["svc-gateway would not be started again after a reboot"]
    keeper["Config"]["Labels"]["com.docker.compose.oneoff"] = "True"
    assert find_faults("svc", [keeper], NETWORK) == []


def test_a_network_of_another_project_is_not_ours() -> None:
    assert is_ours(NETWORK, "svc")
    assert not is_ours({**NETWORK, "Labels": labels("other")}, "svc")
    assert not is_ours({**NETWORK, "Labels": None}, "svc")


def test_a_network_with_a_stranger_on_it_is_left_alone_and_says_who_that_is() -> None:
    foreign = {"Id": "n2", "Name": "svc", "Containers": {"c9": {"Name": "database"}}}
    with pytest.raises(NetworkError, match=r"database is on it.*docker network disconnect svc database"):
        remove_foreign("svc", foreign, {"c1"})


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ("could not find an available, non-overlapping IPv4 address pool among the defaults", "docker network prune"),
        ("all predefined address pools have been fully subnetted", "default-address-pools"),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        ("no such container: x", ""),
    ],
)
def test_what_the_engine_lacks_comes_with_the_next_step(words: str, step: str) -> None:
    said = str(DockerError(words))
    assert said.startswith(words)
    assert step in said
    assert bool(step) == (said != words)


def test_a_container_that_ends_while_it_is_taken_off_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "Error response from daemon: $5" >&2\nexit 1\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    take_off("svc", "container c1 is not connected to network svc")
    with pytest.raises(DockerError, match="no such container"):
        take_off("svc", "no such container: c1")
