"""Interrupt a playbook run at a task of one's choice: all of it, its controller only, or its connection."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.integration.support.playbooks import ROOT, Run

CALLBACKS = Path(__file__).resolve().parent / "callback"
POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Task:
    """A task that a run went through; number is its place among those that did something."""

    number: int
    name: str
    changed: bool


class WatchedRun:
    """A playbook run whose tasks are followed. It leads a process group and a tree, which both can be killed."""

    def __init__(self, folder: Path, command: list[str], stop_after: int = 0) -> None:
        self._log = folder / "tasks.jsonl"
        self._output = folder / "run.log"
        self._log.write_text("")
        environment = {
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "task_log",
            "INFERENCE_TEST_TASK_LOG": str(self._log),
            "INFERENCE_TEST_STOP_AFTER": str(stop_after),
        }
        self._stop_after = stop_after
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> Run:
        """Wait for the end of the run."""
        code = self._process.wait()
        return Run(code, self.said)

    @property
    def pid(self) -> int:
        """The process of the playbook, which leads the group."""
        return self._process.pid

    @property
    def said(self) -> str:
        """What the run has said until now."""
        return self._output.read_text(errors="replace")

    def ended(self) -> list[Task]:
        """Return the tasks that ended until now."""
        return [Task(entry["number"], entry["task"], entry["changed"]) for entry in self._entries("end")]

    def wait_until_stopped(self) -> Task:
        """Wait until the run stands still behind the task that it was to stop after."""
        while True:
            ended = self.ended()
            if len(ended) >= self._stop_after:
                return ended[self._stop_after - 1]
            self._require_alive()

    def wait_until_started(self, task: str) -> None:
        """Wait until the task of this name has begun."""
        while all(not entry["task"].endswith(task) for entry in self._entries("start")):
            self._require_alive()

    def wait_until_said(self, words: str) -> None:
        """Wait until the run has said the words, however its lines are broken."""
        while words not in " ".join(self.said.split()):
            self._require_alive()

    def lose_controller(self) -> None:
        """Kill what the kernel kills with the terminal: the workers have sessions of their own, and live on."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill(self) -> None:
        """Kill the run and all of its descendants; they are stopped first, so that none starts another meanwhile."""
        doomed = [self._process.pid]
        for pid in doomed:
            send(pid, signal.SIGSTOP)
            doomed.extend(children(pid))
        for pid in doomed:
            send(pid, signal.SIGKILL)
        self._process.wait()

    def _require_alive(self) -> None:
        if self._process.poll() is not None:
            raise AssertionError(f"the run ended before it could be killed:\n{self.finish().output[-4000:]}")
        time.sleep(POLL_SECONDS)

    def _entries(self, event: str) -> list[dict[str, Any]]:
        # The last line may still be under way.
        whole = self._log.read_text().rpartition("\n")[0]
        return [entry for entry in map(json.loads, whole.splitlines()) if entry["event"] == event]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Return the processes that this one started and that are there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "PID (NAME) STATE PARENT ...", and a name may hold anything.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found
