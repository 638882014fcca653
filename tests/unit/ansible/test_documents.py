"""What a document points at is there: files, and sections of documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.collection import REPOSITORY

DOCUMENTS = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True
).stdout.split()


def anchors(document: Path) -> set[str]:
    """Return the names that a forge gives the sections of a document."""
    titles = re.findall(r"(?m)^#+ (.+)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(document: Path) -> list[str]:
    """Return the links of a document to files and sections that are not there."""
    text = re.sub(r"(?ms)^```.*?^```", "", document.read_text(encoding="utf-8"))
    broken = []
    for place, section in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        target = (document.parent / place) if place else document
        if not target.exists() or (section and section not in anchors(target)):
            broken.append(f"{place}#{section}" if section else place)
    return broken


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    assert broken_links(REPOSITORY / name) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "one.md"
    document.write_text("# A title, here\n[a](one.md#a-title-here) [b](two.md) [c](#no) [d](https://example/x)\n")
    assert broken_links(document) == ["two.md", "#no"]
