"""Read Container Device Interface specifications without a YAML library."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from .kernel import read_text

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
