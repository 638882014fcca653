"""Action: take or give back the lock of a host; one run at a time has it, and one that is provably dead has nothing.

On the host a few lines of shell replace one content of the lock by another; whose it is, is judged on the controller.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.plugins.loader import action_loader

if TYPE_CHECKING:
    from plugins.action.host_script import ActionModule as HostScript
else:
    HostScript = action_loader.get("host_script", class_only=True)

LOCK_NAME = "deploy.lock"
# Arguments: folder, expected content, new content; '' stands for no lock. Another content is printed, with exit code 3.
# The kernel ends the lock on the folder with the shell; a reader, or a power cut, sees the old content or the new.
SWAP = f"""
[ -z "$3" ] || mkdir -p "$1" || exit 1
[ -n "$3" ] || [ -d "$1" ] || exit 3
cd "$1" && exec 9<. && flock 9 || exit 1
held=$(cat {LOCK_NAME} 2>/dev/null)
[ "$held" = "$2" ] || {{ printf %s "$held"; exit 3; }}
[ -n "$3" ] || {{ rm -f {LOCK_NAME}; exit; }}
# The shell's own printf calls a full disk an "I/O error".
printf '%s\\n' "$3" | cat >.{LOCK_NAME} && sync .{LOCK_NAME} && mv .{LOCK_NAME} {LOCK_NAME} ||
  {{ rm -f .{LOCK_NAME}; exit 1; }}
"""
HELD = 3
# Runs that replace the same dead one at the same time; more do not happen.
ATTEMPTS = 10

# Replaces one content of a lock by another; returns whether it did, and the real content.
Swap = Callable[[str, str], tuple[bool, str]]

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


class LockError(Exception):
    """The lock cannot be read or written; the message says why, and what to do."""


def read_holder(content: str) -> dict[str, Any]:
    """Return who wrote the lock, nothing when there is none; what cannot be read is held by somebody unknown."""
    try:
        holder = json.loads(content) if content else {}
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {"run": "unreadable"}


def take(swap: Swap, me: dict[str, Any], break_it: bool = False) -> dict[str, Any]:
    """Take the lock and return nothing, or return its holder."""
    mine, expected = json.dumps(me, sort_keys=True), ""
    for _ in range(ATTEMPTS):
        swapped, held = swap(expected, mine)
        if swapped:
            return {}
        holder = read_holder(held)
        if holder and holder.get("run") != me["run"] and not break_it and not provably_dead(holder, me):
            return holder
        expected = held
    raise LockError("Other runs write the lock all the time. Wait until they have ended, then run again.")


def release(swap: Swap, run: str) -> bool:
    """Give the lock back when the run holds it; return whether it did."""
    # Content that no lock has, to learn what it is.
    held = swap("?", "")[1]
    return read_holder(held).get("run") == run and swap(held, "")[0]


class ActionModule(HostScript):
    """Takes the lock for this run of ansible-playbook, or says who holds it."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take the lock or give it back; the lock is gone when the run ends, so neither is a change of the host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "state_dir": {"type": "path", "required": True},
                "state": {"type": "str", "choices": ["taken", "released"], "default": "taken"},
                "break_lock": {"type": "bool", "default": False},
            }
        )
        result.update(changed=False, holder={})
        if self._task.check_mode:
            return result
        folder = options["state_dir"]

        def swap(expected: str, new: str) -> tuple[bool, str]:
            answer = self.run_script(SWAP, [folder, expected, new])
            if answer.code not in (0, HELD):
                raise LockError(answer.failure(f"The lock in {folder} cannot be written"))
            return answer.code == 0, answer.output.strip()

        # A task runs in a process of its own, a child of the playbook's.
        me = this_run(os.getppid())
        try:
            if options["state"] == "taken":
                result["holder"] = take(swap, me, options["break_lock"])
            else:
                release(swap, me["run"])
        except LockError as error:
            result.update(failed=True, msg=str(error))
        if result["holder"]:
            result.update(
                failed=True,
                msg=f"Another run works on this service of {(task_vars or {}).get('inventory_hostname', 'the host')}: "
                f"{describe(result['holder'])}. Nothing was touched. Wait until it has ended; if you know that it is "
                "dead, run again with -e inference_service_break_lock=true.",
            )
        return result
