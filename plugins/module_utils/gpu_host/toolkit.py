"""Read what the NVIDIA Container Toolkit has set up on the host, and judge it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .cdi import offered_devices, read_specs
from .commands import Runner
from .engine import cdi_by_default
from .files import read_text
from .finding import Facts, Finding, finding

_HOOK = "nvidia-container-runtime-hook"


def parse_toolkit_version(text: str) -> str:
    """Version in the output of `nvidia-ctk --version`, or nothing."""
    match = re.search(r"\bversion:?\s+v?(\d+\.\d+\.\d+)", text)
    return match.group(1) if match else ""


def toolkit_facts(root: Path, run: Runner, timeout: float, folders: list[str]) -> dict[str, Any]:
    """Version of the toolkit and the devices that CDI specifications offer."""
    answer = run(["nvidia-ctk", "--version"], timeout)
    specs = read_specs(root, folders)
    settings = read_text(root / "etc/nvidia-container-runtime/config.toml")
    return {
        "version": parse_toolkit_version(answer.out) if answer.ok else "",
        "cdi_specs": specs,
        "cdi_devices": offered_devices(specs),
        "runtime_mode": parse_runtime_mode(settings),
        "no_cgroups": parse_no_cgroups(settings),
        # Docker looks for it when it starts, and gives out GPUs by it without any runtime.
        "hook": any((root / folder / _HOOK).exists() for folder in ("usr/bin", "usr/local/bin", "bin", "usr/sbin")),
    }


def parse_no_cgroups(text: str) -> bool:
    """Whether config.toml keeps the hook from letting containers use devices, as rootless engines need it."""
    section = re.search(r"^\[nvidia-container-cli\]\s*$(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    return bool(section and re.search(r"^\s*no-cgroups\s*=\s*true\b", section.group(1), re.MULTILINE))


def parse_runtime_mode(text: str) -> str:
    """Mode in the runtime's config.toml: auto, legacy, cdi or csv; auto where the file says nothing."""
    section = re.search(r"^\[nvidia-container-runtime\]\s*$(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    match = re.search(r'^\s*mode\s*=\s*"(\w+)"', section.group(1), re.MULTILINE) if section else None
    return match.group(1) if match else "auto"


def access_modes(engine: dict[str, Any], toolkit: dict[str, Any]) -> list[str]:
    """How a container on this host can get a GPU, best first: cdi, nvidia (the hook, which comes with the runtime)."""
    offered = any(name.startswith("nvidia.com/gpu=") for name in toolkit["cdi_devices"])
    modes = ["cdi"] if engine["cdi_enabled"] and offered else []
    return [*modes, "nvidia"] if "nvidia" in engine["runtimes"] or toolkit["hook"] else modes


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
    """GPU013: containers that lose the GPU later, whatever the version: Docker uses the hook, not the runtime."""
    engine, toolkit = facts["engine"], facts["toolkit"]
    if modes[:1] != ["nvidia"] or engine["cgroup_driver"] != "systemd":
        return []
    return [
        finding(
            "GPU013",
            "warning",
            "Containers lose the GPU at the next systemctl daemon-reload: a hook gives it behind systemd's back.",
            f"CDI is off, toolkit {toolkit['version'] or 'unknown'}, cgroup driver systemd",
            "Let containers get the GPU through CDI (docker_engine_cdi=true); until then a container that says NVML: "
            "Unknown Error must be recreated.",
        )
    ]


def assess_settings(facts: Facts, modes: list[str], severity: str) -> list[Finding]:
    """GPU034: settings of the toolkit with which its hook cannot give a GPU to the service; CDI needs none of them."""
    toolkit = facts["toolkit"]
    if modes[:1] != ["nvidia"]:
        return []
    wrong = []
    if toolkit["no_cgroups"]:
        wrong.append("no-cgroups = true: containers may not open the devices")
    if toolkit["runtime_mode"] in {"cdi", "csv"}:
        wrong.append(f'mode = "{toolkit["runtime_mode"]}": the hook refuses to work')
    if not wrong:
        return []
    return [
        finding(
            "GPU034",
            severity,
            "The toolkit's settings keep its hook from giving GPUs to containers.",
            f"/etc/nvidia-container-runtime/config.toml: {'; '.join(wrong)}",
            "Let containers get the GPU through CDI, which needs no hook (docker_engine_cdi=true), or set it back: "
            "nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups=false "
            "--set nvidia-container-runtime.mode=auto.",
        )
    ]
