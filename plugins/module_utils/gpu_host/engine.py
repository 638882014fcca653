"""Read what Docker and its command line say about themselves, and judge it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..docker_host import LABEL_INSTANCE
from .commands import Outcome, Runner
from .files import read_text
from .finding import Facts, Finding, finding
from .versions import older

_CDI_ALWAYS_ON = "28.2.0"
ENGINE_MINIMUM = "24.0"
STORAGE_MINIMUM_BYTES = 10 * 10**9
_SHM_DEFAULT = 64 * 2**20
_NOFILE_MINIMUM = 4096


def parse_info(text: str) -> dict[str, Any]:
    """Turn `docker info --format '{{json .}}'` into the part that matters here."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = {}
    if not isinstance(info, dict):
        info = {}
    version = str(info.get("ServerVersion") or "")
    status = info.get("DriverStatus")
    details = dict(row for row in status if _is_pair(row)) if isinstance(status, list) else {}
    containerd = info.get("Containerd")
    security = _texts(info.get("SecurityOptions"))
    errors = _texts(info.get("ServerErrors"))
    swarm = info.get("Swarm")
    runtimes = info.get("Runtimes")
    client = info.get("ClientInfo")
    plugins = client.get("Plugins") if isinstance(client, dict) else None
    return {
        "version": version,
        "compose_version": _plugin_version(plugins, "compose"),
        "buildx_version": _plugin_version(plugins, "buildx"),
        "errors": errors,
        "runtimes": sorted(runtimes) if isinstance(runtimes, dict) else [],
        "default_runtime": str(info.get("DefaultRuntime") or ""),
        "cdi_spec_dirs": _texts(info.get("CDISpecDirs")),
        "cdi_enabled": bool(_texts(info.get("CDISpecDirs"))),
        "cgroup_driver": str(info.get("CgroupDriver") or ""),
        "cgroup_version": str(info.get("CgroupVersion") or ""),
        "live_restore": bool(info.get("LiveRestoreEnabled")),
        "storage_driver": str(info.get("Driver") or ""),
        "data_root": str(info.get("DockerRootDir") or ""),
        # Images of this kind lie below the root of containerd, not below that of Docker.
        "containerd_images": details.get("driver-type") == "io.containerd.snapshotter.v1",
        "containerd_address": str(containerd.get("Address") or "") if isinstance(containerd, dict) else "",
        # Podman answers to the name of docker where podman-docker is installed.
        "podman": isinstance(info.get("host"), dict) and not version,
        "ncpu": _number(info.get("NCPU")),
        "memory_bytes": _number(info.get("MemTotal")),
        "rootless": any("rootless" in item for item in security),
        "snap": str(info.get("DockerRootDir") or "").startswith("/var/snap/"),
        "selinux": any("selinux" in item for item in security),
        "containers_running": _number(info.get("ContainersRunning")),
        "swarm_active": isinstance(swarm, dict) and str(swarm.get("LocalNodeState") or "inactive") != "inactive",
    }


def engine_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Everything that is known about Docker; `version` stays empty when its API gives no answer."""
    info = run(["docker", "info", "--format", "{{json .}}"], timeout)
    facts: dict[str, Any] = {"cli_present": not info.missing, "message": _complaint(info), **parse_info(info.out)}
    if facts["errors"]:
        facts["message"] = " ".join(facts["errors"])
    facts["instances"] = _instances(run, timeout) if facts["version"] else []
    facts["images"] = _images(run, timeout) if facts["version"] else {}
    facts["daemon_present"] = any(
        (root / folder / "dockerd").exists() for folder in ("usr/bin", "usr/sbin", "usr/local/bin")
    )
    facts["podman"] = facts["podman"] or "podman" in info.err.lower()
    facts["image_root"] = image_root(root, facts)
    facts["storage_free_bytes"] = _free_bytes(root, facts["image_root"])
    del facts["errors"]
    return facts


def image_root(root: Path, facts: dict[str, Any]) -> str:
    """Folder in which images really lie: with the containerd store it is containerd's, or its part of Docker's."""
    if not facts["containerd_images"]:
        return str(facts["data_root"])
    if "/docker/" in facts["containerd_address"]:
        return f"{facts['data_root']}/containerd/daemon"
    stated = re.search(r"(?m)^root\s*=\s*[\"']([^\"']+)[\"']", read_text(root / "etc/containerd/config.toml"))
    return stated.group(1) if stated else "/var/lib/containerd"


def parse_images(text: str) -> dict[str, str]:
    """Turn `docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'` into `{tag: id}`."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2 and "<none>" not in row[0]}


def parse_instances(text: str) -> list[dict[str, Any]]:
    """Turn `docker inspect` into the limits of each container: `[{name, shm_bytes, nofile}]`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for item in data if isinstance(data, list) else []:
        settings = item.get("HostConfig") if isinstance(item, dict) else None
        if not isinstance(settings, dict):
            continue
        stated = settings.get("Ulimits")
        limits = [entry for entry in stated if isinstance(entry, dict)] if isinstance(stated, list) else []
        nofile = [_number(entry.get("Soft")) for entry in limits if entry.get("Name") == "nofile"]
        found.append(
            {
                "name": str(item.get("Name") or "").lstrip("/"),
                "shm_bytes": _number(settings.get("ShmSize")),
                "nofile": nofile[0] if nofile else None,
            }
        )
    return found


def _images(run: Runner, timeout: float) -> dict[str, str]:
    """Ids of the images that have a name, by that name."""
    listing = ["docker", "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    answer = run(listing, timeout)
    return parse_images(answer.out) if answer.ok else {}


def _instances(run: Runner, timeout: float) -> list[dict[str, Any]]:
    """Limits of the service's running containers."""
    listed = run(["docker", "ps", "--quiet", "--filter", f"label={LABEL_INSTANCE}"], timeout)
    names = listed.out.split() if listed.ok else []
    answer = run(["docker", "inspect", *names], timeout) if names else Outcome(missing=True)
    return parse_instances(answer.out) if answer.ok else []


