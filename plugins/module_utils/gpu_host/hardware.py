"""Judge the GPUs: module flavour, health, memory, fabric and persistence."""

from __future__ import annotations

from typing import Any

from .finding import Facts, Finding, finding
from .generations import modules_needed

# What NVIDIA's catalogue of Xid events asks for. What is in neither list is the fault of an application.
_XID_SEVERE = {
    46: "the GPU stopped processing",
    48: "uncorrectable memory error",
    62: "internal micro-controller halt",
    64: "a memory row or page could not be replaced",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    119: "no answer of the GPU's system processor",
    120: "error of the GPU's system processor",
    140: "unrecovered memory error",
}
_XID_NOTED = {
    63: "a memory row or page waits to be replaced",
    74: "NVLink error",
    92: "many corrected memory errors",
    94: "contained memory error",
}


def assess_flavour(facts: Facts) -> list[Finding]:
    """GPU005: the kernel modules of the other licence, which cannot drive this generation."""
    flavour = facts["driver"]["flavour"]
    listed = {_short(gpu["pci_address"]) for gpu in facts["gpus"]}
    silent = [device for device in facts["pci_devices"] if _short(device["address"]) not in listed]
    needed = facts["log"]["flavour_wanted"] or modules_needed(silent)
    if not flavour or not silent or needed in {flavour, "either"}:
        return []
    return [
        finding(
            "GPU005",
            "error",
            f"The {flavour} kernel modules are installed, but this host's GPU works only with the {needed} ones.",
            f"{', '.join(item['address'] for item in silent)} ({silent[0]['device']}) not seen by nvidia-smi; "
            f"the kernel's log {f'asks for the {needed} modules' if facts['log']['flavour_wanted'] else 'is silent'}",
            f"Install the {needed} modules of the same version (Ubuntu: nvidia-driver-BRANCH-server"
            f"{'-open' if needed == 'open' else ''}; RHEL family: stream BRANCH-"
            f"{'open' if needed == 'open' else 'dkms'}) and reboot.",
        )
    ]


def assess_persistence(facts: Facts) -> list[Finding]:
    """GPU016, GPU017: persistence mode and the daemon that keeps it."""
    found = []
    unit = facts["units"].get("nvidia-persistenced.service", {})
    idle = [str(gpu["index"]) for gpu in facts["gpus"] if gpu["persistence_mode"] is False]
    if idle:
        found.append(
            finding(
                "GPU016",
                "warning",
                "Persistence mode is off: the driver unloads when nothing uses the GPU, and each start waits for it.",
                f"GPU {', '.join(idle)}; nvidia-persistenced is {unit.get('active') or 'not installed'}",
                "Enable the daemon: systemctl enable --now nvidia-persistenced; "
                "nvidia-smi -pm 1 does the same until the next boot.",
            )
        )
    if unit.get("active") == "active" and not facts["driver"]["persistenced_socket"]:
        found.append(_no_socket("warning", "nvidia-persistenced runs, but its socket is not there."))
    return found


def assess_socket_in_specs(facts: Facts, severity: str) -> list[Finding]:
    """GPU017: a CDI specification that mounts the daemon's socket although it is gone."""
    paths = [spec["path"] for spec in facts["toolkit"]["cdi_specs"] if spec["persistenced"]]
    if not paths or facts["driver"]["persistenced_socket"]:
        return []
    summary = "The CDI specification mounts the socket of nvidia-persistenced, which is not there: no container starts."
    return [_no_socket(severity, summary, f"{', '.join(paths)} names it; ")]


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


def assess_health(facts: Facts) -> list[Finding]:
    """GPU020: Xid events since boot, and what the GPUs say about their memory."""
    return [*_xids(facts), *_memory(facts)]


