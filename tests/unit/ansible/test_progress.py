"""How far a long step is: told by the process of its task, and by looks at the host over a connection of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.progress import Report
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ANSWER, FOLDER, Progress, read_progress
from tests.collection import COLLECTIONS

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - slow: {pool: POOL}
"""
# An action as the project's are: its step ends when somebody made the file `over`.
ACTION = """
import time
from pathlib import Path
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched

class ActionModule(Watched):
    def run(self, tmp=None, task_vars=None):
        pool = Path(self._task.args["pool"])
        look = f"echo a banner; cat {pool}/size; echo looked >{pool}/looked"
        with self.progress(task_vars, "copy", 200, "B", look=lambda: look):
            while not (pool / "over").exists():
                time.sleep(0.05)
        return {"changed": False}
"""


def until(condition: Any) -> Any:
    """Wait for what a process of another run does; a run that does not ends the test by its own end."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Return what starts a playbook with the slow action."""
    (tmp_path / "slow.py").write_text(ACTION)
    (tmp_path / "playbook.yml").write_text(PLAYBOOK.replace("POOL", str(tmp_path)))
    (tmp_path / "size").write_text("progress 1\nprogress 120 half-way\n")
    (tmp_path / "progress").mkdir()
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    settings = {
        "ANSIBLE_ACTION_PLUGINS": str(tmp_path),
        "ANSIBLE_LIBRARY": str(tmp_path),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    }

    def start(**environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, str(tmp_path / "playbook.yml")],
            cwd=tmp_path,
            env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_an_action_tells_how_far_its_host_is(run: Any, tmp_path: Path) -> None:
    process = run(**{FOLDER: str(tmp_path / "progress")})
    told = until(lambda: [each for each in read_progress(tmp_path / "progress") if each["done"]])
    (tmp_path / "over").touch()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    expected = {"host": "localhost", "what": "copy", "done": 120, "total": 200, "unit": "B", "detail": "half-way"}
    assert expected.items() <= told[0].items()
    assert list((tmp_path / "progress").iterdir()) == []


def test_no_host_is_looked_at_for_nobody(run: Any, tmp_path: Path) -> None:
    process = run()
    # Longer than until the first look.
    time.sleep(3)
    (tmp_path / "over").touch()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert not (tmp_path / "looked").exists()


def test_what_a_killed_process_left_is_not_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / f"{child.pid}-0.json").write_text(json.dumps({"began": 0}))
    step = Progress("gpu-1", "copy", 10, "B")
    assert [each["host"] for each in read_progress(tmp_path)] == ["gpu-1"]
    step.end()
    assert read_progress(tmp_path) == []


def test_a_folder_that_is_gone_is_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    step = Progress("gpu-1", "copy", 10, "B")
    step.say(5)
    step.end()


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("\r\nprogress 6.0 241 requests, 0 errors\r\n", ("6.0", "", "241 requests, 0 errors")),
        ("Welcome to gpu-1\nprogress 3/12\n", ("3", "12", "")),
    ],
)
def test_a_look_is_read_whatever_the_transport_adds(output: str, found: tuple[str, str, str]) -> None:
    assert ANSWER.findall(output) == [found]


def test_a_module_writes_what_the_action_reads(tmp_path: Path) -> None:
    with Report(str(tmp_path / "report")) as report:
        report.say(2.04, "loading\nthe model")
        report.say(3, "not yet a second later")
        assert ANSWER.findall((tmp_path / "report").read_text()) == [("2.0", "", "loading the model")]
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_nobody_watches_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Report(None) as report:
        report.say(1)
    assert list(tmp_path.iterdir()) == []
