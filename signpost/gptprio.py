"""Priority, tries left, successful and ever-booted: flags in the attribute bits of an entry. PURE.

Rules it enforces:

* the bits are those of ChromeOS ``cgpt`` and GRUB ``gptprio``: 48-51 priority, 52-55 tries left,
  56 successful; on the PRIVATE partition's entry, bit 57 records that a boot has ever succeeded;
* all other bits are kept (D27).
"""

from __future__ import annotations

from dataclasses import dataclass

from signpost.errors import UsageError

__all__ = ["LIMIT", "Flags", "ever_booted", "flags", "with_ever_booted", "with_flags"]

LIMIT = 15
"""Highest priority and number of tries: each is a field of four bits."""

_PRIORITY_SHIFT = 48
_TRIES_SHIFT = 52
_SUCCESSFUL = 1 << 56
_EVER_BOOTED = 1 << 57
_OURS = LIMIT << _PRIORITY_SHIFT | LIMIT << _TRIES_SHIFT | _SUCCESSFUL


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """The bootloader's flags of a slot. Priority and tries are 0 to 15; UsageError if they are not."""

    priority: int = 0
    tries: int = 0
    successful: bool = False

    def __post_init__(self) -> None:
        for name in ("priority", "tries"):
            if not 0 <= getattr(self, name) <= LIMIT:
                raise UsageError(f"{name} must be 0 to {LIMIT}, not {getattr(self, name)}")

    @property
    def bootable(self) -> bool:
        """Whether the bootloader may take the slot: priority above 0, and tries left or successful."""
        return self.priority > 0 and (self.tries > 0 or self.successful)


def flags(attributes: int) -> Flags:
    """Read the flags from the 64 attribute bits of a BOOT entry."""
    return Flags(
        priority=attributes >> _PRIORITY_SHIFT & LIMIT,
        tries=attributes >> _TRIES_SHIFT & LIMIT,
        successful=bool(attributes & _SUCCESSFUL),
    )


def with_flags(attributes: int, value: Flags) -> int:
    """Return the attribute bits with these flags; all other bits are kept."""
    bits = value.priority << _PRIORITY_SHIFT | value.tries << _TRIES_SHIFT
    return attributes & ~_OURS | bits | (_SUCCESSFUL if value.successful else 0)


def ever_booted(attributes: int) -> bool:
    """Read from the PRIVATE entry's attributes whether a boot has ever succeeded."""
    return bool(attributes & _EVER_BOOTED)


def with_ever_booted(attributes: int, *, value: bool = True) -> int:
    """Return the PRIVATE entry's attributes with bit 57 set or cleared; all other bits are kept."""
    return attributes & ~_EVER_BOOTED | (_EVER_BOOTED if value else 0)
