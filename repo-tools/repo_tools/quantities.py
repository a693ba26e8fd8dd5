"""Quantities as people type them on the command line: ``7d`` or ``7 days``, ``5%`` or ``0.05``. PURE.

Rule: the long form of a duration is the wire model's (:func:`updog.update_metadata.times.parse_duration`),
and the short form abbreviates it, so both have the same limits. Sizes: :mod:`updog.update_metadata.sizes`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from signpost.errors import UsageError
from updog.update_metadata.times import parse_duration

if TYPE_CHECKING:
    from datetime import timedelta

_SHORT = re.compile(r"([0-9]{1,9})(m|h|d|w)")
_WORDS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_span(text: str) -> timedelta:
    """Return the duration ``text``, such as ``7d`` or ``2 weeks``. Raises TimeError."""
    match = _SHORT.fullmatch(text)
    return parse_duration(f"{match[1]} {_WORDS[match[2]]}" if match else text)


def parse_share(text: str) -> float:
    """Return the share, 0 … 1, in a text such as ``5%``, ``0.5 %`` or ``0.05``. Raises UsageError."""
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1:
        raise UsageError(f"{text!r} is not a share", next_step="Write it as 5% or as 0.05.")
    return share
