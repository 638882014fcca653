"""Action: ansible.builtin.copy of what is large, which says meanwhile how many bytes have arrived."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched

# Arguments: files and folders that may not be there. What arrives lies in Ansible's temporary folder first.
ARRIVED = 'sum=0; for size in $(du -sb -- "$@" 2>/dev/null | cut -f1); do sum=$((sum + size)); done; echo progress $sum'

MEGABYTE = 1_000_000


def size_of(source: Path) -> int:
    """Return the bytes of a file or of everything in a folder, links followed; 0 when there is no such thing."""
    if source.is_file():
        return source.stat().st_size
    files = [Path(folder) / name for folder, _, names in os.walk(source, followlinks=True) for name in names]
    return sum(file.stat().st_size for file in files if file.is_file())


class ActionModule(Watched):
    """Copies to the host as ansible.builtin.copy does, with the same options."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Copy."""
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.builtin.copy",
            task=self._task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        total = size_of(Path(self._task.args["src"]))
        with self.progress(task_vars, "copy", total, "B", look=self._arrived):
            result: dict[str, Any] = copy.run(tmp, task_vars)
        if result.get("changed") and total >= MEGABYTE:
            result["note"] = f"{total / MEGABYTE:.1f} MB"
        return result

    def _arrived(self) -> str:
        """Return the command that measures what has arrived; the temporary folder is made with the first file."""
        places = [str(self._task.args["dest"]), *filter(None, [self._connection._shell.tmpdir])]
        return shlex.join(["sh", "-c", ARRIVED, "sh", *places])
