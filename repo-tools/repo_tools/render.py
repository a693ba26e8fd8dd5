"""PURE: results as people read them. Values in, text out; no colour, no clock, no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from repo_tools.new import Created
    from repo_tools.release import Outcome

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def size_text(size: int) -> str:
    """Return a number of bytes with a unit, such as ``3.0 MiB``."""
    number, unit = float(size), 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{size} B"


def table_text(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows in columns under their headings, two spaces apart, no trailing blanks."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


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


def published_text(outcome: Outcome) -> str:
    """Return what `publish` says."""
    rows = [
        (
            item.name,
            size_text(item.content.size),
            size_text(item.length),
            f"{100 * item.length / item.content.size:.0f} %",
        )
        for item in outcome.targets
        if item.content
    ]
    starts = outcome.update.waves.starts
    lines = [f"published {outcome.update}", table_text(("image", "raw", "stored", "ratio"), rows)]
    lines.append(
        f"{len(starts)} waves, the first at {starts[0].at:%Y-%m-%d %H:%M} UTC"
        if starts
        else "open to all now"
    )
    lines += [f"dm-verity root hash: {outcome.root_hash}"] if outcome.root_hash else []
    return "\n".join([*lines, versions_text(outcome.versions)])


def versions_text(versions: Mapping[str, int]) -> str:
    """Return the metadata that were signed, such as ``signed targets 3, snapshot 3, timestamp 4``."""
    return "signed " + ", ".join(f"{role} {version}" for role, version in versions.items())
