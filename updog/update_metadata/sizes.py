"""Sizes and rates as people type them: ``64MiB``, ``500k``, ``50MB`` or ``67108864``. PURE.

The units are those of GNU's tools, in either case: ``K``, ``KiB``, ``M``, ``MiB`` … are powers of 1024, and
``kB``, ``MB`` … are powers of 1000.
"""

from __future__ import annotations

import re

from signpost.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,18})(?:([KMGT])(IB|B)?|B)?")
_POWERS = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``64MiB``, ``64M``, ``50MB`` or ``67108864``. Raises UsageError."""
    size = _bytes_of(text)
    if not size:
        raise UsageError(f"{text!r} is not a size", next_step="Write it as 64MiB, 500k or a number of bytes.")
    return size


def parse_rate(text: str) -> int:
    """Return the bytes per second of a rate such as ``500k``, ``2MB`` or ``0``. Raises UsageError."""
    rate = _bytes_of(text.removesuffix("/s"))
    if rate is None:
        raise UsageError(
            f"{text!r} is not a rate", next_step="Write bytes per second, such as 500k or 2MiB; 0: no limit."
        )
    return rate


def _bytes_of(text: str) -> int | None:
    match = _SIZE.fullmatch(text.upper())
    return int(match[1]) * (1000 if match[3] == "B" else 1024) ** _POWERS[match[2]] if match else None
