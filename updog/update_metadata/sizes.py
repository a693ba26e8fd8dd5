"""Sizes as people type them: ``64MiB``, ``64M`` or ``67108864``. PURE.

They count in powers of 1024 only, so a unit with a decimal meaning (``MB``) is refused rather than guessed.
"""

from __future__ import annotations

import re

from signpost.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,18})(?:([KMGT])(?:iB)?)?")
_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``64MiB``, ``64M`` or ``67108864``. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise UsageError(f"{text!r} is not a size", next_step="Write it as 64MiB, 2GiB or a number of bytes.")
    return int(match[1]) * _UNITS[match[2]]
