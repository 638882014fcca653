"""The folder that a service keeps its state in: how it is known again, and what may be removed from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import (
    BUNDLES,
    DERIVED,
    put_aside,
    write_atomically,
)

# Says whose folder this is. Without it nothing is removed: the folder may be anybody's.
MARKER = ".inference-service"
# What runs of this project make there, beside the locks, which go with the run.
PARTS = ("releases", "records", "instances", BUNDLES, DERIVED, "build", "gateway")


class NotOursError(Exception):
    """The folder is not known to be the service's; the message says what to do."""


def is_marked(state_dir: Path, service: str) -> bool:
    """Return whether the folder says that it is the service's."""
    try:
        return (state_dir / MARKER).read_text(encoding="utf-8").strip() == service
    except (OSError, UnicodeDecodeError):
        return False


def find_strange(state_dir: Path) -> list[Path]:
    """Return what lies where a folder of the service's belongs, and is a file."""
    return [path for path in map(state_dir.joinpath, PARTS) if path.is_file()]


def find_closed(state_dir: Path) -> dict[Path, int]:
    """Return what of the bundles and derived models the service's user cannot read, with the mode that opens it."""
    found = {}
    for folder in (state_dir / BUNDLES, state_dir / DERIVED):
        # What begins with a dot is a bundle that is still being brought.
        for path in [folder, *folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*"), *folder.glob("[!.]*/[!.]*/**/*")]:
            if path.is_symlink() or not path.exists():
                continue
            mode = path.stat().st_mode & 0o7777
            opened = mode | (0o555 if path.is_dir() else 0o444)
            if mode != opened:
                found[path] = opened
    return found


def mark(state_dir: Path, service: str) -> bool:
    """Let the folder say that it is the service's, and mend its parts; return whether anything was to be done."""
    strange, closed = find_strange(state_dir), find_closed(state_dir)
    for path in strange:
        put_aside(path)
    for path, mode in closed.items():
        path.chmod(mode)
    if is_marked(state_dir, service):
        return bool(strange or closed)
    state_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(state_dir / MARKER, f"{service}\n")
    return True


def find_parts(state_dir: Path, service: str) -> list[Path]:
    """Return what is to be removed, the marker last; raise NotOursError when the folder is not the service's."""
    found = [path for path in map(state_dir.joinpath, PARTS) if path.exists() or path.is_symlink()]
    if is_marked(state_dir, service):
        return [*found, state_dir / MARKER]
    if not found:
        return []
    there = "names another service" if (state_dir / MARKER).exists() else "is missing"
    raise NotOursError(
        f"Nothing was removed from {state_dir}: {state_dir / MARKER} {there}, so the folder is not known to be "
        f"{service}'s. Correct inference_service_state_dir. If it is right, write `{service}` into that file and run "
        "again."
    )


def remove(path: Path) -> None:
    """Remove a part; of a link the link, never what it leads to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
