"""Put the facts of one host together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cdi import spec_to_write
from .chosen import ALL, choose
from .commands import Runner
from .driver import driver_facts
from .engine import engine_facts
from .fabric import fabric_manager_version
from .generations import modules_needed
from .kernel_log import parse_kernel_log, read_kernel_log
from .nvidia_smi import INFOROM, SMI_TIMEOUT, parse_compute_capabilities, read_report
from .packages import package_facts
from .pci import nvswitches, pci_devices
from .platform import platform_facts
from .selinux import selinux_facts
from .toolkit import access_modes, toolkit_facts
from .units import read_units


def gpu_facts(root: Path, run: Runner, timeout: float, smi_timeout: float) -> dict[str, Any]:
    """Facts about GPUs and their driver."""
    answer, report, message = read_report(run, smi_timeout)
    if report["gpus"]:
        capabilities = run(["nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"], smi_timeout)
        known = parse_compute_capabilities(capabilities.out) if capabilities.ok else {}
        for gpu in report["gpus"]:
            gpu["compute_capability"] = known.get(gpu["uuid"], "")
    driver = driver_facts(root, run, timeout)
    devices = pci_devices(root)
    present = bool(devices or report["gpus"])
    return {
        **platform_facts(root, run, timeout),
        "pci_devices": devices,
        "flavor_needed": modules_needed(devices),
        "nvswitches": nvswitches(root),
        "log": read_kernel_log(run, timeout) if present else parse_kernel_log(""),
        "units": read_units(run, timeout) if present else {},
        "packages": package_facts(root, run, timeout) if present else {},
        "selinux": selinux_facts(root),
        "fabric_manager_version": fabric_manager_version(run, timeout) if present else "",
        "gpus": report["gpus"],
        "driver": driver,
        "driver_version": report["driver_version"] or driver["loaded_version"],
        "cuda_version": report["cuda_version"],
        "nvidia_smi": {
            "answered": bool(report["gpus"]),
            "timed_out": answer.timed_out,
            "inforom_corrupted": answer.rc == INFOROM,
            "mismatch": "version mismatch" in answer.text.lower(),
            "message": message,
        },
    }


def host_facts(
    root: Path, run: Runner, timeout: float, topics: set[str], asked: object = ALL, smi_timeout: float = SMI_TIMEOUT
) -> dict[str, Any]:
    """Facts about the topics asked for: driver, engine, toolkit (which needs the other two)."""
    facts: dict[str, Any] = {}
    if topics & {"driver", "toolkit"}:
        facts.update(gpu_facts(root, run, timeout, smi_timeout))
        facts["asked"], facts["chosen"] = asked, choose(asked, facts["gpus"])
    if topics & {"engine", "toolkit"}:
        facts["engine"] = engine_facts(root, run, timeout)
    if "toolkit" in topics:
        facts["toolkit"] = toolkit_facts(root, run, timeout, facts["engine"]["cdi_spec_dirs"])
        facts["toolkit"]["spec_to_write"] = spec_to_write(facts)
        facts["toolkit"]["modes"] = access_modes(facts["engine"], facts["toolkit"])
    return facts
