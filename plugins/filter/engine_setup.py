"""Filters for setting up Docker: what is to be done, and settings merged into daemon.json."""

from __future__ import annotations

import json
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.filter.host_seen import engine_complete

CDI: dict[str, Any] = {"features": {"cdi": True}}
# Settings of an engine that the role installs; an engine that is already there keeps its own.
FRESH = {"live-restore": True, **CDI}


def engine_plan(engine: dict[str, Any], install: bool, cdi: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return whether Docker lacks a part, the settings it is to have, and whether there is anything to do."""
    present = {**engine, "version": engine["version"] or engine["daemon_present"]}
    absent = not present["version"]
    settings = FRESH if absent and install else {}
    settings = _merged(_merged(settings, CDI if cdi else {}), options)
    incomplete = not engine_complete(present)
    return {
        "incomplete": incomplete,
        "options": settings,
        "change": bool(incomplete or not engine["version"] or settings),
    }


def merge_daemon_options(current: str, options: dict[str, Any]) -> str:
    """Put options into the text of a daemon.json, keeping every other key and the order.

    The text comes back untouched when it already says what is asked.
    """
    # Docker takes a byte order mark for what it is, and so do we.
    plain = current.removeprefix("\ufeff")
    try:
        settings = json.loads(plain) if plain.strip() else {}
    except ValueError as error:
        raise AnsibleFilterError(
            f"/etc/docker/daemon.json is not valid JSON ({error}). Repair it on the host, then run again."
        ) from error
    if not isinstance(settings, dict):
        raise AnsibleFilterError("/etc/docker/daemon.json does not hold a JSON object. Repair it, then run again.")
    merged = _merged(settings, options)
    if merged == settings and plain.strip():
        return current
    return json.dumps(merged, indent=4, ensure_ascii=False) + "\n"


def _merged(settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    result = dict(settings)
    for key, value in options.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class FilterModule:
    """The filter of this file, by the name used in roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"engine_plan": engine_plan, "merge_daemon_options": merge_daemon_options}
