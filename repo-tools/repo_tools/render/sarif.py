"""Findings as SARIF 2.1.0 (OASIS), which code hosts and editors show beside the files. PURE.

Sections of that standard: §3.19 tool component, §3.27 result, §3.28 location, §3.49 reporting descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.trust.findings import CODES, Severity

if TYPE_CHECKING:
    from repo_tools.trust.findings import Finding
    from repo_tools.upkeep.check import Report

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def sarif(report: Report, *, version: str) -> dict[str, Any]:
    """Return a report as a SARIF log of one run; ``version`` is this program's."""
    rules = [_rule(code) for code in CODES]
    driver = {"name": "repo-tools validate", "version": version, "rules": rules}
    results = [_result(finding) for finding in report.findings]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _rule(code: str) -> dict[str, Any]:
    severity, next_step = CODES[code]
    return {
        "id": code,
        "shortDescription": {"text": code.replace("-", " ")},
        "help": {"text": next_step},
        "defaultConfiguration": {"level": _LEVELS[severity]},
    }


def _result(finding: Finding) -> dict[str, Any]:
    file, _, path = finding.place.partition(" ")
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": file}}}
    if path:
        location["logicalLocations"] = [{"fullyQualifiedName": path}]
    return {
        "ruleId": finding.code,
        "ruleIndex": list(CODES).index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. {finding.next_step}"},
        "locations": [location],
    }
