"""Boot entries: files of the Boot Loader Specification (UAPI.1), type #1. PURE.

Rules it enforces:

* a line is a key, blanks and a value; empty lines and lines that start with ``#`` are ignored; ``initrd`` and
  ``options`` may occur several times, every other key that is used here only once;
* keys that are not used here are kept as they are, for other readers;
* an entry starts a kernel, so ``linux`` is required; all faults of a file are reported at once, by line;
* the entry to start is the one that the specification puts first in a menu: the newest version of a system,
  in the order of UAPI.10; entries for another architecture are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from signpost.errors import BootEntryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BYTES = 1 << 16
"""Largest entry to read, in bytes: a kernel's command line has at most a few KiB, and titles are short."""

_SINGLE = ("title", "version", "machine-id", "sort-key", "architecture", "linux")
_REPEATED = ("initrd", "options")

# UAPI.10: at the first piece in which two versions differ, the version whose piece has the lower rank is the
# older one. The end of a version is older than anything but a tilde, and letters are older than digits.
_PIECE = re.compile(r"(?P<mark>[~^.-])|(?P<letters>[A-Za-z]+)|(?P<digits>[0-9]+)")
_RANK = {"~": 0, "": 1, "-": 2, "^": 3, ".": 4}
_LETTERS, _DIGITS = 5, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEntry:
    """One way to start a system. Paths are relative to the root of the file system that contains the entry.

    Attributes:
        name: the file's name without ``.conf``.
        title: for display; empty if none.
        version: of the system; empty if none.
        machine_id: of the machine it was installed on; empty if none.
        sort_key: keeps entries of one system together; empty if none.
        architecture: as EFI names it (``x64``, ``aa64``); empty for any.
        linux: path of the kernel.
        initrd: paths of the initrds, in order.
        options: the kernel's command line.
        others: keys that are not used here, with their values, in order.
    """

    name: str
    linux: str
    title: str = ""
    version: str = ""
    machine_id: str = ""
    sort_key: str = ""
    architecture: str = ""
    initrd: tuple[str, ...] = ()
    options: str = ""
    others: tuple[tuple[str, str], ...] = ()


def parse(name: str, data: bytes) -> BootEntry:
    """Parse an entry.

    Args:
        name: the file's name, with or without ``.conf``.
        data: the file's content.

    Raises:
        BootEntryError: it is not an entry that starts a kernel; all faults are named.
    """
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise BootEntryError(f"{name}: byte {error.start} is not UTF-8") from error
    values, others, faults = _parse_lines(lines)
    if "linux" not in values:
        faults.append("the key linux is missing")
    if faults:
        raise BootEntryError(f"{name}: {'; '.join(faults)}")
    single = {key.replace("-", "_"): values[key][0] for key in _SINGLE if key in values}
    return BootEntry(
        name=name.removesuffix(".conf"),
        initrd=tuple(values.get("initrd", ())),
        options=" ".join(values.get("options", ())),
        others=tuple(others),
        **single,
    )


def choose(entries: Iterable[BootEntry], architecture: str) -> BootEntry | None:
    """Return the entry to start on a machine of this architecture, None if there is none.

    UAPI.1, "Sorting": entries with a sort key come before those without; they are sorted by sort key, machine
    ID, then the newest version first; last by file name, as a version, the newest first.
    """
    ours = (entry for entry in entries if entry.architecture.lower() in {"", architecture})
    order = sorted(ours, key=lambda entry: version_key(entry.name), reverse=True)
    order.sort(key=lambda entry: version_key(entry.version) if entry.sort_key else (), reverse=True)
    order.sort(key=lambda entry: (not entry.sort_key, entry.sort_key, entry.sort_key and entry.machine_id))
    return order[0] if order else None


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that orders versions from old to new, as UAPI.10 defines."""
    return (*map(_rank, _PIECE.finditer(version)), (_RANK[""], 0, ""))


def _rank(piece: re.Match[str]) -> tuple[int, int, str]:
    """Return the rank of one piece of a version: numbers by value, of any length, letters by code point."""
    if piece["mark"]:
        return (_RANK[piece["mark"]], 0, "")
    if piece["letters"]:
        return (_LETTERS, 0, piece["letters"])
    digits = piece["digits"].lstrip("0")
    return (_DIGITS, len(digits), digits)


def _parse_lines(lines: Iterable[str]) -> tuple[Mapping[str, list[str]], list[tuple[str, str]], list[str]]:
    """Return the values of the keys that are used here, the other keys, and the faults of single lines."""
    values: dict[str, list[str]] = {}
    others: list[tuple[str, str]] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        key, *rest = line.strip().split(maxsplit=1) or [""]
        if not key or key.startswith("#"):
            continue
        value = rest[0] if rest else ""
        if key not in _SINGLE + _REPEATED:
            others.append((key, value))
        elif not value and key != "options":
            faults.append(f"line {number}: {key} has no value")
        elif key in _SINGLE and key in values:
            faults.append(f"line {number}: {key} is given twice")
        else:
            values.setdefault(key, []).append(value)
    return values, others, faults
