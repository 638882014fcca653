"""Action: run the module of this name, and say meanwhile what the gateway counted."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched


class ActionModule(Watched):
    """Watches a new release through the gateway."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; in the gateway's directory it leaves word of what it counted."""
        super().run(tmp, task_vars)
        options = self._task.args
        report = f"{options['state_dir']}/bake.progress"
        return self.run_module(task_vars, "bake", float(options.get("seconds") or 0), report)
