"""Action: take or give back the lock of a host; one run at a time has it, and one that is provably dead has nothing.

On the host a few lines of shell replace one content of the lock by another; whose it is, is judged on the controller.

That a run has died on its controller says nothing of what it started on the host. So each command of a run that has the
lock goes through a shell (WRITER) that holds a lock of the kernel as long as the command's process lives, and that does
nothing once another run has the host. Who takes the lock waits until no process holds the other one.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.utils.display import Display

from ansible_collections.gpu_hosts.timm.plugins.module_utils.deploy_lock import LOCK_NAME, WRITER_NAME
from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import MARKER
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import ActionModule as HostScript

display = Display()

# Arguments: folder, expected content, new one, seconds; '' stands for no lock. Another content is printed, with code 3,
# and in the next line whether a process works here.
# The kernel ends the lock on the folder with the shell; a reader, or a power cut, sees the old content or the new.
# With the new content in place it waits so long until no process works here. One that still does is printed, with code
# 4: the run that began it, its number, and what runs there now, which is the last of its children.
SWAP = f"""
# Who is not root yet must be able to read whose the lock is, however root's files are made here.
umask 022
[ -z "$3" ] || mkdir -p "$1" || exit 1
[ -n "$3" ] || [ -d "$1" ] || exit 3
cd "$1" && exec 9<. && flock 9 || exit 1
# Whoever had it may have removed the folder with his lock.
[ . -ef "$1" ] || exit 3
# A folder of somebody's makes room, and is kept beside it, as everywhere in the service's state.
[ -z "$3" ] || for name in {LOCK_NAME} {WRITER_NAME}; do
  [ ! -d $name ] || rmdir $name 2>/dev/null || mv $name "$(mktemp -d $name.aside-XXXXXX)" || exit 1
done
held=$(cat {LOCK_NAME} 2>/dev/null)
if [ "$held" != "$2" ]; then
  printf '%s\\n' "$held"
  if [ -e {WRITER_NAME} ]; then
    exec 8<{WRITER_NAME}
    flock -n 8 || echo working
    exec 8<&-
  fi
  exit 3
fi
if [ -z "$3" ]; then
  rm -f {LOCK_NAME}
  # Nothing is left of a run that did nothing but take the lock, or in a folder that is somebody else's.
  [ -e {MARKER} ] || {{ exec 8<{WRITER_NAME} && flock -n 8 && rm {WRITER_NAME} && rmdir "$1" 2>/dev/null; }}
  exit 0
fi
# The shell's own printf calls a full disk an "I/O error".
printf '%s\\n' "$3" | cat >.{LOCK_NAME} && sync .{LOCK_NAME} && mv .{LOCK_NAME} {LOCK_NAME} ||
  {{ rm -f .{LOCK_NAME}; exit 1; }}
exec 8>>{WRITER_NAME} || exit 1
# Who only looks has the lock on the folder meanwhile, so that it is not taken for somebody who works.
if flock -n 8 || {{ exec 9<&- && flock -w "$4" 8; }}; then
  printf '%s\\n' "$3" | cat >{WRITER_NAME}
  exit
fi
cat {WRITER_NAME}
for process in /proc/[0-9]*; do
  [ "$process/fd/9" -ef {WRITER_NAME} ] && pid=${{process#/proc/}} || continue
  while child=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null) && [ -n "$child" ]; do pid=${{child%% *}}; done
  echo "$pid $(tr '\\0\\n' '  ' <"/proc/$pid/cmdline")"
  break
done
exit 4
"""
HELD, BUSY = 3, 4
# Runs that replace the same dead one at the same time; more do not happen.
ATTEMPTS = 10
# How long one look waits on the host. Each look says anew what still works there.
LOOK_SECONDS = 5

# The shell of the host's commands while a run has the lock. Arguments: folder, run, the shell to become, and its own.
# Before a user becomes another one, he may not be allowed to read the folder; he cannot write in it then either.
WRITER = f"""
d=$1 r=$2 s=$3 held=
shift 3
if [ -r "$d/{WRITER_NAME}" ]; then
  exec 9<"$d/{WRITER_NAME}" && flock -s 9 || exit 1
  # It is there, and only root may read whose it is: he will look.
  [ ! -e "$d/{LOCK_NAME}" ] || [ -r "$d/{LOCK_NAME}" ] || exec $s "$@"
  {{ read -r held <"$d/{LOCK_NAME}"; }} 2>/dev/null
elif [ "$(id -u)" != 0 ]; then
  exec $s "$@"
fi
case $held in
  *"\\"run\\": \\"$r\\""*) exec $s "$@" ;;
esac
m="This run no longer has the lock in $d: another run has taken it, or somebody removed it."
echo "{{\\"failed\\": true, \\"msg\\": \\"$m So it does nothing more on this host.\\"}}"
exit 1
"""
# Its name in the list of processes, by which it is known again.
WRITER_LABEL = "inference-service-writer"

# The connections that put the shell into a command line; others take it for the name of a program.
SHELL_IN_WORDS = ("local", "ssh", "paramiko", "paramiko_ssh")

# Replaces one content of a lock by another and waits so many seconds; returns SWAP's exit code and output.
Swap = Callable[[str, str, int], tuple[int, str]]
# Is told again and again, as long as it does, what still works on the host.
Waiting = Callable[[str], None]

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


def describe_work(said: str) -> str:
    """Return what still works on a host, from SWAP's words: the run that began it, and the process."""
    content, _, process = said.partition("\n")
    pid, _, command = process.strip().partition(" ")
    holder = read_holder(content)
    owner = f"the run of {describe(holder)}" if holder else "an earlier run"
    return f"process {pid} ({command.strip()[:100]}), left by {owner}" if pid else f"what was left by {owner}"


