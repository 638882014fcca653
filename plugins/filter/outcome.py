"""Filters: what a rollout came to, for what is undone after it and for its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# What a record keeps of the watch over a new release.
FIGURES = ("requests", "errors", "seconds", "back_seconds")


def undoing(failed: Mapping[str, Any], facts: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return what is to be undone after a task of a rollout that failed, and why.

    failed is the task's result, facts the answer of release_info.
    """
    plan, former = facts["plan"], str(failed.get("former") or "")
    results = [result for result in failed.get("results") or [failed] if result.get("failed")]
    reason = " ".join(str(result.get("msg") or "") for result in results).strip()
    serving = plan["live_release"]
    if not plan["rollout"] and former:
        of_former = [one["release"] for one in facts["instances"] if one["color"] == former]
        serving = of_former[0] if of_former else serving
    return {
        "task": task.rpartition("| ")[2],
        "reason": reason or str(failed.get("msg") or "no reason given"),
        "log": [line for result in failed.get("results") or [failed] for line in result.get("log") or []],
        # A release that failed its bake is kept when the one before is gone: it is all there is.
        "stays": bool(former) and not failed.get("went_back"),
        "undone": bool(plan["rollout"] or failed.get("went_back")),
        "serving": serving,
    }


def bake_figures(baked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of the watch over a new release; nothing when there was none."""
    return {name: baked[name] for name in FIGURES if name in baked}


def release_before(facts: Mapping[str, Any]) -> str:
    """Return the release that served before the planned one, '' when there was none; facts are those of release_info.

    A run that died between switch and record left no record: the release before is then the last one recorded.
    """
    plan = facts["plan"]
    live = str(plan["live_release"])
    return live if live != plan["release_id"] else last_recorded(facts)


def last_recorded(facts: Mapping[str, Any]) -> str:
    """Return the release of the newest record that ended well, '' when there is none, from facts of release_info."""
    good = [str(record["release_id"]) for record in facts["records"] if record["result"] == "ok"]
    return good[-1] if good else ""


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "bake_figures": bake_figures,
            "last_recorded": last_recorded,
            "release_before": release_before,
            "undoing": undoing,
        }
