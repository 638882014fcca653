"""Filter: what to do about a failed rollout, from what failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# What a message may hold, and what helps then. The first one counts.
STEPS = (
    (
        r"port is already allocated|address already in use",
        "Something else listens on the port: stop it (`ss -ltnp` shows it), or set another inference_service_port.",
    ),
    (
        r"no answer from http\S+: timed out",
        "If the instances are healthy (`docker ps`), a firewall lies before them: restart Docker, which makes its "
        "rules again (`systemctl restart docker`), then run the playbook again.",
    ),
    (
        r"No space left on device|not enough disk space",
        "Free space there (`df -h` shows how much there is), then run the playbook again.",
    ),
    (
        r"container name \S+ is already in use by container",
        "Docker keeps the name of a container that it could not read when it started, on a full disk for instance: "
        "free space, restart Docker (`systemctl restart docker`), then run the playbook again.",
    ),
    (
        r"No instance of the service is ready|gateway does not reach the candidate",
        "If the instances are healthy (`docker ps`), the gateway does not reach them: they listen on 127.0.0.1 only, "
        "or a firewall lies between. Restart Docker, which makes its rules again (`systemctl restart docker`), then "
        "run the playbook again.",
    ),
    (
        r"needs more memory than inference_service_memory",
        "Set a higher inference_service_memory, or take a smaller model, then run the playbook again.",
    ),
    (
        r"CUDA out of memory",
        "The GPU has no room for a second release. Replace the running one instead of starting beside it: set "
        "inference_service_strategy=recreate, or free memory (`nvidia-smi` names the processes).",
    ),
    (
        r"the budget is \d+ ms",
        "If the model may take that long, raise inference_service_latency_budget_ms, then run the playbook again.",
    ),
)
OTHERWISE = "Fix the cause and run the playbook again; docs/TROUBLESHOOTING.md explains the messages."


def next_step(failure: str) -> str:
    """Return the sentence that says what to do about a failure."""
    text = " ".join(failure.split())
    return next((step for pattern, step in STEPS if re.search(pattern, text, re.IGNORECASE)), OTHERWISE)


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"next_step": next_step}
