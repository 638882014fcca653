"""Filter: the instances of the service that inference_service_gpus asks for, one on each GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import instances


class FilterModule:
    """The filter of this file, by the name used in playbooks."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"gpu_instances": instances}
