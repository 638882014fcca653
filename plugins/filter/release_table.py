"""Filters: the state of a service as lines that a person reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

COLUMNS = ("", "release", "model", "image", "result", "when", "took")


def row(record: dict[str, Any], live: str, kept: Collection[str]) -> tuple[str, ...]:
    """Return the columns of one record; the release that serves has a star."""
    bundle, image = record.get("bundle", {}), record.get("image", {})
    result = record["result"] if record["action"] == "deploy" else f"{record['result']} ({record['action']})"
    gone = record["result"] == "ok" and record["release_id"] not in kept
    seconds = record.get("seconds")
    return (
        "*" if record["release_id"] == live else "",
        record["release_id"],
        f"{bundle.get('name', '?')} {bundle.get('version', '?')}",
        str(image.get("tag") or image.get("id", "?")).split(":")[-1][:24],
        f"{result}, no longer kept" if gone else result,
        str(record.get("finished", "?")),
        f"{seconds:.0f} s" if isinstance(seconds, (int, float)) else "?",
    )


def release_table(facts: dict[str, Any], host: str) -> list[str]:
    """Turn the answer of module release_info into a headline and a table, newest record first."""
    live, color = facts["live"]["release"].get("release_id", ""), facts["live"]["color"]
    instances = [item for item in facts["instances"] if item["color"] == color]
    states = ", ".join(f"{item['name']} {item['state']} ({item['health']})" for item in instances)
    up = any(item["state"] == "running" for item in instances)
    headline = f"{host}: release {live} {'is live' if up else 'is down'} on {color}: {states}"
    if not live:
        headline = f"{host}: nothing is live"
    if not facts["gateway"]["serving"]:
        headline += "; the gateway does not say where requests go"
    rows: list[tuple[str, ...]] = [
        COLUMNS,
        *(row(record, live, facts["kept"]) for record in reversed(facts["records"])),
    ]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    table = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in rows]
    missing = [f"Damaged: {fault}. The next deploy repairs it." for fault in facts["missing"]]
    if not live:
        missing.append("The next deploy starts the release of its inventory.")
    return [headline, *missing, *table, *(f"Not read: {reason}." for reason in facts["unreadable"])]


def status_notes(facts: dict[str, Any], look: dict[str, Any], inventory: str) -> list[str]:
    """Return what a person should know besides: what answers, who holds the lock, and what a deploy would change.

    facts are those of module release_info, look is the answer of release_answers, inventory the name and version of
    the bundle that the inventory has.
    """
    bundle = facts["live"]["release"].get("bundle", {})
    serves = f"{bundle['name']} {bundle['version']}" if bundle else ""
    notes = []
    if "answers" not in look:
        notes.append(f"What it answers is not known: {look.get('msg', 'no reason was given')}")
    elif look["answers"]:
        notes.append(f"It answers at {look['usable'] or look['url'] + ', on the host alone'}.")
    elif serves:
        notes.append(f"NOTHING ANSWERS: {look['reason'].rstrip('.')}.")
    lock = facts["lock"]
    if lock.get("owner"):
        work = "and works here" if lock["working"] else "and nothing works here for it at this moment"
        since = f" since {lock['since']}" if lock["since"] else ""
        notes.append(f"{lock['owner']} holds the lock{since}, {work}.")
    elif lock:
        notes.append("A run that lost its lock still works here; the next run waits until it ends.")
    if serves and len(inventory.split()) == 2 and inventory != serves:
        notes.append(f"WARNING: the inventory has {inventory}, so a deploy without -e would replace {serves}.")
    return notes


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"release_table": release_table, "status_notes": status_notes}
