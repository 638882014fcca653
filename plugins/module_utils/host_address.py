"""Whether a gateway can have its address on this host, and who stands in its way."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    LABEL_NAME,
    DockerError,
    inspect_listed,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import Address, published

LISTEN = "0A"


def parse_listeners(table: str, port: int) -> list[tuple[str, str]]:
    """Return address and inode of the sockets that listen on the port, from /proc/net/tcp or tcp6."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTEN:
            continue
        digits, _, number = fields[1].rpartition(":")
        if int(number, 16) == port:
            # The kernel prints each word of 32 bits in the order of the machine's own bytes.
            words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
            found.append((str(ipaddress.ip_address(b"".join(words))), fields[9]))
    return found


def listeners(port: int) -> list[tuple[str, str]]:
    """Return address and inode of the sockets of this host that listen on the port."""
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            found += parse_listeners(Path("/proc/net", name).read_text(encoding="ascii"), port)
    return found


def process_of(inode: str) -> str:
    """Return name and number of a process that holds the socket, '' when none can be seen."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(entry.readlink()) == f"socket:[{inode}]" for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
    return ""


def host_addresses(family: str) -> list[str]:
    """Return the addresses of this host of a family, inet or inet6; empty when `ip` does not say."""
    try:
        done = subprocess.run(["ip", "-json", "address"], capture_output=True, text=True, timeout=10, check=True)
        links = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    entries = [entry for link in links for entry in link.get("addr_info", []) if entry.get("family") == family]
    return [entry["local"] for entry in entries if entry.get("scope") != "link"]


def try_to_bind(address: Address) -> int:
    """Listen there for a moment; return 0 or the number of the error."""
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As Docker does; what has merely just ended is not in the way.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.ip, address.port))
            listener.listen(1)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def running_containers() -> list[dict[str, Any]]:
    """Return the inspections of every container that runs; nothing when there is no engine yet."""
    try:
        return inspect_listed()
    except DockerError:
        return []


def service_of(container: dict[str, Any]) -> str:
    """Return the service of this project that a container belongs to, '' when it is somebody else's."""
    return str((container["Config"].get("Labels") or {}).get(LABEL_NAME, ""))


def state_folder_of(container: dict[str, Any]) -> str:
    """Return the folder that a service's gateway keeps its state in, '' for another container."""
    sources = [Path(mount.get("Source", "")) for mount in container.get("Mounts") or []]
    return next((str(source.parents[1]) for source in sources if source.name == "conf" and source.is_absolute()), "")


def other_service(name: str, state_dir: str, address: Address, containers: list[dict[str, Any]], settings: str) -> str:
    """Return a sentence when another service of this project has the address or the folder, else ''."""
    for container in containers:
        other = service_of(container)
        if other in ("", name):
            continue
        if any(address.overlaps(one) for one in published(container)):
            has = f"has {address}"
        elif any(str(mount.get("Source", "")).startswith(f"{state_dir}/") for mount in container.get("Mounts") or []):
            has = f"keeps its state in {state_dir}"
        else:
            continue
        service = other.removesuffix("-balancer")
        folder = state_folder_of(container) or "its folder"
        return (
            f"The service {other} of this host {has}, and goes on serving. To go on with it, set "
            f"inference_service_name={service} and inference_service_state_dir={folder}. To have {name} in its place, "
            f"remove it first (playbooks/teardown.yml -e inference_service_name={service}). To run both, give {name} "
            f"its own {settings}_port and inference_service_state_dir."
        )
    return ""


def moved(name: str, state_dir: str, containers: list[dict[str, Any]]) -> str:
    """Return a sentence when the service itself keeps its state in another folder, else ''."""
    wanted = Path(state_dir).parent
    for folder in [state_folder_of(container) for container in containers if service_of(container) == name]:
        if folder and Path(folder).resolve() != wanted.resolve():
            return (
                f"The service {name} of this host keeps its state in {folder}, not in {wanted}. Set "
                f"inference_service_state_dir={folder}. To move it, remove the service first (playbooks/teardown.yml)."
            )
    return ""


def occupant(address: Address, own: list[Address], containers: list[dict[str, Any]]) -> str:
    """Return who else has the address, '' when it is only our own."""
    for container in containers:
        if not service_of(container) and any(address.overlaps(one) for one in published(container)):
            return f"The container {container['Name'].lstrip('/')} has"
    others = [
        inode
        for ip, inode in listeners(address.port)
        if Address(ip, address.port).overlaps(address) and Address(ip, address.port) not in own
    ]
    if not others and any(address.overlaps(one) for one in own):
        return ""
    names = [name for name in map(process_of, others) if name]
    return f"{names[0]} listens on" if names else "Something listens on"


def refusal(name: str, state_dir: str, bind: str, port: int, settings: str) -> str:
    """Return why the service's gateway cannot have the address, with the next step; '' when it can.

    settings is what the names of the variables begin with. What the service's own gateway has is no reason.
    """
    try:
        address = Address(str(ipaddress.ip_address(bind)), port)
    except ValueError:
        return f"{settings}_bind is no IP address: {bind}. Set it to an address of this host."
    containers = running_containers()
    taken = moved(name, state_dir, containers) or other_service(name, state_dir, address, containers, settings)
    if taken:
        return taken
    problem = try_to_bind(address)
    if problem == errno.EADDRNOTAVAIL:
        present = ", ".join(host_addresses("inet6" if ":" in bind else "inet")) or "others (`ip address` shows them)"
        return f"{address.ip} is no address of this host, which has {present}. Set {settings}_bind to one of them."
    if problem == errno.EADDRINUSE:
        own = [one for container in containers if service_of(container) == name for one in published(container)]
        who = occupant(address, own, containers)
        return f"{who} {address}. Stop it, or set another {settings}_port." if who else ""
    if problem:
        return f"{address} cannot be listened on: {errno.errorcode.get(problem, problem)}. Set another {settings}_port."
    return ""
