"""Keep the live release's containers running where Docker's own restart policy does not act.

Docker takes `docker kill` for a wish to stay stopped, never restarts a container that runs but hangs, and tries only
once to start one after a reboot: too early for CDI devices before Docker 28.2 (moby#49989), or where their
specification is written a moment later. Every two seconds this looks at the containers of the color that the gateway's
map names: one that was killed or could not be started is started, one that has been unhealthy for a minute is
restarted. One that was stopped (`docker stop`) ended by itself with exit code 0, and stays as it is.

While a run replaces the only instance, the map says `hold-COLOR`, requests wait, and the run touches a file beside
the map. When that stops, the run is dead: its candidate is stopped, and what served before is started and made live,
in the running gateway too, whose requests wait no longer then.

An engine that starts anew makes its socket anew, and a container sees the old one for ever. So when Docker has been
silent for a while this ends; Docker starts it again, with the socket of then.

Docker's resolver may go on naming the address of a container that died beside the new one (moby#24800, moby#36797).
The gateway keeps an address as long as it is named. So it is told where Docker put an instance that is healthy, when it
has another address and nobody answers there.

On a disk without a free byte Docker starts no container, because it writes a few files for each. So a little room is
taken while there is plenty, beside the map, and given back when Docker says that it has none.

While a gateway makes way for another one, a file beside the map names it. When that file grows old and no gateway runs
(the host lost its power at that moment), it is started again.

Usage: keeper.py SERVICE MAP_FILE DOCKER_SOCKET
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

POLL_SECONDS = 2.0
# Longer than a restart of Docker takes.
SILENT_SECONDS = 30.0
HANG_SECONDS = 60.0
START_SECONDS = 10.0
# Longer than any step of a run that replaces an instance; the long ones say meanwhile that they go on.
ALIVE_SECONDS = 120.0
# The second is what the label was called before 1.0.0: instances that were deployed then are looked after too.
COLOR_LABELS = ("inference-service.color", "inference-service.colour")
HOLD = "hold-"
SIGN_OF_LIFE = "hold.alive"
# Longer than a gateway is away while another one takes its place.
AWAY_SECONDS = 60.0
AWAY = "gateway.away"
KILLED = 128 + signal.SIGKILL
# Docker needs less than 100 KB to start a container; what the gateway writes to its log meanwhile takes some, too.
BALLAST = "ballast"
BALLAST_BYTES = 8 * 2**20
# It is taken where so many times its size are free: nobody misses it there.
BALLAST_SPARE = 8
NO_ROOM = "no space left on device"
# These run in the gateway's container, because its admin socket is its user's.
ASK = """
import socket, sys
def ask(words):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect("/run/haproxy/admin.sock")
        connection.sendall(f"{words}\\n".encode())
        return connection.makefile().read().strip()
"""
# What HAProxy answers is a complaint.
TELL = f"""{ASK}
sys.exit(1 if ask(f"set map /etc/haproxy/conf/live.map live {{sys.argv[1]}}") else 0)
"""
AIMED, UP_ELSEWHERE = 3, 4
# Fields 3 to 5 are a server's name, address and state; 0 is down. One that is up is left alone, but may be down soon.
AIM = f"""{ASK}
backend, server, *addresses = sys.argv[1:]
for row in map(str.split, ask(f"show servers state {{backend}}").splitlines()):
    if row[3:4] == [server] and row[4] not in addresses:
        if row[5] != "0":
            sys.exit({UP_ELSEWHERE})
        ask(f"set server {{backend}}/{{server}} addr {{addresses[0]}}")
        sys.exit({AIMED})
"""
TELL_SECONDS = 10.0


class EngineError(Exception):
    """Docker did not answer, or refused."""


class SilentError(EngineError):
    """Nobody answers on Docker's socket."""


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

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Send a request and return the decoded answer; raise EngineError when there is none or it is an error."""
        sent = (None, {}) if content is None else (json.dumps(content), {"Content-Type": "application/json"})
        try:
            self.request(method, path, *sent)
            response = self.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(f"{method} {path}: {error}") from error
        finally:
            self.close()
        if response.status >= 400:
            raise EngineError(f"{method} {path}: {response.status} {body[:400].decode(errors='replace').strip()}")
        return json.loads(body) if body else None


def live_color(map_file: Path) -> str:
    """Return the color that gets requests, hold-COLOR while they wait, '' when there is none."""
    try:
        fields = map_file.read_text(encoding="utf-8").split()
    except OSError:
        return ""
    return fields[1] if len(fields) == 2 and fields[1] != "none" else ""


class Age:
    """How long nobody has touched a file. A clock that is set meanwhile, forward or back, makes it no older."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, float]] = {}

    def of(self, path: Path) -> float:
        """Return the seconds since the file was touched."""
        touched, now = path.stat().st_mtime_ns, time.monotonic()
        if self._known.get(path, (0, 0))[0] != touched:
            self._known[path] = touched, now - max(0.0, time.time() - touched / 1e9)
        return now - self._known[path][1]


