"""Read what the NVIDIA Container Toolkit has set up on the host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .cdi import qualified_devices, read_specs
from .commands import Runner
from .kernel import read_text


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
