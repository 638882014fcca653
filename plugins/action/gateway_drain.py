"""Action: run the module of this name, and say meanwhile how long it waits for requests or instances."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ActionModule as Watched


class ActionModule(Watched):
    """Takes a host out of its load balancers, or waits until it serves again."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; it ends by the time that its options give it."""
        super().run(tmp, task_vars)
        options = self._task.args
        drained = options.get("state") == "drained"
        seconds = float(options.get("timeout") or 0) + (float(options.get("notice") or 0) if drained else 0)
        words = "requests end" if drained else "service comes back"
        return self.run_module(task_vars, words, seconds, at_most=True)
