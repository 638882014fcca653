"""What a host serves after something failed, from what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def what_serves(look: Mapping[str, Any], expected: str = "", failed: str = "") -> str:
    """Return a sentence on what a host serves.

    look is the answer of module release_answers, expected the release that was to go on serving, failed the one that
    did not get there.
    """
    if "answers" not in look:
        return f"What is served now is not known: {look.get('msg', 'no reason given')}."
    if not look["answers"]:
        if not expected:
            return "Nothing serves: no release was live before, and what had been started was removed."
        return f"NOTHING ANSWERS where release {expected} served: {look['reason'].rstrip('.')}."
    release, url = look["release"], look["url"]
    if release == expected:
        return f"Release {release} keeps serving at {url}."
    if release == failed:
        return f"The new release stays live at {url} because the previous one is no longer running."
    return f"Release {release} ({look['model']} {look['version']}) serves at {url}."
