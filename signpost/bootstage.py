"""The boot stage: a small system between firmware and the slots' own kernels. It takes a slot and starts it.

Rules it enforces:

* the disk is the one that carries the slots; of several, the one that ``signpost.disk`` names or whose EFI
  partition the firmware started from; between disks it cannot tell apart it does not choose (D29);
* the slot is taken by the bootloader's own rule, and its try counted durably, before anything of the slot is
  looked at: whatever a slot does to its start has used up a try; nothing else is ever written;
* a slot that cannot be started is passed over, with its reason on the console, and the rule takes the next
  one without it, at this very start: a confirmed slot has no try whose loss would turn the node to the other;
* the kernel's command line is the boot entry's options, and after them what the slot is found by and how this
  start came about (:mod:`signpost.bootrecord`);
* when no slot is left, or no disk is found, it ends in a message on the console, a pause, and a reset. The
  pause is for the person who reads it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from signpost import bls, sets
from signpost.app import BootStage
from signpost.bootrecord import BootRecord, Passed, Reason
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
"""Seconds to wait for the disk: USB and network block devices take several after their drivers' start."""

PAUSE = 30.0
"""Seconds between a message and the reset: long enough to read it, short enough for a node nobody watches."""

LONGEST_OPTIONS = 2047
"""Bytes of the longest command line that an x86 kernel takes (COMMAND_LINE_SIZE, less its end mark)."""

_BETWEEN_LOOKS = 0.25
_ALL_FAILED = "See docs/how-to/rescue.md: write an image to a slot from a rescue system."
_BY_HAND = "Name the disk: signpost.disk=GUID on the boot stage's command line, or detach the wrong one."


class Machine(Protocol):
    """What the boot stage asks of the machine it runs on."""

    architecture: str  # in EFI's words: x64, aa64

    def say(self, line: str) -> None:
        """Show a line on the console."""
        ...

    def disks(self) -> Sequence[str]:
        """Return the device nodes of the disks that are there by now."""
        ...

    def firmware_partition(self) -> Guid | None:
        """Return the GUID of the partition that the firmware started this stage from, where it tells."""
        ...

    def mounted(self, disk: str, number: int) -> AbstractContextManager[str]:
        """Give the folder in which a partition is mounted, read-only. Raises MediumError."""
        ...

    def load(self, kernel: str, initrds: Sequence[str], options: str) -> None:
        """Load a kernel, to be started in the place of the running one. Raises KernelLoadError."""
        ...

    def start(self) -> None:
        """Start the loaded kernel. It does not return, or raises KernelLoadError."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    def reset(self) -> None:
        """Restart the machine. It does not return."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the boot stage's own command line says.

    Attributes:
        disk: device node or GUID of the disk, from ``signpost.disk``; empty if it is to be found.
        pause: seconds between a message and the reset, from ``signpost.pause``.
        notes: what was not understood, for the console: a wrong word must not keep a node down.
    """

    disk: str = ""
    pause: float = PAUSE
    notes: tuple[str, ...] = ()

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Settings:
        """Read the words of a kernel command line; those of other programs are left alone."""
        disk, pause, notes = "", PAUSE, []
        for word in words:
            key, _, value = word.partition("=")
            if key == "signpost.disk":
                disk = value
            elif key == "signpost.pause" and value.isdecimal():
                pause = float(value)
            elif key.startswith("signpost."):
                notes.append(f"{word} on the command line is not understood and not obeyed")
        return cls(disk=disk, pause=pause, notes=tuple(notes))


def run(machine: Machine, medium: Medium, words: Iterable[str]) -> None:
    """Start the next slot, or say why not, wait and reset. The one place where errors become text.

    Args:
        machine: what it runs on.
        medium: the door to storage.
        words: the boot stage's own kernel command line.
    """
    settings = Settings.from_words(words)
    for note in settings.notes:
        machine.say(note)
    try:
        start(machine, medium, settings)
    except ToolError as error:
        machine.say(error.message)
        machine.say(f"next: {error.next_step}")
    except Exception as error:  # noqa: BLE001 - the boundary: a node must not hang on a defect of this program
        machine.say(_defect(error))
    machine.say(f"restarting in {settings.pause:g} seconds")
    machine.pause(settings.pause)
    machine.reset()


def start(machine: Machine, medium: Medium, settings: Settings) -> None:
    """Start the first slot of the bootloader's order that can be started.

    Raises:
        LayoutError, NothingBootableError: there is nothing to take, or nothing left.
        TableError, MediumError: the disk is not as it must be.
    """
    stage = find(machine, medium, settings.disk)
    passed: dict[Slot, Reason] = {}
    while True:
        slot = _predicted(stage, passed)
        try:
            start_slot(machine, medium, stage, slot, passed)
        except _SlotError as error:
            machine.say(f"slot {slot} is passed over: {error}")
            passed[slot] = error.reason


class _SlotError(Exception):
    """A slot cannot be started."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _predicted(stage: BootStage, passed: Mapping[Slot, Reason]) -> Slot:
    """Return the slot that is next. Raises NothingBootableError, saying so when all were passed over."""
    try:
        return stage.predict(passed)
    except NothingBootableError as error:
        if not passed:
            raise
        message = f"{stage.disk}: no slot is left that can be started"
        raise NothingBootableError(message, next_step=_ALL_FAILED) from error


