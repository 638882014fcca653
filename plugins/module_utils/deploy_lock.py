"""Who works on a host: a run has a lock, its processes hold one of the kernel; the action release_lock makes both."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

LOCK_NAME = "deploy.lock"
# What processes lock; its content is the last run that began to work here.
WRITER_NAME = "writer.lock"


def read_lock(state_dir: Path) -> dict[str, Any]:
    """Return owner, controller and time of the run that has the lock, and whether a process of a run works here now.

    Nothing when there is neither; a lock that cannot be read is somebody unknown's.
    """
    working = somebody_works(state_dir)
    try:
        holder = json.loads((state_dir / LOCK_NAME).read_text(encoding="utf-8"))
        found = {key: str(holder[key]) for key in ("owner", "controller", "since")}
    except (FileNotFoundError, IsADirectoryError):
        found = dict.fromkeys(("owner", "controller", "since"), "")
        if not working:
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        found = {"owner": "somebody unknown", "controller": "", "since": ""}
    return {**found, "working": working}


def somebody_works(state_dir: Path) -> bool:
    """Return whether a process of a run works on the host."""
    try:
        folder = os.open(state_dir, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Who takes the host's lock has this one meanwhile, and must not take us for somebody who works.
        fcntl.flock(folder, fcntl.LOCK_EX)
        with (state_dir / WRITER_NAME).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(folder)
    return False
