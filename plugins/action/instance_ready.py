"""Action: run the module of this name, and say meanwhile how long the model has been loading."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched


class ActionModule(Watched):
    """Waits until an instance is ready."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; in the gateway's directory it leaves word of what it waits for."""
        super().run(tmp, task_vars)
        options = self._task.args
        report = f"{options['gateway']}/ready.progress" if options.get("gateway") else ""
        return self.run_module(task_vars, "model load", float(options.get("timeout") or 0), report, at_most=True)