def start_slot(
    machine: Machine, medium: Medium, stage: BootStage, slot: Slot, passed: Mapping[Slot, Reason]
) -> None:
    """Count the slot's try and start its kernel. Raises _SlotError, and returns only if nothing starts."""
    with _reasons({ToolError: Reason.NOT_COUNTED}):
        stage.take_next(passed)
        view = stage.look()
    parts = view.slots[slot]
    machine.say(f"{stage.disk}: taking slot {slot}, {parts.flags.tries} tries left after this one")
    with (
        _reasons(_REASONS),
        machine.mounted(stage.disk, parts.boot.number) as folder,
    ):
        entry = read_entry(medium, folder, machine.architecture)
        options = command_line(entry, parts, recorded(view, slot, passed), damaged=bool(view.faults))
        machine.say(f"starting {entry.title or entry.name} with {options}")
        machine.load(_path(folder, entry.linux), [_path(folder, path) for path in entry.initrd], options)
    with _reasons(_REASONS):
        machine.start()


_REASONS: Mapping[type[ToolError], Reason] = {
    BootEntryError: Reason.NO_ENTRY,
    KernelLoadError: Reason.KERNEL,
    ToolError: Reason.UNREADABLE,
}
"""Why a slot is passed over, by the first kind of error that fits."""


@contextmanager
def _reasons(reasons: Mapping[type[ToolError], Reason]) -> Iterator[None]:
    """Turn errors into reasons to pass a slot over; a defect of this program is one, too."""
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
    """Return how this start came about: the slot, and those before it in the bootloader's order."""
    spent = {
        other: Reason.SPENT
        for other, parts in view.slots.items()
        if parts.flags.priority > view.slots[slot].flags.priority and not parts.flags.bootable
    }
    all_passed = tuple(Passed(other, reason) for other, reason in {**spent, **passed}.items())
    return BootRecord(slot=slot, tries=view.slots[slot].flags.tries, passed=all_passed)


def find(machine: Machine, medium: Medium, wanted: str = "") -> BootStage:
    """Return the disk that carries the slots, waiting a while for it to appear.

    Args:
        machine: knows the disks.
        medium: reads them.
        wanted: device node or GUID of the disk; empty for the only one.

    Raises:
        LayoutError: none has the slots, or several have.
    """
    waited = 0.0
    while not (found := _look(machine, medium, wanted)).ours and waited < DISK_PATIENCE:
        machine.pause(_BETWEEN_LOOKS)
        waited += _BETWEEN_LOOKS
    if not found.ours:
        which = f"{wanted} is not there, or carries no slots" if wanted else "no disk carries slots"
        raise LayoutError(f"{which}: {'; '.join(found.others) or 'no disk is there'}", next_step=_BY_HAND)
    disks = list(found.ours)
    if len(disks) > 1:
        origin = machine.firmware_partition()
        disks = [disk for disk, table in found.ours.items() if origin in {e.unique for e in table.entries}]
    if len(disks) != 1:
        raise LayoutError(f"several disks carry slots: {', '.join(found.ours)}", next_step=_BY_HAND)
    return BootStage(medium, disks[0])


def read_entry(medium: Medium, folder: str, architecture: str) -> BootEntry:
    """Return the boot entry to start from the mounted BOOT partition. Raises BootEntryError or MediumError.

    A faulty entry beside a sound one is not chosen; with no sound one, every fault is named.
    """
    entries, faults = [], []
    for name in _names(os.path.join(folder, ENTRIES)):
        try:
            entries.append(bls.parse(name, _content(medium, os.path.join(folder, ENTRIES, name))))
        except BootEntryError as error:
            faults.append(error.message)
    chosen = bls.choose(entries, architecture)
    if chosen is None:
        cause = "; ".join(faults) or f"{ENTRIES} holds no entry for this machine ({architecture})"
        raise BootEntryError(f"nothing to start in BOOT: {cause}")
    return chosen


def command_line(entry: BootEntry, parts: SlotView, record: BootRecord, *, damaged: bool = False) -> str:
    """Return the options of an entry, and after them what the started system finds its slot by.

    ``slot`` is for a small initrd that looks for partition labels; the partitions' own GUIDs are the words
    that systemd's initrd reads. A kernel looks at the table's backup only when told to, with ``gpt``.

    Raises KernelLoadError when a kernel would not take all of it.
    """
    words = [
        entry.options,
        *record.to_words(),
        f"signpost.boot=PARTUUID={parts.boot.guid}",
        f"systemd.verity_root_data=PARTUUID={parts.root.guid}",
        f"systemd.verity_root_hash=PARTUUID={parts.hash.guid}",
        "gpt" if damaged else "",
    ]
    line = " ".join(filter(None, words))
    if len(line.encode()) > LONGEST_OPTIONS:
        raise KernelLoadError(f"{entry.name}: its command line of {len(line)} bytes is too long")
    return line


class _Found(NamedTuple):
    """The disks that may be started from, and of the others why not."""

    ours: dict[str, Table]
    others: list[str]


def _look(machine: Machine, medium: Medium, wanted: str) -> _Found:
    """Look at every disk that is there."""
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
            found.others.append(f"{disk} is {table.header.disk_guid}")
    return found


def _names(folder: str) -> list[str]:
    """Return the names of the entries in a folder. Raises BootEntryError."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".conf"))
    except OSError as error:
        raise BootEntryError(f"nothing to start in BOOT: {ENTRIES}: {error.strerror}") from error


def _content(medium: Medium, path: str) -> bytes:
    """Return what is in an entry's file. Raises BootEntryError or MediumError."""
    with opened(medium, path) as descriptor:
        data = medium.read_at(descriptor, bls.MAX_BYTES + 1, 0)
    if len(data) > bls.MAX_BYTES:
        raise BootEntryError(f"{os.path.basename(path)}: longer than {bls.MAX_BYTES} bytes")
    return data


def _path(folder: str, path: str) -> str:
    """Return where a path of an entry lies; it cannot lead out of the folder."""
    return os.path.join(folder, os.path.normpath("/" + path).lstrip("/"))