def cdi_by_default(version: str) -> bool:
    """Whether an engine of this version reads CDI specifications without being told to."""
    return bool(version) and not older(version, _CDI_ALWAYS_ON)


def assess_engine(facts: Facts, required: bool) -> list[Finding]:
    """Judge Docker itself; where it is about to be installed, what is missing is only a warning."""
    engine = facts["engine"]
    severity = "error" if required else "warning"
    install = "Run the deploy with docker_engine_install=true"
    if engine["podman"]:
        return [
            finding(
                "ENG006",
                severity,
                "The docker command of this host is Podman's, which the service does not run on.",
                engine["message"] or "docker info answers as Podman",
                "Remove podman-docker (Podman itself may stay), then install Docker: docker_engine_install=true.",
            )
        ]
    if not engine["version"]:
        if not engine["cli_present"]:
            summary = "Docker is not installed."
            remedy = f"{install}, or install it by hand."
        elif "permission denied" in engine["message"].lower():
            summary = "This user may not use Docker's socket."
            remedy = "Deploy with become (the playbooks do), or add the user to the group docker and log in again."
        elif engine["daemon_present"]:
            summary = "Docker does not answer."
            remedy = (
                "Read its log (journalctl -u docker, or /var/log/dockerd.log without systemd), start it, and check "
                f"that this user may use its socket. {install} to have it started."
            )
        else:
            summary = "The docker command is here, but no Docker engine answers."
            remedy = f"{install}, or point DOCKER_HOST at another one."
        return [finding("ENG001", severity, summary, engine["message"] or "docker info gave no answer", remedy)]
    found = []
    if older(engine["version"], ENGINE_MINIMUM):
        found.append(
            finding(
                "ENG002",
                "error",
                f"Docker {engine['version']} is too old: {ENGINE_MINIMUM} is the oldest that works here.",
                f"server version {engine['version']}",
                "Upgrade or remove Docker when its containers may stop, then run the deploy with "
                "docker_engine_install=true; an engine in use is never replaced by the playbook.",
            )
        )
    for identifier, name, package in (
        ("ENG003", "compose", "docker-compose-plugin"),
        ("ENG004", "buildx", "docker-buildx-plugin"),
    ):
        if not engine[f"{name}_version"]:
            found.append(
                finding(
                    identifier,
                    severity,
                    f"The docker command has no {name} plugin.",
                    f"docker {name} version gave no answer",
                    f"{install}, or install it by hand: {package} from the vendor's repository, "
                    f"docker-{name} from Debian's.",
                )
            )
    found += _limits(engine)
    free = engine["storage_free_bytes"]
    if 0 < free < STORAGE_MINIMUM_BYTES:
        found.append(
            finding(
                "ENG005",
                "warning",
                f"Only {free / 10**9:.1f} GB are free where Docker keeps its images.",
                f"images lie in {engine['image_root']}",
                "Free space (docker image prune removes images that nothing names) or move that folder; "
                "the GPU image needs about 3 GB, and building it three times that.",
            )
        )
    return found


def assess_restart(engine: Facts) -> list[Finding]:
    """GPU014: a restart of Docker stops everything."""
    if not engine["version"] or engine["live_restore"] or engine["swarm_active"] or not engine["containers_running"]:
        return []
    return [
        finding(
            "GPU014",
            "warning",
            "A restart or upgrade of Docker would stop every container on this host.",
            f"live-restore is off, {engine['containers_running']} containers are running",
            'Set "live-restore": true in /etc/docker/daemon.json and reload (systemctl reload docker stops nothing); '
            "docker_engine_daemon_options does it, with a restart. Not for swarm.",
        )
    ]


def _plugin_version(plugins: object, name: str) -> str:
    """Return the version of a plugin of the command line, as `docker info` lists it; '' when it is not there."""
    listed = [item for item in plugins if isinstance(item, dict)] if isinstance(plugins, list) else []
    stated = next((str(item.get("Version") or "") for item in listed if item.get("Name") == name), "")
    match = re.search(r"\d+\.\d+(?:\.\d+)?", stated)
    return match.group(0) if match else ""


def _complaint(outcome: Outcome) -> str:
    return "" if outcome.ok else " ".join(outcome.err.split())


def _free_bytes(root: Path, data_root: str) -> int:
    if not data_root:
        return 0
    try:
        usage = os.statvfs(root / data_root.lstrip("/"))
    except (OSError, ValueError):
        return 0
    return usage.f_bavail * usage.f_frsize


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) for item in row)


def _number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and abs(value) < 2**63 else 0


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _limits(engine: Facts) -> list[Finding]:
    tight = [
        f"{item['name']}: shared memory {item['shm_bytes'] // 2**20} MiB, open files {item['nofile'] or 'not stated'}"
        for item in engine["instances"]
        if item["shm_bytes"] <= _SHM_DEFAULT
        or (item["nofile"] or _NOFILE_MINIMUM) < _NOFILE_MINIMUM
        or (item["nofile"] is None and not older(engine["version"], "29"))
    ]
    if not tight:
        return []
    return [
        finding(
            "GPU022",
            "warning",
            "An instance of the service runs with Docker's own small limits.",
            "; ".join(tight),
            "Start it from docker-compose.yml, which states shm_size and ulimits, or set both where it is started: "
            "Docker 29 lets a container open 1024 files only.",
        )
    ]
