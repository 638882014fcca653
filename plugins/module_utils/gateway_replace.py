"""Replace a gateway: prove the new one first, keep the old one until the new one answers, else put it back.

Compose's file is the only description of the containers. Compose makes the new container beside the old one, and this
decides which of them runs: where both can have their addresses they overlap, else the old one lets its clients go and
makes way for the moment that the new one needs to start, and new connections wait meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError, last_log_lines, run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP, SOCKET, SOCKET_FOLDER
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import (
    Container,
    parse_config_hashes,
    read_containers,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    command,
    finish,
    is_listening,
    worker,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request
from ansible_collections.gpu_hosts.timm.plugins.module_utils.patience import hold, holds, release
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import GATEWAY, Address, Look, ask
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import put_aside, write_atomically

COMPOSE_FILE = "docker-compose.yml"
KEEPER = "keeper"
FOLDER_MODE = 0o755
# What HAProxy reads only when it starts or is told to read it again.
CONFIGURATION = ("conf/haproxy.cfg", "conf/hold.lua")
# Says that the gateway that runs ends connections with its answers, which an undone replacement has to end.
CLOSING = "conf/gateway.closing"
# Names the gateway that makes way, for the keeper (roles/gateway/files/keeper.py).
AWAY = "conf/gateway.away"
FORMER_SOCKET = "run/admin.former.sock"
# What a gateway that reads its configuration anew knows of its servers (server-state-file).
SERVERS = "run/servers.state"
TRIAL_SECONDS = 15.0
ANSWER_SECONDS = 20.0
# Longer than clients keep a connection that they do not use. Who keeps one for longer has to expect its end at any time
# and to ask again (RFC 9112, 9.3.1 and 9.5).
KEPT_UNUSED_SECONDS = 6.0
# How long requests that are under way may keep others waiting for the new gateway.
MAKE_WAY_SECONDS = 5.0
# How long new connections wait at most for a gateway that takes another one's place.
WAIT_SECONDS = 15.0
LOCK_SECONDS = 180.0
# How long a container must stay up to count as one that runs.
STAYS_UP_SECONDS = 1.0


class ReplaceError(Exception):
    """The gateway could not be replaced; the message says why."""


@contextlib.contextmanager
def alone(state_dir: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of the gateway's folder, which whatever an earlier run left behind may still hold."""
    deadline = time.monotonic() + seconds
    place = state_dir / "replace.lock"
    if place.is_dir():
        put_aside(place)
    with place.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ReplaceError(f"another run has been replacing the gateway for {seconds:.0f} s") from None
                time.sleep(0.1)
        yield


def own_folders(state_dir: Path, folders: Iterable[tuple[str, int, int, int]]) -> None:
    """Give the gateway's folders, each with its name, user, group and mode, to whom they belong."""
    for name, user, group, mode in folders:
        (state_dir / name).chmod(mode)
        os.chown(state_dir / name, user, group)


def make_folders(state_dir: Path, folders: dict[str, int]) -> None:
    """Make the folders of the gateway that are missing, and a map without a live release where there is none."""
    for name, owner in folders.items():
        if not (state_dir / name).is_dir():
            if (state_dir / name).is_file():
                put_aside(state_dir / name)
            (state_dir / name).mkdir(parents=True)
            own_folders(state_dir, [(name, owner, owner, FOLDER_MODE)])
    if not (state_dir / MAP).is_file():
        # From here on the switch writes it.
        write_atomically(state_dir / MAP, "live none\n")


def in_the_way(item: Container, addresses: Iterable[Address]) -> bool:
    """Return whether nobody else can have one of these addresses while a gateway runs."""
    return any(its.overlaps(other) for other in addresses for its in item.addresses)


def ending_connections(configuration: str) -> str:
    """Return a configuration of a gateway with which every answer ends its connection.

    It is read by a reload, which one of 5539c80 has no servers' addresses for until its resolver has answered.
    """
    added = {
        "global": f"server-state-file {SOCKET_FOLDER}/{Path(SERVERS).name}",
        "defaults": "load-server-state-from-file global\n    option httpclose",
    }
    for section, text in added.items():
        missing = [line for line in text.split("\n") if line.strip() not in configuration]
        configuration = re.sub(rf"(?m)^{section}$", "\n    ".join([section, *map(str.strip, missing)]), configuration)
    return configuration.replace("init-addr none", "init-addr last,none")


