"""Filters: how long others must wait for a service, which follows from its own settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

# Defaults of the service's settings, in app/settings.py; a test compares them.
DEFAULTS = {"API_REQUEST_TIMEOUT_SECONDS": 30, "API_DRAIN_SECONDS": 30}
# A request waits in the instance's queue, and its body arrives, before its deadline begins.
ANSWER_SPARE = 45
# Between the end of the drain and the kernel's.
GRACE_SPARE = 15


def seconds(settings: Mapping[str, Any], name: str) -> int:
    """Return a setting of the service in whole seconds."""
    value = settings.get(name, DEFAULTS[name])
    try:
        return math.ceil(float(value))
    except (ValueError, OverflowError) as error:
        raise AnsibleFilterError(f"inference_service_env: {name} is {value!r}. Set a number of seconds.") from error


def answer_seconds(services: Iterable[Mapping[str, Any]]) -> int:
    """Return how long a gateway waits for an answer of these services, given what inference_service_env has for each.

    It is above their own deadline, so that their 504 gets through.
    """
    longest = max((seconds(settings, "API_REQUEST_TIMEOUT_SECONDS") for settings in services), default=0)
    return (longest or DEFAULTS["API_REQUEST_TIMEOUT_SECONDS"]) + ANSWER_SPARE


def grace_seconds(settings: Mapping[str, Any]) -> int:
    """Return how long an instance may take to stop before Docker kills it: above its own drain."""
    return seconds(settings, "API_DRAIN_SECONDS") + GRACE_SPARE


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"answer_seconds": answer_seconds, "grace_seconds": grace_seconds}
