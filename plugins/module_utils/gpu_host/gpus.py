"""Judge each GPU: generation, MIG, health, memory and persistence."""

from __future__ import annotations

from typing import Any

from .finding import Facts, Finding, finding
from .flavors import runs_on

# What the driver recommends for a GPU that has failed; with "Drain and Reset" and "Drain P2P" what runs may end first.
_NEEDED_AT_ONCE = ("Reset", "Reboot")


def assess_generation(facts: Facts, requirements: Facts) -> list[Finding]:
    """GPU009: a generation that the image holds no code for."""
    supported = requirements.get("compute_capabilities") or []
    found = []
    for gpu in facts["gpus"]:
        if runs_on(gpu["compute_capability"], supported):
            continue
        listed = ", ".join(str(item) for item in requirements["compute_capabilities"])
        found.append(
            finding(
                "GPU009",
                "error",
                f"GPU {gpu['index']} ({gpu['name']}) has compute capability {gpu['compute_capability']}, "
                "for which the chosen image flavor holds no code.",
                f"the flavor is built for {listed}",
                "Choose an inference_image_flavor that lists this GPU's generation, "
                "or leave this GPU out of inference_service_gpus.",
            )
        )
    return found


def assess_mig(facts: Facts) -> list[Finding]:
    """GPU018: MIG without instances, or a change of it that waits."""
    found = []
    for gpu in facts["gpus"]:
        mig = gpu["mig"]
        if mig["pending"] is not None and mig["pending"] != mig["current"]:
            found.append(
                finding(
                    "GPU018",
                    "warning",
                    f"A change of MIG mode on GPU {gpu['index']} waits for a reset.",
                    f"current {_mode(mig['current'])}, pending {_mode(mig['pending'])}",
                    f"Stop what uses the GPU, then run nvidia-smi --gpu-reset -i {gpu['index']} or reboot.",
                )
            )
        elif mig["current"] and not mig["instances"]:
            found.append(
                finding(
                    "GPU018",
                    "error",
                    f"GPU {gpu['index']} is in MIG mode but has no MIG instance, so CUDA sees no device.",
                    f"uuid {gpu['uuid']}, 0 MIG devices",
                    f"Create instances (nvidia-smi mig -cgi PROFILE -C -i {gpu['index']}) or leave the mode "
                    f"(nvidia-smi -i {gpu['index']} -mig 0); refresh the CDI specification afterwards.",
                )
            )
    return found


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


def assess_memory(facts: Facts) -> list[Finding]:
    """GPU020: what the GPUs say about their memory."""
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
        elif action in _NEEDED_AT_ONCE:
            summary = f"{where} cannot go on: the driver asks for a {action.lower()}."
            remedy = (
                f"Drain this host, then nvidia-smi --gpu-reset -i {gpu['index']}, with nothing using the GPU."
                if action == "Reset"
                else "Drain this host and reboot it."
            ) + " A GPU that asks again needs service."
            found.append(finding("GPU020", "error", summary, f"recovery action {action}", remedy))
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


def assess_vram(facts: Facts, requirements: Facts) -> list[Finding]:
    """GPU023: memory for one instance, and for the second one that a deploy starts beside it."""
    needed = int(requirements.get("vram_mib") or 0)
    found = []
    for gpu in facts["gpus"]:
        total, free = gpu["memory_total_mib"], gpu["memory_free_mib"]
        where = f"GPU {gpu['index']} ({gpu['name']})"
        evidence = f"{free if free is not None else 'unknown'} of {total} MiB free, {needed} MiB for each instance"
        if total is None:
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


def assess_compute_mode(facts: Facts) -> list[Finding]:
    """GPU032: a GPU that takes one process only, or none."""
    found = []
    for gpu in facts["gpus"]:
        where, mode = f"GPU {gpu['index']} ({gpu['name']})", gpu["compute_mode"]
        back = f"nvidia-smi -i {gpu['index']} -c DEFAULT"
        if mode == "Prohibited":
            summary = f"{where} is closed to all programs that compute."
            found.append(finding("GPU032", "error", summary, f"compute mode {mode}", f"Open it: {back}."))
        elif is_exclusive(gpu):
            summary = f"{where} takes one process only: a new release cannot start beside the one that serves."
            remedy = (
                f"Releases are replaced instead, as with inference_service_strategy=recreate. {back} lets two share "
                "the GPU; nothing else may use it until then."
            )
            found.append(finding("GPU032", "warning", summary, f"compute mode {mode}", remedy))
    return found


def is_exclusive(gpu: dict[str, Any]) -> bool:
    """Whether the GPU serves one process, or one thread, at a time."""
    return str(gpu["compute_mode"]).startswith("Exclusive")


def assess_license(facts: Facts) -> list[Finding]:
    """GPU033: a virtual GPU without its license, which is slowed down and then refuses to compute."""
    found = []
    for gpu in facts["gpus"]:
        status = gpu["license"]
        if not status.lower().startswith("unlicensed"):
            continue
        # It works for a while after the boot of the virtual machine.
        early = "unrestricted" in status.lower()
        found.append(
            finding(
                "GPU033",
                "warning" if early else "error",
                f"The virtual GPU {gpu['index']} ({gpu['name']}) has no license: "
                + (
                    "it will soon be slowed down, and CUDA refused."
                    if early
                    else "it is slowed down, and CUDA may be refused."
                ),
                f"license status {status}",
                "Set it up (the token in /etc/nvidia/ClientConfigToken, FeatureType in /etc/nvidia/gridd.conf) "
                "and systemctl restart nvidia-gridd; its log says what the server answers.",
            )
        )
    return found


def assess_slowdown(facts: Facts) -> list[Finding]:
    """GPU037: a GPU that protects itself by computing more slowly."""
    return [
        finding(
            "GPU037",
            "warning",
            f"GPU {gpu['index']} ({gpu['name']}) is slowed down: {', '.join(gpu['slowdowns'])}.",
            "nvidia-smi -q -d PERFORMANCE",
            "Answers take longer meanwhile. Thermal: look at fans, filters and the temperature of the room; power "
            "brake: at the power supply and its cables.",
        )
        for gpu in facts["gpus"]
        if gpu["slowdowns"]
    ]


def _mode(value: bool | None) -> str:
    return {True: "on", False: "off", None: "unknown"}[value]


def _no_socket(severity: str, summary: str, where: str = "") -> Finding:
    return finding(
        "GPU017",
        severity,
        summary,
        f"{where}/run/nvidia-persistenced/socket does not exist",
        "systemctl restart nvidia-persistenced, then systemctl restart nvidia-cdi-refresh.service; reboot after a "
        "change of the driver. Never mount /run or /var/run of the host into a container.",
    )
