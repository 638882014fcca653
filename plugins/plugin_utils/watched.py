"""What actions of long steps share: they say how far they are, and look at the host meanwhile.

Who shows the progress names a folder of this machine in the environment of the run. Without it nothing is written and
no host is looked at; and nothing that an action does depends on what becomes of its progress.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class ActionBase:
        """What this action uses of Ansible's base class, which ships no types."""

        _connection: Any
        _loader: Any
        _play_context: Any
        _shared_loader_obj: Any
        _task: Any
        _templar: Any

        def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
            """Prepare the result of a task."""

        def _execute_module(self, **_options: Any) -> dict[str, Any]: ...

        def _low_level_execute_command(self, _command: str, **_options: Any) -> dict[str, Any]: ...

        def validate_argument_spec(self, _spec: dict[str, Any], **_options: Any) -> tuple[Any, dict[str, Any]]:
            """Check the arguments of a task."""

else:
    from ansible.plugins.action import ActionBase

# Names the folder; set by who shows the progress, before the processes of the tasks begin.
FOLDER = "INFERENCE_PROGRESS_DIR"
# A host is not asked more often: a look costs it a shell.
LOOK_SECONDS = 2.0
# What a look at the host prints in one line: "progress DONE", "progress DONE/TOTAL", and then words if there are any.
ANSWER = re.compile(r"^progress (\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?(?: ([^\r\n]*))?\r?$", re.MULTILINE)

_numbers = itertools.count()


class Progress:
    """How far one step of one host is, in a small file as long as the step lasts.

    The unit is B for bytes, s for seconds, or a plain word such as "stages". Seconds go on by themselves.
    """

    def __init__(self, host: str, what: str, total: float = 0, unit: str = "", at_most: bool = False) -> None:
        folder = os.environ.get(FOLDER, "")
        # The process is part of the name: what a killed one left is known by that.
        self._path = Path(folder) / f"{os.getpid()}-{next(_numbers)}.json" if folder else None
        self._lock = threading.Lock()
        self._fields: dict[str, Any] = {
            "host": host,
            "what": what,
            "done": 0,
            "total": total,
            "unit": unit,
            "at_most": at_most,
            "detail": "",
            "began": time.monotonic(),
        }
        self.say()

    def say(self, done: float | None = None, detail: str | None = None, total: float | None = None) -> None:
        """Tell how far it is; what is left out stays as it was said before."""
        said = {"done": done, "detail": detail, "total": total}
        with self._lock, contextlib.suppress(OSError):
            self._fields.update({name: value for name, value in said.items() if value is not None})
            if self._path:
                beside = self._path.with_suffix(".new")
                beside.write_text(json.dumps(self._fields), encoding="utf-8")
                beside.replace(self._path)

    def end(self) -> None:
        """Remove the file."""
        with self._lock, contextlib.suppress(OSError):
            if self._path:
                self._path.unlink(missing_ok=True)
            self._path = None


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """Return what the steps say that are under way, oldest first."""
    found = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            # Of a process that was killed.
            os.kill(int(path.name.partition("-")[0]), 0)
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return sorted(found, key=lambda each: float(each["began"]))


class ActionModule(ActionBase):
    """The base class of actions whose steps take long."""

    @contextlib.contextmanager
    def progress(
        self,
        task_vars: dict[str, Any] | None,
        what: str,
        total: float = 0,
        unit: str = "",
        at_most: bool = False,
        look: str | Callable[[], str] = "",
    ) -> Iterator[Progress]:
        """Tell how far a step is while it lasts.

        The look, or what it returns, is a shell command that prints a line as ANSWER has it. It runs on the task's host
        every LOOK_SECONDS.
        """
        step = Progress(str((task_vars or {}).get("inventory_hostname", "")), what, total, unit, at_most)
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(step, look, over), daemon=True)
        if look and os.environ.get(FOLDER):
            watcher.start()
        try:
            yield step
        finally:
            over.set()
            if watcher.is_alive():
                # A look that hangs must not hold the task up.
                watcher.join(LOOK_SECONDS)
            step.end()

    def run_module(
        self, task_vars: dict[str, Any] | None, what: str, seconds: float, report: str = "", at_most: bool = False
    ) -> dict[str, Any]:
        """Run the task's module, which takes so many seconds.

        The report is the file on the host where the module says how far it is, by its option progress.
        """
        arguments = dict(self._task.args)
        look = ""
        if report and os.environ.get(FOLDER):
            arguments["progress"] = report
            look = shlex.join(["cat", "--", report])
        with self.progress(task_vars, what, seconds, "s", at_most, look):
            return self._execute_module(module_args=arguments, task_vars=task_vars)

    def _watch(self, step: Progress, look: str | Callable[[], str], over: threading.Event) -> None:
        """Look at the host again and again, by commands that share nothing with the task's own."""
        other = copy.copy(self)
        # The task's command notes on both how far it is with the password.
        other._connection = copy.copy(self._connection)
        other._connection.become = copy.copy(self._connection.become)
        while not over.wait(LOOK_SECONDS):
            # Whatever is wrong with the host is said by the task itself.
            with contextlib.suppress(Exception):
                command = look if isinstance(look, str) else look()
                found = ANSWER.findall(other._low_level_execute_command(command)["stdout"])
                if found:
                    done, total, words = found[-1]
                    step.say(float(done), words, float(total) if total else None)
