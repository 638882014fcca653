"""Read which Fabric Manager is installed, and judge whether it serves the NVSwitches."""

from __future__ import annotations

import re

from .commands import Runner
from .finding import Facts, Finding, finding


def fabric_manager_version(run: Runner, timeout: float) -> str:
    """Version of the Fabric Manager, from the line that it prints about itself."""
    answer = run(["nv-fabricmanager", "--version"], timeout)
    match = re.search(r"(\d{3,}\.\d+(?:\.\d+)?)", answer.out) if answer.ok else None
    return match.group(1) if match else ""


def assess_fabric(facts: Facts) -> list[Finding]:
    """GPU019: NVSwitch hosts, where CUDA needs the Fabric Manager of exactly the driver's version."""
    unit = facts["units"].get("nvidia-fabricmanager.service", {})
    manager, driver = facts["fabric_manager_version"], facts["driver_version"]
    waiting = [gpu for gpu in facts["gpus"] if gpu["fabric"]["state"] and gpu["fabric"]["state"] != "Completed"]
    failed = [
        gpu
        for gpu in facts["gpus"]
        if gpu["fabric"]["state"] == "Completed" and gpu["fabric"]["status"] not in {"", "Success"}
    ]
    evidence = f"{facts['nvswitches']} NVSwitches, Fabric Manager {manager or 'not found'} " + (
        f"({unit.get('active') or 'unit not loaded'}), driver {driver or 'unknown'}"
    )
    remedy = (
        f"Install the package nvidia-fabricmanager of exactly {driver or 'the version of the driver'}, then "
        "systemctl enable --now nvidia-fabricmanager; its log is /var/log/fabricmanager.log."
    )
    if any(gpu["architecture"] == "Blackwell" for gpu in waiting + failed):
        remedy += (
            " Blackwell's switches also need the package nvlsm, and ib_umad and mlx5_ib loaded (modprobe; Ubuntu: "
            "linux-modules-extra of the running kernel) before it starts."
        )
    if facts["nvswitches"] and manager and driver and manager != driver:
        summary = f"Fabric Manager {manager} does not match driver {driver}: CUDA ends with error 802."
        return [finding("GPU019", "error", summary, evidence, remedy)]
    if facts["nvswitches"] and unit.get("active") != "active":
        summary = "This host has NVSwitches, but the Fabric Manager does not run: CUDA ends with error 802."
        return [finding("GPU019", "error", summary, evidence, remedy)]
    if waiting or failed:
        states = ", ".join(
            f"GPU {gpu['index']}: {gpu['fabric']['state']} {gpu['fabric']['status']}" for gpu in waiting + failed
        )
        summary = "A GPU has not joined the NVLink fabric: CUDA ends with error 802."
        return [finding("GPU019", "error", summary, f"{states}; {evidence}", remedy)]
    return []
