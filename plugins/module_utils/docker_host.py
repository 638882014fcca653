"""What Docker on a host says about our containers, read through its command line."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

LABEL_NAME = "inference-service.name"
LABEL_RELEASE = "inference-service.release"
LABEL_COLOR = "inference-service.color"
# What that label was called before 1.0.0: containers that were deployed then go on under it.
LABEL_COLOR_BEFORE = "inference-service.colour"
LABEL_INSTANCE = "inference-service.instance"
LABEL_BUNDLE_VERSION = "inference-service.bundle-version"
LABEL_COMPOSE_PROJECT = "com.docker.compose.project"


# What Docker says of itself, and what helps then.
STEPS = {
    "address pool": "Remove networks that nobody uses (`docker network prune`), or give Docker more ranges "
    "(`default-address-pools` in daemon.json).",
    "no space left on device": "Free space (`df -h`, `docker system df`).",
}


class DockerError(Exception):
    """The docker command failed; the message is its own last words, and the next step where one is known."""

    def __init__(self, words: str) -> None:
        steps = [step for sign, step in STEPS.items() if sign in words.lower()]
        super().__init__(" ".join([f"{words.rstrip('.')}.", *steps]) if steps else words)


@dataclass(frozen=True)
class Instance:
    """One container of the service, running or not."""

    id: str
    name: str
    project: str
    release: str
    color: str
    index: str
    bundle_version: str
    image_id: str
    state: str
    health: str
    exit_code: int
    restarts: int
    address: str
    network_mode: str = ""
    # Seconds until its health check calls it healthy or not, at most.
    patience: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    @property
    def healthy(self) -> bool:
        """Whether the container runs and its own health check agrees."""
        return self.state == "running" and self.health in ("healthy", "none")


# What a container gets that does something with files of the host for a release, beside those files.
TOOL_OPTIONS = (
    *("--rm", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    # The folders that it writes to are the host's root's, and not those of whom a remapping engine makes of it.
    *("--read-only", "--tmpfs=/tmp", "--user=0:0", "--userns=host"),
)


def run_docker(arguments: list[str], timeout: float = 120) -> str:
    """Run ``docker ARGUMENTS`` and return what it printed; raise DockerError when it fails."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise DockerError("there is no docker command on this host") from error
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"docker {arguments[0]} gave no answer in {timeout:.0f} s") from error
    if done.returncode != 0:
        raise DockerError(done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}")
    return done.stdout


def color_of(labels: dict[str, str]) -> str:
    """Return the color that a container's labels name, '' for what is no instance."""
    return labels.get(LABEL_COLOR) or labels.get(LABEL_COLOR_BEFORE, "")


def parse_instance(inspected: dict[str, Any]) -> Instance:
    """Turn one object of ``docker inspect`` into an Instance."""
    labels = inspected["Config"].get("Labels") or {}
    state = inspected["State"]
    networks = inspected.get("NetworkSettings", {}).get("Networks") or {}
    check = inspected["Config"].get("Healthcheck") or {}
    addresses = [network.get("IPAddress", "") for network in networks.values()]
    return Instance(
        id=inspected["Id"][:12],
        name=inspected["Name"].lstrip("/"),
        project=labels.get(LABEL_COMPOSE_PROJECT, ""),
        release=labels.get(LABEL_RELEASE, ""),
        color=color_of(labels),
        index=labels.get(LABEL_INSTANCE, ""),
        bundle_version=labels.get(LABEL_BUNDLE_VERSION, ""),
        image_id=inspected.get("Image", ""),
        state=state.get("Status", "unknown"),
        health=(state.get("Health") or {}).get("Status", "none"),
        exit_code=int(state.get("ExitCode", 0)),
        restarts=int(inspected.get("RestartCount", 0)),
        address=next((address for address in addresses if address), ""),
        network_mode=inspected.get("HostConfig", {}).get("NetworkMode", ""),
        patience=(check.get("StartPeriod", 0) + check.get("Retries", 0) * check.get("Interval", 0)) / 1e9,
    )


def inspect_listed(*options: str) -> list[dict[str, Any]]:
    """Return the inspections of the containers that `docker ps` lists; one that ends meanwhile is left out."""
    listed = run_docker(["ps", "--quiet", "--no-trunc", *options]).split()
    while listed:
        try:
            found: list[dict[str, Any]] = json.loads(run_docker(["inspect", "--type", "container", *listed]))
        except DockerError as error:
            there = [identity for identity in listed if identity not in str(error)]
            if there == listed:
                raise
            listed = there
        else:
            return found
    return []


def list_instances(service: str) -> list[Instance]:
    """Return every instance of the service on this host, stopped ones included, ordered by name."""
    filters = [f"--filter=label={LABEL_NAME}={service}", f"--filter=label={LABEL_INSTANCE}"]
    inspected = inspect_listed("--all", *filters)
    return sorted((parse_instance(item) for item in inspected), key=lambda instance: instance.name)


def inspect_instance(container: str) -> Instance:
    """Return one container's present state."""
    return parse_instance(json.loads(run_docker(["inspect", "--type", "container", container]))[0])


def last_log_lines(container: str, lines: int = 15, *options: str) -> list[str]:
    """Return the last lines that the container wrote, oldest first; empty when it has no log.

    options are further ones of `docker logs`.
    """
    try:
        done = subprocess.run(
            ["docker", "logs", "--tail", str(lines), *options, container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()
