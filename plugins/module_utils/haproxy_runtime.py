"""HAProxy's runtime API: one command per connection to its admin socket."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP_PATH

MAP_KEY = "live"
# In the running gateway's map only, so that a gateway that restarts is not drained any more.
DRAIN_KEY = "drained"
# A client that uses its connection has sent the next request by then.
KEPT_SECONDS = 0.5


class GatewayError(Exception):
    """The gateway did not answer, or refused a command."""


def connect(admin_socket: Path, timeout: float = 5) -> socket.socket:
    """Return a connection to the socket, however long its path is: the kernel takes one of 107 bytes at most."""
    folder = os.open(admin_socket.parent, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(f"/proc/self/fd/{folder}/{admin_socket.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def command(admin_socket: Path, text: str, timeout: float = 5) -> str:
    """Send one command and return the answer; raise GatewayError when nobody answers on the socket."""
    try:
        with connect(admin_socket, timeout) as connection:
            connection.sendall(text.encode() + b"\n")
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
    except OSError as error:
        raise GatewayError(f"{admin_socket}: {error.strerror or error}") from error
    return b"".join(chunks).decode(errors="replace").strip()


def live_word(admin_socket: Path) -> str:
    """Return what the running gateway's map says of where requests go, '' when it has no such entry."""
    for line in command(admin_socket, f"show map {MAP_PATH}").splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == MAP_KEY:
            return fields[2]
    return ""


def live_color(admin_socket: Path) -> str:
    """Return the color that the running gateway sends requests to."""
    word = live_word(admin_socket)
    if not word:
        raise GatewayError(f"the gateway's map {MAP_PATH} has no entry '{MAP_KEY}'")
    return word


def is_drained(admin_socket: Path) -> bool:
    """Return whether the running gateway lets the health check of its host fail."""
    return any(line.split()[1:2] == [DRAIN_KEY] for line in command(admin_socket, f"show map {MAP_PATH}").splitlines())


def set_drained(admin_socket: Path, drained: bool) -> None:
    """Make the running gateway let the health check of its host fail, or pass again."""
    answer = command(
        admin_socket, f"add map {MAP_PATH} {DRAIN_KEY} yes" if drained else f"del map {MAP_PATH} {DRAIN_KEY}"
    )
    if answer:
        raise GatewayError(f"the gateway refused to {'be drained' if drained else 'serve again'}: {answer}")


def set_live_color(admin_socket: Path, color: str) -> None:
    """Make the running gateway send new requests to the color."""
    verb = "set" if live_word(admin_socket) else "add"
    answer = command(admin_socket, f"{verb} map {MAP_PATH} {MAP_KEY} {color}")
    if answer:
        raise GatewayError(f"the gateway refused the switch: {answer}")


def read_map_file(path: Path) -> str:
    """Return the color that the map file names, '' when it names none or is not there."""
    try:
        fields = path.read_text(encoding="utf-8", errors="replace").split()
    except (FileNotFoundError, IsADirectoryError):
        return ""
    return fields[1] if len(fields) == 2 and fields[0] == MAP_KEY else ""


def statistics(admin_socket: Path, backend: str) -> list[dict[str, str]]:
    """Return the rows of ``show stat`` for one backend: its servers, then the row with svname BACKEND."""
    text = command(admin_socket, "show stat").lstrip("# ")
    return [row for row in csv.DictReader(io.StringIO(text)) if row.get("pxname") == backend]


def failures(admin_socket: Path, backend: str) -> int:
    """Return how many answers of a backend its own counter holds: those that no client provokes."""
    found = re.search(r"\bgpc0=(\d+)", command(admin_socket, f"show table {backend}"))
    # Without an entry nobody has asked yet.
    return int(found[1]) if found else 0


def is_up(row: dict[str, str]) -> bool:
    """Return whether a row of ``show stat`` is that of a server that gets requests."""
    return row["status"].startswith("UP")


def state_words(row: dict[str, str]) -> str:
    """Return the state of a server; of one that is down with what its last check found."""
    check = "" if is_up(row) else (row.get("check_status") or "").lstrip("* ")
    return f"{row['status']} ({check})" if check else row["status"]


def servers(admin_socket: Path, backend: str) -> list[dict[str, Any]]:
    """Return name, address and state of each server of a backend, and whether it gets requests."""
    return [
        {
            "name": row["svname"],
            "address": row.get("addr") or "",
            "state": state_words(row),
            "up": is_up(row),
        }
        for row in statistics(admin_socket, backend)
        if row["svname"] not in ("FRONTEND", "BACKEND")
    ]


