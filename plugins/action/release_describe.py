"""Action: put the wanted release together, on the controller; the host is not asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.description import (
    DescriptionError,
    Host,
    check_settings,
    choose_instances,
    compose_files,
    describe,
    device_of,
)
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import ActionModule as RequestBase

SPEC = {
    "image": {
        "type": "dict",
        "required": True,
        "options": {name: {"type": "str", "required": True} for name in ("id", "tag", "gateway_id", "flavor")},
    },
    "bundle": {
        "type": "dict",
        "required": True,
        "options": {name: {"type": "str", "required": True} for name in ("name", "version", "sha256")},
    },
    "limits": {"type": "dict", "required": True},
    "env": {"type": "dict", "default": {}},
    "gpus": {"type": "raw", "required": True},
    "reports": {"type": "dict", "required": True},
    "source_dir": {"type": "path", "required": True},
    "derived": {"type": "str", "required": True},
    "managed": {
        "type": "dict",
        "required": True,
        "options": {device: {"type": "str", "required": True} for device in ("cpu", "cuda")},
    },
}


class ActionModule(RequestBase):
    """Describes the release that a deploy makes serve."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the release, its Compose files and the names of its instances; refuse what cannot be one."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC)
        host = Host.of(str((task_vars or {}).get("inventory_hostname", "")), options["reports"])
        result["changed"] = False
        try:
            check_settings(options["env"])
            chosen = choose_instances(options["gpus"], host, options["image"]["flavor"], self._task.check_mode)
            source = Path(self._loader.path_dwim(options["source_dir"]))
            managed = options["managed"][device_of(chosen, options["image"]["flavor"])]
            files = compose_files(source, managed, on_gpus=bool(chosen))
        except (DescriptionError, OSError) as error:
            return {**result, "failed": True, "msg": str(error)}
        release = describe(host, options, chosen, files)
        servers = sorted(item["index"] for item in release["settings"]["instances"])
        return {**result, "release": release, "files": files, "servers": servers}
