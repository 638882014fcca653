"""Filter: the instances of the service that inference_service_gpus asks for, one on each GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What is no plugin itself is imported as the tests do.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from plugins.module_utils.gpu_host.chosen import instances


class FilterModule:
    """The filter of this file, by the name used in playbooks."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"gpu_instances": instances}
