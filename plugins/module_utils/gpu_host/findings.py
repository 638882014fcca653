"""Judge the facts of a host: each problem becomes a finding with a stable id and a remedy.

docs/TROUBLESHOOTING.md explains every id; each is judged beside the reading of what it is about.
"""

from __future__ import annotations

from .cdi import assess_conflicts, assess_offered, assess_refresh, assess_stale_specs, assess_uvm_number
from .chosen import ALL, all_answer, assess_choice, remarks, views
from .driver import assess_age, assess_device_nodes, assess_versions
from .engine import assess_restart
from .fabric import assess_fabric
from .finding import Facts, Finding, finding
from .generations import assess_legacy
from .gpus import (
    assess_compute_mode,
    assess_generation,
    assess_license,
    assess_memory,
    assess_mig,
    assess_persistence,
    assess_slowdown,
    assess_socket_in_specs,
    assess_vram,
)
from .kernel_log import assess_events
from .nvidia_smi import assess_answer
from .pci import all_passed_through, assess_flavor, assess_nouveau, assess_passed_through
from .platform import WSL2, assess_platform
from .selinux import assess_selinux
from .toolkit import access_modes, assess_hook, assess_settings, no_access
from .upkeep import assess_pinning, assess_toolkit_packages


def gpu_present(facts: Facts) -> bool:
    """Whether the host has an NVIDIA GPU: one on the PCI bus, or one that nvidia-smi reports."""
    return bool(facts["pci_devices"] or facts["gpus"])


def assess_driver(facts: Facts, expected: str, requirements: Facts) -> list[Finding]:
    """Judge hardware and driver; `expected` is auto or required, `requirements` a row of the flavors table.

    Only the GPUs that were chosen decide: an error of another is a remark.
    """
    found = assess_platform(facts, expected)
    if found:
        return found
    if not gpu_present(facts):
        return [
            finding(
                "GPU001",
                "error" if expected == "required" else "info",
                "This host has no NVIDIA GPU.",
                "no display controller of vendor 0x10de in /sys/bus/pci/devices, and nvidia-smi reports no GPU",
                "Check that the card is seated, or passed through to this machine; "
                "set nvidia_driver_gpu to absent where the host is meant to have none.",
            )
        ]
    well = all_answer(facts)
    severity = "warning" if well else "error"
    # Where nothing else can help, nothing else is said.
    found = assess_legacy(facts)
    if found:
        return found
    found = assess_passed_through(facts, severity)
    if all_passed_through(facts) and not well:
        return found
    found += assess_events(facts)
    found += assess_nouveau(facts, severity)
    if not any(item["severity"] == "error" and item["id"] != "GPU020" for item in found):
        found += assess_versions(facts) or assess_flavor(facts, severity) or assess_answer(facts)
    if facts["nvidia_smi"]["answered"]:
        found += assess_choice(facts)
    found += assess_pinning(facts)
    found += assess_age(facts, requirements)
    if facts["platform"] != WSL2:
        found += assess_device_nodes(facts)
    mine, others = views(facts)
    if not mine["gpus"] and facts["asked"] == ALL:
        mine, others = facts, {**facts, "gpus": []}
    found += assess_fabric(mine)
    found += assess_persistence(mine)
    found += _of_each(mine, requirements)
    found += remarks(_of_each(others, requirements), facts)
    return found


def _of_each(facts: Facts, requirements: Facts) -> list[Finding]:
    """What is wrong with each of these GPUs."""
    return [
        *assess_generation(facts, requirements),
        *assess_mig(facts),
        *assess_compute_mode(facts),
        *assess_license(facts),
        *assess_memory(facts),
        *assess_slowdown(facts),
        *assess_vram(facts, requirements),
    ]


def assess_toolkit(facts: Facts, required: bool) -> list[Finding]:
    """Judge how containers reach the GPU; on a host without one there is nothing to judge."""
    if not gpu_present(facts):
        return []
    found = []
    engine, toolkit = facts["engine"], facts["toolkit"]
    modes = access_modes(engine, toolkit)
    severity = "error" if required else "warning"
    if engine["rootless"] or engine["snap"]:
        kind = "rootless" if engine["rootless"] else "from a snap"
        found.append(
            finding(
                "GPU011",
                severity,
                f"Docker is {kind}, where GPU access needs settings that this project does not make.",
                f"data root {engine['data_root'] or 'unknown'}",
                "Install Docker from distribution or vendor packages: "
                "remove this one, then run the deploy with docker_engine_install=true.",
            )
        )
    conflicts = (
        assess_conflicts(facts, "warning" if "nvidia" in modes[:1] else severity) if engine["cdi_enabled"] else []
    )
    if not modes and not conflicts and engine["version"]:
        found.append(no_access(engine, toolkit, severity))
    of_specs = severity if modes[:1] == ["cdi"] else "warning"
    outdated = assess_stale_specs(facts, of_specs) + conflicts
    found += outdated
    found += assess_refresh(facts)
    found += assess_uvm_number(facts, of_specs)
    found += assess_socket_in_specs(facts, of_specs)
    # Once an outdated one is written anew, or one of two is gone, it offers what there is.
    found += [] if outdated else assess_offered(facts, modes, severity)
    found += assess_hook(facts, modes)
    found += assess_settings(facts, modes, severity)
    found += assess_restart(engine)
    found += assess_selinux(facts)
    found += assess_toolkit_packages(facts, modes)
    return found
