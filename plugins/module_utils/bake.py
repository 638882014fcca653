"""The bake: a new release is judged by the gateway's counters since the switch, against the former one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils import hold
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import map_of, socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    failures,
    is_up,
    live_word,
    read_map_file,
    servers_down,
    set_live_color,
    statistics,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import (
    COLORS,
    HOLD,
    NOBODY,
    ReleaseError,
    read_json,
    write_atomically,
)

NOTE = "switch.json"
# So few failures may be the doing of one client that sends what nobody thought of.
ENOUGH_FAILURES = 10
# One error in a hundred more than the former release had is one too many.
MORE_ERRORS = 0.01
# Three times the former release's time, and a quarter of a second on top, is too slow.
SLOWER, SLOWER_MS = 3, 250
# So few answers say nothing about how fast a release is.
ENOUGH_FOR_LATENCY = 20


@dataclass(frozen=True)
class Counters:
    """What the gateway counted for one color since it started.

    Errors are computations that failed (500) and answers that were broken off (502). What too much or too slow a client
    gets, 503 and 504, is not among them.
    """

    requests: int
    errors: int
    milliseconds: int

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed by no fault of their clients."""
        return self.errors / self.requests if self.requests else 0.0

    def since(self, before: Counters) -> Counters:
        """Return what was counted after before; a gateway that was restarted meanwhile counts from zero."""
        if self.requests < before.requests or self.errors < before.errors:
            return self
        return Counters(self.requests - before.requests, self.errors - before.errors, self.milliseconds)


