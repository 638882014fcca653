"""Action: run the module of this name, and go on showing what is written when it is asked to."""

from __future__ import annotations

import time
from typing import Any

from ansible.utils.display import Display

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched

# Between two looks at a host.
PAUSE_SECONDS = 1.0


class ActionModule(Watched):
    """Reads logs, once or until the run is interrupted."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the last lines; following, show them and each new one at once, and never return."""
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        found = self._execute_module(module_args=options, task_vars=task_vars)
        if not options.get("follow") or found.get("failed"):
            return found
        host = str((task_vars or {}).get("inventory_hostname", ""))
        while True:
            for line in found.get("lines", []):
                Display().display(f"{host}  {line}")
            # A host that does not answer for a moment is asked again; what it wrote meanwhile comes then.
            options["since"] = found.get("until", options.get("since", ""))
            time.sleep(PAUSE_SECONDS)
            found = self._execute_module(module_args=options, task_vars=task_vars)