def servers_down(admin_socket: Path, backend: str, wanted: set[str]) -> dict[str, str]:
    """Return name and state of the wanted servers that the gateway does not see up."""
    seen = {server["name"]: server for server in servers(admin_socket, backend)}
    return {
        name: seen[name]["state"] if name in seen else "unknown to the gateway"
        for name in wanted
        if name not in seen or not seen[name]["up"]
    }


def wait_until_up(admin_socket: Path, backend: str, wanted: set[str], seconds: float) -> dict[str, str]:
    """Wait until the gateway sees every wanted server up; return those that still are not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            down = servers_down(admin_socket, backend, wanted)
        except GatewayError as error:
            # Right after a start or a reload the socket is not there yet.
            down = dict.fromkeys(wanted, str(error))
        if not down or time.monotonic() >= deadline:
            return down
        time.sleep(0.05)


def wait_until_idle(admin_socket: Path, backend: str, seconds: float) -> int:
    """Wait until no request of the backend is under way; return how many still are."""
    deadline = time.monotonic() + seconds
    while True:
        total = [row for row in statistics(admin_socket, backend) if row["svname"] == "BACKEND"]
        busy = sum(int(row.get("scur") or 0) + int(row.get("qcur") or 0) for row in total)
        if busy == 0 or time.monotonic() >= deadline:
            return busy
        time.sleep(0.05)


def wait_until_serving(admin_socket: Path, seconds: float) -> str:
    """Wait until an instance of the live release is up; return '', or why none is."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            color = live_color(admin_socket)
            seen = servers(admin_socket, f"bk_{color}")
            if any(server["up"] for server in seen):
                return ""
            reason = ", ".join(f"{color}-{server['name']}: {server['state']}" for server in seen)
            reason = reason or f"{color} is live"
        except GatewayError as error:
            reason = str(error)
        if time.monotonic() >= deadline:
            return reason
        time.sleep(0.2)


def worker(admin_socket: Path) -> str:
    """Return the number of the process that answers on the socket; a reload starts another one."""
    for line in command(admin_socket, "show info").splitlines():
        name, _, value = line.partition(": ")
        if name == "Pid":
            return value
    raise GatewayError(f"{admin_socket}: no HAProxy answers there")


def is_listening(admin_socket: Path) -> bool:
    """Return whether an HAProxy answers on the socket and its frontends accept connections."""
    try:
        rows = csv.DictReader(io.StringIO(command(admin_socket, "show stat").lstrip("# ")))
        states = {row["status"] for row in rows if row.get("svname") == "FRONTEND"}
    except GatewayError:
        return False
    return states == {"OPEN"}


def _rows(table: str, kind: str) -> list[dict[str, str]]:
    """Return the rows of FRONTEND or BACKEND from the answer to ``show stat``."""
    return [row for row in csv.DictReader(io.StringIO(table.lstrip("# "))) if row.get("svname") == kind]


def under_way(table: str) -> int:
    """Return how many requests of all backends are under way, from the answer to ``show stat``."""
    return sum(int(row["scur"] or 0) + int(row["qcur"] or 0) for row in _rows(table, "BACKEND"))


def connected(table: str) -> int:
    """Return how many connections clients have, from the answer to ``show stat``."""
    return sum(int(row["scur"] or 0) for row in _rows(table, "FRONTEND"))


def finish(
    admin_socket: Path, stop_accepting: Callable[[], object], seconds: float, kept_seconds: float = KEPT_SECONDS
) -> None:
    """Let the process that answers accept nothing new, and return when no request is under way or the time is over.

    One that stops answers no new connection on its socket, only one that is there already. It closes a connection that
    a client keeps with the next answer, and one without a request is waited for no longer than kept_seconds.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError), connect(admin_socket) as connection:
        connection.sendall(b"prompt\n")
        _until_prompt(connection)
        stop_accepting()
        kept_until = time.monotonic() + kept_seconds
        while time.monotonic() < deadline:
            connection.sendall(b"show stat\n")
            table = _until_prompt(connection)
            if under_way(table) == 0 and (connected(table) == 0 or time.monotonic() >= kept_until):
                return
            time.sleep(0.02)


def _until_prompt(connection: socket.socket) -> str:
    """Return what an interactive connection says up to its next prompt."""
    said = b""
    while not said.endswith(b"\n> "):
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("the gateway closed its admin socket")
        said += chunk
    return said[:-2].decode(errors="replace").strip()
