"""What the containers of a service have beside their own settings: the network between them, and a restart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    LABEL_INSTANCE,
    LABEL_NAME,
    DockerError,
    color_of,
    inspect_listed,
    run_docker,
)

COMPOSE_NETWORK = "com.docker.compose.network"
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_ONE_OFF = "com.docker.compose.oneoff"
# As the Compose files have it; `docker update --restart` changes it without a trace there.
RESTART = "unless-stopped"


class NetworkError(Exception):
    """The network cannot be brought in order; the message says why, and what to do."""


def labels(name: str) -> dict[str, str]:
    """Return the labels that Compose wants on the network, as that of the gateway's project."""
    return {COMPOSE_NETWORK: "default", COMPOSE_PROJECT: f"{name}-gateway"}


def inspect_network(name: str) -> dict[str, Any]:
    """Return what Docker says about the network, nothing when there is none of that name."""
    listed = run_docker(["network", "ls", "--quiet", "--no-trunc", "--filter", f"name=^{name}$"]).split()
    found: list[dict[str, Any]] = json.loads(run_docker(["network", "inspect", *listed])) if listed else []
    return next((network for network in found if network["Name"] == name), {})


def is_ours(network: dict[str, Any], name: str) -> bool:
    """Return whether Compose takes the network for its own; one that somebody made by hand it refuses."""
    present = network.get("Labels") or {}
    return all(present.get(label) == value for label, value in labels(name).items())


def alias_of(container: dict[str, Any]) -> str:
    """Return the name by which the gateway looks for a container, '' for the gateway itself."""
    found = container["Config"].get("Labels") or {}
    color = color_of(found)
    return f"{color}-{found.get(LABEL_INSTANCE, '')}" if color else ""


def runs(container: dict[str, Any]) -> bool:
    """Return whether the container runs; one that ends again and again has no address in between, and needs none."""
    return bool(container["State"].get("Running")) and not container["State"].get("Restarting")


def is_attached(container: dict[str, Any], name: str, network_id: str) -> bool:
    """Return whether the container is on the network, under its alias if it has one, or will be when it starts."""
    endpoint = (container.get("NetworkSettings", {}).get("Networks") or {}).get(name)
    if endpoint is None or endpoint.get("NetworkID") not in ("", network_id):
        return False
    if runs(container) and not endpoint.get("IPAddress"):
        return False
    alias = alias_of(container)
    return not alias or alias in (endpoint.get("Aliases") or [])


def is_beyond_mending(network_mode: str, name: str, network_id: str) -> bool:
    """Return whether a container was made for a network that is gone; Docker puts it on no other one."""
    return network_mode not in ("", "default", name, network_id)


def members(name: str) -> list[dict[str, Any]]:
    """Return the inspections of the service's containers, those that serve last."""
    return inspect_listed("--all", f"--filter=label={LABEL_NAME}={name}")


def networked(containers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the containers that belong on the network; the keeper has none at all."""
    return [item for item in containers if item["HostConfig"].get("NetworkMode") != "none"]


def stays_down(containers: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of the containers that nothing would start again after a crash or a reboot."""
    return [
        item["Name"].lstrip("/")
        for item in containers
        if (item["HostConfig"].get("RestartPolicy") or {"Name": RESTART})["Name"] != RESTART
        and (item["Config"].get("Labels") or {}).get(COMPOSE_ONE_OFF) != "True"
    ]


def find_faults(name: str, containers: Iterable[dict[str, Any]], network: dict[str, Any]) -> list[str]:
    """Return a sentence for what is not in order with the network, or the restart, of containers that are there."""
    containers = list(containers)
    down = [f"{container} would not be started again after a reboot" for container in sorted(stays_down(containers))]
    attached = networked(containers)
    if not attached:
        return down
    if not network:
        return [f"the Docker network {name} is missing", *down]
    if not is_ours(network, name):
        return [f"the Docker network {name} was made by hand", *down]
    lost = [item["Name"].lstrip("/") for item in attached if not is_attached(item, name, network["Id"])]
    return [*(f"{container} is not on the Docker network {name}" for container in sorted(lost)), *down]


def mend(name: str) -> list[str]:
    """Make the network, put the service's containers on it, and let them restart; return what was done."""
    done: list[str] = []
    containers, network = members(name), inspect_network(name)
    if network and not is_ours(network, name):
        remove_foreign(name, network, {item["Id"] for item in containers})
        network, containers = {}, members(name)
        done.append(f"removed the network {name} that was made by hand")
    if not network:
        run_docker(["network", "create", *(f"--label={key}={value}" for key, value in labels(name).items()), name])
        network = inspect_network(name)
        done.append(f"made the network {name}")
    for idle in stays_down(containers):
        run_docker(["update", f"--restart={RESTART}", idle])
        done.append(f"let {idle} start again after a reboot")
    for container in networked(containers):
        mode = container["HostConfig"].get("NetworkMode", "")
        if is_attached(container, name, network["Id"]) or is_beyond_mending(mode, name, network["Id"]):
            continue
        if name in (container.get("NetworkSettings", {}).get("Networks") or {}) and runs(container):
            take_off(name, container["Id"])
        alias = alias_of(container)
        run_docker(["network", "connect", *([f"--alias={alias}"] if alias else []), name, container["Id"]])
        done.append(f"put {container['Name'].lstrip('/')} on the network {name}")
    return done


def take_off(name: str, container: str) -> None:
    """Take a container off the network; it may have ended meanwhile."""
    try:
        run_docker(["network", "disconnect", "--force", name, container])
    except DockerError as error:
        if "is not connected" not in str(error):
            raise


def remove_foreign(name: str, network: dict[str, Any], own: set[str]) -> None:
    """Remove a network that somebody made by hand, unless something that is not ours is on it."""
    strangers = [item["Name"] for key, item in (network.get("Containers") or {}).items() if key not in own]
    if strangers:
        raise NetworkError(
            f"The Docker network {name} was not made by this project, and {', '.join(sorted(strangers))} is on it. "
            f"Take it off (`docker network disconnect {name} {sorted(strangers)[0]}`) or set another "
            "inference_service_name, then run again. Nothing was changed."
        )
    for key in network.get("Containers") or {}:
        take_off(name, key)
    run_docker(["network", "rm", network["Id"]])
