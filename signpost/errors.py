"""All errors of signpost, each with its exit status and its next step.

The exit statuses are the same in all three programs. updog and repo-tools derive their own errors
from :class:`ToolError`, and one boundary (:mod:`signpost.console`) turns any of them into one message.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import ClassVar, Self

from signpost import text

__all__ = [
    "BootEntryError",
    "DiskBusyError",
    "ExitStatus",
    "KernelLoadError",
    "LayoutError",
    "MediumError",
    "NothingBootableError",
    "ReadBackError",
    "TableChangedError",
    "TableError",
    "ToolError",
    "TransitionRefusedError",
    "UsageError",
]


class ExitStatus(IntEnum):
    """The exit status of a command (documented in docs/reference/exit-status.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    REFUSED = 4
    UNREACHABLE = 5
    CANNOT_JUDGE = 6
    BUSY = 75


class ToolError(Exception):
    """A failure that an operator can act on. The message says what failed and why.

    It is printable and cut, because it may repeat what a server or a document says.

    Attributes:
        status: the exit status of the process after this failure.
        next_step: one sentence that says what to do now.
        code: a stable, kebab-case name for scripts (``--json`` prints it).
    """

    status: ClassVar[ExitStatus] = ExitStatus.FAILED
    code: ClassVar[str] = "failed"
    default_next_step: ClassVar[str] = "See the cause above."

    def __init__(self, message: str, *, next_step: str = "") -> None:
        self.message = text.message(message)
        self.next_step = text.message(next_step) or self.default_next_step
        super().__init__(self.message)

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
    default_next_step = "Check the device, its free space and the kernel log; then run the command again."

    @classmethod
    def of(cls, message: str, error: OSError, *, otherwise: str = "") -> Self:
        """Return the error for an ``OSError``; its number decides on the next step, or ``otherwise``."""
        next_step = _NEXT_STEPS.get(error.errno or 0) or otherwise or _PATH_STEPS.get(error.errno or 0, "")
        if error.errno == errno.EROFS and (point := _mount_point(error.filename)):
            next_step = f"Mount the file system at {point} read-write; {_IN_A_SERVICE}"
        return cls(message, next_step=next_step)

    @classmethod
    def of_machine(cls, error: Exception) -> Self | None:
        """Return the error for an ``OSError`` or MemoryError that any step can meet, None for others."""
        if isinstance(error, MemoryError):
            return cls.of_machine(OSError(errno.ENOMEM, "out of memory"))
        if not isinstance(error, OSError) or error.errno not in _NEXT_STEPS:
            return None
        return cls.of(f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}", error)


_AS_ROOT = "Run it as root, or as a user who may do this."
_IN_A_SERVICE = "in a service, see ReadWritePaths= of its unit."
_NEXT_STEPS = {
    errno.EACCES: _AS_ROOT,
    errno.EPERM: "Run it as root; for root in a service, see DeviceAllow= and the capabilities of its unit.",
    errno.EROFS: "Mount its file system read-write; `findmnt --target PATH` shows which one it is; "
    f"{_IN_A_SERVICE}",
    errno.ENOSPC: "Its file system is full: free some space, then run the command again.",
    errno.EDQUOT: "The quota on its file system is used up: free some space, then run the command again.",
    errno.EIO: MediumError.default_next_step,
    errno.ENOMEM: "There is no free memory: end some processes, then run the command again.",
    errno.EMFILE: "This process has too many open files: raise its limit (`ulimit -n`).",
    errno.ENFILE: "The system has too many open files: end some processes, then run the command again.",
}
"""What to do where the number of an ``OSError`` says more than that something failed: states of a machine."""
_PATH_STEPS = dict.fromkeys(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    "Check this path, and the option or the key of the configuration that names it.",
)
"""What to do where a path leads to nothing, or to something else."""


def _mount_point(name: object) -> str:
    """Return where the file system of a file is mounted; "" if that is not known."""
    if not isinstance(name, str | bytes):  # no name, or a descriptor
        return ""
    from pathlib import Path  # late: signpost starts without them

    from signpost.mountinfo import mounts

    try:
        path = os.fsencode(os.path.realpath(name))
        mountinfo = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return ""
    above = [point for _, point in mounts(mountinfo) if (path + b"/").startswith(point.rstrip(b"/") + b"/")]
    return text.printable(os.fsdecode(max(above, key=len, default=b"")))


class TableError(ToolError):
    """The bytes are not a GUID partition table that can be trusted."""

    code = "table-invalid"
    default_next_step = "Nothing was written. Save both copies of the table before you repair it by hand."


class LayoutError(ToolError):
    """The disk has a partition table, but not the partitions of the slots."""

    code = "layout"
    default_next_step = "Check that --disk names the operating system's disk."


class ReadBackError(ToolError):
    """The disk does not return what was written to it; the other copy of the table was not touched."""

    code = "read-back"
    default_next_step = "The disk is failing: replace it. The other copy of the table is still valid."


class TransitionRefusedError(ToolError):
    """The flags on disk do not allow this command; nothing was written.

    Attributes:
        reason: the refusal's name in :class:`signpost.state.Refusal`, lower case.
    """

    status = ExitStatus.REFUSED
    code = "transition-refused"
    default_next_step = "Run `signpost status` to see the current flags."

    def __init__(self, message: str, *, next_step: str = "", reason: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.reason = reason


class TableChangedError(ToolError):
    """Another program changed the table after it was read; nothing was written."""

    status = ExitStatus.BUSY
    code = "table-changed"
    default_next_step = "Run the command again."


class DiskBusyError(ToolError):
    """Another program holds the disk's lock."""

    status = ExitStatus.BUSY
    code = "disk-busy"
    default_next_step = "Wait until the other program has finished, then run the command again."


class NothingBootableError(ToolError):
    """No slot is eligible by the bootloader's rule."""

    status = ExitStatus.REFUSED
    code = "nothing-bootable"
    default_next_step = "Neither slot can boot. From a rescue system, run `signpost rescue A` or B."


class BootEntryError(ToolError):
    """A slot has no boot entry that starts a kernel."""

    code = "boot-entry"
    default_next_step = "Write the slot again. A BOOT image needs a file loader/entries/NAME.conf."


class KernelLoadError(ToolError):
    """The kernel of a slot cannot be loaded (the cause is the ``OSError``)."""

    code = "kernel-load"
    default_next_step = "Write the slot again, or select the other slot with `signpost`."


def innermost(error: BaseException) -> BaseException:
    """Return the first cause of an error; client libraries wrap it several times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
