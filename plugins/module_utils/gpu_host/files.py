"""Read files and folders of the host that may not be there."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Content of a file, or nothing when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, in order; nothing when there is no such folder."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
