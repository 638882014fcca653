"""Where a gateway keeps what: on the host, below its state folder, and as its container sees it."""

from __future__ import annotations

from pathlib import Path

# Below the state folder.
MAP, SOCKET = "conf/live.map", "run/admin.sock"
# The running gateway knows its map by this name; the role's templates and hold.lua say the same.
MAP_PATH = "/etc/haproxy/conf/live.map"
# The folder that its admin socket is in, in the container.
SOCKET_FOLDER = "/run/haproxy"


def map_of(state_dir: Path) -> Path:
    """Return the file that says which color a gateway that starts sends requests to."""
    return state_dir / MAP


def socket_of(state_dir: Path) -> Path:
    """Return the socket of HAProxy's runtime API."""
    return state_dir / SOCKET
