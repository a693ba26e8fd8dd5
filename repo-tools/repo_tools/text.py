"""Shares of a fleet and signed metadata in words. PURE. Sizes, rates and tables: :mod:`signpost.text`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def share_text(share: float) -> str:
    """Return a share, 0 … 1, in per cent: ``12.5 %``; below one per cent with two significant digits."""
    percent = 100 * share
    return f"{percent:.2g} %" if 0 < percent < 1 else f"{percent:.1f} %"


def versions_text(versions: Mapping[str, int], *, dry_run: bool = False) -> str:
    """Return the metadata that were signed, such as ``signed targets 3, snapshot 3, timestamp 4``."""
    verb = "would sign" if dry_run else "signed"
    return f"{verb} " + ", ".join(f"{role} {version}" for role, version in versions.items())
