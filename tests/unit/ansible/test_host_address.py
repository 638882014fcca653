"""Whether a gateway can have its address, against this machine's own sockets."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.host_address import (
    moved,
    occupant,
    other_service,
    parse_listeners,
    refusal,
    running_containers,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import EVERYWHERE, Address
from tests.integration.support.playbooks import free_port

HOST = "127.0.0.1"
# Not the default one: this machine may serve the demo.
STATE = "/var/lib/svc/gateway"
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 100 0 0 10 0
   2: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000 100 0 0 10 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 000080FE00000000FF00FC00010000FE:1F40 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1
   1: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4715 1
"""


def container(name: str, service: str, ip: str, port: int, folder: str = "/elsewhere") -> dict[str, Any]:
    return {
        "Name": f"/{name}",
        "Config": {"Labels": {"inference-service.name": service} if service else None},
        "HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": ip, "HostPort": str(port)}]}},
        "Mounts": [{"Source": f"{folder}/conf"}],
    }


def test_listeners_are_read_from_the_kernels_tables() -> None:
    assert parse_listeners(TABLE, 8000) == [(HOST, "4711")]
    assert parse_listeners(TABLE6, 8000) == [("fe80::fc:ff:fe00:1", "4714"), ("::", "4715")]


def test_a_free_address_is_not_refused() -> None:
    assert refusal("svc", STATE, HOST, free_port(), "inference_service") == ""


def test_a_container_that_ends_between_two_questions_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else a service's own gateway counted as somebody else, on a host where other containers come and go."""
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\ncase "$*" in\nps*) echo aaaa bbbb ;;\n*bbbb*) echo "No such container: bbbb" >&2; exit 1 ;;\n'
        f"*) echo '{json.dumps([container('svc-gateway', 'svc', HOST, 8000)])}' ;;\nesac\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [item["Name"] for item in running_containers()] == ["/svc-gateway"]


def test_whoever_listens_is_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("svc", STATE, EVERYWHERE, port, "inference_service")
    assert (
        f"(process {os.getpid()}) listens on {EVERYWHERE}:{port}. Stop it, or set another inference_service_port."
        in said
    )


def test_an_address_that_the_host_does_not_have_is_refused() -> None:
    said = refusal("svc", STATE, "203.0.113.7", free_port(), "gateway")
    assert said.startswith("203.0.113.7 is no address of this host, which has ")
    assert said.endswith("Set gateway_bind to one of them.")


def test_a_name_is_no_address() -> None:
    assert "inference_service_bind is no IP address: localhost" in refusal(
        "svc", STATE, "localhost", 1, "inference_service"
    )


@pytest.mark.parametrize(
    ("ip", "folder", "said"),
    [
        (HOST, "/elsewhere", "The service old of this host has 127.0.0.1:8000"),
        (EVERYWHERE, "/elsewhere", "The service old of this host has 127.0.0.1:8000"),
        ("127.0.0.2", STATE, f"The service old of this host keeps its state in {STATE}"),
    ],
)
def test_another_service_of_ours_is_named_with_both_ways_out(ip: str, folder: str, said: str) -> None:
    containers = [container("x", "", HOST, 8000), container("old-gateway", "old", ip, 8000, folder)]
    found = other_service("new", STATE, Address(HOST, 8000), containers, "inference_service")
    assert found.startswith(said)
    assert "To go on with it, set inference_service_name=old and inference_service_state_dir=" in found
    assert "teardown.yml -e inference_service_name=old" in found
    assert "its own inference_service_port" in found


def test_a_service_whose_state_lies_elsewhere_is_not_begun_anew(tmp_path: Path) -> None:
    """As with the default folder of another version: it would have no release to go back to."""
    containers = [container("svc-gateway", "svc", HOST, 8000, f"{tmp_path}/old/gateway")]
    assert moved("svc", f"{tmp_path}/new/gateway", containers) == (
        f"The service svc of this host keeps its state in {tmp_path}/old, not in {tmp_path}/new. Set "
        f"inference_service_state_dir={tmp_path}/old. To move it, remove the service first (playbooks/teardown.yml)."
    )
    (tmp_path / "new").symlink_to(tmp_path / "old")
    assert moved("svc", f"{tmp_path}/new/gateway", containers) == ""
    assert moved("other", f"{tmp_path}/other/gateway", containers) == ""


def test_the_service_itself_and_one_beside_it_are_in_nobodys_way() -> None:
    containers = [container("new-gateway", "new", HOST, 8000, STATE), container("old-gateway", "old", HOST, 8001)]
    assert other_service("new", STATE, Address(HOST, 8000), containers, "inference_service") == ""


def test_a_container_that_is_not_ours_is_named() -> None:
    assert occupant(Address(HOST, 8000), [], [container("web", "", EVERYWHERE, 8000)]) == "The container web has"


def test_what_only_the_own_gateway_has_is_free() -> None:
    with socket.create_server((HOST, 0)) as taken:
        own = Address(HOST, taken.getsockname()[1])
        assert occupant(Address(EVERYWHERE, own.port), [own], []) == ""
        assert "listens on" in occupant(own, [], [])
