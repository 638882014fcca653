"""What people and accidents do to a host: each function damages one part of a service, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP_PATH, map_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import command
from tests.integration.support.playbooks import Host, as_root, docker


def map_file(host: Host) -> Path:
    """Return the file that a gateway reads when it starts."""
    return map_of(host.state_dir / "gateway")


def other_color(host: Host) -> str:
    """Return the color that does not serve."""
    return "green" if host.instance()["Config"]["Labels"]["inference-service.color"] == "blue" else "blue"


def on_network(host: Host) -> list[str]:
    """Return the names of the containers that have a network."""
    return [item["Name"].lstrip("/") for item in host.containers() if item["HostConfig"]["NetworkMode"] != "none"]


def remove_network(host: Host) -> None:
    """Take everything off the network while it runs, and remove it."""
    for name in on_network(host):
        docker("network", "disconnect", "--force", host.name, name)
    docker("network", "rm", host.name)


def prune_network(host: Host) -> None:
    """Stop everything and remove the network, as `docker network prune` does then."""
    docker("stop", "--time=1", *(item["Id"] for item in host.containers()))
    docker("network", "rm", host.name)


def recreate_network_by_hand(host: Host) -> None:
    """Do what somebody tries who reads `network not found`."""
    remove_network(host)
    docker("network", "create", host.name)


def newest_record(host: Host) -> Path:
    """Return the file of the newest record."""
    return sorted((host.state_dir / "records").glob("*.json"))[-1]


def tell_gateway(host: Host, text: str) -> None:
    """Give the running gateway a command."""
    command(host.state_dir / "gateway" / "run" / "admin.sock", text)


def release_folder(host: Host) -> Path:
    """Return the folder of the release that serves."""
    identity: str = host.instance()["Config"]["Labels"]["inference-service.release"]
    return host.state_dir / "releases" / identity


def restart_gateway(host: Host) -> None:
    """Let the gateway forget what it has in memory."""
    docker("restart", "--time=1", f"{host.name}-gateway")


def remove_containers(host: Host, *names: str) -> None:
    """Remove containers as they run."""
    with contextlib.suppress(RuntimeError):
        docker("rm", "--force", *names)


def make_folder_of(path: Path) -> None:
    """Put a folder where a file was, with something in it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        path.mkdir()
    (path / "notes.txt").write_text("mine\n")


def make_file_of(path: Path) -> None:
    """Put a file where a folder was."""
    shutil.rmtree(path)
    path.write_text("mine\n")


def lead_elsewhere(path: Path) -> None:
    """Move something to another disk, so to say, and leave a link behind."""
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def recreate_network_elsewhere(host: Host) -> None:
    """Make the network by hand with another subnet."""
    remove_network(host)
    docker("network", "create", "--subnet=10.249.17.0/28", host.name)


def run_by_hand(host: Host, label: str, value: str) -> None:
    """Run the instance that serves anew as it was, with one label changed."""
    old = host.instance()
    name, labels = old["Name"].lstrip("/"), {**old["Config"]["Labels"], label: value}
    network = {host.name: {"Aliases": old["NetworkSettings"]["Networks"][host.name]["Aliases"]}}
    wanted = {**old["Config"], "Labels": labels, "HostConfig": old["HostConfig"]}
    docker("rm", "--force", name)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.connect("/var/run/docker.sock")
        connection = http.client.HTTPConnection("docker")
        connection.sock = engine
        body = json.dumps({**wanted, "NetworkingConfig": {"EndpointsConfig": network}})
        connection.request("POST", f"/containers/create?name={name}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == http.HTTPStatus.CREATED, answer.read()
    docker("start", name)


def garble_derived(host: Host) -> None:
    """Spoil what the image made of the bundles, as a disk does that was full."""
    for path in (host.state_dir / "derived").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * 100)


def leave_strange_files(host: Host) -> None:
    """Leave what editors, archives and people leave, in every folder of the service's state."""
    folders = [host.state_dir, *(path for path in host.state_dir.rglob("*") if path.is_dir())]
    for folder in (path for path in folders if path.name != "0000-backup.json"):
        for name in (b".swp", b"notes.txt", b"copy of it.json", b"two\nlines", b"not UTF-8 \xff", b"--help"):
            Path(os.fsdecode(bytes(folder) + b"/" + name)).write_text("mine\n")
        (folder / "0000-backup.json").mkdir(exist_ok=True)
        (folder / "nowhere.json").unlink(missing_ok=True)
        (folder / "nowhere.json").symlink_to("/nonexistent")


