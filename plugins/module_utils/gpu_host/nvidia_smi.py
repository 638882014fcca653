"""Read what `nvidia-smi -q -x` prints, and judge whether it is an answer."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .finding import Facts, Finding, finding

_ABSENT = {"", "n/a", "[n/a]", "not available", "unknown error", "none", "requested functionality has been deprecated"}


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
        return [
            finding(
                "GPU027",
                "error",
                "nvidia-smi does not answer: the driver or a GPU hangs.",
                smi["message"],
                "Look for NVRM and Xid lines in dmesg, drain this host and reboot it; "
                "a GPU that hangs again needs service.",
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
    return []


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
        "compute_capability": "",
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