def write_map(map_file: Path, value: str) -> None:
    """Write what is live, in one step."""
    new = map_file.with_name(f".{map_file.name}.keeper")
    new.write_text(f"live {value}\n", encoding="utf-8")
    new.replace(map_file)


class Ballast:
    """Room on the disk that is kept for the time when there is no other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self) -> None:
        """Take the room, unless it is taken, or too little would be left to others."""
        if self._path.exists() or self._is_scarce():
            return
        try:
            with self._path.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        except OSError:
            self._path.unlink(missing_ok=True)

    def release(self) -> bool:
        """Give the room back; return whether that helps. Docker's files may lie on another disk, which has some."""
        if not self._path.exists() or not self._is_scarce():
            return False
        self._path.unlink()
        return True

    def _is_scarce(self) -> bool:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize < BALLAST_SPARE * BALLAST_BYTES


def is_healthy(state: dict[str, Any]) -> bool:
    """Return whether Docker's health check finds a container healthy."""
    return bool((state.get("Health") or {}).get("Status") == "healthy")


class Keeper:
    """Remembers since when a container has been unhealthy, and when it last tried to start one."""

    def __init__(self, engine: Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self._unhealthy_since: dict[str, float] = {}
        self._tried: dict[str, float] = {}
        self._aimed: dict[str, tuple[str, ...]] = {}
        self._asked: dict[str, float] = {}
        self._age = Age()

    def try_again(self) -> None:
        """Start at the next look what could not be started a moment ago."""
        self._tried.clear()

    def is_silent(self, sign: Path, patience: float) -> bool:
        """Return whether nobody has touched the file for so many seconds."""
        return self._age.of(sign) > patience

    def is_abandoned(self, map_file: Path) -> bool:
        """Return whether the run that made requests wait has given no sign of life for too long."""
        sign = map_file.with_name(SIGN_OF_LIFE)
        return self.is_silent(sign if sign.exists() else map_file, ALIVE_SECONDS)

    def look(self, color: str, now: float) -> list[tuple[str, str]]:
        """Act on the containers of the color; return what was done as (action, container name)."""
        done = []
        containers = self._containers(color)
        for identity, name, container in containers:
            action = self.decide(identity, container["State"], now)
            if action:
                self._engine.ask("POST", f"/containers/{identity}/{action}")
                done.append((action, name))
        return done or self.aim(color, containers, now)

    def aim(self, color: str, containers: list[tuple[str, str, dict[str, Any]]], now: float) -> list[tuple[str, str]]:
        """Let the gateway reach each healthy instance where Docker put it; return where it had another address."""
        done = []
        for identity, name, container in containers:
            network = ((container.get("NetworkSettings") or {}).get("Networks") or {}).get(self._service) or {}
            addresses = [network[key] for key in ("IPAddress", "GlobalIPv6Address") if network.get(key)]
            servers = [word for word in network.get("Aliases") or [] if word.startswith(f"{color}-")]
            gateway = self._gateway_started() if addresses and servers and is_healthy(container["State"]) else ""
            # What is right stays right until one of them starts anew.
            starts = (gateway, container["State"].get("StartedAt", ""), *addresses)
            if not gateway or self._aimed.get(identity) == starts:
                continue
            if now - self._asked.get(identity, -START_SECONDS) < START_SECONDS:
                continue
            self._asked[identity] = now
            code = self._in_gateway(AIM, f"bk_{color}", servers[0].removeprefix(f"{color}-"), *addresses)
            if code == 0:
                self._aimed[identity] = starts
            elif code == AIMED:
                done.append(("aim", name))
        return done

    def bring_back(self, color: str) -> list[tuple[str, str]]:
        """Take the next step towards the color serving again; return it as (action, container name).

        The last step sends the requests there: (`live`, COLOR).
        """
        done = []
        own = self._containers(color)
        # Two may not fit; the candidate of a dead run makes room, as the color did for it.
        for identity, name, container in self._containers("green" if color == "blue" else "blue") if own else []:
            if container["State"]["Status"] not in ("exited", "created"):
                self._engine.ask("POST", f"/containers/{identity}/stop")
                done.append(("stop", name))
        for identity, name, container in own:
            if container["State"]["Status"] in ("exited", "created"):
                self._engine.ask("POST", f"/containers/{identity}/start")
                done.append(("start", name))
        if own and all(is_healthy(container["State"]) for _, _, container in own) and not done:
            done.append(("live", color))
        return done

    def bring_gateway_back(self, identity: str) -> list[tuple[str, str]]:
        """Start the gateway that made way, unless one runs; return what was done."""
        labels = [f"inference-service.name={self._service}", "com.docker.compose.service=gateway"]
        filters = quote(json.dumps({"label": labels}))
        if self._engine.ask("GET", f"/containers/json?filters={filters}"):
            return []
        self._engine.ask("POST", f"/containers/{identity}/start")
        return [("start", f"{self._service}-gateway")]

    def tell_gateway(self, color: str) -> None:
        """Let the running gateway send requests to the color, those that wait in it too: a reload would lose them."""
        if self._in_gateway(TELL, color) != 0:
            raise EngineError(f"{self._service}-gateway did not take {color} as the live color.")

    def _gateway_started(self) -> str:
        """Return when the gateway was started last, '' when it does not run."""
        try:
            state = self._inspect(f"{self._service}-gateway")["State"]
        except SilentError:
            raise
        except EngineError:
            return ""
        return str(state["StartedAt"]) if state.get("Running") and not state.get("Paused") else ""

    def _in_gateway(self, program: str, *words: str) -> int | None:
        """Run a program in the gateway's container; return its exit code, None when it takes too long."""
        run = {"Cmd": ["python3", "-c", program, *words]}
        command = self._engine.ask("POST", f"/containers/{self._service}-gateway/exec", run)["Id"]
        self._engine.ask("POST", f"/exec/{command}/start", {"Detach": True})
        deadline = time.monotonic() + TELL_SECONDS
        code: int | None
        while (code := self._engine.ask("GET", f"/exec/{command}/json")["ExitCode"]) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return code

    def _containers(self, color: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Return id, name and inspection of the color's containers."""
        labels = [f"inference-service.name={self._service}", "inference-service.instance"]
        filters = quote(json.dumps({"label": labels}))
        listed = self._engine.ask("GET", f"/containers/json?all=true&filters={filters}")
        found = [entry for entry in listed if color in map(entry["Labels"].get, COLOR_LABELS)]
        return [(entry["Id"], str(entry["Names"][0]).lstrip("/"), self._inspect(entry["Id"])) for entry in found]

    def _inspect(self, identity: str) -> dict[str, Any]:
        inspected: dict[str, Any] = self._engine.ask("GET", f"/containers/{identity}/json")
        return inspected

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


WORDS = {
    "start": "{} was not running: started it.",
    "restart": "{} was unhealthy for a minute: restarted it.",
    "aim": "The gateway did not reach {} where Docker put it: told it the address.",
    "stop": "{} is the candidate of a run that died: stopped it.",
    "live": "A run died while it replaced the instance: {} serves again. Run the playbook again for the new release.",
}


FULL = (
    f"The disk is full: gave Docker the {BALLAST_BYTES // 2**20} MiB that were kept to start a container with. "
    "Free space (`df -h`, `docker system df`)."
)


def look_after(keeper: Keeper, map_file: Path) -> list[tuple[str, str]]:
    """Do what is to be done now; return it as (action, name)."""
    away = map_file.with_name(AWAY)
    if away.exists() and keeper.is_silent(away, AWAY_SECONDS):
        # Whatever comes of it, the next try is a while away.
        away.touch()
        done = keeper.bring_gateway_back(away.read_text(encoding="utf-8").strip())
        away.unlink()
        return done
    color = live_color(map_file)
    if not color.startswith(HOLD):
        return keeper.look(color, time.monotonic()) if color else []
    if not keeper.is_abandoned(map_file):
        return []
    former = color.removeprefix(HOLD)
    done = keeper.bring_back(former)
    if done == [("live", former)]:
        write_map(map_file, former)
        try:
            keeper.tell_gateway(former)
        except EngineError:
            # The running gateway still lets requests wait, so this is not over.
            write_map(map_file, color)
            raise
        map_file.with_name(SIGN_OF_LIFE).unlink(missing_ok=True)
    return done


def watch(keeper: Keeper, map_file: Path, pause: float = POLL_SECONDS, patience: float = SILENT_SECONDS) -> None:
    """Look for ever; return when Docker has been silent for too long."""
    answered, problem = time.monotonic(), ""
    ballast = Ballast(map_file.with_name(BALLAST))
    while time.monotonic() - answered < patience:
        before, problem, silent = problem, "", False
        try:
            ballast.keep()
            for action, name in look_after(keeper, map_file):
                say("warning", WORDS[action].format(name))
        except (EngineError, OSError) as error:
            problem, silent = str(error), isinstance(error, SilentError)
            # Once: what nobody mends would fill the log.
            if problem != before:
                say("error", problem)
            if NO_ROOM in problem and ballast.release():
                say("warning", FULL)
                keeper.try_again()
        answered = answered if silent else time.monotonic()
        time.sleep(pause)


def main() -> None:
    """Look after a service until Docker is gone."""
    service, map_file, docker_socket = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    watch(Keeper(Engine(docker_socket), service), Path(map_file))
    say("error", f"Docker has been silent for {SILENT_SECONDS:.0f} s: it starts this anew when it is back.")
    sys.exit(1)


if __name__ == "__main__":
    main()
