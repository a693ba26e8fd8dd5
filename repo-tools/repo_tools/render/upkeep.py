"""PURE: a repository and its health: new, refresh, expirations, validate, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.render.text import table_text, versions_text
from updog.update_metadata.times import spoken_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_tools.check import Report
    from repo_tools.expiry import Expiration, Notice, Refreshed
    from repo_tools.new import Created


def created_text(created: Created) -> str:
    """Return what `new` says."""
    rows = [
        (role, f"{_needed(created, role)} of {len(keyids)}", " ".join(keyid[:12] for keyid in keyids))
        for role, keyids in created.keyids.items()
    ]
    return "\n".join(
        [
            f"made the repository {created.folder}, signed and ready to serve",
            table_text(("role", "threshold", "keys"), rows),
            f"ship nodes with {created.root_json}",
        ]
    )


def _needed(created: Created, role: str) -> int:
    return created.root_threshold if role == "root" else 1


def refreshed_text(done: Refreshed) -> str:
    """Return what `refresh` did."""
    lines = [versions_text(done.versions)] if done.versions else []
    lines += [f"had expired already: {', '.join(done.late)}"] if done.late else []
    lines += [f"NOT signed: {role}: {reason}" for role, reason in done.unsigned.items()]
    return "\n".join(lines)


def expirations_text(rows: Sequence[Expiration], notice: Notice) -> str:
    """Return when each role's signature runs out, with what is near marked."""
    cells = [
        (
            row.role,
            str(row.version),
            spoken_time(row.expires),
            row.spoken(),
            "near" if notice.near(row) else "",
        )
        for row in rows
    ]
    return table_text(("role", "version", "expires", "left", ""), cells)


def report_document(report: Report) -> dict[str, Any]:
    """Return what `validate` found as ``--json`` prints it."""
    return {
        "clean": report.clean,
        "targets": report.targets,
        "releases": report.updates,
        "findings": [finding.to_json() for finding in report.findings],
    }


def report_text(report: Report) -> str:
    """Return what `validate` found, each fault with its next step."""
    lines = [
        f"{finding.severity} {finding.code}: {finding.place}: {finding.message}\n  next: {finding.next_step}"
        for finding in report.findings
    ]
    counts = f"{report.targets} targets, {report.updates} releases"
    return "\n".join([*lines, f"{'clean' if report.clean else 'NOT clean'}: {counts}"])
