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
    except ValueError:
        info = {}
    if not isinstance(info, dict):
        info = {}
    version = str(info.get("ServerVersion") or "")
    security = [str(item) for item in info.get("SecurityOptions") or []]
    errors = [str(item) for item in info.get("ServerErrors") or []]
    swarm = info.get("Swarm") or {}
    return {
        "version": version,
        "errors": errors,
        "runtimes": sorted(info.get("Runtimes") or {}),
        "default_runtime": str(info.get("DefaultRuntime") or ""),
        "cdi_spec_dirs": [str(item) for item in info.get("CDISpecDirs") or []],
        "cdi_enabled": bool(info.get("CDISpecDirs")),
        "cgroup_driver": str(info.get("CgroupDriver") or ""),
        "cgroup_version": str(info.get("CgroupVersion") or ""),
        "live_restore": bool(info.get("LiveRestoreEnabled")),
        "storage_driver": str(info.get("Driver") or ""),
        "data_root": str(info.get("DockerRootDir") or ""),
        "ncpu": int(info.get("NCPU") or 0),
        "memory_bytes": int(info.get("MemTotal") or 0),
        "rootless": any("rootless" in item for item in security),
        "snap": str(info.get("DockerRootDir") or "").startswith("/var/snap/"),
        "swarm_active": str(swarm.get("LocalNodeState") or "inactive") != "inactive",
    }


def engine_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Everything that is known about the engine; `version` stays empty when its API gives no answer."""
    info = run(["docker", "info", "--format", "{{json .}}"], timeout)
    facts: dict[str, Any] = {"cli_present": not info.missing, "message": _complaint(info), **parse_info(info.out)}
    if facts["errors"]:
        facts["message"] = " ".join(facts["errors"])
    facts["compose_version"] = ""
    facts["buildx_version"] = ""
    if not info.missing:
        facts["compose_version"] = parse_plugin_version(run(["docker", "compose", "version"], timeout))
        facts["buildx_version"] = parse_plugin_version(run(["docker", "buildx", "version"], timeout))
    facts["daemon_present"] = any(
        (root / folder / "dockerd").exists() for folder in ("usr/bin", "usr/sbin", "usr/local/bin")
    )
    facts["storage_free_bytes"] = _free_bytes(root, facts["data_root"])
    del facts["errors"]
    return facts


def parse_plugin_version(outcome: Outcome) -> str:
    """Version in the line that a command-line plugin prints about itself, or nothing."""
    match = re.search(r"\bv?(\d+\.\d+(?:\.\d+)?)", outcome.out) if outcome.ok else None
    return match.group(1) if match else ""


def cdi_by_default(version: str) -> bool:
    """Whether an engine of this version reads CDI specifications without being told to."""
    return bool(version) and not older(version, _CDI_ALWAYS_ON)


def _complaint(outcome: Outcome) -> str:
    return "" if outcome.ok else " ".join(outcome.err.split())


def _free_bytes(root: Path, data_root: str) -> int:
    if not data_root:
        return 0
    try:
        usage = os.statvfs(root / data_root.lstrip("/"))
    except OSError:
        return 0
    return usage.f_bavail * usage.f_frsize
