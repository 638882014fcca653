"""Ansible callback: write every task's start and end to a file, and stand still after the one that a test names.

A test that kills a run needs to know where the run is, and that it is there still.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: task_log
type: notification
short_description: Write task starts and ends to the file of INFERENCE_TEST_TASK_LOG
description:
  - After the end number INFERENCE_TEST_STOP_AFTER the run stands still, until somebody ends it.
requirements: []
"""


class CallbackModule(CallbackBase):
    """Counts the ends of tasks; skipped ones and includes do nothing on a host and are not counted."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "task_log"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._log = Path(os.environ["INFERENCE_TEST_TASK_LOG"])
        self._stop_after = int(os.environ.get("INFERENCE_TEST_STOP_AFTER", "0"))
        self._ended = 0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Note that a task begins."""
        self._write("start", task, False)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note that a task ended well; stand still when it is the one."""
        self._end(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note that a task failed; stand still when it is the one."""
        self._end(result)

    def _end(self, result: Any) -> None:
        task = result._task
        if task.action.rpartition(".")[2].startswith("include_"):
            return
        self._ended += 1
        self._write("end", task, bool(result._result.get("changed")))
        if self._ended == self._stop_after:
            while True:
                signal.pause()

    def _write(self, event: str, task: Any, changed: bool) -> None:
        entry = {"event": event, "number": self._ended, "task": task.get_name().strip(), "changed": changed}
        with self._log.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")
