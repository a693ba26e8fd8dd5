"""The boot stage: a small system between the firmware and the slots' kernels. It takes a slot and starts it.

Rules it enforces:

* the disk is the one that has the slots; if several have, the one that ``signpost.disk`` names, or the one
  from whose EFI partition the firmware started; it never chooses between disks it cannot tell apart (D29);
* the slot is taken by the bootloader's rule, and its try is counted durably, before anything in the slot is
  read: however a slot fails, a try has been used; nothing else is ever written;
* a slot that cannot be started is passed over, with the reason on the console, and the rule is applied again
  without it, at the same start: a confirmed slot has no tries, so it would be taken at every start;
* the kernel's command line is the boot entry's options, followed by the parameters that identify the slot and
  by the boot record (:mod:`signpost.bootrecord`);
* if no slot is left, or no disk is found, it shows a message on the console, waits, and resets the machine.
  The wait is for the operator to read the message.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from signpost import bls, sets
from signpost.app import UnbootedDisk
from signpost.bootrecord import BootRecord, Passed, Reason, boot_word
from signpost.disk import Disk
from signpost.errors import (
    BootEntryError,
    KernelLoadError,
    LayoutError,
    MediumError,
    NothingBootableError,
    TableError,
    ToolError,
)
from signpost.medium import opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from signpost.app import DiskView, SlotView
    from signpost.bls import BootEntry
    from signpost.gpt import Guid, Table
    from signpost.medium import Medium
    from signpost.sets import Slot

ENTRIES = "loader/entries"
"""Where UAPI.1 puts boot entries, below the root of BOOT."""

DISK_PATIENCE = 15.0
"""Seconds to wait for the disk: USB and network block devices appear several seconds after their drivers."""

PAUSE = 30.0
"""Seconds between a message and the reset: time to read it, but not long for an unattended node."""

MAX_COMMAND_LINE = 2047
"""Bytes of the longest command line that an x86 kernel takes (COMMAND_LINE_SIZE less the final NUL)."""

_DISK_POLL = 0.25  # seconds
_ALL_FAILED = "From a rescue system, write an image to a slot and run `signpost --disk PATH rescue A` or B."
_BY_HAND = "Add signpost.disk=GUID to the boot stage's command line, or detach the wrong disk."


class BootMachine(Protocol):
    """What the boot stage needs from the machine it runs on."""

    architecture: str  # as EFI names it: x64, aa64

    def say(self, line: str) -> None:
        """Show a line on the console."""
        ...

    def disks(self) -> Sequence[str]:
        """Return the device nodes of the disks that are present now."""
        ...

    def firmware_partition(self) -> Guid | None:
        """Return the GUID of the partition from which the firmware started this stage, if it is known."""
        ...

    def mounted(self, disk: str, number: int) -> AbstractContextManager[str]:
        """Mount a partition read-only and return the mount point. Raises MediumError, LayoutError."""
        ...

    def load(self, kernel: str, initrds: Sequence[str], options: str) -> None:
        """Load a kernel that replaces the running one when it is started. Raises KernelLoadError."""
        ...

    def start(self) -> None:
        """Start the loaded kernel. Does not return, or raises KernelLoadError."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    def reset(self) -> None:
        """Restart the machine. Does not return."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BootSettings:
    """The settings from the boot stage's own kernel command line.

    Attributes:
        disk: device node or GUID of the disk, from ``signpost.disk``; empty to search for it.
        pause: seconds between a message and the reset, from ``signpost.pause``.
        notes: parameters that were ignored, for the console: a wrong one must not keep a node from booting.
    """

    disk: str = ""
    pause: float = PAUSE
    notes: tuple[str, ...] = ()

    @classmethod
    def from_words(cls, words: Iterable[str]) -> BootSettings:
        """Read the parameters of a kernel command line; those of other programs are ignored."""
        disk, pause, notes = "", PAUSE, []
        for word in words:
            key, _, value = word.partition("=")
            if key == "signpost.disk":
                disk = value
            elif key == "signpost.pause" and value.isdecimal():
                pause = float(value)
            elif key.startswith("signpost."):
                notes.append(f"unknown or invalid command line parameter ignored: {word}")
        return cls(disk=disk, pause=pause, notes=tuple(notes))


def run(machine: BootMachine, medium: Medium, words: Iterable[str]) -> None:
    """Start the next slot, or show why not, wait and reset. The only place where errors become text.

    Args:
        machine: the machine it runs on.
        medium: where storage is read and written.
        words: the parameters of the boot stage's own kernel command line.
    """
    settings = BootSettings.from_words(words)
    for note in settings.notes:
        machine.say(note)
    try:
        start(machine, medium, settings)
    except ToolError as error:
        machine.say(error.message)
        machine.say(f"next: {error.next_step}")
    except Exception as error:  # noqa: BLE001 - the boundary: a defect of this program must not stop a node
        machine.say(_defect(error))
    machine.say(f"restarting in {settings.pause:g} seconds")
    machine.pause(settings.pause)
    machine.reset()


def start(machine: BootMachine, medium: Medium, settings: BootSettings) -> None:
    """Start the first slot in the bootloader's order that can be started.

    Raises:
        LayoutError: no disk has the slots, or several have.
        NothingBootableError: no slot can boot, or all that can were passed over.
        TableError, MediumError: the disk cannot be used.
    """
    disk = find(machine, medium, settings.disk)
    passed: dict[Slot, Reason] = {}
    while True:
        try:
            slot = disk.predict(passed)
        except NothingBootableError as error:
            if not passed:
                raise
            message = f"{disk.path}: no slot can be started"
            raise NothingBootableError(message, next_step=_ALL_FAILED) from error
        try:
            start_slot(machine, medium, disk, slot, passed)
        except _SlotError as error:
            machine.say(f"slot {slot} is passed over: {error}")
            passed[slot] = error.reason


class _SlotError(Exception):
    """A slot cannot be started."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def start_slot(
    machine: BootMachine, medium: Medium, disk: UnbootedDisk, slot: Slot, passed: Mapping[Slot, Reason]
) -> None:
    """Count the slot's try and start its kernel. Raises _SlotError; does not return if the kernel starts."""
    with _slot_errors({ToolError: Reason.NOT_COUNTED}):
        disk.take_next(passed)
        view = disk.view()
    parts = view.slots[slot]
    tries = "1 try" if parts.flags.tries == 1 else f"{parts.flags.tries} tries"
    rest = "which is confirmed" if parts.flags.successful else f"{tries} left after this one"
    machine.say(f"{disk.path}: taking slot {slot}, {rest}")
    with _slot_errors(_REASONS), machine.mounted(disk.path, parts.boot.number) as folder:
        entry = read_entry(medium, folder, machine.architecture)
        options = command_line(entry, parts, recorded(view, slot, passed), damaged=bool(view.faults))
        machine.say(f"starting {entry.title or entry.name} with {options}")
        machine.load(_path(folder, entry.linux), [_path(folder, path) for path in entry.initrd], options)
    with _slot_errors(_REASONS):
        machine.start()


