"""The lock of a host: one run at a time changes a service, and a run that is provably dead holds nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.releases import write_atomically

LOCK_NAME = "deploy.lock"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other lock operations on the folder waiting; the kernel ends this with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lock(folder: Path) -> dict[str, Any]:
    """Return who holds the lock, nothing when nobody does; a file that cannot be read is held by somebody unknown."""
    try:
        holder = json.loads((folder / LOCK_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"run": "unreadable"}
    return holder if isinstance(holder, dict) else {"run": "unreadable"}


def take(folder: Path, owner: dict[str, Any], replace: str = "", break_it: bool = False) -> dict[str, Any]:
    """Take the lock and return nothing, or return its holder; a holder whose run is C(replace) is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        holder = read_lock(folder)
        if holder and holder.get("run") not in (owner["run"], replace) and not break_it:
            return holder
        write_atomically(folder / LOCK_NAME, json.dumps(owner, sort_keys=True) + "\n")
    return {}


def release(folder: Path, run: str) -> bool:
    """Give the lock back when the run holds it; return whether it did."""
    if not folder.is_dir():
        return False
    with exclusive(folder):
        if read_lock(folder).get("run") != run:
            return False
        (folder / LOCK_NAME).unlink()
    return True
