"""Read what the NVIDIA driver wrote to the kernel's log since boot, and judge its events."""

from __future__ import annotations

import re
from typing import Any

from .commands import Runner
from .finding import Facts, Finding, finding
from .pci import short_address

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\):\s*(\d{1,4}),?\s*(.*)")
_REJECTED = (
    "Key was rejected by service",
    "module with unavailable key is rejected",
    "unsigned module loading is restricted",
)
_OPEN_CANNOT = "is not supported by open"
_OPEN_NEEDED = "requires use of the NVIDIA open kernel modules"

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


def assess_xids(facts: Facts) -> list[Finding]:
    """GPU020: Xid events since boot."""
    present = {short_address(gpu["pci_address"]) for gpu in facts["gpus"]}
    found = []
    for event in sorted(facts["log"]["xids"], key=lambda item: (item["pci_address"], item["code"])):
        code, address = event["code"], event["pci_address"]
        evidence = f"{event['count']} times since boot, last: {event['text'] or 'no text'}"
        if code == 79:
            gone = not any(item.startswith(short_address(address)) for item in present)
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
