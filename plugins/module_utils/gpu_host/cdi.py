"""Read Container Device Interface specifications without a YAML library, and judge them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from .files import read_text
from .finding import Facts, Finding, finding

# Where engines look that are not told otherwise. A later folder goes before an earlier one.
SPEC_FOLDERS = ("/etc/cdi", "/var/run/cdi")
GPU_KIND = "nvidia.com/gpu"


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


def read_specs(root: Path, folders: list[str]) -> list[dict[str, Any]]:
    """Every NVIDIA specification in the folders that Docker searches, each file once, and what each is good for.

    `serves` are the devices that Docker takes from it: those that no later folder has too. `conflicts` are those
    that another file of the same folder has, so that no container gets them.
    """
    specs = []
    seen = set()
    for priority, folder in enumerate(folders or SPEC_FOLDERS):
        place = root / folder.lstrip("/")
        if not place.is_dir() and folder.startswith("/var/run/"):
            place = root / folder.removeprefix("/var/").lstrip("/")
        for path in _spec_files(place):
            real = path.resolve()
            if real in seen:
                continue
            seen.add(real)
            spec = parse_spec(read_text(path))
            if spec["kind"].startswith("nvidia.com/"):
                specs.append({"path": f"/{path.relative_to(root)}", "priority": priority, **spec})
    for spec in specs:
        offered = qualified_devices([spec])
        rivals = [other for other in specs if other is not spec and set(offered) & set(qualified_devices([other]))]
        higher = [other for other in rivals if other["priority"] > spec["priority"]]
        equal = [other for other in rivals if other["priority"] == spec["priority"]]
        taken = set(qualified_devices(higher))
        spec["serves"] = [name for name in offered if name not in taken]
        spec["conflicts"] = sorted(set(spec["serves"]) & set(qualified_devices(equal)))
    for spec in specs:
        del spec["priority"]
    return specs


def offered_devices(specs: list[dict[str, Any]]) -> list[str]:
    """Names that a container can get: those that one specification alone stands for."""
    return sorted({name for spec in specs for name in spec["serves"] if name not in spec["conflicts"]})


def spec_to_write(facts: Facts) -> str:
    """Path of the specification that is to be written, or nothing: never one that is right or somebody else's."""
    specs = _of_gpus(facts)
    wrong = [*_stale(facts), *_with_wrong_number(facts)]
    if not wrong and any(spec["conflicts"] for spec in specs):
        return ""
    if wrong or (specs and _not_offered(facts)):
        return str((wrong or specs)[0]["path"])
    if specs:
        return ""
    # It belongs into the folder that a boot empties: nothing refreshes one elsewhere after an upgrade of the driver.
    folder = (facts["engine"]["cdi_spec_dirs"] or SPEC_FOLDERS)[-1].rstrip("/")
    taken = {spec["path"] for spec in facts["toolkit"]["cdi_specs"]}
    paths = [f"{folder}/{name}.yaml" for name in ("nvidia", "nvidia-gpu")]
    return paths[1] if paths[0] in taken else paths[0]


def _not_offered(facts: Facts) -> list[str]:
    """The chosen devices that no specification offers, by their first name."""
    offered = facts["toolkit"]["cdi_devices"]
    return [each[0] for each in _names(facts) if not any(f"{GPU_KIND}={name}" in offered for name in each)]


def _names(facts: Facts) -> list[list[str]]:
    """The names of each chosen device, the preferred one first."""
    devices = facts["chosen"]["devices"]
    # One for all is enough where there is but one.
    only = ["all"] if len(facts["gpus"]) == len(devices) == 1 else []
    return [[*device["names"], *only] for device in devices]


