"""Sizes, rates, times, tables and foreign text as all three command lines print them. PURE.

Rules for text from other sources (a server, a manifest, a log, a kernel, a health check):

* a character that a terminal would obey, or that changes the order or the sight of its neighbours, is shown
  as its escape sequence, and never written (:func:`printable`). The standard streams, every error and every
  event ensure that themselves, so that no path to a reader can omit it;
* it is cut: one server cannot fill a journal or the state of a node;
* in a message it is in double quotes, so that it is not taken for the program's own words (:func:`foreign`).

Rules for figures (docs/reference/units.md):

* every kind of figure has one kind of unit. Stored bytes (images, partitions, files, memory) are sizes,
  in powers of 1024: KiB, MiB, GiB. Bytes on the network are traffic, in powers of 1000: kB, MB, GB. Every
  rate is in powers of 1000 per second;
* a figure is never shown as 1024.0 (or 1000.0) of a unit: it is rounded up to 1.0 of the next one;
* a column of a table is as wide as its widest cell, two spaces from the next; no line ends with blanks.

Documents, events and metrics have plain numbers: bytes, bytes per second, seconds.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_TRAFFIC_UNITS = ("B", "kB", "MB", "GB", "TB")
_TIME_UNITS = (("day", "days", 86_400), ("h", "h", 3600), ("min", "min", 60), ("s", "s", 1))

FOREIGN_CHARACTERS = 200
"""Characters of foreign text that a sentence repeats: two or three lines of a terminal."""

LINE_CHARACTERS = 400
"""Characters of a sentence that is kept: 500 of them are 200 KiB."""

MESSAGE_CHARACTERS = 4096
"""Characters of an error message: about a screen, with ten faults of a document."""

# Controls except tab and line feed (a carriage return only before a line feed); invisible and bidirectional
# formatting; the separators that some readers take for a new line; bytes that are not UTF-8; tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)
_BLANK = re.compile(r"\r?\n|\t")


def printable(text: str) -> str:
    """Return ``text`` with an escape sequence for every character that a terminal would obey; lines stay."""
    return _UNSAFE.sub(_escaped, text)


def line(text: str, limit: int = LINE_CHARACTERS) -> str:
    """Return ``text`` as one printable line; what exceeds ``limit`` characters is replaced by ``…``."""
    return _cut(printable(_BLANK.sub(" ", text[: limit + 1])), limit)


def foreign(text: str | bytes, limit: int = FOREIGN_CHARACTERS) -> str:
    """Return foreign text, or bytes that should be text, as one line in double quotes."""
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    return '"' + line(text.replace('"', "'"), limit) + '"'


def message(text: str) -> str:
    """Return an error message that may have foreign text in it: printable, and cut; its lines stay."""
    return _cut(printable(text[: MESSAGE_CHARACTERS + 1]), MESSAGE_CHARACTERS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def size_text(size: float) -> str:
    """Return the size of something stored (bytes), such as ``3.0 MiB``; MiB is 2**20 bytes."""
    return _scaled(size, 1024, _SIZE_UNITS)


def traffic_text(count: float) -> str:
    """Return a number of bytes that go over the network, such as ``3.1 MB``; MB is 10**6 bytes."""
    return _scaled(count, 1000, _TRAFFIC_UNITS)


def rate_text(rate: float) -> str:
    """Return a rate (bytes per second), such as ``3.1 MB/s``."""
    return f"{traffic_text(rate)}/s"


def counted(number: int, noun: str) -> str:
    """Return a number of things: ``1 wave``, ``3 waves``, ``no waves``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def duration_text(seconds: float, *, up: bool = True) -> str:
    """Return a duration (seconds) in its two largest units: ``1 day 13 h``.

    A wait is rounded up, so that it is long enough; time that is left is rounded down (``up`` is False).
    """
    sizes = [size for _, _, size in _TIME_UNITS]
    largest = next((index for index, size in enumerate(sizes) if size <= seconds), len(sizes) - 1)
    finest = sizes[min(largest + 1, len(sizes) - 1)]
    rest = (math.ceil if up else math.floor)(max(seconds, 0) / finest) * finest
    words = []
    for one, many, size in _TIME_UNITS:
        number, rest = divmod(rest, size)
        words += [f"{number} {one if number == 1 else many}"] if number else []
    return " ".join(words) or "0 s"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with equal numbers of cells as lines with aligned columns; empty without rows."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _scaled(count: float, step: int, units: Sequence[str]) -> str:
    """Return a number in the first unit in which it is shown as less than ``step``, or in the last one."""
    if round(count) < step:
        return f"{round(count)} {units[0]}"
    number = count / step
    for unit in units[1:-1]:
        if round(number, 1) < step:
            return f"{number:.1f} {unit}"
        number /= step
    return f"{number:.1f} {units[-1]}"
