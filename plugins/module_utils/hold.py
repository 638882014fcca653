"""A run that keeps requests waiting says again and again that it is alive; the keeper ends the wait of a dead one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def _sign(state_dir: Path) -> Path:
    # The keeper (roles/gateway/files/keeper.py) looks at this file beside the map.
    return state_dir / "conf" / "hold.alive"


def begin(state_dir: Path) -> None:
    """Say that requests are kept waiting from now on; state_dir is the gateway's directory."""
    _sign(state_dir).touch()


def go_on(state_dir: Path) -> None:
    """Say that the run is still at it, if requests are kept waiting at all."""
    # Another process may end the wait at any time, and then it is not begun anew.
    with contextlib.suppress(FileNotFoundError):
        os.utime(_sign(state_dir))


def end(state_dir: Path) -> None:
    """Say that nothing waits any more."""
    _sign(state_dir).unlink(missing_ok=True)
