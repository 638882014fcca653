"""What the life of a host ends with: a service on the CPU, and a host that is set up as it was asked to be."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://inference_hosts"]

ENGINE_KEYS = ["log-opts", "labels", "features", "default-address-pools", "live-restore", "max-concurrent-downloads"]


def test_the_service_runs_without_a_gpu(host: Host) -> None:
    ready = json.loads(host.check_output("curl --silent --fail http://127.0.0.1:8000/health/ready"))
    assert ready["status"] == "ready"
    names = host.check_output("docker ps --quiet --filter label=inference-service.instance").split()
    (container,) = json.loads(host.check_output("docker inspect " + " ".join(names)))
    assert not container["HostConfig"]["DeviceRequests"]


def test_the_engine_keeps_the_settings_of_the_hosts_owner(host: Host) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert list(settings) == ENGINE_KEYS
    assert settings["features"] == {"buildkit": True, "cdi": True}
    assert host.file("/etc/docker/daemon.json").mode == 0o640


def test_the_toolkits_repository_is_read_with_its_own_key(host: Host) -> None:
    source = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    assert "URIs: http://127.0.0.1:8099/deb/amd64\n" in source
    assert "Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.asc\n" in source


def test_the_specification_is_kept_up_to_date_by_systemd(host: Host) -> None:
    assert host.service("nvidia-cdi-refresh.path").is_enabled
    assert host.service("nvidia-cdi-refresh.path").is_running


def test_the_engine_starts_with_the_host(host: Host) -> None:
    assert host.service("docker").is_enabled
    assert host.check_output("systemctl is-system-running") == "running"
