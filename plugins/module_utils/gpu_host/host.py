"""Put the facts of one host together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .commands import Outcome, Runner
from .driver import driver_facts
from .engine import engine_facts
from .fabric import fabric_manager_version
from .generations import modules_needed
from .kernel_log import parse_kernel_log, read_kernel_log
from .nvidia_smi import UnreadableOutputError, parse_compute_capabilities, parse_report
from .packages import package_facts
from .pci import nvswitches, pci_devices
from .selinux import selinux_facts
from .toolkit import access_modes, toolkit_facts
from .units import read_units


def gpu_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Facts about GPUs and their driver."""
    answer = run(["nvidia-smi", "-q", "-x"], timeout)
    report: dict[str, Any] = {"driver_version": "", "cuda_version": "", "gpus": []}
    message = "" if answer.ok else _message(answer)
    if answer.ok:
        try:
            report = parse_report(answer.out)
        except UnreadableOutputError as error:
            message = f"the output of nvidia-smi -q -x cannot be read: {error}"
    if answer.ok and not message and not report["gpus"]:
        message = "nvidia-smi -q -x lists no GPU"
    if report["gpus"]:
        capabilities = run(["nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"], timeout)
        known = parse_compute_capabilities(capabilities.out) if capabilities.ok else {}
        for gpu in report["gpus"]:
            gpu["compute_capability"] = known.get(gpu["uuid"], "")
    driver = driver_facts(root, run, timeout)
    devices = pci_devices(root)
    present = bool(devices or report["gpus"])
    return {
        "pci_devices": devices,
        "flavour_needed": modules_needed(devices),
        "nvswitches": nvswitches(root),
        "log": read_kernel_log(run, timeout) if present else parse_kernel_log(""),
        "units": read_units(run, timeout) if present else {},
        "packages": package_facts(root, run, timeout) if present else {},
        "selinux": selinux_facts(root),
        "fabric_manager_version": fabric_manager_version(run, timeout) if present and nvswitches(root) else "",
        "gpus": report["gpus"],
        "driver": driver,
        "driver_version": report["driver_version"] or driver["loaded_version"],
        "cuda_version": report["cuda_version"],
        "nvidia_smi": {
            "answered": bool(report["gpus"]),
            "timed_out": answer.timed_out,
            "mismatch": "version mismatch" in answer.text.lower(),
            "message": message,
        },
    }


def host_facts(root: Path, run: Runner, timeout: float, topics: set[str]) -> dict[str, Any]:
    """Facts about the topics asked for: driver, engine, toolkit (which needs the other two)."""
    facts: dict[str, Any] = {}
    if topics & {"driver", "toolkit"}:
        facts.update(gpu_facts(root, run, timeout))
    if topics & {"engine", "toolkit"}:
        facts["engine"] = engine_facts(root, run, timeout)
    if "toolkit" in topics:
        facts["toolkit"] = toolkit_facts(root, run, timeout)
        facts["toolkit"]["modes"] = access_modes(facts["engine"], facts["toolkit"])
    return facts


def _message(answer: Outcome) -> str:
    if answer.missing:
        return ""
    if answer.timed_out:
        return f"nvidia-smi: {answer.err}"
    return f"nvidia-smi ended with code {answer.rc}: {answer.text[:300]}"
