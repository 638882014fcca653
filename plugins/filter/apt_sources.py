"""Filters that derive package sources from those which a host has: another suite, or more components."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Callable

from ansible.errors import AnsibleFilterError


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
            blocks.append(_block(entry, chosen, "main"))
    if not blocks:
        raise AnsibleFilterError(
            f"No enabled package source for {release} was found under /etc/apt, so none for {suite} can be derived. "
            f"Add a source for {suite} by hand, or set docker_engine_source to vendor."
        )
    return "\n\n".join(dict.fromkeys(blocks)) + "\n"


def apt_source_with_components(sources: Sequence[str], release: str, components: Sequence[str]) -> str:
    """Write the deb822 source of further components, for each archive from which a host reads its own release.

    Nothing comes back when the host already reads all of them.
    """
    entries = [entry for text in sources for entry in _apt_entries(text)]
    read = {
        (address, suite, component)
        for entry in entries
        for address in entry["URIs"].split()
        for suite in entry["Suites"].split()
        for component in entry["Components"].split()
    }
    own = [entry for entry in entries if "main" in entry["Components"].split()]
    own = [entry for entry in own if any(_renamed(name, release, release) for name in entry["Suites"].split())]
    if not own:
        raise AnsibleFilterError(
            f"No enabled package source for {release} was found under /etc/apt, so {', '.join(components)} cannot be "
            "added to it. Add a source by hand, and run again with nvidia_driver_sources=false."
        )
    blocks = []
    for entry in own:
        suites = [name for name in entry["Suites"].split() if _renamed(name, release, release)]
        missing = [
            component
            for component in components
            if any((address, suite, component) not in read for address in entry["URIs"].split() for suite in suites)
        ]
        if missing:
            blocks.append(_block(entry, suites, " ".join(missing)))
    return "\n\n".join(dict.fromkeys(blocks)) + "\n" if blocks else ""


def _block(entry: dict[str, str], suites: Sequence[str], components: str) -> str:
    block = {"Types": "deb", "URIs": entry["URIs"], "Suites": " ".join(suites), "Components": components}
    if entry.get("Signed-By"):
        block["Signed-By"] = entry["Signed-By"]
    return "\n".join(f"{key}: {value}" for key, value in block.items())


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
        return {
            "apt_source_for_suite": apt_source_for_suite,
            "apt_source_with_components": apt_source_with_components,
        }
