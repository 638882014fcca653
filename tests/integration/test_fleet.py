"""Three hosts in one inventory: canary, batches, and what is said when the roll stops.

Each host is a service of its own on this machine's Docker, behind an address of its own; the tests run in the order
of the file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import statistics
from tests.integration.conftest import ARCHITECTURE, MODEL, NAME
from tests.integration.support.bundles import Workshop
from tests.integration.support.load import LoadClient
from tests.integration.support.playbooks import Host, Run, as_root, docker, free_port, play

pytestmark = pytest.mark.trial

# The client shall watch, not use up the machine on which the run itself must get on.
PAUSE = 0.1


class Fleet:
    """Hosts that one run deploys to."""

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self.balancer: dict[str, Any] = {"gateway_port": free_port(), "inference_service_name": NAME}
        self.balancer |= {"inference_service_state_dir": str(folder / "balancer")}
        self._inventory = folder / "fleet.json"

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        hosts = {name: host.variables for name, host in self.hosts.items()}
        groups = {"inference_hosts": hosts, "load_balancers": {"balancer": self.balancer}}
        return play(playbook, self._inventory, groups, *arguments, deploy_pause_seconds=1, **extra)

    @property
    def port(self) -> int:
        """Where the load balancer answers."""
        return int(self.balancer["gateway_port"])

    def url(self, host: str) -> str:
        """Where people reach a host."""
        return f"http://{self.hosts[host].variables['deploy_address']}:{self.hosts[host].port}"

    def remove(self) -> None:
        self.play("teardown")
        for host in self.hosts.values():
            host.remove()

    def instances(self) -> dict[str, str]:
        return {name: host.instance()["Id"] for name, host in self.hosts.items()}


def summary(run: Run) -> dict[str, list[str]]:
    """Return the columns of the closing table by host."""
    # What Ansible says on its second output follows the table.
    table = [line for line in run.output.rpartition("FLEET *")[2].splitlines() if line.startswith("host-")]
    columns = [re.split(r"\s{2,}", line.strip()) for line in table]
    return {line[0]: line[1:] for line in columns}


def address(number: int) -> str:
    """Return a host's address, of the network that is set aside for examples."""
    return f"198.51.100.{number}"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Iterator[Fleet]:
    """Three hosts, and the small model in versions A and B; removed afterwards."""
    folder = tmp_path_factory.mktemp("fleet")
    hosts = {
        f"host-{number}": Host(
            folder / f"host-{number}",
            f"{NAME}-{number}",
            model_bundle_name=MODEL,
            model_bundle_version="A",
            model_bundle_source=str(folder / "models"),
            # Containers reach what this machine has on its loopback, other machines do not.
            inference_service_bind=address(number),
            deploy_address=address(number),
        )
        for number in (1, 2, 3)
    }
    for number in (1, 2, 3):
        as_root("ip", "address", "replace", f"{address(number)}/32", "dev", "lo")
    for seed, version in enumerate("AB"):
        checkpoint = workshop.checkpoint(ARCHITECTURE, classes=67, seed=seed)
        workshop.bundle(checkpoint, architecture=ARCHITECTURE, name=MODEL, version=version, models=folder / "models")
    made = Fleet(folder, hosts)
    made.remove()
    yield made
    made.remove()
    for number in (1, 2, 3):
        as_root("ip", "address", "delete", f"{address(number)}/32", "dev", "lo")


def test_the_first_deploy_reaches_every_host(fleet: Fleet) -> None:
    run = fleet.play("deploy", deploy_batch="100%")
    assert run.code == 0, run.output[-6000:]
    assert [(columns[0], *columns[2:]) for columns in summary(run).values()] == [
        (f"{MODEL} A", "cpu", fleet.url(host), "updated") for host in fleet.hosts
    ]


def test_a_canary_that_fails_leaves_the_others_untouched(fleet: Fleet, photograph: Path) -> None:
    before = fleet.instances()
    with LoadClient(fleet.port, photograph, PAUSE) as client:
        run = fleet.play("deploy", model_bundle_version="B", inference_service_env={"API_MAX_BATCH": "many"})
    assert run.code != 0
    assert client.failures == []
    assert fleet.instances() == before
    table = summary(run)
    assert [table[host][-1] for host in fleet.hosts] == ["failed, still serves", "serves", "serves"]
    assert {columns[0] for columns in table.values()} == {f"{MODEL} A"}
    assert [len(host.records()) for host in fleet.hosts.values()] == [2, 1, 1]


def test_a_host_that_is_not_fit_stops_the_run_before_any_is_changed(fleet: Fleet) -> None:
    before = fleet.instances()
    last = fleet.hosts["host-3"]
    last.variables["nvidia_driver_gpu"] = "required"
    run = fleet.play("deploy", model_bundle_version="B")
    last.variables["nvidia_driver_gpu"] = "absent"
    assert run.code != 0
    assert fleet.instances() == before
    assert [columns[-1] for columns in summary(run).values()] == ["serves", "serves", "failed, still serves"]
    assert [host.name for host in fleet.hosts.values() if (host.state_dir / "deploy.lock").exists()] == []


