"""Action of module release_lock: say which run asks, and judge on the controller whether the holder still lives."""

from __future__ import annotations

import getpass
import os
import platform
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# What two owners must share for one of them to know about the other's processes.
SAME_MACHINE = ("controller", "machine")


def read_line(path: str) -> str:
    """Return what the file says, '' when there is none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def this_run(pid: int) -> dict[str, Any]:
    """Return who runs the playbook in process pid of this controller."""
    start, boot = process_start(pid), read_line("/proc/sys/kernel/random/boot_id")
    return {
        "run": f"{platform.node()}-{boot[:8]}-{pid}-{start}",
        "owner": f"{getpass.getuser()}@{platform.node()}",
        "controller": platform.node(),
        "machine": read_line("/etc/machine-id") or boot,
        "boot": boot,
        "namespace": str(Path("/proc/self/ns/pid").readlink()) if Path("/proc/self/ns/pid").is_symlink() else "",
        "pid": pid,
        "start": start,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def process_start(pid: int) -> str:
    """Return when the process began, in ticks since boot; '' when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # A zombie does nothing any more.
    return "" if fields[0] in "ZX" else fields[19]


def provably_dead(holder: dict[str, Any], me: dict[str, Any]) -> bool:
    """Return whether the holder's process is known to be gone: it ran on this machine, and does no more."""
    if any(not me[key] or holder.get(key) != me[key] for key in SAME_MACHINE):
        return False
    if holder.get("boot") != me["boot"]:
        return True
    # Process numbers mean something only within one namespace.
    if holder.get("namespace") != me["namespace"]:
        return False
    return process_start(int(holder.get("pid", 0))) != holder.get("start")


def describe(holder: dict[str, Any]) -> str:
    """Return who holds the lock since when, for a message."""
    if "owner" not in holder:
        return "somebody unknown (the lock file cannot be read)"
    return f"{holder['owner']} (process {holder['pid']}) since {holder['since']}"


class ActionModule(ActionBase):
    """Takes the lock for this run of ansible-playbook, or says who holds it."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host, and ask once more when the holder turns out to be dead."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        # A task runs in a process of its own, a child of the playbook's.
        me = this_run(os.getppid())
        arguments = {**self._task.args, "owner": me}
        answer = self._ask(arguments, task_vars)
        if provably_dead(answer.get("holder") or {}, me):
            answer = self._ask({**arguments, "replace": answer["holder"]["run"]}, task_vars)
        result.update(answer)
        if result.get("holder"):
            result.update(
                failed=True,
                msg=f"Another run works on this service of {self._host_name(task_vars)}: {describe(result['holder'])}. "
                "Nothing was touched. Wait until it has ended; if you know that it is dead, run again with "
                "-e inference_service_break_lock=true.",
            )
        return result

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="release_lock", module_args=arguments, task_vars=task_vars
        )
        return answer

    @staticmethod
    def _host_name(task_vars: dict[str, Any] | None) -> str:
        return str((task_vars or {}).get("inventory_hostname", "the host"))
