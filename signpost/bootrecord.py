"""What the boot stage tells the system it starts, in words of the kernel command line. PURE.

Rules it enforces:

* it says which slot was taken, how many tries that slot has left, and which slots came first in the
  bootloader's order and were passed over, each with its reason;
* the boot stage's words stand last, so the last one of a name counts, whatever a boot entry says;
* who reads keeps reasons that it does not know: a boot stage may be newer than the system it starts.
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
    """Why a slot was passed over; :data:`MEANINGS` has the words."""

    SPENT = "spent"
    NOT_COUNTED = "try-not-counted"
    UNREADABLE = "boot-unreadable"
    NO_ENTRY = "boot-entry"
    KERNEL = "kernel"
    DEFECT = "defect"


MEANINGS = {
    Reason.SPENT: "its tries are used up and it was never confirmed",
    Reason.NOT_COUNTED: "its try could not be counted in the partition table",
    Reason.UNREADABLE: "its BOOT could not be mounted",
    Reason.NO_ENTRY: "its BOOT has no boot entry that starts a kernel here",
    Reason.KERNEL: "its kernel could not be loaded or started",
    Reason.DEFECT: "the boot stage itself failed over it",
}

_TRIES, _PASSED = "signpost.tries", "signpost.passed"
_WORD = re.compile(r"(?P<slot>[AB]):(?P<reason>[a-z0-9-]{1,32})")
_MOST_TRIES = 15


class Passed(NamedTuple):
    """A slot that was passed over, and a :class:`Reason`, or the word of a newer boot stage."""

    slot: Slot
    reason: str

    @property
    def failed(self) -> bool:
        """Whether it was taken at this start and could not be started, rather than never taken."""
        return self.reason != Reason.SPENT

    @property
    def meaning(self) -> str:
        """The reason in words."""
        return MEANINGS[Reason(self.reason)] if self.reason in MEANINGS else self.reason


@dataclass(frozen=True, kw_only=True, slots=True)
class BootRecord:
    """How this start came about.

    Attributes:
        slot: the one that was taken.
        tries: how many it has left after this one.
        passed: slots that come before it in the bootloader's order, in that order.
    """

    slot: Slot
    tries: int = 0
    passed: tuple[Passed, ...] = ()

    def to_words(self) -> tuple[str, ...]:
        """Return the words for the kernel's command line."""
        passed = ",".join(f"{slot}:{reason}" for slot, reason in self.passed)
        return (f"slot={self.slot}", f"{_TRIES}={self.tries}", *([f"{_PASSED}={passed}"] if passed else ()))

    @classmethod
    def from_words(cls, words: Iterable[str]) -> BootRecord | None:
        """Read the words of a kernel's command line; None where no boot stage of ours left any.

        What is malformed is left out: a node must not fail over a word it was told.
        """
        found = dict(word.split("=", 1) for word in words if "=" in word)
        tries = found.get(_TRIES, "")
        if found.get("slot") not in set(Slot) or not tries.isdecimal() or int(tries) > _MOST_TRIES:
            return None
        matches = (_WORD.fullmatch(word) for word in found.get(_PASSED, "").split(","))
        passed = tuple(Passed(Slot(match["slot"]), match["reason"]) for match in matches if match)
        return cls(slot=Slot(found["slot"]), tries=int(tries), passed=passed)
