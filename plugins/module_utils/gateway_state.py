"""How a gateway on a host differs from the wanted one: its files, and the containers that were made from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError, inspect_listed, run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import SOCKET, SOCKET_FOLDER
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import connect
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import (
    GATEWAY,
    LABEL_COMPOSE_ONE_OFF,
    LABEL_COMPOSE_SERVICE,
    Address,
    published,
)

# How long a gateway that starts may take until it listens on its admin socket.
SOCKET_SECONDS = 2.0
# The wanted gateway as role gateway describes it.
WANTED_OPTIONS = {
    "name": {"type": "str", "required": True},
    "state_dir": {"type": "path", "required": True},
    "image": {"type": "str", "required": True},
    "upgrade": {"type": "bool", "default": False},
    "folders": {"type": "dict", "required": True},
    "files": {"type": "dict", "required": True},
    "bind": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "settings": {"type": "str", "required": True},
    "drain": {"type": "int", "default": 30},
}


@dataclass(frozen=True)
class Container:
    """One container of the gateway's Compose project; one that only tries something out is one-off."""

    service: str
    running: bool
    image_id: str
    config_hash: str
    id: str = ""
    name: str = ""
    one_off: bool = False
    addresses: tuple[Address, ...] = ()
    cut_off: bool = False
    paused: bool = False


def is_cut_off(inspected: dict[str, Any], proc: Path = Path("/proc")) -> bool:
    """Return whether a running container sees other files than lie at its mounts now: they were removed or replaced."""
    root = proc / str(inspected["State"].get("Pid") or 0) / "root"
    for mount in inspected.get("Mounts") or []:
        if mount.get("Type") != "bind" or not root.exists():
            continue
        inside = root / str(mount["Destination"]).lstrip("/")
        try:
            if not inside.samefile(mount["Source"]):
                return True
        except OSError:
            return True
    return False


def _takes_connections(place: Path) -> bool:
    """Return whether somebody listens on a socket."""
    with contextlib.suppress(OSError), connect(place, timeout=1):
        return True
    return False


def is_deaf(inspected: dict[str, Any], seconds: float = SOCKET_SECONDS) -> bool:
    """Return whether a gateway cannot be told anything: its admin socket was removed, or it ends as often as it starts.

    Docker says of one that it starts again and again that it runs.
    """
    folders = [
        Path(mount["Source"]) for mount in inspected.get("Mounts") or [] if mount["Destination"] == SOCKET_FOLDER
    ]
    if not folders or not inspected["State"].get("Running"):
        return False
    deadline = time.monotonic() + seconds
    while not _takes_connections(folders[0] / Path(SOCKET).name):
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.1)
    return False


def parse_container(inspected: dict[str, Any]) -> Container:
    """Turn one object of ``docker inspect`` into a Container."""
    labels = inspected["Config"].get("Labels") or {}
    return Container(
        service=labels.get(LABEL_COMPOSE_SERVICE, ""),
        running=bool(inspected["State"].get("Running")),
        image_id=inspected.get("Image", ""),
        config_hash=labels.get("com.docker.compose.config-hash", ""),
        id=inspected["Id"],
        name=inspected["Name"].lstrip("/"),
        one_off=labels.get(LABEL_COMPOSE_ONE_OFF) == "True",
        addresses=tuple(published(inspected)),
        cut_off=is_cut_off(inspected) or is_deaf(inspected),
        paused=bool(inspected["State"].get("Paused")),
    )


def parse_config_hashes(text: str) -> dict[str, str]:
    """Turn ``docker compose config --hash '*'`` into the digest of each service's configuration."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def compare_folders(folders: dict[str, int]) -> list[str]:
    """Return a sentence for each folder that is missing or not the wanted user's."""
    found = []
    for name, owner in folders.items():
        path = Path(name)
        if not path.is_dir():
            found.append(f"{path} is missing")
        elif (path.stat().st_uid, path.stat().st_gid) != (owner, owner) or path.stat().st_mode & 0o777 != 0o755:
            found.append(f"{path} has another owner or mode")
    return found


