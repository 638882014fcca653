"""What becomes of Docker on a host that serves: it is stopped, killed and upgraded, and its disk is full.

The figures are in .reports/engine-*.json.
"""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.lab import Lab, Machine
from tests.integration.support.load import Answers, LoadClient, SteadyClient
from tests.integration.support.playbooks import ROOT

pytestmark = pytest.mark.trial

HOST, PORT, SERVICE = "gpu-1", 8000, "timm-classifier"
PER_SECOND = 20
CALM_SECONDS = 10
# As an unattended upgrade does it. Debian's package restarts containerd, and leaves dockerd to needrestart or a reboot.
UPGRADE = """
rm -f /usr/sbin/policy-rc.d
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall docker.io containerd runc
systemctl restart docker.service
"""
TROUBLES = {
    "stopped": "systemctl stop docker.socket docker.service; sleep 120; systemctl start docker.service",
    "killed": "kill -KILL $(systemctl show --property=MainPID --value docker.service)",
    "upgraded": UPGRADE,
}
# Everything that Docker writes, and the service's state, on a file system of its own with little room.
SMALL_DISK = """
systemctl stop docker.socket docker.service
mkdir -p /small /var/lib/timm-classifier
mount -t tmpfs -o size=$(( $(du -sm /var/lib/docker | cut -f1) + 1000 ))m small /small
cp -a /var/lib/docker /small/docker
mkdir /small/service
mount --bind /small/docker /var/lib/docker
mount --bind /small/service /var/lib/timm-classifier
systemctl start docker.service
"""
FILL = "dd if=/dev/zero of=/small/filler bs=64k 2>&1 || true; cat /dev/zero >> /small/filler || true; df /small"
FILL_AGAIN = "cat /dev/zero >> /small/filler || true; df /small"


def report(name: str, client: Answers, **more: Any) -> dict[str, Any]:
    """Write down what a client got back, and return it."""
    problems = collections.Counter(f"{answer.status} {answer.problem}" for answer in client.failures)
    said = {
        "requests": len(client.answers),
        "refused_or_cut": sum(answer.status == 0 for answer in client.failures),
        "failed": sum(answer.status != 0 for answer in client.failures),
        "longest_gap_s": round(client.longest_silence(), 2),
        "problems": dict(problems),
        **more,
    }
    print(json.dumps({name: said}, indent=2))
    folder = ROOT / ".reports"
    folder.mkdir(exist_ok=True)
    (folder / f"engine-{name}.json").write_text(json.dumps(said, indent=2) + "\n")
    return said


def process(machine: Machine) -> str:
    """Return the number of the engine's process, '0' while there is none."""
    return machine.sh("systemctl show --property=MainPID --value docker.service").strip()


def instance(machine: Machine) -> dict[str, Any]:
    """Return the inspection of the host's one instance."""
    identity = machine.sh("docker ps --all --quiet --filter=label=inference-service.instance").strip()
    return dict(json.loads(machine.sh(f"docker inspect {identity}"))[0])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), f"{NAME}-engine") as machines:
        machines.variables |= {
            "model_bundle_source": str(models),
            "model_bundle_name": MODEL,
            "model_bundle_version": "A",
        }
        machines[HOST].sh("""mkdir -p /etc/docker; echo '{"live-restore": true}' > /etc/docker/daemon.json""")
        machines[HOST].sh(SMALL_DISK)
        run = machines.play("deploy")
        assert run.code == 0, run.output[-6000:]
        yield machines


@pytest.mark.parametrize("trouble", TROUBLES)
def test_with_live_restore_an_engine_that_is_away_costs_no_answer(lab: Lab, photograph: Path, trouble: str) -> None:
    machine = lab[HOST]
    before, engine = instance(machine)["State"]["StartedAt"], process(machine)
    with SteadyClient(PORT, photograph, PER_SECOND, machine.address) as client:
        time.sleep(CALM_SECONDS)
        machine.sh(TROUBLES[trouble])
        time.sleep(CALM_SECONDS)
    said = report(trouble, client, engine_restarted=process(machine) not in ("0", engine))
    assert said["engine_restarted"]
    assert instance(machine)["State"]["StartedAt"] == before
    # While Docker makes its port rules again, a new connection is refused.
    assert said["failed"] == 0
    assert said["refused_or_cut"] <= PER_SECOND
    run = lab.play("deploy")
    assert (run.code, run.changed) == (0, 0), run.output[-6000:]


def test_on_a_full_disk_an_instance_that_dies_serves_again(lab: Lab, photograph: Path) -> None:
    machine = lab[HOST]
    print(machine.sh(FILL))
    rounds: list[tuple[float, float, str]] = []
    with LoadClient(PORT, photograph, 0.1, machine.address) as client:
        time.sleep(CALM_SECONDS)
        assert client.failures == []
        for _ in range(3):
            identity = instance(machine)["Id"]
            began = time.monotonic()
            machine.sh(f"docker kill {identity}")
            while instance(machine)["State"].get("Health", {}).get("Status") != "healthy":
                assert time.monotonic() - began < 120, instance(machine)["State"]
                time.sleep(0.2)
            healthy = time.monotonic()
            while client.answers[-1].status != 200:
                assert time.monotonic() - healthy < 60, (rounds, names(machine))
                time.sleep(0.2)
            rounds.append((round(healthy - began, 1), round(time.monotonic() - healthy, 1), names(machine)))
        time.sleep(CALM_SECONDS)
        calm = [answer for answer in client.answers if answer.at > time.monotonic() - CALM_SECONDS / 2]
    said = keeper(machine)
    report("full", client, healthy_after_s_served_after_s_and_addresses=rounds, keeper=said)
    assert {answer.status for answer in calm} == {200}
    assert any("kept to start a container" in line for line in said)
    print(machine.sh(FILL_AGAIN))
    refused = lab.play("deploy", model_bundle_version="B")
    assert refused.code != 0
    assert "No space left on device" in refused.output or "MB are free" in refused.output, refused.output[-4000:]
    machine.sh("rm /small/filler")
    run = lab.play("deploy", model_bundle_version="B")
    assert run.code == 0, run.output[-6000:]


def names(machine: Machine) -> str:
    """Return the addresses that Docker names for the instance, and the one that the gateway has."""
    color = instance(machine)["Config"]["Labels"]["inference-service.color"]
    ask = f"docker exec {SERVICE}-gateway python3 -c \"import socket; print(socket.gethostbyname_ex('{color}-0')[2])\""
    return machine.sh(f"{ask} || true").strip()


def keeper(machine: Machine) -> list[str]:
    """Return what the keeper said."""
    return machine.sh(f"docker logs {SERVICE}-keeper").splitlines()
