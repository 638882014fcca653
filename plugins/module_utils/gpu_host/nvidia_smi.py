"""Read what `nvidia-smi -q -x` prints, and judge whether it is an answer."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .commands import Outcome, Runner
from .finding import Facts, Finding, finding

_ABSENT = {
    *("", "n/a", "[n/a]", "not available", "not supported", "[not supported]", "unknown error", "none"),
    "requested functionality has been deprecated",
}
_SLOWDOWN = re.compile(r"clocks_(?:event|throttle)_reason_([hs]w_(?:(?:thermal|power_brake)_)?slowdown)")


# What nvidia-smi ends with when it found a fault of the infoROM and printed the whole report all the same.
INFOROM = 14
# Without persistence mode the driver initializes each GPU anew for every call: eight of them need 25 to 40 seconds.
SMI_TIMEOUT = 60.0


class UnreadableOutputError(ValueError):
    """The text is not a report of nvidia-smi."""


def parse_report(text: str) -> dict[str, Any]:
    """Turn the XML report into `{driver_version, cuda_version, gpus: [...]}`.

    Raises `UnreadableOutputError` with the reason when the text is no such report.
    """
    root = _root_element(text)
    return {
        "driver_version": _text(root, "driver_version"),
        "cuda_version": _text(root, "cuda_version"),
        "gpus": [_gpu(index, element) for index, element in enumerate(root.findall("gpu"))],
    }


def parse_compute_capabilities(text: str) -> dict[str, str]:
    """Turn `uuid, capability` lines (`--query-gpu=uuid,compute_cap --format=csv,noheader`) into a mapping."""
    pairs = (line.split(",") for line in text.splitlines())
    return {
        pair[0].strip(): pair[1].strip()
        for pair in pairs
        if len(pair) == 2 and re.fullmatch(r"\d+\.\d+", pair[1].strip())
    }


def assess_answer(facts: Facts) -> list[Finding]:
    """GPU027, GPU028: nvidia-smi hangs, or says nothing that can be read."""
    smi = facts["nvidia_smi"]
    if smi["timed_out"]:
        persistenced = facts["units"].get("nvidia-persistenced.service", {}).get("active") or "not installed"
        return [
            finding(
                "GPU027",
                "error",
                "nvidia-smi does not answer in time: the driver is slow, or it or a GPU hangs.",
                f"{smi['message']}; nvidia-persistenced is {persistenced}",
                "Without persistence each call starts every GPU again: systemctl enable --now nvidia-persistenced, and "
                "try again, with a higher nvidia_driver_smi_timeout where there are many. If it still hangs, look for "
                "NVRM and Xid lines in dmesg, drain this host and reboot it.",
            )
        ]
    if not smi["answered"]:
        return [
            finding(
                "GPU028",
                "error",
                "nvidia-smi gives no usable answer.",
                smi["message"] or "nvidia-smi is not installed",
                "Run nvidia-smi -q on the host; install the driver's utilities if the command is missing, "
                "and reboot if it says that no devices were found.",
            )
        ]
    if smi["inforom_corrupted"]:
        return [
            finding(
                "GPU031",
                "warning",
                "nvidia-smi reports a corrupted infoROM: the GPU works, but its own records of errors may be wrong.",
                "nvidia-smi ended with code 14 and a whole report",
                "Nothing is to be done at once. If errors of this GPU follow, have it serviced: "
                "nvidia-smi names it in its last lines.",
            )
        ]
    return []


def read_report(run: Runner, timeout: float) -> tuple[Outcome, dict[str, Any], str]:
    """Ask nvidia-smi for everything: its answer, the report, and why there is none; slices get their UUIDs as well."""
    answer = run(["nvidia-smi", "-q", "-x"], timeout)
    report: dict[str, Any] = {"driver_version": "", "cuda_version": "", "gpus": []}
    if not answer.ok and answer.rc != INFOROM:
        return answer, report, _message(answer)
    try:
        report = parse_report(answer.out)
    except UnreadableOutputError as error:
        return answer, report, f"the output of nvidia-smi -q -x cannot be read: {error}"
    if any(gpu["mig"]["current"] for gpu in report["gpus"]):
        listed = run(["nvidia-smi", "-L"], timeout)
        uuids = parse_slices(listed.out) if listed.ok else {}
        for gpu in report["gpus"]:
            for part in gpu["slices"]:
                part["uuid"] = part["uuid"] or uuids.get((gpu["uuid"], part["index"]), "")
    return answer, report, "" if report["gpus"] else "nvidia-smi -q -x lists no GPU"


def parse_slices(text: str) -> dict[tuple[str, int], str]:
    """Turn `nvidia-smi -L` into the UUID of each MIG device by the UUID of its GPU and its number there."""
    found: dict[tuple[str, int], str] = {}
    gpu = ""
    for line in text.splitlines():
        whole = re.match(r"GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", line)
        part = re.match(r"\s+MIG \S+\s+Device\s+(\d{1,3}): \(UUID: (MIG-[\w/-]+)\)", line)
        if whole:
            gpu = whole.group(1)
        elif part:
            found[gpu, int(part.group(1))] = part.group(2)
    return found


def _root_element(text: str) -> Element:
    start = text.find("<nvidia_smi_log")
    if start < 0:
        raise UnreadableOutputError("it holds no nvidia_smi_log element")
    closing = "</nvidia_smi_log>"
    end = text.find(closing, start)
    if end < 0:
        raise UnreadableOutputError("it ends before the report is complete")
    # The document type in front of the report is left out: no entity can be declared in what remains.
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text[start : end + len(closing)], True)
    except (expat.ExpatError, ValueError) as error:
        raise UnreadableOutputError(f"its XML is broken: {error}") from error
    return builder.close()


def _gpu(index: int, element: Element) -> dict[str, Any]:
    memory = "fb_memory_usage/"
    return {
        "index": index,
        "uuid": _text(element, "uuid"),
        "name": _text(element, "product_name"),
        "architecture": _text(element, "product_architecture"),
        "pci_address": element.get("id", "").lower(),
        "memory_total_mib": _mebibytes(_text(element, memory + "total")),
        "memory_free_mib": _mebibytes(_text(element, memory + "free")),
        "persistence_mode": _enabled(_text(element, "persistence_mode")),
        "ecc_enabled": _enabled(_text(element, "ecc_mode/current_ecc")),
        "mig": {
            "current": _enabled(_text(element, "mig_mode/current_mig")),
            "pending": _enabled(_text(element, "mig_mode/pending_mig")),
            "instances": len(element.findall("mig_devices/mig_device")),
        },
        "slices": [_slice(part) for part in element.findall("mig_devices/mig_device")],
        "compute_capability": "",
        "compute_mode": _text(element, "compute_mode"),
        "license": _text(element, "vgpu_software_licensed_product/license_status"),
        "slowdowns": _slowdowns(element),
        "fabric": {"state": _text(element, "fabric/state"), "status": _text(element, "fabric/status")},
        "health": {
            "uncorrected_errors": _uncorrected(element),
            "remap_pending": _yes(_text(element, "remapped_rows/remapped_row_pending")),
            "remap_failure": _yes(_text(element, "remapped_rows/remapped_row_failure")),
            "retirement_pending": _yes(
                _text(element, "retired_pages/pending_retirement") or _text(element, "retired_pages/pending_blacklist")
            ),
            "reset_required": _yes(_text(element, "gpu_reset_status/reset_required")),
            "recovery_action": _text(element, "gpu_recovery_action"),
        },
    }


def _slice(element: Element) -> dict[str, Any]:
    return {
        "index": int(digits) if (digits := _text(element, "index")).isdecimal() else 0,
        "uuid": _text(element, "uuid"),
        "memory_total_mib": _mebibytes(_text(element, "fb_memory_usage/total")),
        "memory_free_mib": _mebibytes(_text(element, "fb_memory_usage/free")),
    }


def _slowdowns(element: Element) -> list[str]:
    """What slows the GPU down for its safety now; branches from 535 on call it events, older ones throttles."""
    active = {
        match.group(1)
        for reasons in ("clocks_event_reasons", "clocks_throttle_reasons")
        for item in element.iterfind(f"{reasons}/*")
        if (item.text or "").strip() == "Active" and (match := _SLOWDOWN.fullmatch(item.tag))
    }
    return sorted(name.replace("_", " ") for name in active)


def _uncorrected(element: Element) -> int | None:
    """Memory errors since the driver was loaded that could not be corrected; each generation counts them elsewhere."""
    volatile = element.find("ecc_errors/volatile")
    if volatile is None:
        return None
    names = ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable")
    counts = [_text(volatile, name) for name in (*names, "double_bit/total")]
    numbers = [int(count) for count in counts if count.isdecimal() and count.isascii()]
    return sum(numbers) if numbers else None


def _text(element: Element, path: str) -> str:
    value = (element.findtext(path) or "").strip()
    return "" if value.lower() in _ABSENT else value


def _enabled(value: str) -> bool | None:
    return {"enabled": True, "disabled": False}.get(value.lower())


def _yes(value: str) -> bool | None:
    return {"yes": True, "no": False}.get(value.lower())


def _mebibytes(value: str) -> int | None:
    match = re.match(r"(\d+)\s*MiB", value)
    return int(match.group(1)) if match else None


def _message(answer: Outcome) -> str:
    if answer.missing:
        return ""
    if answer.timed_out:
        return f"nvidia-smi: {answer.err}"
    return f"nvidia-smi ended with code {answer.rc}: {answer.text[:300]}"