def compare_files(files: dict[str, str]) -> list[str]:
    """Return a sentence for each file that is missing, or has another content, owner or mode."""
    found = []
    for name, content in files.items():
        path = Path(name)
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.read_text(encoding="utf-8", errors="replace") != content:
            found.append(f"{path} has another content")
        elif (path.stat().st_uid, path.stat().st_gid) != (0, 0) or path.stat().st_mode & 0o777 != 0o644:
            found.append(f"{path} has another owner or mode")
    return found


def compare_containers(containers: Iterable[Container], wanted: dict[str, str]) -> list[str]:
    """Return a sentence for each service whose container is missing, stopped, outdated, unwanted or left over."""
    containers = list(containers)
    present = {container.service: container for container in reversed(containers) if not container.one_off}
    found = []
    for service, config_hash in wanted.items():
        container = present.get(service)
        if container is None:
            found.append(f"the container of {service} is missing")
        elif not container.running:
            found.append(f"the container of {service} is not running")
        elif container.paused:
            found.append(f"the container of {service} is paused")
        elif container.config_hash != config_hash:
            found.append(f"the container of {service} was made from another configuration")
        elif container.cut_off:
            found.append(f"the container of {service} has lost its folders, or nobody answers at its socket")
    found += [f"the container of {service} is not wanted" for service in sorted(set(present) - set(wanted))]
    left = [container for container in containers if container not in present.values()]
    return found + [f"an interrupted run left the container {container.name}" for container in left]


def read_containers(project: str) -> list[Container]:
    """Return the containers of the Compose project, stopped ones included; the gateway in charge comes first."""
    inspected = inspect_listed("--all", f"--filter=label=com.docker.compose.project={project}")
    found = [parse_container(item) for item in inspected]
    return sorted(found, key=lambda container: (container.name != project, not container.running, container.name))


def compare_in_place(name: str, state_dir: Path) -> list[str]:
    """Return how the gateway's containers differ from the Compose file that lies on the host, whatever is wanted."""
    project = f"{name}-gateway"
    if not (state_dir / "docker-compose.yml").is_file():
        return [f"{state_dir / 'docker-compose.yml'} is missing"]
    command = ["compose", "--project-name", project, "--project-directory", str(state_dir), "config", "--hash", "*"]
    return compare_containers(read_containers(project), parse_config_hashes(run_docker(command)))


@dataclass(frozen=True)
class Comparison:
    """How the gateway differs from the wanted one, the image that it is to run from, and its files with that image."""

    differences: list[str]
    image: str
    files: dict[str, str]


def is_there(image: str, wanted: str) -> bool:
    """Return whether Docker has an image; the wanted one was seen to by whoever wants it."""
    if image == wanted:
        return True
    try:
        run_docker(["image", "inspect", image])
    except DockerError as error:
        return "no such image" not in str(error).lower()
    return True


def compare_gateway(wanted: dict[str, Any], containers: Iterable[Container]) -> Comparison:
    """Compare folders, files and containers with the wanted ones, which have the keys of WANTED_OPTIONS.

    A gateway keeps the image that it runs from unless an upgrade is wanted, or the image was removed.
    """
    containers, state_dir, project = list(containers), wanted["state_dir"], f"{wanted['name']}-gateway"
    gateway = next(
        (container for container in containers if container.service == GATEWAY and not container.one_off), None
    )
    keeps = gateway is not None and not wanted["upgrade"] and is_there(gateway.image_id, wanted["image"])
    image = gateway.image_id if gateway and keeps else wanted["image"]
    files = {
        str(Path(state_dir, name)): content.replace(wanted["image"], image) if wanted["image"] else content
        for name, content in wanted["files"].items()
    }
    differences = compare_folders({str(Path(state_dir, name)): int(owner) for name, owner in wanted["folders"].items()})
    try:
        differences += compare_files(files)
        # Compose reads the file itself, so its digests say something only when the file is the wanted one.
        if not differences:
            command = ["compose", "--project-name", project, "--project-directory", state_dir, "config", "--hash", "*"]
            differences = compare_containers(containers, parse_config_hashes(run_docker(command)))
            if gateway and gateway.name != project:
                differences.append(f"the container of {GATEWAY} is called {gateway.name}")
    except (DockerError, OSError) as error:
        differences.append(f"the gateway cannot be compared: {error}")
    return Comparison(differences, image, files)
