"""Filter: what a rollout will do, in a sentence for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def change(former: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return which model follows which; without what stays the same."""
    if not wanted:
        return ""
    new = f"{wanted['name']} {wanted['version']}"
    if not former or former == wanted:
        return new
    if former["name"] == wanted["name"]:
        same = former["version"] == wanted["version"]
        return f"{new}, with other content" if same else f"{wanted['name']} {former['version']} → {wanted['version']}"
    return f"{former['name']} {former['version']} → {new}"


def undone(facts: Mapping[str, Any], overrides: Mapping[str, str]) -> str:
    """Return which variables a former run was given with -e that this one is not given, '' when there are none."""
    live = facts["plan"]["live_release"]
    records = [
        record for record in facts["records"] if record.get("release_id") == live and record.get("result") == "ok"
    ]
    if not records:
        return ""
    newest = records[-1]
    names = [f"-e {name}={value}" for name, value in (newest.get("overrides") or {}).items() if name not in overrides]
    return f"; this undoes {' '.join(names)} of {newest['finished']}" if names else ""


def plan_words(facts: Mapping[str, Any], overrides: Mapping[str, str]) -> str:
    """Return the plan of module release_info as a sentence; overrides are the variables that were given with -e."""
    plan, unsettled = facts["plan"], facts["unsettled"]
    if not plan["rollout"]:
        if unsettled not in ("", plan["reason"]):
            return f"{plan['reason']}, but {unsettled}."
        return f"Nothing to do: {plan['reason']}."
    model = change(facts["live"]["release"].get("bundle", {}), facts["release"].get("bundle", {}))
    words = f"Rolling out release {plan['release_id']} ({model}) on {plan['color']}: {plan['reason']}"
    if plan["strategy"] == "recreate":
        words += "; the running release is replaced while requests wait"
    if plan["live_release"] != plan["release_id"]:
        words += undone(facts, overrides)
    return f"{words}."


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"plan_words": plan_words}
