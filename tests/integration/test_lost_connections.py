"""An update whose controller, connection or sshd is lost on the way loses no request, and the next run makes it good.

What an interrupted run has begun on a host goes on there without it. Each round begins an update over SSH, interrupts
it within a task, and lets the same update run to its end at once: beside what is left, for which it has to wait. By
default the tasks are those that change something and LONG_TASKS; INFERENCE_TEST_KILLS=all takes every task.
What was shown is in .reports/lost-*.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.interruption import WatchedRun
from tests.integration.support.lab import Lab
from tests.integration.support.load import LoadClient
from tests.integration.support.playbooks import ROOT

pytestmark = pytest.mark.trial

HOST = "gpu-1"
STATE_DIR = "/var/lib/timm-classifier"
PORT = 8000
EVERY_TASK = os.environ.get("INFERENCE_TEST_KILLS") == "all"
# They change nothing, and are interrupted all the same; a further row is a further name.
LONG_TASKS = (
    "Start_candidate | Wait until its model is loaded",
    "Accept | Ask the candidate its golden samples",
    "Bake | Watch the new release through the gateway",
)
# A task is under way on the host some time after it began on the controller.
UNDER_WAY_SECONDS = 0.7
# The client shall watch, not use up the machine on which the run itself must get on.
PAUSE = 0.1

TRACES = f"""
docker ps --all --format 'container {{{{.Names}}}} {{{{.State}}}}'
docker network ls --format 'network {{{{.Name}}}}'
docker volume ls --format 'volume {{{{.Name}}}}'
cd {STATE_DIR} && find . ! -type s ! -path './records/*'
"""


def lose_controller(run: WatchedRun, _: Lab) -> None:
    """The terminal is closed, or the controller's memory is used up: its workers and what runs on the host live on."""
    run.lose_controller()


def lose_connection(run: WatchedRun, lab: Lab) -> None:
    """The network goes for a moment, and with it every connection; the host is not told."""
    lab[HOST].cut()
    # The sockets that the connections are shared by lie in this folder, so each of ssh's processes names it.
    subprocess.run(("pkill", "--signal", "KILL", "--full", str(lab.folder / "cp")), check=False)
    lab[HOST].mend()
    run.finish()


def lose_sshd(run: WatchedRun, lab: Lab) -> None:
    """The host accepts no connection any more, until the run has ended."""
    lab[HOST].stop_sshd()
    run.finish()
    lab[HOST].start_sshd()


def waited_for(said: str) -> str:
    """Return what a run waited for on the host, or ''."""
    found = re.search(r"waits for (.*?); for \d+ s at most", " ".join(said.split()))
    return found[1] if found else ""


class Service:
    """A host with two releases between which it goes back and forth."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._ids: dict[str, str] = {}
        for version in "AB":
            run = lab.play("deploy", model_bundle_version=version)
            assert run.code == 0, run.output[-6000:]
            self._ids[version] = self.record()["release_id"]
        # Both colors have run by now, so this is what every clean update leaves.
        self.clean = self.traces()

    def record(self) -> dict[str, Any]:
        """The newest record."""
        return dict(json.loads(self.lab[HOST].sh(f"cat $(ls {STATE_DIR}/records/*.json | tail -n 1)")))

    def traces(self) -> set[str]:
        """What the service has on the host, colors made equal."""
        return {re.sub(r"\b(blue|green)\b", "COLOR", line) for line in self.lab[HOST].sh(TRACES).splitlines()}

    @property
    def next(self) -> str:
        """The version that does not serve."""
        return "A" if self.record()["bundle"]["version"] == "B" else "B"

    def update(self, version: str) -> list[str]:
        """Return the command that makes the version live; its bake lasts longer than a run takes to begin."""
        return self.lab.command(
            "rollback", inference_service_release=self._ids[version], inference_service_bake_seconds=6
        )

    def converge(self, folder: Path, version: str) -> str:
        """Run the update to its end and once more, when nothing is left to do; return whom it waited for."""
        run = WatchedRun(folder, self.update(version)).finish()
        assert run.code == 0, run.output[-6000:]
        again = WatchedRun(folder, self.update(version)).finish()
        assert (again.code, again.changed) == (0, 0), again.output[-6000:]
        assert self.traces() == self.clean
        record = self.record()
        assert (record["release_id"], record["result"]) == (self._ids[version], "ok")
        return waited_for(run.output)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Service]:
    with Lab(tmp_path_factory.mktemp("lab"), f"{NAME}-lost") as lab:
        lab.variables |= {"model_bundle_source": str(models), "model_bundle_name": MODEL}
        yield Service(lab)


@pytest.fixture(scope="module")
def tasks(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tasks within which an update is interrupted, in order and each once."""
    run = WatchedRun(tmp_path_factory.mktemp("clean"), service.update(service.next))
    assert run.finish().code == 0, run.said[-6000:]
    names = [task.name for task in run.ended() if EVERY_TASK or task.changed or task.name.endswith(LONG_TASKS)]
    assert all(any(name.endswith(long) for name in names) for long in LONG_TASKS), names
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("lose", [lose_controller, lose_connection, lose_sshd])
def test_an_update_that_is_interrupted_loses_nothing_and_is_made_good(
    service: Service,
    tasks: list[str],
    photograph: Path,
    tmp_path: Path,
    lose: Callable[[WatchedRun, Lab], None],
) -> None:
    # What the interrupted run itself waited for before it undid anything, and what the next one waited for.
    rounds: dict[str, tuple[str, str]] = {}
    address = service.lab[HOST].address
    with LoadClient(PORT, photograph, PAUSE, address) as client:
        for task in tasks:
            target = service.next
            run = WatchedRun(tmp_path, service.update(target))
            run.wait_until_started(task)
            time.sleep(UNDER_WAY_SECONDS)
            lose(run, service.lab)
            assert client.failures == [], f"interrupted within {task}"
            itself = waited_for(run.said)
            rounds[task] = itself, service.converge(tmp_path, target)
            assert client.failures == [], f"made good after an interruption within {task}"
            shown = {"waited_for": rounds, "requests": len(client.answers), "failed": len(client.failures)}
            shown["longest_gap_s"] = round(client.longest_silence(), 2)
            (ROOT / ".reports").mkdir(exist_ok=True)
            (ROOT / ".reports" / f"lost-{lose.__name__}.json").write_text(json.dumps(shown, indent=2) + "\n")
    # What nobody watches any more goes on to its end, and who comes after it before that knows whose it is.
    assert any("left by the run of" in said for both in rounds.values() for said in both)
