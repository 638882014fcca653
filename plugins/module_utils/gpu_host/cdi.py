"""Read Container Device Interface specifications without a YAML library, and judge them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from .files import read_text
from .finding import Facts, Finding, finding

SPEC_FOLDERS = ("etc/cdi", "var/run/cdi", "run/cdi")


def parse_spec(text: str) -> dict[str, Any]:
    """Turn one specification into what matters of it; what is not found stays empty."""
    versions = Counter(re.findall(r"lib(?:cuda|nvidia-ml)\.so\.(\d{3,}\.\d+(?:\.\d+)?)", text))
    driver_version = versions.most_common(1)[0][0] if versions else ""
    if text.lstrip().startswith("{"):
        kind, devices = _from_json(text)
    else:
        kind, devices = _from_yaml(text)
    return {
        "kind": kind,
        "devices": devices,
        "driver_version": driver_version,
        "uvm_major": _uvm_major(text),
        "persistenced": "nvidia-persistenced/socket" in text,
    }


def read_specs(root: Path) -> list[dict[str, Any]]:
    """Every NVIDIA specification in the folders that the engine searches, each file once."""
    specs = []
    seen = set()
    for folder in SPEC_FOLDERS:
        for path in _spec_files(root / folder):
            real = path.resolve()
            if real in seen:
                continue
            seen.add(real)
            spec = parse_spec(read_text(path))
            if spec["kind"].startswith("nvidia.com/"):
                specs.append({"path": f"/{path.relative_to(root)}", **spec})
    return specs


def qualified_devices(specs: list[dict[str, Any]]) -> list[str]:
    """Names that a container asks for, such as `nvidia.com/gpu=0`."""
    return sorted({f"{spec['kind']}={name}" for spec in specs for name in spec["devices"]})


def assess_stale_specs(facts: Facts, severity: str) -> list[Finding]:
    """GPU012: a specification of another driver."""
    running = facts["driver"]["loaded_version"] or facts["driver_version"]
    return [
        finding(
            "GPU012",
            severity,
            f"The CDI specification {spec['path']} was written for driver {spec['driver_version']}, "
            f"but {running} is running.",
            f"{spec['path']} names libraries of {spec['driver_version']}",
            "Write it anew: systemctl restart nvidia-cdi-refresh.service, or nvidia-ctk cdi generate "
            f"--output={spec['path']}; remove a copy that nothing refreshes.",
        )
        for spec in facts["toolkit"]["cdi_specs"]
        if running and spec["driver_version"] and spec["driver_version"] != running
    ]


def assess_refresh(facts: Facts) -> list[Finding]:
    """GPU012: the service that writes specifications failed."""
    unit = facts["units"].get("nvidia-cdi-refresh.service", {})
    if not unit or unit["result"] in {"", "success"}:
        return []
    return [
        finding(
            "GPU012",
            "warning",
            "The service that writes the CDI specification failed the last time.",
            f"nvidia-cdi-refresh.service: {unit['active']}, result {unit['result']}",
            "Read why: journalctl -u nvidia-cdi-refresh.service; then systemctl restart nvidia-cdi-refresh.service.",
        )
    ]


def assess_uvm_number(facts: Facts, severity: str) -> list[Finding]:
    """GPU024: a CDI specification with a device number that the kernel no longer uses."""
    actual = facts["driver"]["device_majors"].get("nvidia-uvm")
    return [
        finding(
            "GPU024",
            severity,
            "The CDI specification has a wrong device number for /dev/nvidia-uvm: CUDA fails where nvidia-smi works.",
            f"{spec['path']} says major {spec['uvm_major']}, /proc/devices says {actual}",
            "Write the specification anew, now that nvidia-uvm is loaded: modprobe nvidia-uvm && "
            "systemctl restart nvidia-cdi-refresh.service.",
        )
        for spec in facts["toolkit"]["cdi_specs"]
        if actual is not None and spec["uvm_major"] is not None and spec["uvm_major"] != actual
    ]


def assess_mig_offered(facts: Facts, modes: list[str]) -> list[Finding]:
    """GPU018: MIG devices that no specification offers."""
    split = [gpu for gpu in facts["gpus"] if gpu["mig"]["current"] and gpu["mig"]["instances"]]
    # nvidia-ctk names a MIG device GPU:INSTANCE, or MIG-UUID when asked for uuids.
    offered = [name for name in facts["toolkit"]["cdi_devices"] if ":" in name or "MIG-" in name]
    if "cdi" not in modes or not split or offered:
        return []
    return [
        finding(
            "GPU018",
            "warning",
            "The CDI specification knows none of this host's MIG devices.",
            f"MIG is on for GPU {', '.join(str(gpu['index']) for gpu in split)}; "
            f"offered {', '.join(facts['toolkit']['cdi_devices'])}",
            "Write it anew after each change of MIG: systemctl restart nvidia-cdi-refresh.service.",
        )
    ]


def _uvm_major(text: str) -> int | None:
    """Device number that the specification gives to /dev/nvidia-uvm; toolkits before 1.19.1 leave it to the engine."""
    match = re.search(r"/dev/nvidia-uvm[\"']?\s*,?\s*[\"']?major[\"']?\s*:\s*(\d{1,9})", text)
    return int(match.group(1)) if match else None


def _spec_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml", ".json"})
    except OSError:
        return []


def _from_json(text: str) -> tuple[str, list[str]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return "", []
    devices = data.get("devices") if isinstance(data, dict) else None
    items = devices if isinstance(devices, list) else []
    names = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    kind = data.get("kind", "") if isinstance(data, dict) else ""
    return str(kind), names


def _from_yaml(text: str) -> tuple[str, list[str]]:
    """Find the top-level `kind` and the `name` of each item of the top-level list `devices`."""
    kind = ""
    names: list[str] = []
    in_devices = False
    dash_column = -1
    for line in text.splitlines():
        top = re.match(r"([A-Za-z]\w*):\s*(.*)$", line)
        if top:
            in_devices = top.group(1) == "devices"
            dash_column = -1
            if top.group(1) == "kind":
                kind = _scalar(top.group(2))
            continue
        item = re.match(r"(\s*(?:-\s*)?)name:\s*(\S.*)$", line)
        dash = re.match(r"(\s*)-(\s|$)", line)
        if in_devices and dash_column < 0 and dash:
            dash_column = len(dash.group(1))
        # The key of an item stands two columns right of its dash; deeper ones belong to the item's own lists.
        if in_devices and item and len(item.group(1)) == dash_column + 2:
            names.append(_scalar(item.group(2)))
    return kind, names


def _scalar(text: str) -> str:
    text = re.sub(r"\s#.*$", "", text).strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
