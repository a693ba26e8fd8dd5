"""PURE: what the entry of a release means for the fleet, in sentences for a person and for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from updog.update_metadata.times import spoken_time

if TYPE_CHECKING:
    from datetime import datetime

    from updog.update_metadata.manifest import Update


def share(update: Update, now: datetime) -> str:
    """Return which part of the fleet the waves of a release are open for, such as ``12.5 %``."""
    return f"{float(update.waves.share_open(now)) * 100:.1f} %"


def reach(update: Update, now: datetime) -> str:
    """Return to whom a release is open now, and when to everybody."""
    if update.version > update.max_version:
        return "it is withdrawn: no node takes it"
    if update.waves.share_open(now) == 1:
        return "it is open to the whole fleet now"
    last = max(start.at for start in update.waves.starts)
    return f"it is open to {share(update, now)} of the fleet now, to all of it on {spoken_time(last)}"