def _of_gpus(facts: Facts) -> list[dict[str, Any]]:
    """The specifications from which Docker takes the chosen GPUs; those of gds or mofed stand beside them."""
    specs = [spec for spec in facts["toolkit"]["cdi_specs"] if spec["kind"] == GPU_KIND and spec["serves"]]
    served = {name for spec in specs for name in spec["serves"]}
    names = [[f"{GPU_KIND}={name}" for name in each] for each in _names(facts)]
    wanted = {next((name for name in each if name in served), "") for each in names} & served
    return [spec for spec in specs if not wanted or wanted & set(spec["serves"])]


def _stale(facts: Facts) -> list[dict[str, Any]]:
    running = facts["driver"]["loaded_version"] or facts["driver_version"]
    return [
        spec for spec in _of_gpus(facts) if running and spec["driver_version"] and spec["driver_version"] != running
    ]


def _with_wrong_number(facts: Facts) -> list[dict[str, Any]]:
    actual = facts["driver"]["device_majors"].get("nvidia-uvm")
    return [
        spec
        for spec in _of_gpus(facts)
        if actual is not None and spec["uvm_major"] is not None and spec["uvm_major"] != actual
    ]


def assess_conflicts(facts: Facts, severity: str) -> list[Finding]:
    """GPU012: two specifications of one folder that offer the same device, so that nobody gets it."""
    parties = [spec for spec in _of_gpus(facts) if spec["conflicts"]]
    if not parties:
        return []
    names = sorted({name for spec in parties for name in spec["conflicts"]})
    return [
        finding(
            "GPU012",
            severity,
            f"Two CDI specifications of one folder offer {', '.join(names)}: Docker gives out neither.",
            ", ".join(spec["path"] for spec in parties),
            "Keep the one that nvidia-cdi-refresh.service or nvidia-ctk writes, and remove the other.",
        )
    ]


def qualified_devices(specs: list[dict[str, Any]]) -> list[str]:
    """Names that a container asks for, such as `nvidia.com/gpu=0`."""
    return sorted({f"{spec['kind']}={name}" for spec in specs for name in spec["devices"]})


def assess_stale_specs(facts: Facts, severity: str) -> list[Finding]:
    """GPU012: a specification of another driver, where Docker takes a GPU from it."""
    running = facts["driver"]["loaded_version"] or facts["driver_version"]
    return [
        finding(
            "GPU012",
            severity,
            f"The CDI specification {spec['path']} was written for driver {spec['driver_version']}, "
            f"but {running} is running.",
            f"{spec['path']} names libraries of {spec['driver_version']}",
            "Write it again: systemctl restart nvidia-cdi-refresh.service, or nvidia-ctk cdi generate "
            f"--output={spec['path']}; remove a copy that nothing refreshes.",
        )
        for spec in _stale(facts)
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
            "Write the specification again, now that nvidia-uvm is loaded: modprobe nvidia-uvm && "
            "systemctl restart nvidia-cdi-refresh.service.",
        )
        for spec in _with_wrong_number(facts)
    ]


def assess_offered(facts: Facts, modes: list[str], severity: str) -> list[Finding]:
    """GPU012, GPU018: what is chosen and no specification offers."""
    missing = _not_offered(facts)
    if modes[:1] != ["cdi"] or not missing:
        return []
    slices = any(":" in name or name.startswith("MIG-") for name in missing)
    return [
        finding(
            "GPU018" if slices else "GPU012",
            severity,
            f"No CDI specification offers {', '.join(missing)}"
            + (": it was written before GPUs were split, or split otherwise." if slices else ", which is to be used."),
            f"offered {', '.join(facts['toolkit']['cdi_devices'])}",
            "Write it again after each change of the GPUs and of MIG: systemctl restart nvidia-cdi-refresh.service, or "
            "nvidia-ctk cdi generate.",
        )
    ]


def _uvm_major(text: str) -> int | None:
    """Device number that the specification gives to /dev/nvidia-uvm; toolkits before 1.19.1 leave it to Docker."""
    match = re.search(r"/dev/nvidia-uvm[\"']?\s*,?\s*[\"']?major[\"']?\s*:\s*(\d{1,9})", text)
    return int(match.group(1)) if match else None


def _spec_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".json"})
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
