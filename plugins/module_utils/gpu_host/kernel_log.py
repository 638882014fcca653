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

_SXID = re.compile(r"SXid \(PCI:([0-9a-fA-F:.]+)\):\s*(\d{4,6}),\s*(.*)")
# Without an event, and over several lines where the driver finds the GPU gone while it is loaded.
_GONE = re.compile(
    r"NVRM: (?:The NVIDIA )?GPU ([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.\d)?"
    r"(?:(?!NVRM: (?:The NVIDIA )?GPU |Xid)[\s\S]){0,400}?fallen off the bus"
)
_NAMED_MODULE = re.compile(r"'([\w-]+)'")

# What NVIDIA's catalog of Xid events asks for.
_XID_SEVERE = {
    46: "the GPU stopped processing",
    48: "uncorrectable memory error",
    54: "auxiliary power is not connected",
    62: "internal micro-controller halt",
    64: "a memory row or page could not be replaced",
    95: "uncontained memory error",
    110: "security fault",
    119: "no answer of the GPU's system processor",
    120: "error of the GPU's system processor",
    136: "an NVLink could not be trained",
    140: "unrecovered memory error",
    143: "the GPU could not be initialized",
    155: "NVLink error of its software",
    158: "fatal timeout of the GPU",
}
_XID_NOTED = {
    61: "internal micro-controller warning",
    63: "a memory row or page waits to be replaced",
    74: "NVLink error",
    92: "many corrected memory errors",
    94: "contained memory error",
    121: "corrected error of the link to the processor",
    160: "a channel was retired",
}
_XID_APPLICATION = {8, 13, 31, 32, 43, 44, 45, 66, 68, 69, 109, 137}
_XID_FALLEN = 79
# NVLink 5 reports each part of a link by a code of its own, and says in words whether it was fatal.
_XID_NVLINK = range(144, 151)
_XID_RECOVERY = 154
_OFF_THE_BUS = "Check power, risers and slots, then power-cycle this host; a GPU that falls off again needs service."
_RESET = "Drain this host, then nvidia-smi --gpu-reset or reboot; a GPU that reports it again needs service."
_REBOOT = "Drain this host and reboot it; a GPU that asks again needs service."
_PLAN = "Plan a reset of this GPU (nvidia-smi --gpu-reset, with nothing using it) or a reboot; watch it."


def parse_kernel_log(text: str) -> dict[str, Any]:
    """Turn log lines into `{xids: [{pci_address, code, count, text}], module_rejected, flavor_wanted}`."""
    events: dict[tuple[str, int], dict[str, Any]] = {}
    for line in text.splitlines():
        match = _XID.search(line)
        if not match:
            continue
        address, code = match.group(1).lower(), int(match.group(2))
        event = events.setdefault((address, code), {"pci_address": address, "code": code, "count": 0, "text": ""})
        event["count"] += 1
        event["text"] = match.group(3).strip()[:200]
    switches: dict[tuple[str, int], dict[str, Any]] = {}
    for address, code, words in _SXID.findall(text):
        event = switches.setdefault(
            (address, int(code)), {"pci_address": address, "code": int(code), "count": 0, "text": words.strip()[:200]}
        )
        event["count"] += 1
    gone = sorted({short_address(address) for address in _GONE.findall(text)})
    rejected = [line.strip()[-200:] for line in text.splitlines() if _rejects(line)]
    wanted = "proprietary" if _OPEN_CANNOT in text else "open" if _OPEN_NEEDED in text else ""
    return {
        "xids": list(events.values()),
        "sxids": list(switches.values()),
        "fallen": gone,
        "module_rejected": rejected[-1:],
        "flavor_wanted": wanted,
    }


def _rejects(line: str) -> bool:
    """Whether the kernel refuses a module for its signature here, and says of no other module that it is that."""
    named = _NAMED_MODULE.search(line)
    return any(words in line for words in _REJECTED) and (named is None or named.group(1).startswith("nvidia"))


def read_kernel_log(run: Runner, timeout: float) -> dict[str, Any]:
    """Parse the kernel's log of this boot, from the journal or, without one, from the kernel itself."""
    answer = run(["journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--output=short-iso"], timeout)
    if not answer.ok or not answer.out.strip():
        answer = run(["dmesg"], timeout)
    return parse_kernel_log(answer.out if answer.ok else "")


