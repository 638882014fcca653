"""The shape of a finding, which everything that judges shares."""

from __future__ import annotations

from typing import Any

Finding = dict[str, str]
Facts = dict[str, Any]


def finding(identifier: str, severity: str, summary: str, evidence: str, remedy: str) -> Finding:
    """Build one finding; severity is error, warning or info."""
    return {"id": identifier, "severity": severity, "summary": summary, "evidence": evidence, "remedy": remedy}