def split_held(said: str) -> tuple[str, bool]:
    """Return the content of a lock that another run has, from SWAP's words, and whether a process works there."""
    content, _, working = said.partition("\n")
    return content.strip(), bool(working.strip())


def take(swap: Swap, me: dict[str, Any], break_it: bool, patience: int, waiting: Waiting) -> dict[str, Any]:
    """Take the lock, wait until nobody else works on the host, and return nothing; or return its holder."""
    mine, expected, began = json.dumps(me, sort_keys=True), "", time.monotonic()
    attempts = ATTEMPTS
    while attempts:
        waited = int(time.monotonic() - began)
        code, said = swap(expected, mine, min(LOOK_SECONDS, max(0, patience - waited)) if expected == mine else 0)
        if code == 0:
            return {}
        if code == BUSY:
            if expected == mine and waited >= patience:
                swap(mine, "", 0)
                raise LockError(
                    f"The host is still being worked on: waited {waited} s for {describe_work(said)}. "
                    "Nothing was changed. Wait until it ends, or stop it there, then run again; "
                    "inference_service_lock_timeout says how long to wait."
                )
            waiting(describe_work(said))
            expected = mine
            continue
        attempts -= 1
        expected, working = split_held(said)
        holder = read_holder(expected)
        if holder and holder.get("run") != me["run"] and not break_it and not provably_dead(holder, me):
            return {**holder, "working": working}
    raise LockError("Other runs write the lock all the time. Wait until they have ended, then run again.")


def release(swap: Swap, run: str) -> bool:
    """Give the lock back when the run holds it; return whether it did."""
    # Content that no lock has, to learn what it is.
    held, _ = split_held(swap("?", "", 0)[1])
    return read_holder(held).get("run") == run and swap(held, "", 0)[0] == 0


def writing_shell(folder: str, run: str, shell: str) -> str:
    """Return the shell, as Ansible's variable for it takes it, whose commands hold the lock of the kernel."""
    return f"/bin/sh -c {HostScript.one_line(WRITER)} {shlex.join([WRITER_LABEL, folder, run, shell])}"


def plain_shell(shell: str) -> str:
    """Return the shell that a writing one becomes; another is what it is."""
    words = shlex.split(shell)
    return words[-1] if WRITER_LABEL in words else shell


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
                "timeout": {"type": "int", "default": 600},
            }
        )
        shell = plain_shell(self._play_context.executable)
        result.update(changed=False, holder={}, shell=shell)
        if self._task.check_mode:
            return result
        folder, patience = options["state_dir"], options["timeout"]
        host = str((task_vars or {}).get("inventory_hostname", "the host"))

        def swap(expected: str, new: str, seconds: int) -> tuple[int, str]:
            # Not by the shell that this action is about.
            answer = self.run_script(SWAP, [folder, expected, new, str(seconds)], executable=shell)
            if answer.code not in (0, HELD, BUSY):
                raise LockError(answer.failure(f"The lock in {folder} cannot be written"))
            return answer.code, answer.output.strip()

        # A task runs in a process of its own, a child of the playbook's.
        me = this_run(os.getppid())
        if options["state"] == "released":
            return {**result, **self._give_back(swap, me["run"], host)}
        try:
            with contextlib.ExitStack() as stack:
                waiting = self._waiting(stack, task_vars, host, patience)
                result["holder"] = take(swap, me, options["break_lock"], patience, waiting)
            if self._connection.transport in SHELL_IN_WORDS:
                result["shell"] = writing_shell(folder, me["run"], shell)
        except LockError as error:
            result.update(failed=True, msg=str(error))
        if result["holder"]:
            working = "a process of it" if result["holder"]["working"] else "nothing of it"
            result.update(
                failed=True,
                msg=f"Another run works on this service of {host}: {describe(result['holder'])}; {working} runs there "
                "at this moment. Nothing was changed. Wait until it has ended; if you know that it is dead, run again "
                "with -e inference_service_break_lock=true.",
            )
        return result

    @staticmethod
    def _give_back(swap: Swap, run: str, host: str) -> dict[str, Any]:
        """Give the lock back where this run has it; that it cannot be done must not hide why the run ends."""
        stays = (
            f"The lock of {host} could not be given back. The next run from this controller takes it over by itself, "
            "one from another controller with -e inference_service_break_lock=true. The reason"
        )
        try:
            return {"released": release(swap, run)}
        except LockError as error:
            display.warning(f"{stays}: {error}")
            return {"released": False}
        except AnsibleConnectionFailure as error:
            return {"released": False, "unreachable": True, "msg": f"{stays}: {error}"}

    def _waiting(
        self, stack: contextlib.ExitStack, task_vars: dict[str, Any] | None, host: str, patience: int
    ) -> Waiting:
        """Return what says that the run waits: once in words, and as progress until the stack is left."""
        said: set[str] = set()

        def waiting(work: str) -> None:
            if not said:
                said.add(work)
                display.warning(f"{host} waits for {work}; for {patience} s at most.")
                stack.enter_context(self.progress(task_vars, f"waits for {work}", patience, "s", at_most=True))

        return waiting
