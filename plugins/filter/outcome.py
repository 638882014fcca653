"""Filters: what a rollout came to, for what is undone after it, for its record and for whoever reads of it."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.filter.findings import recorded_findings
from ansible_collections.gpu_hosts.timm.plugins.filter.next_step import next_step
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import HOLD
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.what_serves import what_serves

# What a record keeps of the watch over a new release.
FIGURES = ("requests", "errors", "seconds", "back_seconds")


def undoing(
    failed: Mapping[str, Any], facts: Mapping[str, Any], task: str, switched: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is to be undone after a task of a rollout that failed, and why.

    failed is the task's result, facts the answer of release_info, switched that of gateway_switch, empty where the
    gateway had not been asked to switch.
    """
    plan, former = facts["plan"], str(failed.get("former") or "")
    results = [result for result in failed.get("results") or [failed] if result.get("failed")]
    reason = " ".join(str(result.get("msg") or "") for result in results).strip()
    serving = plan["live_release"]
    if not plan["rollout"] and former:
        of_former = [one["release"] for one in facts["instances"] if one["color"] == former]
        serving = of_former[0] if of_former else serving
    # A release that failed its bake is kept when the one before is gone: it is all there is.
    stays = bool(former) and not failed.get("went_back")
    undone = bool(plan["rollout"] or failed.get("went_back"))
    replaced = plan["strategy"] == "recreate"
    live = str(plan["live_color"])
    return {
        "task": task.rpartition("| ")[2],
        "reason": reason or str(failed.get("msg") or "no reason given"),
        "log": [line for result in failed.get("results") or [failed] for line in result.get("log") or []],
        "acceptance": failed.get("report") or [],
        "stays": stays,
        "undone": undone,
        "serving": serving,
        # A switch that failed may have switched before; where it had not, switching back does nothing.
        "switch_back": bool(plan["rollout"] and switched and not stays),
        "color": f"{HOLD}{live}" if replaced else switched.get("previous") or live,
        "remove": undone and not stays,
        "bring_back": bool(plan["rollout"] and replaced and switched),
    }


def failed_words(undone: Mapping[str, Any], facts: Mapping[str, Any], look: Mapping[str, Any], host: str) -> str:
    """Return what whoever watches a failed rollout reads: what failed, what serves now, and what to do.

    undone is the answer of filter undoing, facts that of release_info, look that of release_answers.
    """
    identity, bundle = facts["plan"]["release_id"], facts["release"]["bundle"]
    state = "is not in order" if look.get("release") == identity else "is not serving"
    state = "failed" if undone["stays"] else state
    log = ["\n".join(["Last lines of its log:", *undone["log"]])] if undone["log"] else []
    return "\n".join(
        [
            f"Release {identity} ({bundle['name']} {bundle['version']}) {state} on {host}.",
            f"Failed at: {undone['task']}.",
            f"Reason: {undone['reason']}",
            *log,
            f"{what_serves(look, undone['serving'], identity)} {next_step(undone['reason'])}",
        ]
    )


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


def is_news(facts: Mapping[str, Any]) -> bool:
    """Return whether a run that went well is worth a record: it rolled out, or finished one whose run had died."""
    return bool(facts["plan"]["rollout"]) or facts["plan"]["release_id"] != last_recorded(facts)


def common_record(facts: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every record of a run has."""
    return {
        "release_id": facts["plan"]["release_id"],
        "action": "rollback" if seen["rollback"] else "deploy",
        "image": facts["release"]["image"],
        "bundle": facts["release"]["bundle"],
        "color": facts["plan"]["color"],
        "bake": bake_figures(seen["baked"]),
    }


def good_record(facts: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a rollout that went well.

    facts are those of release_info. seen has what the roles before have reported, what was waived (access), and what
    the steps came to: ready, accepted, switched, verified, baked; empty where one did not run.
    """
    found = [finding for report in seen["reports"].values() for finding in report.get("findings") or []]
    ready = [result.get("seconds") or 0 for result in seen["ready"].get("results") or []]
    return {
        **common_record(facts, seen),
        "result": "ok",
        "reason": facts["plan"]["reason"],
        "previous": release_before(facts),
        "overrides": seen["overrides"],
        "device": seen["verified"].get("device", ""),
        # What was known of the host when this release went live: warnings, and errors with the reason of their waiver.
        "findings": recorded_findings([*found, *seen["access"]]),
        "acceptance": seen["accepted"].get("report") or [],
        "phases": {
            "derive": seconds_of(seen["derived"]),
            "ready": float(max(ready, default=0)),
            "accept": seconds_of(seen["accepted"]),
            "switch": seconds_of(seen["switched"]),
            "held": seconds_of(seen["switched"], "held"),
            "bake": seconds_of(seen["baked"]),
        },
        "by": f"{getpass.getuser()}@{platform.node()}",
    }


def failed_record(undone: Mapping[str, Any], facts: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a rollout that was undone, from the answer of filter undoing."""
    return {
        **common_record(facts, seen),
        "result": "failed",
        "reason": f"{undone['task']}: {undone['reason']}",
        "previous": undone["serving"],
        "acceptance": undone["acceptance"],
        "phases": {"held": seconds_of(seen["switched"], "held")},
    }


def seconds_of(step: Mapping[str, Any], name: str = "seconds") -> float:
    """Return how long a step took; held is the longest that a request had to wait for an instance to be replaced."""
    return float(step.get(name) or 0)


def last_recorded(facts: Mapping[str, Any]) -> str:
    """Return the release of the newest record that ended well, '' when there is none, from facts of release_info."""
    good = [str(record["release_id"]) for record in facts["records"] if record["result"] == "ok"]
    return good[-1] if good else ""


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "failed_record": failed_record,
            "failed_words": failed_words,
            "good_record": good_record,
            "is_news": is_news,
            "undoing": undoing,
        }