def test_an_update_goes_through_the_batches_and_loses_nothing(fleet: Fleet, photograph: Path) -> None:
    with LoadClient(fleet.port, photograph, PAUSE) as client:
        run = fleet.play("deploy", model_bundle_version="B", deploy_batch=2)
    assert run.code == 0, run.output[-6000:]
    assert client.failures == []
    print(f"rolling update: {client}")
    assert client.model_versions == ["A", "B"]
    assert [(columns[0], columns[-1]) for columns in summary(run).values()] == [(f"{MODEL} B", "updated")] * 3
    finished = [host.records()[-1]["finished"] for host in fleet.hosts.values()]
    assert finished[0] < min(finished[1:])


def test_a_rerun_changes_nothing(fleet: Fleet) -> None:
    run = fleet.play("deploy", model_bundle_version="B")
    assert (run.code, run.changed) == (0, 0), run.output[-6000:]
    assert {columns[-1] for columns in summary(run).values()} == {"unchanged"}


def test_a_host_that_dies_costs_no_request(fleet: Fleet, photograph: Path) -> None:
    """Its containers are killed in mid-roll, while the first host is being updated."""
    dead = fleet.hosts["host-3"]
    with LoadClient(fleet.port, photograph, 0.02) as client, futures.ThreadPoolExecutor() as pool:
        rolling = pool.submit(fleet.play, "deploy", model_bundle_version="A")
        while fleet.hosts["host-1"].records()[-1]["bundle"]["version"] != "A":
            assert not rolling.done(), rolling.result().output[-6000:]
            time.sleep(0.2)
        docker("kill", *(item["Id"] for item in dead.containers()))
        run = rolling.result()
    assert client.failures == []
    print(f"a host that died: {client}")
    assert run.code == 0, run.output[-6000:]
    assert [columns[0] for columns in summary(run).values()] == [f"{MODEL} A"] * 3
    rerun = fleet.play("deploy", model_bundle_version="A")
    assert (rerun.code, rerun.changed) == (0, 0), rerun.output[-6000:]


def test_a_host_that_vanishes_from_the_network_costs_no_request(fleet: Fleet, photograph: Path) -> None:
    """Packets to its address are lost, so nothing tells the load balancer that the connection is dead."""
    lost = f"{address(2)}/32"
    with LoadClient(fleet.port, photograph, 0.02) as client:
        time.sleep(3)
        as_root("ip", "route", "add", "blackhole", lost)
        as_root("ip", "address", "delete", lost, "dev", "lo")
        try:
            time.sleep(15)
        finally:
            as_root("ip", "address", "add", lost, "dev", "lo")
            as_root("ip", "route", "delete", "blackhole", lost)
        time.sleep(3)
    assert client.failures == []
    # What was under way had to wait until the load balancer knew.
    longest = max(answer.seconds for answer in client.answers)
    assert 1 < longest < 15
    print(f"a host that vanished cost {longest:.1f} s of waiting: {client}")


def test_a_drained_host_gets_no_request(fleet: Fleet, photograph: Path) -> None:
    """As before a reboot: with the time that the load balancer is given to notice, nobody is left to lose."""
    host = fleet.hosts["host-2"]
    socket = Path(fleet.balancer["inference_service_state_dir"]) / "balancer" / "run" / "admin.sock"

    def row() -> dict[str, str]:
        return next(item for item in statistics(socket, "bk_hosts") if item["svname"] == "host-2")

    with LoadClient(fleet.port, photograph, 0) as client:
        host.drain("drained", notice=5)
        drained = row()
        time.sleep(3)
        assert row()["stot"] == drained["stot"]
        docker("kill", f"{host.name}-gateway")
        time.sleep(1)
        docker("start", f"{host.name}-gateway")
        host.drain("serving")
        deadline = time.monotonic() + 15
        while row()["stot"] == drained["stot"]:
            assert time.monotonic() < deadline, f"no request comes back: {row()}"
            time.sleep(0.2)
    assert (drained["status"][:4], drained["scur"]) == ("DOWN", "0")
    assert client.failures == []


def test_a_rollback_takes_the_same_way(fleet: Fleet) -> None:
    run = fleet.play("rollback")
    assert run.code == 0, run.output[-6000:]
    assert [(columns[0], columns[-1]) for columns in summary(run).values()] == [(f"{MODEL} B", "updated")] * 3


def test_the_status_of_a_fleet_is_one_table(fleet: Fleet) -> None:
    run = fleet.play("status")
    assert run.code == 0, run.output[-6000:]
    assert [columns[0] for columns in summary(run).values()] == [f"{MODEL} B"] * 3


def test_a_load_balancer_alone_cannot_be_deployed_and_says_why(fleet: Fleet, photograph: Path) -> None:
    with LoadClient(fleet.port, photograph, PAUSE) as client:
        run = fleet.play("deploy", "--limit=load_balancers")
    assert run.code != 0
    assert "Run without --limit, or with host-1 in it too." in " ".join(run.output.split())
    assert client.failures == []
