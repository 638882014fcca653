"""A run that is killed at any task loses no request, and the next one leaves what a clean run leaves.

Each round kills an update, the whole process tree at once, and lets the same update run to its end. By default the
points are those at which the host differs from the point before; INFERENCE_TEST_KILLS=all takes every task.
What was shown is in .reports/kills.json.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roles.gateway.files.keeper import ALIVE_SECONDS
from tests.integration.conftest import MODEL
from tests.integration.support.interruption import Task, WatchedRun
from tests.integration.support.load import LoadClient, post
from tests.integration.support.playbooks import ROOT, Host

pytestmark = pytest.mark.trial

# The client shall watch, not use up the machine on which the run itself must get on.
PAUSE = 0.1

EVERY_TASK = os.environ.get("INFERENCE_TEST_KILLS") == "all"
# A long task is not done at once: what is there in its middle is another state of the host.
LONG_TASKS = ("Start_candidate | Start its containers", "Start_candidate | Wait until its model is loaded")


class Releases:
    """The two releases between which a host goes back and forth."""

    def __init__(self, host: Host) -> None:
        host.deploy()
        host.deploy(model_bundle_version="B")
        self.host = host
        self._ids: dict[str, str] = {record["bundle"]["version"]: record["release_id"] for record in host.records()}
        # Both colors have run by now, so this is what every clean update leaves.
        self.clean = host.traces()

    @property
    def live(self) -> str:
        """The version that serves."""
        version: str = self.host.instance()["Config"]["Labels"]["inference-service.bundle-version"]
        return version

    @property
    def next(self) -> str:
        """The version that does not serve."""
        return "A" if self.live == "B" else "B"

    def update(self, version: str, **extra: str) -> list[str]:
        """Return the command that makes the version live; keyword arguments become --extra-vars."""
        return self.host.command("rollback", inference_service_release=self._ids[version], **extra)

    def converge(self, folder: Path, version: str) -> None:
        """Run the update to its end and once more: the second changes nothing, and nothing is left over."""
        run = WatchedRun(folder, self.update(version)).finish()
        assert run.code == 0, run.output[-6000:]
        again = WatchedRun(folder, self.update(version)).finish()
        assert (again.code, again.changed) == (0, 0), again.output[-6000:]
        assert self.live == version
        assert self.host.traces() == self.clean
        record = self.host.records()[-1]
        assert (record["release_id"], record["result"]) == (self._ids[version], "ok")


@pytest.fixture(scope="module")
def releases(host: Host) -> Releases:
    return Releases(host)


def points(tasks: list[Task]) -> Iterator[Task]:
    """Yield the tasks after which to kill, the last one apart: a run that is over cannot be killed."""
    yield from (task for task in tasks[:-1] if EVERY_TASK or task.changed)


def report(killed: list[str], client: LoadClient) -> None:
    """Write down what was shown until now: all of it takes an hour."""
    shown = {
        "kill_points": len(killed),
        "after": killed,
        "requests": len(client.answers),
        "failed": len(client.failures),
        "longest_gap_s": round(client.longest_silence(), 2),
    }
    (ROOT / ".reports").mkdir(exist_ok=True)
    (ROOT / ".reports" / "kills.json").write_text(json.dumps(shown, indent=2) + "\n")


def test_an_update_killed_after_each_task_loses_nothing_and_is_made_good(
    releases: Releases, photograph: Path, tmp_path: Path
) -> None:
    target = releases.next
    watched = WatchedRun(tmp_path, releases.update(target))
    assert watched.finish().code == 0
    killed = []
    with LoadClient(releases.host.port, photograph, PAUSE) as client:
        for task in points(watched.ended()):
            target = releases.next
            run = WatchedRun(tmp_path, releases.update(target), stop_after=task.number)
            assert run.wait_until_stopped().name == task.name
            run.kill()
            assert client.failures == [], f"killed after {task.name}"
            releases.converge(tmp_path, target)
            assert client.failures == [], f"made good after a kill after {task.name}"
            killed.append(task.name)
            report(killed, client)
    assert killed
    assert {answer.fresh_connection for answer in client.answers} == {True, False}


@pytest.mark.parametrize("task", LONG_TASKS)
def test_an_update_killed_within_a_long_task_loses_nothing_and_is_made_good(
    releases: Releases, photograph: Path, tmp_path: Path, task: str
) -> None:
    target = releases.next
    with LoadClient(releases.host.port, photograph, PAUSE) as client:
        run = WatchedRun(tmp_path, releases.update(target))
        run.wait_until_started(task)
        run.kill()
        releases.converge(tmp_path, target)
    assert client.failures == []


def test_a_run_that_dies_while_requests_wait_is_ended_by_the_keeper(
    releases: Releases, photograph: Path, tmp_path: Path
) -> None:
    """The strategy recreate has stopped what served; no further run is needed for it to serve again."""
    host, former, target = releases.host, releases.live, releases.next
    run = WatchedRun(tmp_path, releases.update(target, inference_service_strategy="recreate"))
    run.wait_until_started("Start_candidate | Wait until its model is loaded")
    run.kill()
    died = time.monotonic()
    status = 0
    while status != 200:
        assert time.monotonic() - died < ALIVE_SECONDS + 60
        time.sleep(1)
        status, answer = post(host.port, photograph.read_bytes())
    assert answer["model_info"]["version"] == former
    print(f"the keeper brought {former} back {time.monotonic() - died:.0f} s after the run had died")
    with LoadClient(host.port, photograph, PAUSE) as client:
        releases.converge(tmp_path, target)
    assert client.failures == []


def test_a_deploy_killed_while_it_brings_the_bundle_leaves_nothing(
    releases: Releases, photograph: Path, tmp_path: Path
) -> None:
    host, version = releases.host, "C"
    shutil.copytree(host.models / MODEL / "A", host.models / MODEL / version)
    manifest = host.models / MODEL / version / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": version}))
    installed = host.state_dir / "bundles" / MODEL
    with LoadClient(host.port, photograph, PAUSE) as client:
        for name in ("Install_bundle | Copy the bundle", "Install_bundle | Let the service's image load it"):
            run = WatchedRun(tmp_path, host.command("deploy", model_bundle_version=version))
            run.wait_until_started(name)
            run.kill()
            assert not (installed / version).exists()
        host.deploy(model_bundle_version=version)
        again = host.deploy(model_bundle_version=version)
    assert again.changed == 0
    assert client.failures == []
    assert sorted(path.name for path in installed.iterdir()) == ["A", "B", version]
