"""Compare version strings as the vendors write them."""

from __future__ import annotations

import re


def version_key(text: str) -> tuple[int, ...]:
    """Numbers of a version in order: `26.1.5+dfsg1` is (26, 1, 5)."""
    match = re.match(r"[vV]?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def older(version: str, than: str) -> bool:
    """Whether a known version is below another; an unreadable one is never called older."""
    left, right = version_key(version), version_key(than)
    if not left or not right:
        return False
    width = max(len(left), len(right))
    return left + (0,) * (width - len(left)) < right + (0,) * (width - len(right))
