"""Read the traces that the NVIDIA driver leaves in /proc, /sys, /dev and the library folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .commands import Runner
from .versions import version_key

_VERSION = r"(\d{3,}\.\d+(?:\.\d+)?)"
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
)


def read_text(path: Path) -> str:
    """Content of a file, or nothing when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_loaded_driver(text: str) -> dict[str, str]:
    """Turn /proc/driver/nvidia/version into `{version, flavour}`; flavour is open, proprietary or empty."""
    match = re.search(r"^NVRM version:.*?\b" + _VERSION + r"\b", text, re.MULTILINE)
    if not match:
        return {"version": "", "flavour": ""}
    line = match.group(0)
    return {"version": match.group(1), "flavour": "open" if "Open Kernel Module" in line else "proprietary"}


def pci_devices(root: Path) -> list[dict[str, str]]:
    """NVIDIA display and 3D controllers on the PCI bus, with the kernel driver each is bound to."""
    found = []
    for device in _entries(root / "sys/bus/pci/devices"):
        if read_text(device / "vendor").strip().lower() != "0x10de":
            continue
        pci_class = read_text(device / "class").strip().lower()
        if not pci_class.startswith("0x03"):
            continue
        link = device / "driver"
        found.append(
            {
                "address": device.name,
                "class": pci_class,
                "device": read_text(device / "device").strip().lower(),
                "driver": link.resolve().name if link.exists() else "",
            }
        )
    return found


def module_on_disk(root: Path, run: Runner, timeout: float) -> str:
    """Version of the nvidia module that the next boot would load, or nothing when there is none."""
    if root == Path("/"):
        outcome = run(["modinfo", "-F", "version", "nvidia"], timeout)
        if not outcome.missing:
            match = re.search(_VERSION, outcome.out)
            return match.group(1) if outcome.ok and match else ""
    release = read_text(root / "proc/sys/kernel/osrelease").strip()
    folder = root / "lib/modules" / release
    if not release or not folder.is_dir():
        return ""
    for path in sorted(folder.rglob("nvidia.ko")):
        found = re.search(rb"\0version=(\d[\d.]*)\0", b"\0" + path.read_bytes())
        if found:
            return found.group(1).decode("ascii")
    return ""


def user_space_version(root: Path) -> str:
    """Version of the driver's user-space libraries, from the name of the newest management library."""
    versions = []
    for folder in _LIBRARY_FOLDERS:
        for name in ("libnvidia-ml.so.", "libcuda.so."):
            for path in _entries(root / folder, name + "*"):
                match = re.fullmatch(re.escape(name) + _VERSION, path.name)
                if match:
                    versions.append(match.group(1))
    return max(versions, key=version_key, default="")


def driver_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Everything that is known about the driver without asking nvidia-smi."""
    loaded = parse_loaded_driver(read_text(root / "proc/driver/nvidia/version"))
    return {
        "loaded_version": loaded["version"],
        "flavour": loaded["flavour"],
        "disk_version": module_on_disk(root, run, timeout),
        "user_version": user_space_version(root),
        "nouveau_loaded": (root / "sys/module/nouveau").is_dir(),
        "device_nodes": sorted(path.name for path in _entries(root / "dev", "nvidia*") if not path.is_dir()),
    }


def _entries(folder: Path, pattern: str = "*") -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
