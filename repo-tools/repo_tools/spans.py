"""Durations as people type them on this command line: ``7d``, ``12h``, or in full ``in 7 days``.

The long form is the wire model's (:func:`updog.update_metadata.times.parse_duration`); the short one is
an abbreviation of it and nothing else, so both have the same limits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from updog.update_metadata.times import parse_duration

if TYPE_CHECKING:
    from datetime import timedelta

_SHORT = re.compile(r"([0-9]{1,9})(m|h|d|w)")
_WORDS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_span(text: str) -> timedelta:
    """Return the duration ``text``, such as ``7d`` or ``2 weeks``. Raises TimeError."""
    match = _SHORT.fullmatch(text)
    return parse_duration(f"{match[1]} {_WORDS[match[2]]}" if match else text)
