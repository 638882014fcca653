"""Read the traces that the NVIDIA driver leaves in /proc, /sys, /dev and the library folders."""

from __future__ import annotations

import gzip
import lzma
import re
from pathlib import Path
from typing import Any

from .commands import Outcome, Runner
from .versions import version_key

PERSISTENCED_SOCKETS = ("run/nvidia-persistenced/socket", "var/run/nvidia-persistenced/socket")
_VERSION = r"(\d{3,}\.\d+(?:\.\d+)?)"
# Debian calls it nvidia-current or nvidia-current-open, that of one branch nvidia-tesla-535 or nvidia-legacy-390xx.
_MODULE = re.compile(
    r"nvidia(?:-(?:current|open|tesla|legacy|\d)[\w-]*)?"
    r"(?<!-drm)(?<!-uvm)(?<!-modeset)(?<!-peermem)\.ko(?:\.(?:xz|gz|zst))?"
)
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


def kernel_release(root: Path) -> str:
    """Name of the running kernel, or nothing when it is no name that a folder of modules can have."""
    text = read_text(root / "proc/sys/kernel/osrelease").strip()
    return text if re.fullmatch(r"[A-Za-z0-9][\w.+~-]{0,99}", text) else ""


def parse_modinfo(text: str) -> dict[str, str]:
    """Turn the output of modinfo into `{version, flavour, signer}`."""
    fields = dict(re.findall(r"^(version|license|signer):[ \t]*(.*)$", text, re.MULTILINE))
    version = re.search(_VERSION, fields.get("version", ""))
    # The open modules are licensed under both, the proprietary ones say NVIDIA.
    licence = fields.get("license", "")
    flavour = "open" if "GPL" in licence else "proprietary" if licence else ""
    return {
        "version": version.group(1) if version else "",
        "flavour": flavour,
        "signer": fields.get("signer", "").strip(),
    }


def module_on_disk(root: Path, run: Runner, timeout: float) -> dict[str, str]:
    """Version, flavour and signer of the nvidia module that the next boot would load; empty when there is none."""
    release = kernel_release(root)
    folder = root / "lib/modules" / release
    files = sorted(path for path in folder.rglob("nvidia*.ko*") if _MODULE.fullmatch(path.name)) if release else []
    if root == Path("/"):
        # By its plain name first: where several are installed, it is modprobe that chooses.
        for name in ("nvidia", *map(str, files)):
            outcome = run(["modinfo", name], timeout)
            if outcome.missing:
                break
            if outcome.ok and (found := parse_modinfo(outcome.out))["version"]:
                return found
        else:
            return parse_modinfo("")
    for path in files:
        # modinfo's fields stand in the file itself, each ended by a null byte.
        words = (b"\0" + _unpacked(path)).split(b"\0")
        pairs = (word.decode("latin-1").partition("=") for word in words if b"=" in word[:10])
        return parse_modinfo("\n".join(f"{name}: {value}" for name, _, value in pairs))
    return parse_modinfo("")


def _unpacked(path: Path) -> bytes:
    """Content of a module, which the distribution may have compressed; nothing where Python cannot read it."""
    try:
        content = path.read_bytes()
        return {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)(content)
    except (OSError, EOFError, lzma.LZMAError):
        return b""


def parse_dkms(text: str) -> list[dict[str, str]]:
    """Turn `dkms status`, of old and new releases, into `[{version, kernel, state}]` of the nvidia module."""
    lines = re.findall(r"^nvidia[\w-]*(?:/|, )([\d.]+), ([^,:\s]+),[^:]*: *(\w+)", text, re.MULTILINE)
    return [{"version": version, "kernel": kernel, "state": state} for version, kernel, state in lines]


def parse_devices(text: str) -> dict[str, int]:
    """Turn /proc/devices into the major numbers that the kernel gave to the driver's devices."""
    pairs = re.findall(r"^ *(\d{1,9}) (nvidia[\w-]*)$", text, re.MULTILINE)
    return {name: int(number) for number, name in pairs}


def nvswitches(root: Path) -> int:
    """Count the NVSwitches on the PCI bus: bridges of vendor NVIDIA."""
    return sum(
        read_text(device / "vendor").strip().lower() == "0x10de"
        and read_text(device / "class").strip().lower().startswith("0x0680")
        for device in _entries(root / "sys/bus/pci/devices")
    )


def secure_boot(root: Path) -> bool | None:
    """Whether the firmware only starts what is signed; nothing is known without its variables."""
    for path in _entries(root / "sys/firmware/efi/efivars", "SecureBoot-*"):
        try:
            return path.read_bytes()[-1:] == b"\x01"
        except OSError:
            return None
    return None


def selinux_facts(root: Path) -> dict[str, bool]:
    """Whether SELinux is enforced, and whether it lets containers use devices."""
    allowed = read_text(root / "sys/fs/selinux/booleans/container_use_devices").split()
    return {
        "enforcing": read_text(root / "sys/fs/selinux/enforce").strip() == "1",
        "container_use_devices": allowed[:1] == ["1"],
    }


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
    disk = module_on_disk(root, run, timeout)
    kernel = kernel_release(root)
    dkms = run(["dkms", "status"], timeout) if not loaded["version"] else Outcome(missing=True)
    return {
        "loaded_version": loaded["version"],
        "flavour": loaded["flavour"] or disk["flavour"],
        "disk_version": disk["version"],
        "disk_signer": disk["signer"],
        "user_version": user_space_version(root),
        "kernel": kernel,
        "kernel_headers": bool(kernel) and (root / "lib/modules" / kernel / "build").exists(),
        "dkms": parse_dkms(dkms.out) if dkms.ok else [],
        "secure_boot": secure_boot(root),
        "nouveau_loaded": (root / "sys/module/nouveau").is_dir(),
        "device_nodes": sorted(path.name for path in _entries(root / "dev", "nvidia*") if not path.is_dir()),
        "device_majors": parse_devices(read_text(root / "proc/devices")),
        "persistenced_socket": any((root / path).exists() for path in PERSISTENCED_SOCKETS),
    }


def _entries(folder: Path, pattern: str = "*") -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
