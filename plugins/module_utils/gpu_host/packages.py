"""Read which packages of the driver and the toolkit are installed, and what may upgrade them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .commands import Runner
from .files import read_text

TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# All that carries the driver's version: one part of another version is as bad as a wrong module.
_DRIVER = re.compile(
    r"(lib)?nvidia-(?!container|settings|xconfig|cuda-)|libcuda|firmware-nvidia-|kmod-nvidia|cuda-drivers|linux-\w+-nvidia-"
)
_VENDOR = "nvidia.github.io"


def parse_dpkg_status(text: str) -> dict[str, dict[str, Any]]:
    """Turn /var/lib/dpkg/status into `{name: {version, held}}` of the installed packages of NVIDIA."""
    found: dict[str, dict[str, Any]] = {}
    for block in text.split("\n\n"):
        name = re.search(r"^Package: (\S*nvidia\S*|cuda-drivers\S*|libcuda(?:1|debugger1))$", block, re.MULTILINE)
        status = re.search(r"^Status: (\S+) \S+ installed$", block, re.MULTILINE)
        version = re.search(r"^Version: (\S+)$", block, re.MULTILINE)
        if name and status and version:
            found[name.group(1)] = {"version": version.group(1), "held": status.group(1) == "hold"}
    return found


def parse_rpm_list(text: str, locks: str) -> dict[str, dict[str, Any]]:
    """Turn `name version-release` lines into the same, with the text of dnf's lock file to tell what is held."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 2 or "nvidia" not in words[0]:
            continue
        locked = re.search(rf"(?m)^!?[ \t]*(?:name\s*=\s*)?\"?{re.escape(words[0])}(?:-\d|\"|$)", locks)
        found[words[0]] = {"version": words[1], "held": locked is not None and not locked.group(0).startswith("!")}
    return found


def parse_automatic_upgrades(texts: list[str]) -> dict[str, bool]:
    """Tell from apt's and dnf's settings whether packages are upgraded unasked, and whether NVIDIA's are left out."""
    text = "\n".join(re.sub(r"(?m)^[ \t]*(//|#).*$", "", item) for item in texts)
    enabled = bool(
        re.search(r'APT::Periodic::Unattended-Upgrade\s+"[1-9]', text)
        or re.search(r"(?m)^[ \t]*apply_updates[ \t]*=[ \t]*(yes|true|1)\b", text)
    )
    # The list may be given in one block or entry by entry.
    listed = re.findall(r"Unattended-Upgrade::Package-Blacklist(?:::)?\s*(?:\{([^}]*)\}|\"([^\"]*)\")", text)
    excluded = re.findall(r"(?m)^[ \t]*exclude(?:pkgs)?[ \t]*=(.*)$", text)
    left_out = " ".join([*(first + second for first, second in listed), *excluded])
    return {"enabled": enabled, "nvidia_left_out": "nvidia" in left_out}


def parse_vendor_sources(files: dict[str, str]) -> list[dict[str, str]]:
    """Find the vendor's repository in apt's source files, each with the key that it names."""
    found = []
    for path, text in files.items():
        for block in re.split(r"\n\s*\n", text) if path.endswith(".sources") else text.splitlines():
            lines = "\n".join(line for line in block.splitlines() if not line.lstrip().startswith("#"))
            address = re.search(rf"https?://{re.escape(_VENDOR)}/\S+", lines)
            if address:
                key = re.search(r"signed-by[=:]\s*([^\s\],]+)", lines, re.IGNORECASE)
                found.append({"path": path, "uri": address.group(0).rstrip("/"), "key": key.group(1) if key else ""})
    return found


def package_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """What is installed of driver and toolkit, what is held, and what upgrades packages unasked."""
    status = read_text(root / "var/lib/dpkg/status")
    if status:
        packages = parse_dpkg_status(status)
    else:
        listed = run(["rpm", "-qa", "--queryformat", r"%{NAME} %{VERSION}-%{RELEASE}\n", "*nvidia*"], timeout)
        locks = [read_text(root / path) for path in ("etc/dnf/plugins/versionlock.list", "etc/dnf/versionlock.toml")]
        packages = parse_rpm_list(listed.out if listed.ok else "", "\n".join(locks))
    settings = [read_text(path) for path in _files(root / "etc/apt/apt.conf.d", "*")]
    settings += [read_text(root / path) for path in ("etc/apt/apt.conf", "etc/dnf/automatic.conf", "etc/dnf/dnf.conf")]
    sources = [root / "etc/apt/sources.list", *_files(root / "etc/apt/sources.list.d", "*")]
    driver = {name: item for name, item in packages.items() if _DRIVER.match(name)}
    return {
        "driver": driver,
        "toolkit": {name: packages[name]["version"] for name in TOOLKIT_PACKAGES if name in packages},
        "automatic_upgrades": parse_automatic_upgrades(settings),
        "vendor_sources": parse_vendor_sources(
            {f"/{path.relative_to(root)}": read_text(path) for path in sources if path.suffix in {".list", ".sources"}}
        ),
    }


def _files(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(path for path in folder.glob(pattern) if path.is_file())
    except OSError:
        return []
