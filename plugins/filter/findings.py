"""Filters for findings of the host checks: waive them, tell the blocking ones, and print them for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

_ORDER = {"error": 0, "warning": 1, "info": 2}


def waive_findings(findings: Sequence[dict[str, Any]], waivers: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Mark each finding whose id is waived with the reason, under the key `waived`."""
    reasons: dict[str, str] = {}
    for waiver in waivers:
        identifier = str(waiver.get("id", "")).strip()
        reason = str(waiver.get("reason", "")).strip()
        if not identifier or not reason:
            raise AnsibleFilterError(
                f"The waiver {dict(waiver)} is incomplete: it needs an id such as GPU009, and a reason that says why."
            )
        reasons[identifier] = reason
    return [{**item, "waived": reasons[item["id"]]} if item["id"] in reasons else dict(item) for item in findings]


def blocking_findings(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the errors that nobody waived."""
    return [item for item in findings if item["severity"] == "error" and not item.get("waived")]


def recorded_findings(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep what a release's record says of the host: warnings, and errors with the reason for which they passed."""
    kept = ("id", "severity", "summary", "evidence", "waived")
    counted = [item for item in findings if item["severity"] in {"error", "warning"}]
    return [{key: item[key] for key in kept if key in item} for item in counted]


def findings_text(findings: Sequence[dict[str, Any]]) -> str:
    """Write findings for a person, worst first."""
    blocks = []
    for item in sorted(findings, key=lambda entry: _ORDER.get(entry["severity"], 3)):
        lines = [
            f"{item['id']} {item['severity']}: {item['summary']}",
            f"  found: {item['evidence']}",
            f"  do:    {item['remedy']}",
        ]
        if item.get("waived"):
            lines.append(f"  waived: {item['waived']}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def findings_verdict(findings: Sequence[dict[str, Any]]) -> str:
    """Sum findings up in one word: error, warning or ok."""
    if blocking_findings(findings):
        return "error"
    counted = [item for item in findings if item["severity"] in {"error", "warning"}]
    return "warning" if counted else "ok"


def judged_host(looked: dict[str, Any], waivers: Sequence[dict[str, str]], refusal: str = "") -> dict[str, Any]:
    """Return facts, findings and verdict of a host from the answer of gpu_host_info.

    refusal says what keeps the host from having the service besides, or why it could not be examined; the report has it
    where there is one.
    """
    findings = waive_findings(looked.get("findings", []), waivers)
    lost = bool(looked.get("unreachable"))
    return {
        "facts": {**looked.get("facts", {}), "flavor": looked.get("flavor", {})},
        "findings": findings,
        "verdict": "unreachable" if lost else "error" if refusal else findings_verdict(findings),
        **({"refusal": refusal} if refusal else {}),
    }


def host_report(report: dict[str, Any], host: str) -> str:
    """Lay one host's report (`facts`, `findings`, `verdict`) out as a table with its findings below."""
    rows = [("verdict", str(report["verdict"])), *_rows(report.get("facts") or {})]
    width = max(len(name) for name, _ in rows)
    table = [f"{name:<{width}}  {value}" for name, value in rows]
    findings = report.get("findings") or []
    tail = [report["refusal"]] if report.get("refusal") else []
    if findings:
        tail.append(findings_text(findings))
        tail += _first_step(findings)
    elif report["verdict"] == "unreachable":
        tail.append("The host could not be reached, so nothing is known about it.")
    elif not tail:
        tail.append("No findings.")
    return "\n".join([host, "-" * len(host), *table, "", *tail])


def _first_step(findings: Sequence[dict[str, Any]]) -> list[str]:
    """Name the finding to begin with, where there are several: they come in the order of cause and effect."""
    counted = [item for item in findings if item["severity"] in {"error", "warning"} and not item.get("waived")]
    if len(counted) < 2:
        return []
    first = min(counted, key=lambda item: _ORDER[item["severity"]])
    return [f"Begin with {first['id']}: others may follow from it."]


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if "pci_devices" in facts:
        silent = f"none answers, {len(facts['pci_devices'])} on the PCI bus" if facts["pci_devices"] else "none"
        rows.append(("GPUs", "; ".join(_gpu(gpu) for gpu in facts["gpus"]) or silent))
        driver = facts["driver_version"] or "none"
        cuda = f", CUDA {facts['cuda_version']}" if facts["cuda_version"] else ""
        rows.append(("driver", driver + cuda))
    if facts.get("flavor"):
        rows.append(("flavor", f"{facts['flavor']['name']} ({facts['flavor']['reason']})"))
    if "engine" in facts:
        engine = facts["engine"]
        rows.append(("Docker", engine["version"] or "not answering"))
        rows.append(
            ("plugins", f"compose {engine['compose_version'] or '-'}, buildx {engine['buildx_version'] or '-'}")
        )
    if "toolkit" in facts:
        toolkit = facts["toolkit"]
        access = ", ".join(toolkit["modes"]) or "none"
        devices = ", ".join(toolkit["cdi_devices"]) or "none"
        rows.append(("toolkit", f"{toolkit['version'] or 'none'}, GPU access: {access}, CDI devices: {devices}"))
    return rows


def _gpu(gpu: dict[str, Any]) -> str:
    total = gpu["memory_total_mib"]
    return f"{gpu['index']}: {gpu['name']}" + (f" ({total} MiB)" if total else "")


class FilterModule:
    """The filters of this file, by the names used in playbooks."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "waive_findings": waive_findings,
            "blocking_findings": blocking_findings,
            "findings_text": findings_text,
            "findings_verdict": findings_verdict,
            "host_report": host_report,
            "judged_host": judged_host,
        }
