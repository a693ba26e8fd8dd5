"""PURE: sizes, tables and the lines that several commands end with, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def size_text(size: int) -> str:
    """Return a number of bytes with a unit, such as ``3.0 MiB``."""
    number, unit = float(size), 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{size} B"


def share_text(share: float) -> str:
    """Return a share in per cent: ``12.5 %``, and below one per cent two digits that say something."""
    percent = 100 * share
    return f"{percent:.2g} %" if 0 < percent < 1 else f"{percent:.1f} %"


def table_text(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows in columns under their headings, two spaces apart, no trailing blanks."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def versions_text(versions: Mapping[str, int]) -> str:
    """Return the metadata that were signed, such as ``signed targets 3, snapshot 3, timestamp 4``."""
    return "signed " + ", ".join(f"{role} {version}" for role, version in versions.items())
