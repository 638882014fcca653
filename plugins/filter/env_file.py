"""Filter: a value as Compose reads it from an environment file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Compose takes these characters as they are, wherever they stand.
PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+-]*")


def env_file_value(value: Any) -> str:
    """Return the value so that Compose hands it on unchanged: no variable is replaced in it, no quote ends it."""
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"env_file_value": env_file_value}
