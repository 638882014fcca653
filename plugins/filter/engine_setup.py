"""Filters for setting up the container engine: merge daemon.json, derive another suite's package source."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Callable

from ansible.errors import AnsibleFilterError


def merge_daemon_options(current: str, options: dict[str, Any]) -> str:
    """Put options into the text of a daemon.json, keeping every other key and the order.

    The text comes back untouched when it already says what is asked.
    """
    try:
        settings = json.loads(current) if current.strip() else {}
    except ValueError as error:
        raise AnsibleFilterError(
            f"/etc/docker/daemon.json is not valid JSON ({error}). Repair it on the host, then run again."
        ) from error
    if not isinstance(settings, dict):
        raise AnsibleFilterError("/etc/docker/daemon.json does not hold a JSON object. Repair it, then run again.")
    merged = _merged(settings, options)
    if merged == settings and current.strip():
        return current
    return json.dumps(merged, indent=4, ensure_ascii=False) + "\n"


def apt_source_for_suite(sources: Sequence[str], release: str, suite: str) -> str:
    """Write the deb822 source of another suite, from the entries that a host has for its own release.

    `sources` are the texts of its source files, in either format. Nothing comes back when the host already
    reads the suite.
    """
    entries = [entry for text in sources for entry in _apt_entries(text)]
    if any(suite in entry["Suites"].split() for entry in entries):
        return ""
    blocks = []
    for entry in entries:
        suites = [_renamed(name, release, suite) for name in entry["Suites"].split()]
        chosen = [name for name in suites if name]
        if chosen and "main" in entry["Components"].split():
            block = {"Types": "deb", "URIs": entry["URIs"], "Suites": " ".join(chosen), "Components": "main"}
            if entry.get("Signed-By"):
                block["Signed-By"] = entry["Signed-By"]
            blocks.append("\n".join(f"{key}: {value}" for key, value in block.items()))
    if not blocks:
        raise AnsibleFilterError(
            f"No enabled package source for {release} was found under /etc/apt, so none for {suite} can be derived. "
            f"Add a source for {suite} by hand, or set docker_engine_source to vendor."
        )
    return "\n\n".join(dict.fromkeys(blocks)) + "\n"


def _merged(settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    result = dict(settings)
    for key, value in options.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _apt_entries(text: str) -> list[dict[str, str]]:
    if re.search(r"(?m)^\s*Types:", text):
        return _deb822_entries(text)
    entries = []
    for line in text.splitlines():
        match = re.match(
            r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+)", line
        )
        if match:
            entry = {"URIs": match["uri"], "Suites": match["suite"], "Components": match["components"].strip()}
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            if signed:
                entry["Signed-By"] = signed.group(1)
            entries.append(entry)
    return entries


def _deb822_entries(text: str) -> list[dict[str, str]]:
    entries = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"} and name:
                # A key given inline spans several lines; its indentation belongs to the value.
                fields[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = value.strip()
        wanted = {"Types", "URIs", "Suites", "Components"} <= fields.keys()
        if wanted and "deb" in fields["Types"].split() and fields.get("Enabled", "yes").lower() != "no":
            entries.append(fields)
    return entries


def _renamed(name: str, release: str, suite: str) -> str:
    for ending in ("", "-updates", "-security"):
        if name == release + ending:
            return suite + ending
    return ""


class FilterModule:
    """The filters of this file, by the names used in roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"merge_daemon_options": merge_daemon_options, "apt_source_for_suite": apt_source_for_suite}
