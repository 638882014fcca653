"""Where others reach a host, from what the inventory has of it."""

from __future__ import annotations

from typing import Any, Protocol


class Settings(Protocol):
    """What is set for a host."""

    def get(self, name: str, /) -> Any:
        """Return the value of a variable."""


def reach(host: str, settings: Settings) -> str:
    """Return deploy_address, else ansible_host, else the host's own name."""
    return str(settings.get("deploy_address") or settings.get("ansible_host") or host)
