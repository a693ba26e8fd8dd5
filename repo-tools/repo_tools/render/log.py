"""PURE: the log of changes, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from updog.update_metadata.times import spoken_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_tools.changes import Entry

_KEY_DIGITS = 8


def log_text(entries: Sequence[Entry]) -> str:
    """Return the entries, oldest first, each with its effects, its reason and its keys."""
    return "\n".join(map(_entry_text, entries)) or "nothing was changed yet"


def _entry_text(entry: Entry) -> str:
    change = entry.change
    lines = [f"{spoken_time(entry.at)}  {change.action} {change.subject}", *change.effects]
    lines += [f"because: {change.reason}"] if change.reason else []
    keys = ", ".join(keyid[:_KEY_DIGITS] for keyid in entry.keys)
    return "\n    ".join([*lines, f"signed with {keys}"])