class Replacement:
    """`prove` changes nothing, `steps` lead to the new gateway and `undo` leads back; `retire` ends it."""

    def __init__(self, wanted: dict[str, Any], files: dict[str, str], containers: list[Container]) -> None:
        self._state = Path(wanted["state_dir"])
        self._folders = {str(name): int(owner) for name, owner in wanted["folders"].items()}
        # Folders of the gateway that made way must be its own again when it starts.
        found = {name: (self._state / name).stat() for name in self._folders if (self._state / name).is_dir()}
        self._former_folders = [
            (name, entry.st_uid, entry.st_gid, entry.st_mode & 0o7777) for name, entry in found.items()
        ]
        self._project = f"{wanted['name']}-gateway"
        self._drain = float(wanted["drain"])
        # The name of the firewall's rules by which connections wait.
        self._makes_way = f"{self._project} makes way"
        self._files = {Path(name): content for name, content in files.items()}
        self._former_files = {
            path: path.read_text(encoding="utf-8") if path.is_file() else None for path in self._files
        }
        self._before = [item for item in containers if item.service == GATEWAY and not item.one_off]
        self._keeper_before = next((item for item in containers if item.service == KEEPER), None)
        self._hashes: dict[str, str] = {}
        self._chosen: Container | None = None
        self._stopped_at = 0.0
        self._served = self._look_before()
        self.gap = 0.0

    def _look_before(self) -> Look:
        running = [address for item in self._before if item.running for address in item.addresses]
        return next((found for found in map(ask, running) if found.answers), Look())

    # --- Proving -----------------------------------------------------------------------------------------------------

    def prove(self) -> None:
        """Start the new gateway once, beside everything and without an address; raise ReplaceError when it does not."""
        stage, name = self._state / "trial", f"{self._project}-trial"
        self._clear_trial(stage, name)
        try:
            make_folders(stage, self._folders)
            for path, content in self._files.items():
                write_atomically(stage / path.relative_to(self._state), content)
            shutil.copyfile(self._state / MAP, stage / MAP)
            self._hashes = parse_config_hashes(self._compose("config", "--hash", "*", file=stage / COMPOSE_FILE))
            self._compose(
                "run", "--detach", "--no-deps", "--name", name, GATEWAY, file=stage / COMPOSE_FILE, folder=stage
            )
            self._wait_until_listening(stage / SOCKET, name)
        except DockerError as error:
            raise ReplaceError(f"the new gateway does not start: {error}") from error
        finally:
            self._clear_trial(stage, name)
            if not self._before:
                self._remove_network()

    def _clear_trial(self, stage: Path, name: str) -> None:
        with contextlib.suppress(DockerError):
            run_docker(["rm", "--force", "--volumes", name])
        shutil.rmtree(stage, ignore_errors=True)

    def _wait_until_listening(self, socket: Path, name: str) -> None:
        deadline = time.monotonic() + TRIAL_SECONDS
        while not is_listening(socket):
            state: dict[str, Any] = json.loads(run_docker(["inspect", "--format", "{{json .State}}", name]))
            if not state["Running"] or time.monotonic() >= deadline:
                how = "does not listen" if state["Running"] else f"ended with exit code {state['ExitCode']}"
                said = "\n".join(last_log_lines(name)) or "nothing"
                raise ReplaceError(f"the new gateway {how}. It said:\n{said}")
            time.sleep(0.05)

    # --- Replacing ---------------------------------------------------------------------------------------------------

    def steps(self) -> list[Callable[[], None]]:
        """Return what leads to the new gateway, in order. Until `retire` begins, `undo` leads back from anywhere."""
        return [
            self.install,
            self.replace_keeper,
            self.make,
            self.free_clients,
            self.make_way,
            self.start,
            self.let_in,
            self.require_answer,
        ]

    def install(self) -> None:
        """Write the new files."""
        for path, content in self._files.items():
            write_atomically(path, content)

    def replace_keeper(self) -> None:
        """Bring the keeper to its new description; what serves does not need it meanwhile."""
        self._compose_keeper()
        keeper = next((item for item in read_containers(self._project) if item.service == KEEPER), None)
        if keeper is None or (
            self._keeper_before and keeper.id == self._keeper_before.id and self._keeper_before.running
        ):
            return
        time.sleep(STAYS_UP_SECONDS)
        state = json.loads(run_docker(["inspect", "--format", "{{json .State}}", keeper.id]))
        if state["Status"] != "running":
            said = "\n".join(last_log_lines(keeper.id))
            raise ReplaceError(f"the new keeper does not run: exit code {state['ExitCode']}. It said:\n{said}")

    def make(self) -> None:
        """Choose the container that is to serve: one that is as wanted, else a new one that does not run yet."""
        wanted = (item for item in self._before if item.config_hash == self._hashes[GATEWAY])
        self._chosen = next((item for item in wanted if not item.cut_off), None)
        if self._chosen is None:
            count = str(len(self._before) + 1)
            self._compose("up", "--no-start", "--no-recreate", "--no-deps", "--scale", f"{GATEWAY}={count}", GATEWAY)
            known = {item.id for item in self._before}
            made = [item for item in read_containers(self._project) if item.service == GATEWAY and item.id not in known]
            self._chosen = next(item for item in made if not item.one_off)

    def free_clients(self) -> None:
        """Have one that is to make way end each connection with its next answer, until no client uses one that it kept.

        Nobody waits for that, as new connections are served all the while.
        """
        chosen, path = self._require_chosen(), self._state / CONFIGURATION[0]
        former = self._former_files[path]
        if chosen.running or former is None:
            return
        for item in self._others(running=True):
            if in_the_way(item, chosen.addresses):
                (self._state / CLOSING).touch()
                write_atomically(path, ending_connections(former))
                # One that does not read it makes way all the same.
                with contextlib.suppress(ReplaceError, DockerError):
                    finish(self._state / SOCKET, partial(self._reload, item), self._drain, KEPT_UNUSED_SECONDS)
                write_atomically(path, self._files[path])

    def make_way(self) -> None:
        """Stop an old one that has the address of the new one: the moment begins in which new connections wait."""
        chosen = self._require_chosen()
        if chosen.running:
            return
        if self._others(running=True) and (self._state / SOCKET).exists():
            # The new one puts its own socket in this one's place.
            (self._state / FORMER_SOCKET).unlink(missing_ok=True)
            os.link(self._state / SOCKET, self._state / FORMER_SOCKET)
        for item in self._others(running=True):
            if in_the_way(item, chosen.addresses):
                write_atomically(self._state / AWAY, f"{item.id}\n")
                self._stopped_at = time.monotonic()
                self._stop(item)

    def start(self) -> None:
        """Start the chosen one, or let it read its new configuration if it runs."""
        chosen = self._require_chosen()
        own_folders(self._state, [(name, owner, owner, FOLDER_MODE) for name, owner in self._folders.items()])
        if not chosen.running:
            # The kernel lets nobody put a socket in the place of another user's (fs.protected_hardlinks).
            (self._state / SOCKET).unlink(missing_ok=True)
            run_docker(["start", chosen.id])
        elif self._reads_another():
            self._reload(chosen)

    def let_in(self) -> None:
        """Let the connections in that wait, once somebody listens."""
        if not holds(self._makes_way):
            return
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_listening(self._state / SOCKET) and time.monotonic() < deadline:
            time.sleep(0.02)
        release(self._makes_way)

    def require_answer(self) -> None:
        """Wait until the new gateway answers at its address as the old one did."""
        chosen, deadline = self._require_chosen(), time.monotonic() + ANSWER_SECONDS
        waiting = dict.fromkeys(chosen.addresses, "")
        while waiting:
            for address in list(waiting):
                waiting[address] = self._missing(address.url)
                if not waiting[address]:
                    del waiting[address]
            if waiting and time.monotonic() >= deadline:
                raise ReplaceError(f"the new gateway does not answer: {next(iter(waiting.values()))}")
            time.sleep(0.02 if waiting else 0)
        if self._stopped_at:
            self.gap = time.monotonic() - self._stopped_at

    def _missing(self, url: str) -> str:
        """Return what is wrong with the answer at the url, '' when it is as good as the old gateway's."""
        try:
            answer = request(f"{url}/health/ready", timeout=5)
        except UnreachableError as error:
            return str(error)
        if self._served.answers and answer.status != 200:
            return f"{url} answers {answer.status}: {answer.excerpt()}"
        return ""

    def retire(self) -> None:
        """End what the new gateway took the place of. From here on the new one is the gateway, whatever happens."""
        for name in (AWAY, FORMER_SOCKET, CLOSING):
            (self._state / name).unlink(missing_ok=True)
        chosen = self._require_chosen()
        for item in self._others():
            if item.running:
                with contextlib.suppress(DockerError):
                    run_docker(["stop", "-t", str(int(self._drain)), item.id])
            run_docker(["rm", "--force", item.id])
        if chosen.name != self._project:
            run_docker(["rename", chosen.id, self._project])

    # --- Going back --------------------------------------------------------------------------------------------------

    def undo(self) -> str:
        """Make everything what it was, from wherever the steps got to; return what could not be put back, or ''."""
        problems = [problem for problem in map(self._try, self._ways_back()) if problem]
        return "; ".join(problems)

    def _ways_back(self) -> list[Callable[[], None]]:
        return [
            self._remove_new,
            self._restore_files,
            self._restore_socket,
            lambda: own_folders(self._state, self._former_folders),
            self._restart,
            self.let_in,
            self._restore_keeper,
            self._wait,
        ]

    def _try(self, step: Callable[[], None]) -> str:
        try:
            step()
        except (DockerError, GatewayError, ReplaceError, OSError) as error:
            return str(error)
        return ""

    def _remove_new(self) -> None:
        known = {item.id for item in self._before}
        found = read_containers(self._project)
        running = {item.id for item in found if item.running}
        back = [
            address for item in self._before if item.running and item.id not in running for address in item.addresses
        ]
        for item in found:
            if item.service != GATEWAY or item.id in known:
                continue
            if item.running and in_the_way(item, back):
                self._stop(item)
            run_docker(["rm", "--force", "--volumes", item.id])

    def _restore_files(self) -> None:
        for path, content in self._former_files.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, content)

    def _restore_socket(self) -> None:
        if (self._state / FORMER_SOCKET).exists():
            (self._state / FORMER_SOCKET).replace(self._state / SOCKET)

    def _restart(self) -> None:
        running = {item.id for item in read_containers(self._project) if item.running}
        for item in self._before:
            if item.running and item.id not in running:
                run_docker(["start", item.id])
            elif not item.running and item.id in running:
                run_docker(["stop", item.id])
            elif item.running and (self._reads_another() or (self._state / CLOSING).exists()):
                self._reload(item)
        for name in (AWAY, CLOSING):
            (self._state / name).unlink(missing_ok=True)

    def _restore_keeper(self) -> None:
        if not self._before and self._keeper_before is None:
            self._remove_network()
        elif (self._state / COMPOSE_FILE).is_file():
            self._compose_keeper()

    def _wait(self) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while self._served.answers:
            missing = self._missing(self._served.url)
            if not missing:
                return
            if time.monotonic() >= deadline:
                raise ReplaceError(missing)
            time.sleep(0.05)

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _reads_another(self) -> bool:
        """Return whether a gateway that runs on has another configuration to read."""
        paths = [self._state / name for name in CONFIGURATION]
        return any(self._former_files.get(path) != self._files.get(path) for path in paths)

    def _require_chosen(self) -> Container:
        if self._chosen is None:
            raise ReplaceError("no container was made")
        return self._chosen

    def _others(self, running: bool = False) -> list[Container]:
        chosen = self._require_chosen()
        return [item for item in self._before if item.id != chosen.id and (item.running or not running)]

    def _stop(self, item: Container) -> None:
        """Stop a gateway as soon as the requests that it has are answered; new connections wait for the next one."""
        hold([(address.ip, address.port) for address in item.addresses], self._makes_way, WAIT_SECONDS)
        finish(self._state / SOCKET, lambda: run_docker(["kill", "--signal", "USR1", item.id]), MAKE_WAY_SECONDS)
        run_docker(["stop", "-t", "0", item.id])

    def _reload(self, item: Container) -> None:
        """Let a gateway that runs read its configuration; it has its servers' addresses before any resolver answers."""
        socket, servers = self._state / SOCKET, self._state / SERVERS
        try:
            before = worker(socket)
            write_atomically(servers, f"{command(socket, 'show servers state')}\n")
        except GatewayError as error:
            raise ReplaceError(f"the running gateway cannot be told of its new configuration: {error}") from error
        try:
            run_docker(["kill", "--signal", "USR2", item.id])
            self._wait_for_another(before)
        finally:
            # A gateway that starts later finds its servers at other addresses.
            servers.unlink(missing_ok=True)

    def _wait_for_another(self, before: str) -> None:
        deadline = time.monotonic() + TRIAL_SECONDS
        while True:
            with contextlib.suppress(GatewayError):
                if worker(self._state / SOCKET) != before:
                    return
            if time.monotonic() >= deadline:
                raise ReplaceError("the gateway did not read its new configuration")
            time.sleep(0.05)

    def _compose(self, *arguments: str, file: Path | None = None, folder: Path | None = None) -> str:
        place = ["--project-directory", str(folder or self._state), "--file", str(file or self._state / COMPOSE_FILE)]
        said: str = run_docker(["compose", "--project-name", self._project, *place, *arguments])
        return said

    def _compose_keeper(self) -> None:
        """Run the keeper that the Compose file in place describes, or none."""
        if KEEPER in parse_config_hashes(self._compose("config", "--hash", "*")):
            anew = ["--force-recreate"] if self._keeper_before and self._keeper_before.cut_off else []
            self._compose("up", "--detach", "--no-deps", *anew, KEEPER)
            return
        for item in read_containers(self._project):
            if item.service == KEEPER:
                run_docker(["rm", "--force", item.id])

    def _remove_network(self) -> None:
        """Remove the network that the first gateway of a service brought, unless an instance is on it."""
        with contextlib.suppress(DockerError):
            run_docker(["compose", "--project-name", self._project, "down"])