def read_counters(admin_socket: Path, color: str) -> Counters:
    """Ask the gateway for one color's counters."""
    rows = statistics(admin_socket, f"bk_{color}")
    total: dict[str, str] = next((row for row in rows if row["svname"] == "BACKEND"), {})
    answers = [int(total.get(f"hrsp_{kind}") or 0) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")]
    return Counters(sum(answers), failures(admin_socket, f"bk_{color}"), int(total.get("rtime") or 0))


def judge(counted: Counters, former: Counters, down: dict[str, str], final: bool) -> str:
    """Return what is wrong with the new release, or ''; before the end only what waiting cannot make better counts."""
    if down:
        return f"the gateway lost instance {', '.join(sorted(down))}: it no longer answers /health/ready"
    if counted.error_rate > former.error_rate + MORE_ERRORS and counted.errors >= ENOUGH_FAILURES:
        return (
            f"{counted.errors} of {counted.requests} requests failed with 500 or 502 "
            f"(the release before: {former.error_rate:.1%})"
        )
    slow = former.milliseconds * SLOWER + SLOWER_MS
    if final and min(counted.requests, former.requests) >= ENOUGH_FOR_LATENCY and counted.milliseconds > slow:
        return f"an answer takes {counted.milliseconds} ms, with the release before it took {former.milliseconds} ms"
    return ""


def set_live(state_dir: Path, color: str) -> None:
    """Send new requests to the color: the map file first, so that a gateway that restarts comes up with it."""
    write_atomically(map_of(state_dir), f"live {color}\n")
    set_live_color(socket_of(state_dir), color)


def mend(state_dir: Path, word: str, write: bool = True) -> bool:
    """Bring the map file and the running gateway's map to the word; return whether one of them had another."""
    map_file, admin_socket = map_of(state_dir), socket_of(state_dir)
    wrong_file, wrong_memory = read_map_file(map_file) != word, False
    # A gateway that does not run reads the file when it starts.
    with contextlib.suppress(GatewayError):
        wrong_memory = live_word(admin_socket) != word
    if write and wrong_file:
        map_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(map_file, f"live {word}\n")
    if write and wrong_memory:
        set_live_color(admin_socket, word)
    return wrong_file or wrong_memory


@dataclass(frozen=True)
class Switched:
    """What a switch did: the color that was live, whether anything changed, and how long requests had been held."""

    previous: str
    changed: bool
    held: float = 0.0


def switch(state_dir: Path, color: str, bake: bool) -> Switched:
    """Make the color live.

    With bake a note is left first: as long as it is there, the live release has not proved itself.
    """
    admin_socket, note, map_file = socket_of(state_dir), state_dir / NOTE, map_of(state_dir)
    previous = live_word(admin_socket) or NOBODY
    if color.startswith(HOLD):
        hold.begin(state_dir)
    if previous == color:
        # A note stays: that the map file is mended proves nothing.
        mended = mend(state_dir, color)
        return Switched(previous, mended)
    # The map file was written when the requests began to wait, be it by a run that died since.
    held_since = map_file.stat().st_mtime if previous.startswith(HOLD) else 0.0
    if bake and previous in COLORS and previous != color:
        content = {"from": previous, "to": color, "at": time.time()}
        content["before"] = vars(read_counters(admin_socket, color))
        content["former"] = vars(read_counters(admin_socket, previous))
        write_atomically(note, json.dumps(content) + "\n")
    else:
        note.unlink(missing_ok=True)
    set_live(state_dir, color)
    if not color.startswith(HOLD):
        hold.end(state_dir)
    return Switched(previous, True, time.time() - held_since if held_since else 0.0)


def counters_of(content: dict[str, Any]) -> Counters:
    """Return the counters of a note."""
    return Counters(content["requests"], content["errors"], content["milliseconds"])


def pending(state_dir: Path, color: str) -> dict[str, Any]:
    """Return the note of a switch to the color whose bake has not ended, or nothing; a damaged note says nothing."""
    try:
        note = read_json(state_dir / NOTE)
        complete = note["to"] == color and note["from"] in COLORS and note["at"] >= 0
        for counters in ("before", "former"):
            counters_of(note[counters])
    except (ReleaseError, KeyError, TypeError):
        return {}
    return note if complete else {}


@dataclass(frozen=True)
class Outcome:
    """How a bake ended: the reason to go back or '', what was counted, and whether the former color serves again.

    back_seconds is what going back took, from the verdict until the running gateway had the former color.
    """

    reason: str = ""
    former: str = ""
    went_back: bool = False
    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    back_seconds: float = 0.0


def bake(
    state_dir: Path,
    color: str,
    servers: list[str],
    seconds: float,
    tell: Callable[[float, str], None] = lambda _seconds, _words: None,
) -> Outcome:
    """Watch the live color for what is left of the time; go back to the former one when it fails.

    Meanwhile tell after how many seconds there were how many requests and errors.
    """
    note = pending(state_dir, color)
    if not note:
        return Outcome()
    admin_socket = socket_of(state_dir)
    before, former = counters_of(note["before"]), counters_of(note["former"])
    # After a reboot the clock may have jumped; a bake never lasts longer than it was asked to.
    deadline = time.monotonic() + min(seconds, max(0.0, note["at"] + seconds - time.time()))
    started, counted, reason = time.monotonic(), Counters(0, 0, 0), ""
    while not reason:
        final = time.monotonic() >= deadline
        counted = read_counters(admin_socket, color).since(before)
        down = servers_down(admin_socket, f"bk_{color}", set(servers))
        reason = judge(counted, former, down, final)
        if final:
            break
        tell(seconds - (deadline - time.monotonic()), f"{counted.requests} requests, {counted.errors} errors")
        time.sleep(0.1)
    judged = time.monotonic()
    former_up = any(is_up(row) for row in statistics(admin_socket, f"bk_{note['from']}"))
    # Nothing is won by going back to a release that is gone.
    went_back = bool(reason) and former_up
    if went_back:
        set_live(state_dir, note["from"])
    back = round(time.monotonic() - judged, 4) if went_back else 0.0
    (state_dir / NOTE).unlink(missing_ok=True)
    took = round(time.monotonic() - started, 2)
    return Outcome(reason, note["from"], went_back, counted.requests, counted.errors, took, back)
