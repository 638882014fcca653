"""Read what the NVIDIA Container Toolkit has set up on the host, and judge it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .cdi import qualified_devices, read_specs
from .commands import Runner
from .engine import cdi_by_default
from .files import read_text
from .finding import Facts, Finding, finding
from .versions import older


def parse_toolkit_version(text: str) -> str:
    """Version in the output of `nvidia-ctk --version`, or nothing."""
    match = re.search(r"\bversion:?\s+v?(\d+\.\d+\.\d+)", text)
    return match.group(1) if match else ""


def toolkit_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Version of the toolkit and the devices that CDI specifications offer."""
    answer = run(["nvidia-ctk", "--version"], timeout)
    specs = read_specs(root)
    return {
        "version": parse_toolkit_version(answer.out) if answer.ok else "",
        "cdi_specs": specs,
        "cdi_devices": qualified_devices(specs),
        "runtime_mode": parse_runtime_mode(read_text(root / "etc/nvidia-container-runtime/config.toml")),
    }


def parse_runtime_mode(text: str) -> str:
    """Mode in the runtime's config.toml: auto, legacy, cdi or csv; auto where the file says nothing."""
    section = re.search(r"^\[nvidia-container-runtime\]\s*$(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    match = re.search(r'^\s*mode\s*=\s*"(\w+)"', section.group(1), re.MULTILINE) if section else None
    return match.group(1) if match else "auto"


def access_modes(engine: dict[str, Any], toolkit: dict[str, Any]) -> list[str]:
    """How a container on this host can get a GPU, best first: cdi, nvidia (the runtime)."""
    offered = any(name.startswith("nvidia.com/gpu=") for name in toolkit["cdi_devices"])
    modes = ["cdi"] if engine["cdi_enabled"] and offered else []
    return [*modes, "nvidia"] if "nvidia" in engine["runtimes"] else modes


def no_access(engine: Facts, toolkit: Facts, severity: str) -> Finding:
    """GPU010, GPU012: why no container can get a GPU."""
    evidence = (
        f"toolkit {toolkit['version'] or 'not installed'}, CDI {'on' if engine['cdi_enabled'] else 'off'} "
        f"in Docker {engine['version']}, CDI devices {', '.join(toolkit['cdi_devices']) or 'none'}, "
        f"runtimes {', '.join(engine['runtimes']) or 'none'}"
    )
    if not toolkit["version"] and not toolkit["cdi_devices"]:
        return finding(
            "GPU010",
            severity,
            "The NVIDIA Container Toolkit is not installed: no container can get a GPU.",
            evidence,
            "Run the deploy with nvidia_container_toolkit_install=true, or install the toolkit by hand.",
        )
    if engine["cdi_enabled"]:
        return finding(
            "GPU012",
            severity,
            "Docker reads CDI specifications, but none offers a GPU.",
            evidence,
            "Write one: systemctl restart nvidia-cdi-refresh.service, or nvidia-ctk cdi generate "
            "--output=/var/run/cdi/nvidia.yaml.",
        )
    how = "" if cdi_by_default(engine["version"]) else " (docker_engine_cdi=true sets features.cdi)"
    return finding(
        "GPU010",
        severity,
        "Docker is not set up for GPUs: CDI is off and no nvidia runtime is registered.",
        evidence,
        f"Turn CDI on in daemon.json{how}, or register the runtime: "
        "nvidia-ctk runtime configure --runtime=docker; Docker must restart after either.",
    )


def assess_hook(facts: Facts, modes: list[str]) -> list[Finding]:
    """GPU013: containers that lose the GPU later."""
    engine, toolkit = facts["engine"], facts["toolkit"]
    # From 1.18 on, the runtime's mode auto tells the engine of the devices; the hook of an older one hides them.
    by_hook = toolkit["runtime_mode"] == "legacy" or (
        toolkit["runtime_mode"] == "auto" and older(toolkit["version"], "1.18.0")
    )
    if modes[:1] != ["nvidia"] or engine["cgroup_driver"] != "systemd" or not by_hook:
        return []
    return [
        finding(
            "GPU013",
            "warning",
            "Containers lose the GPU at the next systemctl daemon-reload: a hook gives it behind systemd's back.",
            f"runtime mode {toolkit['runtime_mode']}, toolkit {toolkit['version'] or 'unknown'}, cgroup driver systemd",
            "Let containers get the GPU through CDI (docker_engine_cdi=true), or upgrade the toolkit to 1.18 or newer; "
            "a container that says NVML: Unknown Error must be created anew.",
        )
    ]
