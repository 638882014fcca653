"""Read what the NVIDIA driver wrote to the kernel's log since boot."""

from __future__ import annotations

import re
from typing import Any

from .commands import Runner

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\):\s*(\d{1,4}),?\s*(.*)")
_REJECTED = (
    "Key was rejected by service",
    "module with unavailable key is rejected",
    "unsigned module loading is restricted",
)
_OPEN_CANNOT = "is not supported by open"
_OPEN_NEEDED = "requires use of the NVIDIA open kernel modules"


def parse_kernel_log(text: str) -> dict[str, Any]:
    """Turn log lines into `{xids: [{pci_address, code, count, text}], module_rejected, flavour_wanted}`."""
    events: dict[tuple[str, int], dict[str, Any]] = {}
    for line in text.splitlines():
        match = _XID.search(line)
        if not match:
            continue
        address, code = match.group(1).lower(), int(match.group(2))
        event = events.setdefault((address, code), {"pci_address": address, "code": code, "count": 0, "text": ""})
        event["count"] += 1
        event["text"] = match.group(3).strip()[:200]
    rejected = [line.strip()[-200:] for line in text.splitlines() if any(words in line for words in _REJECTED)]
    wanted = "proprietary" if _OPEN_CANNOT in text else "open" if _OPEN_NEEDED in text else ""
    return {"xids": list(events.values()), "module_rejected": rejected[-1:], "flavour_wanted": wanted}


def read_kernel_log(run: Runner, timeout: float) -> dict[str, Any]:
    """Parse the kernel's log of this boot, from the journal or, without one, from the kernel itself."""
    answer = run(["journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--output=short-iso"], timeout)
    if not answer.ok or not answer.out.strip():
        answer = run(["dmesg"], timeout)
    return parse_kernel_log(answer.out if answer.ok else "")