DAMAGES: dict[str, Callable[[Host], object]] = {
    "the keeper removed": lambda host: remove_containers(host, f"{host.name}-keeper"),
    "the keeper stopped": lambda host: docker("stop", "--time=1", f"{host.name}-keeper"),
    "the gateway removed": lambda host: remove_containers(host, f"{host.name}-gateway"),
    "the gateway stopped": lambda host: docker("stop", "--time=1", f"{host.name}-gateway"),
    "the instance removed": lambda host: remove_containers(host, host.instance()["Id"]),
    "the instance stopped": lambda host: docker("stop", "--time=1", host.instance()["Id"]),
    "the network removed": remove_network,
    "the network pruned": prune_network,
    "the network made by hand": recreate_network_by_hand,
    "the instance off the network": lambda host: docker("network", "disconnect", host.name, host.instance()["Id"]),
    "the gateway off the network": lambda host: docker("network", "disconnect", host.name, f"{host.name}-gateway"),
    "the map emptied": lambda host: map_file(host).write_text(""),
    "the map garbled": lambda host: map_file(host).write_text("live purple\nlive\n"),
    "the map removed": lambda host: map_file(host).unlink(),
    "the map for the other color": lambda host: map_file(host).write_text(f"live {other_color(host)}\n"),
    "the memory for nobody": lambda host: tell_gateway(host, f"set map {MAP_PATH} live none"),
    "the memory for the other color": lambda host: tell_gateway(host, f"set map {MAP_PATH} live {other_color(host)}"),
    "the memory cleared": lambda host: tell_gateway(host, f"clear map {MAP_PATH}"),
    "the gateway restarted": restart_gateway,
    "the configuration emptied": lambda host: (host.state_dir / "gateway" / "conf" / "haproxy.cfg").write_text(""),
    "the folder closed": lambda host: (host.state_dir / "gateway" / "conf").chmod(0o700),
    "the note garbled": lambda host: (host.state_dir / "gateway" / "switch.json").write_text("{"),
    "a record emptied": lambda host: newest_record(host).write_text(""),
    "a record of a future version": lambda host: newest_record(host).write_text('{"schema": 99}'),
    "the records removed": lambda host: shutil.rmtree(host.state_dir / "records"),
    "the release's folder removed": lambda host: shutil.rmtree(release_folder(host)),
    "the release's description emptied": lambda host: (release_folder(host) / "release.json").write_text(""),
    "the bundles removed": lambda host: shutil.rmtree(host.state_dir / "bundles"),
    "the state folder removed": lambda host: shutil.rmtree(host.state_dir),
    "a record of foreign types": lambda host: newest_record(host).write_text('{"release_id": 7, "sequence": []}'),
    "a record a folder": lambda host: make_folder_of(newest_record(host)),
    "the records a file": lambda host: make_file_of(host.state_dir / "records"),
    "the records elsewhere": lambda host: lead_elsewhere(host.state_dir / "records"),
    "the releases a file": lambda host: make_file_of(host.state_dir / "releases"),
    "the instances a file": lambda host: make_file_of(host.state_dir / "instances"),
    "the release's description a folder": lambda host: make_folder_of(release_folder(host) / "release.json"),
    "the release's settings removed": lambda host: (release_folder(host) / "release.env").unlink(),
    "the map a folder": lambda host: make_folder_of(map_file(host)),
    "the configuration a folder": lambda host: make_folder_of(host.state_dir / "gateway" / "conf" / "haproxy.cfg"),
    "the note a folder": lambda host: make_folder_of(host.state_dir / "gateway" / "switch.json"),
    "the marker a folder": lambda host: make_folder_of(host.state_dir / ".inference-service"),
    "the socket removed": lambda host: (host.state_dir / "gateway" / "run" / "admin.sock").unlink(),
    "the instance paused": lambda host: docker("pause", host.instance()["Id"]),
    "the gateway paused": lambda host: docker("pause", f"{host.name}-gateway"),
    "the keeper paused": lambda host: docker("pause", f"{host.name}-keeper"),
    "the instance renamed": lambda host: docker("rename", host.instance()["Id"], f"{host.name}-old"),
    "the gateway renamed": lambda host: docker("rename", f"{host.name}-gateway", f"{host.name}-old-gateway"),
    "the instance not to restart": lambda host: docker("update", "--restart=no", host.instance()["Id"]),
    "the gateway not to restart": lambda host: docker("update", "--restart=no", f"{host.name}-gateway"),
    "the network with another subnet": recreate_network_elsewhere,
    "the bundle closed": lambda host: as_root("chmod", "-R", "go-rwx", str(host.state_dir / "bundles")),
    "the release's label changed": lambda host: run_by_hand(host, "inference-service.release", "0" * 12),
    "the instance's label changed": lambda host: run_by_hand(host, "com.docker.compose.project", "by-hand"),
    "everything read-only": lambda host: as_root("chmod", "-R", "a-w", str(host.state_dir)),
    "strange files everywhere": leave_strange_files,
    "the lock a folder": lambda host: (host.state_dir / "deploy.lock").mkdir(),
    "the writer's lock a folder": lambda host: make_folder_of(host.state_dir / "writer.lock"),
    "the gateway's lock a folder": lambda host: make_folder_of(host.state_dir / "gateway" / "replace.lock"),
    "the marker removed": lambda host: (host.state_dir / ".inference-service").unlink(),
    "the derived models removed": lambda host: shutil.rmtree(host.state_dir / "derived"),
    "the derived models garbled": garble_derived,
    "the derived models a file": lambda host: make_file_of(host.state_dir / "derived"),
}

# Pairs of damages that one accident does, or that hide each other; those that cost most to get wrong come first.
_PARTS = (
    "the instance removed",
    "the gateway removed",
    "the gateway restarted",
    "the network pruned",
    "the records removed",
)
_SIGNS = (
    "the map emptied",
    "the map for the other color",
    "the memory cleared",
    "the state folder removed",
    "the keeper removed",
)
PAIRED = [(word, part) for part in _PARTS for word in _SIGNS]
# A gateway that ends as often as Docker starts it, and then its network is another one.
CRASHING = [
    ("the configuration emptied", "the gateway restarted", word)
    for word in ("the network removed", "the network made by hand", "the network with another subnet")
]
