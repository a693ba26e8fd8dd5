"""A repository and its health, as text: `new`, `refresh`, `expirations`, `validate`. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.keys.holders import short_keyid
from repo_tools.text import versions_text
from signpost.text import table
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_tools.ceremony.new_repository import Created
    from repo_tools.trust.expirations import Expiration, RenewalWindow
    from repo_tools.upkeep.check import Report
    from repo_tools.upkeep.refresh import Refreshed


def created_text(created: Created) -> str:
    """Return what `new` made."""
    rows = [
        (
            role,
            f"{created.root_threshold if role == 'root' else 1} of {len(keyids)}",
            " ".join(short_keyid(keyid) for keyid in keyids),
        )
        for role, keyids in created.keyids.items()
    ]
    return "\n".join(
        [
            f"made the repository {created.folder}, signed and ready to serve",
            table([("role", "threshold", "keys"), *rows]),
            f"ship nodes with {created.root_json}",
        ]
    )


def refreshed_text(done: Refreshed) -> str:
    """Return what `refresh` did."""
    lines = [versions_text(done.versions)] if done.versions else []
    lines += [f"had already expired: {', '.join(done.had_expired)}"] if done.had_expired else []
    return "\n".join(lines)


def expirations_text(rows: Sequence[Expiration], window: RenewalWindow) -> str:
    """Return when each role's signature expires, with a mark on those that are near."""
    cells = [
        (
            row.role,
            str(row.version),
            readable_time(row.expires),
            row.left_text(),
            "near" if window.is_due(row) else "",
        )
        for row in rows
    ]
    return table([("role", "version", "expires", "left", ""), *cells])


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