def assess_events(facts: Facts) -> list[Finding]:
    """GPU020: what the driver reported of GPUs and switches since boot; of GPUs that nobody chose it is a remark."""
    present = {short_address(gpu["pci_address"]) for gpu in facts["gpus"]}
    asked = {device["gpu"] for device in facts["chosen"]["devices"]}
    mine = {short_address(gpu["pci_address"]) for gpu in facts["gpus"] if gpu["index"] in asked}

    def weighed(severity: str, address: str) -> str:
        return "info" if isinstance(facts["asked"], list) and mine and not _among(address, mine) else severity

    found = []
    for event in sorted(facts["log"]["xids"], key=lambda item: (item["pci_address"], item["code"])):
        address, code = event["pci_address"], event["code"]
        severity, words, remedy = _judged(code, event["text"])
        summary = f"GPU {address} reported Xid {code}{f': {words}' if words else ''}."
        evidence = f"{event['count']} times since boot, last: {event['text'] or 'no text'}"
        if code == _XID_FALLEN:
            evidence += f"; {'back' if _among(address, present) else 'gone'} now"
        found.append(finding("GPU020", weighed(severity, address), summary, evidence, remedy))
    reported = {event["pci_address"] for event in facts["log"]["xids"] if event["code"] == _XID_FALLEN}
    for address in facts["log"]["fallen"]:
        if not _among(address, {short_address(item) for item in reported}):
            evidence = f"the kernel's log, without an Xid; {'back' if _among(address, present) else 'gone'} now"
            summary = f"GPU {address} has fallen off the bus."
            found.append(finding("GPU020", weighed("error", address), summary, evidence, _OFF_THE_BUS))
    for event in facts["log"]["sxids"]:
        fatal = _is_fatal(event["text"])
        found.append(
            finding(
                "GPU020",
                "error" if fatal else "info",
                f"NVSwitch {event['pci_address']} reported SXid {event['code']}{', which is fatal' if fatal else ''}.",
                f"{event['count']} times since boot, last: {event['text'] or 'no text'}",
                "Drain this host and reboot it, which resets switches and GPUs; if it returns, a switch needs service."
                if fatal
                else "Nothing is to be done while GPUs and service are well; many of them tell of a bad link.",
            )
        )
    return found


def _judged(code: int, text: str) -> tuple[str, str, str]:
    """Severity, meaning and remedy of one kind of event."""
    if code == _XID_FALLEN:
        return "error", "the GPU has fallen off the bus", _OFF_THE_BUS
    if code == _XID_RECOVERY:
        return _recovery(text)
    if code in _XID_NVLINK:
        return ("error", "fatal NVLink error", _RESET) if _is_fatal(text) else ("warning", "NVLink error", _PLAN)
    if code in _XID_SEVERE:
        return "error", _XID_SEVERE[code], _RESET
    if code in _XID_NOTED:
        return "warning", _XID_NOTED[code], _PLAN
    if previous := re.search(r"previous Xid (\d+)", text):
        return "info", f"it follows from Xid {previous.group(1)}", "See what is said of that one."
    if code in _XID_APPLICATION:
        return "info", "", "Mostly the fault of an application: look at what ran then."
    return "info", "", "This check does not know it: look it up in NVIDIA's catalog of Xid errors."


def _recovery(text: str) -> tuple[str, str, str]:
    """What Xid 154 asks for: the words in the last brackets name the action after the change."""
    actions = re.findall(r"\(([A-Za-z][\w ]*)\)", text)
    wanted = actions[-1] if actions else ""
    if wanted == "None":
        return "info", "the GPU needs no recovery any more", "Nothing is to be done."
    if "reboot" in wanted.lower():
        return (
            "error",
            "the driver asks for a reboot",
            "Drain this host and reboot it; a GPU that asks again needs service.",
        )
    # With these, what runs may end first.
    severity = "warning" if "drain" in wanted.lower() else "error"
    return severity, f"the driver asks for a recovery ({wanted or 'not named'})", _RESET


def _is_fatal(text: str) -> bool:
    return re.search(r"(?<!non-)(?<!non)\bfatal", text.lower()) is not None


def _among(address: str, known: set[str]) -> bool:
    """Whether an address of the log, which leaves the function out, is one of these."""
    return any(item.startswith(short_address(address)) for item in known)
