"""Judge the facts of a host: each problem becomes a finding with a stable id and a remedy.

docs/TROUBLESHOOTING.md explains every id; each is judged beside the reading of what it is about.
"""

from __future__ import annotations

from .cdi import assess_mig_offered, assess_refresh, assess_stale_specs, assess_uvm_number
from .driver import assess_age, assess_device_nodes, assess_versions
from .engine import assess_restart
from .fabric import assess_fabric
from .finding import Facts, Finding, finding
from .generations import assess_legacy
from .gpus import (
    assess_generation,
    assess_memory,
    assess_mig,
    assess_persistence,
    assess_socket_in_specs,
    assess_vram,
)
from .kernel_log import assess_xids
from .nvidia_smi import assess_answer
from .pci import assess_flavour, assess_nouveau
from .selinux import assess_selinux
from .toolkit import access_modes, assess_hook, no_access
from .upkeep import assess_pinning, assess_toolkit_packages


def gpu_present(facts: Facts) -> bool:
    """Whether the host has an NVIDIA GPU: one on the PCI bus, or one that nvidia-smi reports."""
    return bool(facts["pci_devices"] or facts["gpus"])


def assess_driver(facts: Facts, expected: str, requirements: Facts) -> list[Finding]:
    """Judge hardware and driver; `expected` is auto or required, `requirements` a row of the flavours table."""
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
    found = assess_legacy(facts)
    if found:
        # Whatever else is wrong, nothing helps.
        return found
    found = assess_nouveau(facts)
    if not found:
        found = assess_versions(facts) or assess_flavour(facts) or assess_answer(facts)
    found += assess_pinning(facts)
    found += assess_age(facts, requirements)
    found += assess_generation(facts, requirements)
    found += assess_device_nodes(facts)
    found += assess_persistence(facts)
    found += assess_mig(facts)
    found += assess_fabric(facts)
    found += assess_xids(facts)
    found += assess_memory(facts)
    found += assess_vram(facts, requirements)
    return found


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
                f"The Docker engine is {kind}, where GPU access needs settings that this project does not make.",
                f"data root {engine['data_root'] or 'unknown'}",
                "Install the engine from distribution or vendor packages: "
                "remove this one, then run the deploy with docker_engine_install=true.",
            )
        )
    if not modes and engine["version"]:
        found.append(no_access(engine, toolkit, severity))
    of_specs = severity if modes[:1] == ["cdi"] else "warning"
    found += assess_stale_specs(facts, of_specs)
    found += assess_refresh(facts)
    found += assess_uvm_number(facts, of_specs)
    found += assess_socket_in_specs(facts, of_specs)
    found += assess_mig_offered(facts, modes)
    found += assess_hook(facts, modes)
    found += assess_restart(engine)
    found += assess_selinux(facts)
    found += assess_toolkit_packages(facts, modes)
    return found
