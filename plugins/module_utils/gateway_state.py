"""How a gateway on a host differs from the wanted one: its files, and the containers that were made from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Container:
    """One container of the gateway's Compose project."""

    service: str
    running: bool
    image_id: str
    config_hash: str


def parse_container(inspected: dict[str, Any]) -> Container:
    """Turn one object of ``docker inspect`` into a Container."""
    labels = inspected["Config"].get("Labels") or {}
    return Container(
        service=labels.get("com.docker.compose.service", ""),
        running=bool(inspected["State"].get("Running")),
        image_id=inspected.get("Image", ""),
        config_hash=labels.get("com.docker.compose.config-hash", ""),
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
    """Return a sentence for each service whose container is missing, stopped, outdated or unwanted."""
    present = {container.service: container for container in containers}
    found = []
    for service, config_hash in wanted.items():
        container = present.get(service)
        if container is None:
            found.append(f"the container of {service} is missing")
        elif not container.running:
            found.append(f"the container of {service} is not running")
        elif container.config_hash != config_hash:
            found.append(f"the container of {service} was made from another configuration")
    return found + [f"the container of {service} is not wanted" for service in sorted(set(present) - set(wanted))]
