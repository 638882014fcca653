"""What refused deploys leave on a host: nothing."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://inference_hosts"]


def test_the_engine_is_as_it_was(host: Host) -> None:
    assert host.check_output("docker ps --all --quiet") == ""
    assert host.check_output("docker images --quiet") == ""
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {"features": {"cdi": True}}


def test_the_service_left_no_state(host: Host) -> None:
    assert not host.file("/var/lib/cat-breeds-api").exists
