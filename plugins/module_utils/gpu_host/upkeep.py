"""Judge how driver and toolkit are kept: packages held, versions equal and without known flaws, one package source."""

from __future__ import annotations

import re

from .aging import FLAWS, Flaw
from .finding import Facts, Finding, finding
from .packages import TOOLKIT_PACKAGES
from .versions import older

_CORE = re.compile(r"nvidia-(driver|open|headless|kernel|dkms)|kmod-nvidia|cuda-drivers|linux-modules-nvidia")


def known_flaws(version: str, mode: str) -> list[Flaw]:
    """Published flaws of a toolkit of this version, where containers get the GPU this way."""
    return [
        flaw
        for flaw in FLAWS
        if older(version, flaw.fixed) and not (flaw.only and mode and flaw.only != mode and older(version, flaw.before))
    ]


def assess_pinning(facts: Facts) -> list[Finding]:
    """GPU008: nothing keeps the driver's packages from being upgraded under the running driver."""
    packages = facts["packages"]
    loose = sorted(name for name, item in packages["driver"].items() if _CORE.match(name) and not item["held"])
    held = any(item["held"] for name, item in packages["driver"].items() if _CORE.match(name))
    upgrades = packages["automatic_upgrades"]
    if not loose or held or (upgrades["enabled"] and upgrades["nvidia_left_out"]):
        return []
    return [
        finding(
            "GPU008",
            "warning" if upgrades["enabled"] else "info",
            "The driver's packages are not held: an upgrade would break the next start of every GPU container."
            if not upgrades["enabled"]
            else "Automatic upgrades may replace the driver while it runs; the next GPU container then fails to start.",
            f"not held: {', '.join(loose)}; automatic upgrades are {'on' if upgrades['enabled'] else 'off'}",
            "Hold them: apt-mark hold PACKAGE, or dnf versionlock add '*nvidia*'; upgrade the driver on purpose, "
            "with a reboot. nvidia_driver_install=true holds what it installs.",
        )
    ]


def assess_toolkit_packages(facts: Facts, modes: list[str]) -> list[Finding]:
    """GPU021, GPU024, GPU026: known flaws, unequal versions, package sources that contradict each other."""
    found = []
    version = facts["toolkit"]["version"]
    flaws = known_flaws(version, modes[0] if modes else "")
    if flaws:
        floor = max((flaw.fixed for flaw in flaws), key=lambda text: [int(part) for part in text.split(".")])
        found.append(
            finding(
                "GPU021",
                "warning",
                f"NVIDIA Container Toolkit {version} has {len(flaws)} known security flaws.",
                ", ".join(f"{flaw.name} (fixed in {flaw.fixed})" for flaw in flaws),
                f"Upgrade all four packages to {floor} or newer before this host runs images that you do not trust: "
                "nvidia_container_toolkit_install=true with nvidia_container_toolkit_version.",
            )
        )
    installed = facts["packages"].get("toolkit", {})
    if len({text.split("-")[0].split(":")[-1] for text in installed.values()}) > 1:
        found.append(
            finding(
                "GPU024",
                "warning",
                "The packages of the container toolkit have different versions, which work together only when equal.",
                ", ".join(f"{name} {installed[name]}" for name in TOOLKIT_PACKAGES if name in installed),
                "Install one version of all four: nvidia_container_toolkit_install=true does, and holds them.",
            )
        )
    sources = facts["packages"].get("vendor_sources", [])
    for address in sorted({source["uri"] for source in sources}):
        same = [source for source in sources if source["uri"] == address]
        if len({source["key"] for source in same}) > 1:
            found.append(
                finding(
                    "GPU026",
                    "warning",
                    "Two package sources of the vendor name different keys, so apt refuses all updates.",
                    "; ".join(f"{source['path']}: {source['key'] or 'no key'}" for source in same),
                    f"Keep one of them and remove the other, for example: rm {same[0]['path']} && apt-get update.",
                )
            )
    superseded = [
        source
        for source in sources
        if "/nvidia-docker" in source["uri"] or "/nvidia-container-runtime" in source["uri"]
    ]
    if superseded:
        found.append(
            finding(
                "GPU026",
                "warning",
                "A package source of the superseded nvidia-docker is still read.",
                "; ".join(f"{source['path']}: {source['uri']}" for source in superseded),
                f"Remove it: rm {' '.join(sorted({source['path'] for source in superseded}))} && apt-get update.",
            )
        )
    return found
