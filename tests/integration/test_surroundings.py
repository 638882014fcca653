"""Hosts that are set up otherwise: each deploys, updates and goes back, or refuses with a next step."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.lab import Lab, Machine
from tests.integration.support.load import LoadClient
from tests.integration.support.playbooks import Run

pytestmark = pytest.mark.trial

HOST, PORT = "gpu-1", 8000
# What sudo hands on is set by the administrator; what a login sets, in this file.
KEEP = "echo 'Defaults env_keep += \"TMPDIR LANG LC_ALL DOCKER_HOST DOCKER_CONTEXT\"' > /etc/sudoers.d/surroundings"
# Each with the commands that undo it.
SURROUNDINGS = {
    "umask 077": (
        "printf 'Defaults umask=0077\\nDefaults umask_override\\n' > /etc/sudoers.d/surroundings",
        "rm /etc/sudoers.d/surroundings",
    ),
    "no programs in temporary folders": (
        "mount -o remount,noexec,nosuid,nodev /tmp; mount -t tmpfs -o noexec,nosuid,nodev none /var/tmp",
        "mount -o remount,exec /tmp; umount /var/tmp",
    ),
    "TMPDIR with a blank": (
        f"mkdir -pm 1777 '/var/odd folder'; echo 'TMPDIR=\"/var/odd folder\"' >> /etc/environment; {KEEP}",
        "sed -i /TMPDIR/d /etc/environment; rm /etc/sudoers.d/surroundings",
    ),
    "TMPDIR that is not there": (
        f"echo TMPDIR=/nonexistent >> /etc/environment; {KEEP}",
        "sed -i /TMPDIR/d /etc/environment; rm /etc/sudoers.d/surroundings",
    ),
    "LANG that is not there": (
        f"printf 'LANG=tr_TR.UTF-8\\nLC_ALL=tr_TR.UTF-8\\n' >> /etc/environment; {KEEP}",
        "sed -i '/LANG/d;/LC_ALL/d' /etc/environment; rm /etc/sudoers.d/surroundings",
    ),
    "LANG=C": (
        f"printf 'LANG=C\\nLC_ALL=C\\n' >> /etc/environment; {KEEP}",
        "sed -i '/LANG/d;/LC_ALL/d' /etc/environment; rm /etc/sudoers.d/surroundings",
    ),
}
ELSEWHERE = {
    "DOCKER_HOST": (
        f"echo DOCKER_HOST=tcp://192.0.2.1:2375 >> /etc/environment; {KEEP}",
        "sed -i /DOCKER_HOST/d /etc/environment; rm /etc/sudoers.d/surroundings",
    ),
    "a context": (
        "docker context create far --docker host=tcp://192.0.2.1:2375; docker context use far",
        "docker context use default; docker context rm far",
    ),
}
CLOCKS = {"tomorrow": "+1d", "yesterday": "-1d"}
# Files keep the time that the kernel gave them: those of a moment ago are a day old, or of tomorrow.
SHIFTED = """#!/bin/sh
export FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1
exec faketime -f %s python3 "$@"
"""
FLUSHED = """
iptables --policy FORWARD DROP
iptables --flush
iptables --table nat --flush
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), f"{NAME}-around") as machines:
        machines.variables |= {"model_bundle_source": str(models), "model_bundle_name": MODEL}
        yield machines


@contextlib.contextmanager
def surrounded(lab: Lab, setting: tuple[str, str]) -> Iterator[Machine]:
    """Set a host up otherwise for a while; connections that are kept begin anew, so that a login is one."""
    machine = lab[HOST]
    machine.sh(setting[0])
    drop_connections(machine)
    try:
        yield machine
    finally:
        machine.sh(setting[1])
        drop_connections(machine)


def drop_connections(machine: Machine) -> None:
    """End every connection of SSH."""
    machine.stop_sshd()
    machine.start_sshd()


def must(run: Run) -> Run:
    """Require that a run ended well."""
    assert run.code == 0, run.output[-6000:]
    return run


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_it_deploys_updates_and_goes_back_there(lab: Lab, name: str, photograph: Path) -> None:
    lab.play("teardown", inference_service_purge=True)
    with surrounded(lab, SURROUNDINGS[name]) as machine:
        must(lab.play("deploy", model_bundle_version="A"))
        assert must(lab.play("deploy", model_bundle_version="A")).changed == 0
        with LoadClient(PORT, photograph, 0.1, machine.address) as client:
            must(lab.play("deploy", model_bundle_version="B"))
            must(lab.play("rollback"))
            must(lab.play("status"))
        print(f"{name}: {client}")
        assert client.failures == []
        assert client.model_versions == ["A", "B"]
        assert client.answers[-1].model_version == "A"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_engine_in_the_environment_is_refused_and_nothing_touched(
    lab: Lab, name: str, photograph: Path
) -> None:
    must(lab.play("deploy", model_bundle_version="A"))
    with surrounded(lab, ELSEWHERE[name]) as machine, LoadClient(PORT, photograph, 0.1, machine.address) as client:
        run = lab.play("deploy", model_bundle_version="B")
        said = " ".join(run.output.split())
        assert run.code != 0
        assert "instead of the host's own Docker" in said, run.output[-4000:]
        assert "tcp://192.0.2.1:2375" in said
    assert client.failures == []
    assert client.model_versions == ["A"]


def test_a_clock_a_day_ahead_and_then_a_day_back_changes_nothing(lab: Lab, photograph: Path) -> None:
    """This machine's clock is everybody's: what the run starts on the host is told another time, Docker is not."""
    machine = lab[HOST]
    machine.sh("apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends faketime")
    for name, shift in CLOCKS.items():
        machine.sh(f"cat > /usr/local/bin/python-{name}; chmod 0755 /usr/local/bin/python-{name}", SHIFTED % shift)
    must(lab.play("deploy", model_bundle_version="A"))
    with LoadClient(PORT, photograph, 0.1, machine.address) as client:
        for name in (*CLOCKS, *CLOCKS):
            shifted = {"ansible_python_interpreter": f"/usr/local/bin/python-{name}"}
            must(lab.play("deploy", model_bundle_version="B", **shifted))
            assert must(lab.play("deploy", model_bundle_version="B", **shifted)).changed == 0
            must(lab.play("rollback", **shifted))
            must(lab.play("status", **shifted))
        assert must(lab.play("deploy", model_bundle_version="A")).changed == 0
    print(f"clocks: {client}")
    assert client.failures == []
    newest = json.loads(machine.sh("cat $(ls /var/lib/timm-classifier/records/*.json | tail -n 1)"))
    assert (newest["action"], newest["bundle"]["version"], newest["result"]) == ("rollback", "A", "ok")


def test_after_a_flushed_firewall_a_deploy_says_what_to_do_and_that_mends_it(lab: Lab, photograph: Path) -> None:
    must(lab.play("deploy", model_bundle_version="A"))
    machine = lab[HOST]
    machine.sh(FLUSHED)
    began = time.monotonic()
    for version in "AB":
        run = lab.play("deploy", model_bundle_version=version)
        said = " ".join(run.output.split())
        print(f"deploy of {version} refused after {time.monotonic() - began:.0f} s:\n{run.output[-3000:]}")
        assert run.code != 0
        assert "firewall" in said
    machine.sh("systemctl restart docker.service")
    must(lab.play("deploy", model_bundle_version="B"))
    with LoadClient(PORT, photograph, 0.1, machine.address) as client:
        time.sleep(2)
    assert client.failures == []
    assert client.model_versions == ["B"]
