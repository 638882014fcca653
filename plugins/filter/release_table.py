"""Filter: the state of a service as lines that a person reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COLUMNS = ("", "release", "model", "image", "result", "when", "took")


def row(record: dict[str, Any], live: str) -> tuple[str, ...]:
    """Return the columns of one record; the release that serves has a star."""
    bundle, image = record.get("bundle", {}), record.get("image", {})
    return (
        "*" if record["release_id"] == live else "",
        record["release_id"],
        f"{bundle.get('name', '?')} {bundle.get('version', '?')}",
        str(image.get("tag") or image.get("id", "?")).split(":")[-1][:24],
        record["result"] if record["action"] == "deploy" else f"{record['result']} ({record['action']})",
        record["finished"],
        f"{record['seconds']:.0f} s",
    )


def release_table(facts: dict[str, Any], host: str) -> list[str]:
    """Turn the answer of module release_facts into a headline and a table, newest record first."""
    live, colour = facts["live"]["release"].get("release_id", ""), facts["live"]["colour"]
    instances = [item for item in facts["instances"] if item["colour"] == colour]
    states = ", ".join(f"{item['name']} {item['state']} ({item['health']})" for item in instances)
    headline = f"{host}: release {live} is live on {colour}: {states}" if live else f"{host}: nothing is live"
    if not facts["gateway"]["serving"]:
        headline += "; the gateway does not answer"
    rows: list[tuple[str, ...]] = [COLUMNS, *(row(record, live) for record in reversed(facts["records"]))]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    return [headline, *("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in rows)]


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"release_table": release_table}