_REASONS: Mapping[type[ToolError], Reason] = {
    BootEntryError: Reason.NO_ENTRY,
    KernelLoadError: Reason.KERNEL,
    ToolError: Reason.UNREADABLE,
}
"""Why a slot is passed over, by the first error type that matches."""


@contextmanager
def _slot_errors(reasons: Mapping[type[ToolError], Reason]) -> Iterator[None]:
    """Turn every error into a _SlotError with its reason; a defect of this program is one too."""
    try:
        yield
    except ToolError as error:
        reason = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
        raise _SlotError(reason, error.message) from error
    except Exception as error:
        raise _SlotError(Reason.DEFECT, _defect(error)) from error


def _defect(error: Exception) -> str:
    return f"internal error: {type(error).__name__}: {error}"


def recorded(view: DiskView, slot: Slot, passed: Mapping[Slot, Reason]) -> BootRecord:
    """Return the boot record: the slot, and those before it in the bootloader's order."""
    spent = {
        other: Reason.SPENT
        for other, parts in view.slots.items()
        if parts.flags.priority > view.slots[slot].flags.priority and not parts.flags.bootable
    }
    all_passed = tuple(Passed(other, reason) for other, reason in {**spent, **passed}.items())
    return BootRecord(slot=slot, tries=view.slots[slot].flags.tries, passed=all_passed)


