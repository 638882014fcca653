"""Read what the Docker engine and its command line say about themselves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .commands import Outcome, Runner
from .versions import older

_CDI_ALWAYS_ON = "28.2.0"


def parse_info(text: str) -> dict[str, Any]:
    """Turn `docker info --format '{{json .}}'` into the part that matters here."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = {}
    if not isinstance(info, dict):
        info = {}
    version = str(info.get("ServerVersion") or "")
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
        "ncpu": _number(info.get("NCPU")),
        "memory_bytes": _number(info.get("MemTotal")),
        "rootless": any("rootless" in item for item in security),
        "snap": str(info.get("DockerRootDir") or "").startswith("/var/snap/"),
        "selinux": any("selinux" in item for item in security),
        "containers_running": _number(info.get("ContainersRunning")),
        "swarm_active": isinstance(swarm, dict) and str(swarm.get("LocalNodeState") or "inactive") != "inactive",
    }


def engine_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Everything that is known about the engine; `version` stays empty when its API gives no answer."""
    info = run(["docker", "info", "--format", "{{json .}}"], timeout)
    facts: dict[str, Any] = {"cli_present": not info.missing, "message": _complaint(info), **parse_info(info.out)}
    if facts["errors"]:
        facts["message"] = " ".join(facts["errors"])
    facts["instances"] = _instances(run, timeout) if facts["version"] else []
    facts["images"] = _images(run, timeout) if facts["version"] else {}
    facts["daemon_present"] = any(
        (root / folder / "dockerd").exists() for folder in ("usr/bin", "usr/sbin", "usr/local/bin")
    )
    facts["storage_free_bytes"] = _free_bytes(root, facts["data_root"])
    del facts["errors"]
    return facts


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
    listed = run(["docker", "ps", "--quiet", "--filter", "label=inference-service.instance"], timeout)
    names = listed.out.split() if listed.ok else []
    answer = run(["docker", "inspect", *names], timeout) if names else Outcome(missing=True)
    return parse_instances(answer.out) if answer.ok else []


def cdi_by_default(version: str) -> bool:
    """Whether an engine of this version reads CDI specifications without being told to."""
    return bool(version) and not older(version, _CDI_ALWAYS_ON)


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


def _number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and abs(value) < 2**63 else 0


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
