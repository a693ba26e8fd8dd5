"""Every error of signpost, each with its exit status and its next step.

The exit statuses are the same in all three programs; updog and repo-tools derive their own errors
from :class:`ToolError`, and one boundary (:mod:`signpost.console`) turns any of them into one message.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """What a finished command tells its caller (documented in docs/reference/exit-status.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    REFUSED = 4
    UNREACHABLE = 5
    BUSY = 75


class ToolError(Exception):
    """A failure that a person can act on: what and why in the message, and what to do next.

    Attributes:
        status: the process exit status this failure ends in.
        next_step: one sentence saying what to do now.
        code: a stable, kebab-case name for scripts (``--json`` prints it).
    """

    status: ClassVar[ExitStatus] = ExitStatus.FAILED
    code: ClassVar[str] = "failed"
    default_next_step: ClassVar[str] = "See the cause above."

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step or self.default_next_step

    def __str__(self) -> str:
        return self.message


class UsageError(ToolError):
    """The command line or the configuration is wrong."""

    status = ExitStatus.USAGE
    code = "usage"
    default_next_step = "See --help."


class MediumError(ToolError):
    """A read, write or flush of the operating system failed (the cause is the ``OSError``)."""

    code = "io-error"
    default_next_step = "Check the device and its kernel log; nothing was marked valid."


class TableError(ToolError):
    """The bytes are not a GUID partition table that can be trusted."""

    code = "table-invalid"
    default_next_step = "Both copies of the table are needed to repair by hand; nothing was written."


class LayoutError(ToolError):
    """The disk has a table, but not the partitions that make two slots."""

    code = "layout"
    default_next_step = "Check that --disk names the operating system's disk."


class ReadBackError(ToolError):
    """The disk does not give back what was written to it; the other copy of the table was left alone."""

    code = "read-back"
    default_next_step = "The disk is failing: replace it. The other copy of the table still holds."


class TransitionRefusedError(ToolError):
    """The flags on disk do not allow this command; nothing was written.

    Attributes:
        reason: the refusal's name in :class:`signpost.state.Refusal`, lower case.
    """

    status = ExitStatus.REFUSED
    code = "transition-refused"
    default_next_step = "See `signpost status` for the flags as they are."

    def __init__(self, message: str, *, next_step: str = "", reason: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.reason = reason


class TableChangedError(ToolError):
    """Somebody else rewrote the table between reading and writing; nothing was written."""

    status = ExitStatus.BUSY
    code = "table-changed"
    default_next_step = "Run the command again."


class DiskBusyError(ToolError):
    """Another program holds the disk's lock."""

    status = ExitStatus.BUSY
    code = "disk-busy"
    default_next_step = "Wait for the other program to end, then run the command again."


class NothingBootableError(ToolError):
    """No slot is eligible by the bootloader's rule."""

    status = ExitStatus.REFUSED
    code = "nothing-bootable"
    default_next_step = "Both slots are out: boot a rescue system and see docs/how-to/rescue.md."


class BootEntryError(ToolError):
    """A slot's boot entry is missing, or is none that starts a kernel."""

    code = "boot-entry"
    default_next_step = "Write the slot anew; a BOOT image holds one file loader/entries/NAME.conf."


class KernelLoadError(ToolError):
    """The kernel of a slot cannot be loaded (the cause is the ``OSError``)."""

    code = "kernel-load"
    default_next_step = "Write the slot anew, or choose the other one with `signpost`."