def find(machine: BootMachine, medium: Medium, wanted: str = "") -> UnbootedDisk:
    """Return the disk that has the slots; wait for it to appear.

    Args:
        machine: lists the disks.
        medium: reads them.
        wanted: device node or GUID of the disk; empty to take the only one.

    Raises:
        LayoutError: no disk has the slots, or several have.
    """
    waited = 0.0
    while not (found := _find_disks(machine, medium, wanted)).ours and waited < DISK_PATIENCE:
        machine.pause(_DISK_POLL)
        waited += _DISK_POLL
    if not found.ours:
        which = f"disk {wanted} is missing or has no slots" if wanted else "no disk has slots"
        raise LayoutError(f"{which}: {'; '.join(found.others) or 'there is no disk'}", next_step=_BY_HAND)
    disks = list(found.ours)
    if len(disks) > 1:
        origin = machine.firmware_partition()
        disks = [
            disk for disk, table in found.ours.items() if origin in {entry.guid for entry in table.entries}
        ]
    if len(disks) != 1:
        raise LayoutError(f"several disks have slots: {', '.join(found.ours)}", next_step=_BY_HAND)
    return UnbootedDisk(medium, disks[0])


def read_entry(medium: Medium, folder: str, architecture: str) -> BootEntry:
    """Return the boot entry to start from the mounted BOOT partition. Raises BootEntryError or MediumError.

    Faulty entries are ignored if there is a sound one; if there is none, all faults are named.
    """
    try:
        names = sorted(os.listdir(os.path.join(folder, ENTRIES)))
    except OSError as error:
        raise BootEntryError(f"nothing to start in BOOT: {ENTRIES}: {error.strerror}") from error
    entries, faults = [], []
    for name in names:
        if name.endswith(".conf"):
            try:
                entries.append(bls.parse(name, _content(medium, os.path.join(folder, ENTRIES, name))))
            except BootEntryError as error:
                faults.append(error.message)
    chosen = bls.choose(entries, architecture)
    if chosen is None:
        cause = "; ".join(faults) or f"{ENTRIES} has no entry for this machine ({architecture})"
        raise BootEntryError(f"nothing to start in BOOT: {cause}")
    return chosen


def command_line(entry: BootEntry, parts: SlotView, record: BootRecord, *, damaged: bool = False) -> str:
    """Return the entry's options, followed by the boot record and the parameters that identify the slot.

    ``slot`` is for a small initrd that searches for partition labels; systemd's initrd reads the partition
    GUIDs. A kernel reads the backup of a damaged table only with the parameter ``gpt``.

    Raises KernelLoadError if the result is longer than a kernel takes.
    """
    words = [
        entry.options,
        *record.to_words(),
        boot_word(parts.boot.guid),
        f"systemd.verity_root_data=PARTUUID={parts.root.guid}",
        f"systemd.verity_root_hash=PARTUUID={parts.hash.guid}",
        "gpt" if damaged else "",
    ]
    line = " ".join(filter(None, words))
    if len(line.encode()) > MAX_COMMAND_LINE:
        raise KernelLoadError(
            f"{entry.name}: the command line of {len(line)} bytes is longer than {MAX_COMMAND_LINE}"
        )
    return line


class _Found(NamedTuple):
    """The tables of the disks that can be started from, by path, and why the others cannot."""

    ours: dict[str, Table]
    others: list[str]


def _find_disks(machine: BootMachine, medium: Medium, wanted: str) -> _Found:
    """Examine all disks that are present."""
    found = _Found({}, [])
    for disk in machine.disks():
        try:
            table = Disk(medium, disk).load().table
            sets.find(table.entries)
        except (TableError, LayoutError, MediumError) as error:
            found.others.append(f"{disk}: {error.message}")
            continue
        if wanted.lower() in {"", disk, table.header.disk_guid}:
            found.ours[disk] = table
        else:
            found.others.append(f"{disk}: its GUID is {table.header.disk_guid}")
    return found


def _content(medium: Medium, path: str) -> bytes:
    """Return the content of an entry's file, up to a limit. Raises BootEntryError or MediumError."""
    with opened(medium, path) as descriptor:
        data = medium.read_at(descriptor, bls.MAX_BYTES + 1, 0)
    if len(data) > bls.MAX_BYTES:
        raise BootEntryError(f"{os.path.basename(path)}: longer than {bls.MAX_BYTES} bytes")
    return data


def _path(folder: str, path: str) -> str:
    """Return the path of a file that an entry names; it cannot lead out of the folder."""
    return os.path.join(folder, os.path.normpath("/" + path).lstrip("/"))
