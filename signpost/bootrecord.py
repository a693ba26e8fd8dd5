"""The boot record: what the boot stage tells the system it starts, as kernel command line parameters. PURE.

Rules it enforces:

* the record states which slot was taken, how many tries it has left, and which slots come before it in the
  bootloader's order and were passed over, each with a reason;
* the boot stage appends its parameters, and the last parameter of a name counts, so a boot entry cannot
  override them;
* a reader keeps reasons that it does not know: a boot stage may be newer than the system it starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from signpost.sets import Slot

if TYPE_CHECKING:
    from collections.abc import Iterable


class Reason(StrEnum):
    """Why a slot was passed over; :data:`MEANINGS` explains each reason."""

    SPENT = "spent"
    NOT_COUNTED = "try-not-counted"
    UNREADABLE = "boot-unreadable"
    NO_ENTRY = "boot-entry"
    KERNEL = "kernel"
    DEFECT = "defect"


MEANINGS = {
    Reason.SPENT: "its tries are used up and it was never confirmed",
    Reason.NOT_COUNTED: "its try could not be counted in the partition table",
    Reason.UNREADABLE: "its BOOT partition could not be mounted",
    Reason.NO_ENTRY: "its BOOT partition has no boot entry that starts a kernel on this machine",
    Reason.KERNEL: "its kernel could not be loaded or started",
    Reason.DEFECT: "the boot stage itself failed while it started the slot",
}

_TRIES, _PASSED, _BOOT = "signpost.tries", "signpost.passed", "signpost.boot"
_PARTITION = re.compile(r"PARTUUID=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
_WORD = re.compile(r"(?P<slot>[AB]):(?P<reason>[a-z0-9-]{1,32})")
_MAX_TRIES = 15


def boot_word(guid: str) -> str:
    """Return the kernel parameter that names the BOOT partition of the slot that is started."""
    return f"{_BOOT}=PARTUUID={guid}"


def boot_partition(words: Iterable[str]) -> str | None:
    """Return the GUID of the BOOT partition that a boot stage started, lower case; None if there is none."""
    values = [value for name, _, value in (word.partition("=") for word in words) if name == _BOOT]
    match = _PARTITION.fullmatch(values[-1]) if values else None
    return match[1].lower() if match else None


class Passed(NamedTuple):
    """A slot that was passed over. ``reason`` is a :class:`Reason`, or one of a newer boot stage."""

    slot: Slot
    reason: str

    @property
    def failed(self) -> bool:
        """Whether the slot was taken at this start and failed; a slot that is spent was not taken at all."""
        return self.reason != Reason.SPENT

    @property
    def meaning(self) -> str:
        """The reason in words."""
        return MEANINGS[Reason(self.reason)] if self.reason in MEANINGS else self.reason


@dataclass(frozen=True, kw_only=True, slots=True)
class BootRecord:
    """How the boot stage came to start this slot.

    Attributes:
        slot: the slot that was taken.
        tries: how many tries it has left after this start.
        passed: the slots before it in the bootloader's order that were passed over, in that order.
    """

    slot: Slot
    tries: int = 0
    passed: tuple[Passed, ...] = ()

    def to_words(self) -> tuple[str, ...]:
        """Return the parameters for the kernel command line."""
        passed = ",".join(f"{slot}:{reason}" for slot, reason in self.passed)
        return (f"slot={self.slot}", f"{_TRIES}={self.tries}", *([f"{_PASSED}={passed}"] if passed else ()))

    @classmethod
    def from_words(cls, words: Iterable[str]) -> BootRecord | None:
        """Read the parameters of a kernel command line; None if signpost's boot stage left no record.

        Malformed parts are ignored: a node must not fail because of them.
        """
        found = dict(word.split("=", 1) for word in words if "=" in word)
        tries = found.get(_TRIES, "")
        if found.get("slot") not in set(Slot) or not tries.isdecimal() or int(tries) > _MAX_TRIES:
            return None
        matches = (_WORD.fullmatch(word) for word in found.get(_PASSED, "").split(","))
        passed = tuple(Passed(Slot(match["slot"]), match["reason"]) for match in matches if match)
        return cls(slot=Slot(found["slot"]), tries=int(tries), passed=passed)
