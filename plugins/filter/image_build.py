"""Filters: the command that builds an image, and the last words of one that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def build_command(target: str, tag: str, arguments: Mapping[str, str], secrets: Mapping[str, str]) -> list[str]:
    """Return the command that builds the target under the tag.

    secrets are files by their ids, '' where there is none.
    """
    build_args = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    files = [word for name, path in secrets.items() if path for word in ("--secret", f"id={name},src={path}")]
    command = ["docker", "buildx", "build", "--progress", "plain", "--load", "--target", target, "--tag", tag]
    return [*command, *build_args, *files, "."]


def last_words(failed: Mapping[str, Any]) -> str:
    """Return the last line that a failed command wrote, or what Ansible says of it."""
    lines = failed.get("stderr_lines") or [failed.get("msg") or "no reason given"]
    return str(lines[-1]).removeprefix("error: ")


class FilterModule:
    """The filters of this file, by the names used in roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"build_command": build_command, "last_words": last_words}