def assess_vram(facts: Facts, requirements: Facts) -> list[Finding]:
    """GPU023: memory for one instance, and for the second one that a deploy starts beside it."""
    needed = int(requirements.get("vram_mib") or 0)
    found = []
    for gpu in facts["gpus"]:
        total, free = gpu["memory_total_mib"], gpu["memory_free_mib"]
        where = f"GPU {gpu['index']} ({gpu['name']})"
        evidence = f"{free if free is not None else 'unknown'} of {total} MiB free, {needed} MiB for each instance"
        if total is None or gpu["mig"]["current"]:
            continue
        if total < needed:
            summary = f"{where} has too little memory for the image: {total} MiB."
            remedy = "Use a larger GPU, or an inference_image_flavor or model that needs less."
            found.append(finding("GPU023", "error", summary, evidence, remedy))
        elif free is not None and free < needed:
            summary = f"{where} has no room for one more instance: a new release cannot start beside what uses it now."
            remedy = (
                "Free memory (nvidia-smi names the processes), use another GPU with inference_service_gpus, or accept "
                "that a release is replaced instead of started beside the old one."
            )
            found.append(finding("GPU023", "warning", summary, evidence, remedy))
    return found


def _xids(facts: Facts) -> list[Finding]:
    present = {_short(gpu["pci_address"]) for gpu in facts["gpus"]}
    found = []
    for event in sorted(facts["log"]["xids"], key=lambda item: (item["pci_address"], item["code"])):
        code, address = event["code"], event["pci_address"]
        evidence = f"{event['count']} times since boot, last: {event['text'] or 'no text'}"
        if code == 79:
            gone = not any(item.startswith(_short(address)) for item in present)
            remedy = (
                "Check power, risers and slots, then power-cycle this host; a GPU that falls off again needs service."
            )
            summary = f"GPU {address} has fallen off the bus (Xid 79)."
            found.append(finding("GPU020", "error", summary, f"{evidence}; {'gone' if gone else 'back'} now", remedy))
        elif code in _XID_SEVERE:
            remedy = (
                "Drain this host, then nvidia-smi --gpu-reset or reboot; a GPU that reports it again needs service."
            )
            summary = f"GPU {address} reported Xid {code}: {_XID_SEVERE[code]}."
            found.append(finding("GPU020", "error", summary, evidence, remedy))
        elif code in _XID_NOTED:
            remedy = "Plan a reset of this GPU (nvidia-smi --gpu-reset, with nothing using it) or a reboot; watch it."
            summary = f"GPU {address} reported Xid {code}: {_XID_NOTED[code]}."
            found.append(finding("GPU020", "warning", summary, evidence, remedy))
        else:
            remedy = "Most are faults of an application (13, 31, 43, 45): look at what ran then."
            found.append(finding("GPU020", "info", f"GPU {address} reported Xid {code}.", evidence, remedy))
    return found


def _memory(facts: Facts) -> list[Finding]:
    found = []
    for gpu in facts["gpus"]:
        health: dict[str, Any] = gpu["health"]
        where = f"GPU {gpu['index']} ({gpu['name']})"
        waiting = [
            words
            for name, words in (
                ("remap_pending", "rows wait to be remapped"),
                ("retirement_pending", "pages wait to be retired"),
                ("reset_required", "a reset is required"),
            )
            if health[name]
        ]
        action = health["recovery_action"]
        if health["remap_failure"]:
            summary = f"{where} can no longer replace broken memory."
            remedy = "Take this GPU out of inference_service_gpus and have it replaced."
            found.append(finding("GPU020", "error", summary, "row remapping failed", remedy))
        elif health["uncorrected_errors"] or waiting or action:
            errors = health["uncorrected_errors"] or 0
            wanted = [f"the driver recommends: {action}"] if action else []
            evidence = "; ".join([f"{errors} uncorrected memory errors since the driver was loaded", *waiting, *wanted])
            remedy = (
                f"Stop what uses it, then nvidia-smi --gpu-reset -i {gpu['index']} or reboot; watch whether it returns."
            )
            found.append(
                finding("GPU020", "warning", f"{where} had memory errors or waits for a reset.", evidence, remedy)
            )
    return found


def _no_socket(severity: str, summary: str, where: str = "") -> Finding:
    return finding(
        "GPU017",
        severity,
        summary,
        f"{where}/run/nvidia-persistenced/socket does not exist",
        "systemctl restart nvidia-persistenced, then systemctl restart nvidia-cdi-refresh.service; reboot after a "
        "change of the driver. Never mount /run or /var/run of the host into a container.",
    )


def _short(address: str) -> str:
    """PCI address as the kernel writes it: nvidia-smi gives the domain eight digits, /sys four."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
