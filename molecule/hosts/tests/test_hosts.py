"""What the life of two hosts ends with: a service on each, and machines that are set up as it was asked."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://inference_hosts"]

TOOLKIT = {
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
}
# Everything that carries the driver's version: the libraries must not run ahead of the module either.
DRIVER = {"nvidia-kernel-dkms", "libcuda1", "libnvidia-ptxjitcompiler1", "libnvidia-ml1", "nvidia-smi"}
ENGINE_KEYS = {
    "debian-12": ["log-opts", "labels", "features", "default-address-pools", "live-restore"],
    "debian-13": [
        "log-opts",
        "labels",
        "features",
        "default-address-pools",
        "live-restore",
        "max-concurrent-downloads",
    ],
}


@pytest.fixture(scope="module")
def packages(host: Host) -> dict[str, tuple[str, str]]:
    """Version of every package, and what apt is to do with it."""
    rows = host.check_output("dpkg-query --show --showformat='${Package} ${Version} ${db:Status-Want}\\n'").splitlines()
    return {name: (version, want) for name, version, want in (row.split() for row in rows)}


def test_a_release_serves(host: Host) -> None:
    ready = json.loads(host.check_output("curl --silent --fail http://127.0.0.1:8000/health/ready"))
    assert ready["status"] == "ready"
    names = host.check_output("docker ps --quiet --filter label=inference-service.instance").split()
    (container,) = json.loads(host.check_output("docker inspect " + " ".join(names)))
    requested = [(item["Driver"], item["DeviceIDs"]) for item in container["HostConfig"]["DeviceRequests"] or []]
    # The other one has lost its GPU.
    assert requested == ([("cdi", ["nvidia.com/gpu=0"])] if host.backend.host == "debian-12" else [])


def test_the_toolkit_is_the_wanted_version_and_held(packages: dict[str, tuple[str, str]]) -> None:
    assert {name: packages[name] for name in TOOLKIT} == dict.fromkeys(TOOLKIT, ("1.20.1-1", "hold"))


def test_the_driver_is_held_until_somebody_upgrades_it_on_purpose(
    host: Host, packages: dict[str, tuple[str, str]]
) -> None:
    wanted = {"debian-12": ("550.127.08-1", "hold"), "debian-13": ("550.163.01-1", "install")}[host.backend.host]
    assert {name: packages[name] for name in DRIVER} == dict.fromkeys(DRIVER, wanted)


def test_automatic_upgrades_leave_the_driver_alone(host: Host) -> None:
    assert '"nvidia-";' in host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")


def test_only_the_engine_comes_from_another_release(host: Host, packages: dict[str, tuple[str, str]]) -> None:
    assert packages["docker.io"][0].startswith("26.")
    release = "deb12" if host.backend.host == "debian-12" else "deb13"
    assert release in packages["systemd"][0]
    assert packages["libc6"][0].startswith({"deb12": "2.36", "deb13": "2.41"}[release])


def test_the_engine_keeps_the_settings_of_the_hosts_owner(host: Host) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert list(settings) == ENGINE_KEYS[host.backend.host]
    assert settings["features"] == {"buildkit": True, "cdi": True}
    assert host.file("/etc/docker/daemon.json").mode == 0o640


def test_the_toolkits_repository_is_read_with_its_own_key(host: Host) -> None:
    source = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    architecture = host.check_output("dpkg --print-architecture")
    assert f"URIs: http://127.0.0.1:8099/deb/{architecture}\n" in source
    assert "Signed-By: /etc/apt/keyrings/nvidia-container-toolkit.asc\n" in source


def test_the_specification_is_kept_up_to_date_by_systemd(host: Host) -> None:
    assert host.service("nvidia-cdi-refresh.path").is_enabled
    assert host.service("nvidia-cdi-refresh.path").is_running


def test_the_engine_starts_with_the_host(host: Host) -> None:
    assert host.service("docker").is_enabled
    assert host.check_output("systemctl is-system-running") == "running"
