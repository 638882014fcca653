"""Keep the live release's containers running where Docker's own restart policy does not act.

Docker takes `docker kill` for a wish to stay stopped, never restarts a container that runs but hangs, and tries only
once to start one after a reboot: too early for CDI devices before Docker 28.2 (moby#49989), or where their
specification is written a moment later. Every two seconds this looks at the containers of the colour that the gateway's
map names: one that was killed or could not be started is started, one that has been unhealthy for a minute is
restarted. One that was stopped (`docker stop`) ended by itself with exit code 0, and stays as it is.

Usage: keeper.py SERVICE MAP_FILE DOCKER_SOCKET
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

POLL_SECONDS = 2.0
HANG_SECONDS = 60.0
START_SECONDS = 10.0
KILLED = 128 + signal.SIGKILL


class EngineError(Exception):
    """The engine did not answer, or refused."""


class Engine(http.client.HTTPConnection):
    """Docker's API on its Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str) -> Any:
        """Send a request and return the decoded answer; raise EngineError when there is none or it is an error."""
        try:
            self.request(method, path)
            response = self.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{method} {path}: {error}") from error
        finally:
            self.close()
        if response.status >= 400:
            raise EngineError(f"{method} {path}: {response.status} {body[:200].decode(errors='replace').strip()}")
        return json.loads(body) if body else None


def live_colour(map_file: Path) -> str:
    """Return the colour that gets requests, '' when there is none."""
    try:
        fields = map_file.read_text(encoding="utf-8").split()
    except OSError:
        return ""
    return fields[1] if len(fields) == 2 and fields[1] != "none" else ""


class Keeper:
    """Remembers since when a container has been unhealthy, and when it last tried to start one."""

    def __init__(self, engine: Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self._unhealthy_since: dict[str, float] = {}
        self._tried: dict[str, float] = {}

    def look(self, colour: str, now: float) -> list[tuple[str, str]]:
        """Act on the containers of the colour; return what was done as (action, container name)."""
        labels = [f"inference-service.name={self._service}", f"inference-service.colour={colour}"]
        filters = quote(json.dumps({"label": labels}))
        done = []
        for entry in self._engine.ask("GET", f"/containers/json?all=true&filters={filters}"):
            state = self._engine.ask("GET", f"/containers/{entry['Id']}/json")["State"]
            action = self.decide(entry["Id"], state, now)
            if action:
                self._engine.ask("POST", f"/containers/{entry['Id']}/{action}")
                done.append((action, str(entry["Names"][0]).lstrip("/")))
        return done

    def decide(self, identity: str, state: dict[str, Any], now: float) -> str:
        """Return `start`, `restart` or '' for a container's state as `docker inspect` shows it."""
        if state["Status"] == "exited":
            self._unhealthy_since.pop(identity, None)
            if state["ExitCode"] != KILLED and not state.get("Error"):
                return ""
            # What cannot be started now may be in a moment; meanwhile the others are looked at.
            if now - self._tried.get(identity, -START_SECONDS) < START_SECONDS:
                return ""
            self._tried[identity] = now
            return "start"
        if (state.get("Health") or {}).get("Status") != "unhealthy":
            self._unhealthy_since.pop(identity, None)
            return ""
        if now - self._unhealthy_since.setdefault(identity, now) < HANG_SECONDS:
            return ""
        del self._unhealthy_since[identity]
        return "restart"


def say(level: str, detail: str) -> None:
    """Write one line of log."""
    sys.stdout.write(json.dumps({"level": level, "logger": "keeper", "detail": detail}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Look for ever."""
    service, map_file, docker_socket = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keeper = Keeper(Engine(docker_socket), service)
    while True:
        try:
            colour = live_colour(Path(map_file))
            for action, name in keeper.look(colour, time.monotonic()) if colour else []:
                say(
                    "warning",
                    f"{name} was {'not running' if action == 'start' else 'unhealthy for a minute'}: {action}ed it.",
                )
        except EngineError as error:
            say("error", str(error))
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
