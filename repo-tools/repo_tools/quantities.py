"""Quantities as people type them on this command line: ``7d`` or ``in 7 days``, ``64MiB`` or ``67108864``.

Rules: the long form of a duration is the wire model's (:func:`updog.update_metadata.times.parse_duration`)
and the short one abbreviates it, so both have the same limits; sizes count in powers of 1024 only, so a
unit with a decimal meaning (``MB``) is refused rather than guessed.
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
_SIZE = re.compile(r"([0-9]{1,18})(?:([KMGT])(?:iB)?)?")
_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_span(text: str) -> timedelta:
    """Return the duration ``text``, such as ``7d`` or ``2 weeks``. Raises TimeError."""
    match = _SHORT.fullmatch(text)
    return parse_duration(f"{match[1]} {_WORDS[match[2]]}" if match else text)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``64MiB``, ``64M`` or ``67108864``. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise UsageError(f"{text!r} is not a size", next_step="Write it as 64MiB, 2GiB or a number of bytes.")
    return int(match[1]) * _UNITS[match[2]]


def parse_share(text: str) -> float:
    """Return the share, 0 … 1, of a text such as ``5%``, ``0.5 %`` or ``0.05``. Raises UsageError."""
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1:
        raise UsageError(f"{text!r} is not a share", next_step="Write it as 5% or as 0.05.")
    return share
