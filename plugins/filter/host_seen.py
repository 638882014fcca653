"""Filters: what an earlier look at a host is still worth, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Findings that a reboot removes when another module than the loaded one is on disk, unless the kernel refuses it.
REBOOT_HELPS = {"GPU002", "GPU003", "GPU006", "GPU007"}
# Who runs the playbook on the host itself cannot reboot it from there.
LOCAL = ("local", "ansible.builtin.local")


def engine_complete(engine: Mapping[str, Any]) -> bool:
    """Return whether an engine has every part that a deploy needs, so that nothing is to be installed."""
    return all(engine.get(part) for part in ("version", "cli_present", "compose_version", "buildx_version"))


def toolkit_known(seen: Mapping[str, Any], engine_report: Mapping[str, Any]) -> bool:
    """Return whether what role nvidia_driver saw of the toolkit still holds: nothing became of Docker since."""
    if "toolkit" not in seen.get("by_topic", {}) or not engine_report:
        return False
    return {**seen["facts"]["engine"], "findings": engine_report["findings"]} == engine_report


def access_mode(modes: Sequence[str], asked: str) -> str:
    """Return how containers get the GPU: cdi, nvidia or none."""
    if asked == "auto":
        return modes[0] if modes else "none"
    return asked if asked in modes else "none"


def reboot_helps(looked: Mapping[str, Any], connection: str) -> bool:
    """Return whether a host needs a reboot, from the answer of gpu_host_info, and can be rebooted."""
    driver = looked["facts"]["driver"]
    found = {finding["id"] for finding in looked["findings"]}
    other = driver["disk_version"] not in ("", driver["loaded_version"])
    return bool(found & REBOOT_HELPS) and other and connection not in LOCAL


class FilterModule:
    """The filters of this file, by the names used in roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "access_mode": access_mode,
            "engine_complete": engine_complete,
            "reboot_helps": reboot_helps,
            "toolkit_known": toolkit_known,
        }
