"""Three hosts in one inventory: canary, batches, and what is said when the roll stops.

Each host is a service of its own on this machine's engine; the tests run in the order of the file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ARCHITECTURE, MODEL, NAME
from tests.integration.support.bundles import Workshop
from tests.integration.support.load import LoadClient
from tests.integration.support.playbooks import Host, Run, play


class Fleet:
    """Hosts that one run deploys to."""

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self._inventory = folder / "fleet.json"

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        hosts = {name: host.variables for name, host in self.hosts.items()}
        return play(playbook, self._inventory, hosts, *arguments, deploy_pause_seconds=1, **extra)

    def instances(self) -> dict[str, str]:
        return {name: host.instance()["Id"] for name, host in self.hosts.items()}


def summary(run: Run) -> dict[str, list[str]]:
    """Return the columns of the closing table by host."""
    table = run.output.rpartition("FLEET *")[2].splitlines()[2:]
    columns = [re.split(r"\s{2,}", line.strip()) for line in table if line.strip()]
    return {line[0]: line[1:] for line in columns}


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
        )
        for number in (1, 2, 3)
    }
    for seed, version in enumerate("AB"):
        checkpoint = workshop.checkpoint(ARCHITECTURE, classes=67, seed=seed)
        workshop.bundle(checkpoint, architecture=ARCHITECTURE, name=MODEL, version=version, models=folder / "models")
    for host in hosts.values():
        host.remove()
    yield Fleet(folder, hosts)
    for host in hosts.values():
        host.remove()


def test_the_first_deploy_reaches_every_host(fleet: Fleet) -> None:
    run = fleet.play("deploy", deploy_batch="100%")
    assert run.code == 0, run.output[-6000:]
    assert {host: (model, device, state) for host, (_, model, device, state) in summary(run).items()} == dict.fromkeys(
        fleet.hosts, (f"{MODEL} A", "cpu", "updated")
    )


def test_a_canary_that_fails_leaves_the_others_untouched(fleet: Fleet, photograph: Path) -> None:
    before = fleet.instances()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(LoadClient(host.port, photograph, 0.2)) for host in fleet.hosts.values()]
        run = fleet.play("deploy", model_bundle_version="B", inference_service_env={"API_MAX_BATCH": "many"})
    assert run.code != 0
    assert [answer for client in clients for answer in client.failures] == []
    assert fleet.instances() == before
    table = summary(run)
    assert [table[host][-1] for host in fleet.hosts] == ["failed, kept", "untouched", "untouched"]
    assert {columns[1] for columns in table.values()} == {f"{MODEL} A"}
    assert [len(host.records()) for host in fleet.hosts.values()] == [2, 1, 1]


def test_a_host_that_is_not_fit_stops_the_run_before_any_is_changed(fleet: Fleet) -> None:
    before = fleet.instances()
    last = fleet.hosts["host-3"]
    last.variables["nvidia_driver_gpu"] = "required"
    run = fleet.play("deploy", model_bundle_version="B")
    last.variables["nvidia_driver_gpu"] = "absent"
    assert run.code != 0
    assert fleet.instances() == before
    assert [columns[-1] for columns in summary(run).values()] == ["untouched", "untouched", "failed, kept"]


def test_an_update_goes_through_the_batches_and_loses_nothing(fleet: Fleet, photograph: Path) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(LoadClient(host.port, photograph, 0.2)) for host in fleet.hosts.values()]
        run = fleet.play("deploy", model_bundle_version="B", deploy_batch=2)
    assert run.code == 0, run.output[-6000:]
    assert [answer for client in clients for answer in client.failures] == []
    assert [client.model_versions for client in clients] == [["A", "B"]] * 3
    assert [columns[1:] for columns in summary(run).values()] == [[f"{MODEL} B", "cpu", "updated"]] * 3
    finished = [host.records()[-1]["finished"] for host in fleet.hosts.values()]
    assert finished[0] < min(finished[1:])


def test_a_rerun_changes_nothing(fleet: Fleet) -> None:
    run = fleet.play("deploy", model_bundle_version="B")
    assert (run.code, run.changed) == (0, 0), run.output[-6000:]
    assert {columns[-1] for columns in summary(run).values()} == {"unchanged"}


def test_a_rollback_takes_the_same_way(fleet: Fleet) -> None:
    run = fleet.play("rollback")
    assert run.code == 0, run.output[-6000:]
    assert [columns[1:] for columns in summary(run).values()] == [[f"{MODEL} A", "cpu", "updated"]] * 3


def test_the_status_of_a_fleet_is_one_table(fleet: Fleet) -> None:
    run = fleet.play("status")
    assert run.code == 0, run.output[-6000:]
    assert [columns[1] for columns in summary(run).values()] == [f"{MODEL} A"] * 3
