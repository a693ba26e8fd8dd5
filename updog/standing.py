"""The words for how the last update stands."""

from __future__ import annotations

from enum import Enum


class Standing(Enum):
    """The standing of a pending update: the word for it in text, JSON, metrics and drills."""

    NONE = "none"
    STAGED = "staged"
    WAITING = "waiting for a restart"
    TRIAL = "on trial"
    CONFIRMED = "confirmed"
    FELL_BACK = "fell back"
    ROLLED_BACK = "rolled back by hand"
