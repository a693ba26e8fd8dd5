"""Load, decide, store: what the command line, the boot stage and updog call.

Rules it enforces:

* every change is one load, one pure decision and one durable store; a refusal stores nothing;
* the slot shown as next is computed by the function that takes the next boot;
* the running slot is stated by the caller or found below the running root, never guessed; a running root on
  another disk is refused (D29);
* a running root that is not on a partition (an overlay, a tmpfs) is in the slot that the boot stage started,
  as its parameter on the kernel command line states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from signpost import blockdev, gptprio, sets, state
from signpost.bootrecord import boot_partition
from signpost.disk import Disk
from signpost.errors import LayoutError, NothingBootableError, UsageError
from signpost.growth import growth, refuse_smaller

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from signpost.disk import Loaded
    from signpost.gpt import Guid, PartitionEntry, Table
    from signpost.gptprio import Flags
    from signpost.growth import Growth
    from signpost.medium import Medium
    from signpost.sets import ImageKind, Layout, Slot
    from signpost.state import Choice, Command

__all__ = [
    "DiskView",
    "GrownData",
    "PartitionView",
    "RunningDiskView",
    "Signpost",
    "SlotView",
    "UnbootedDisk",
    "devices",
    "find_on",
    "find_running",
    "tell_kernel",
]

_STATE_ACTIVE = "For another disk, state which of its slots counts as running: --active A or --active B."


class PartitionView(NamedTuple):
    """One partition: its number, its offset and size in bytes, its label and its GUID."""

    number: int
    offset: int
    size: int
    label: str
    guid: Guid


class SlotView(NamedTuple):
    """One slot: its three partitions and its flags."""

    boot: PartitionView
    root: PartitionView
    hash: PartitionView
    flags: Flags

    def partition(self, kind: ImageKind) -> PartitionView:
        """Return the partition of an image."""
        view: PartitionView = getattr(self, kind)
        return view


class DiskView(NamedTuple):
    """The state of a disk, whether or not its running slot is known.

    Attributes:
        disk: the path by which it was opened.
        disk_guid: the GUID of the disk.
        sector_size: bytes.
        slots: A, and B unless the disk is single.
        ever_booted: whether a boot has ever succeeded.
        next: the slot that boots next; None if nothing can boot.
        next_partition: the number of its BOOT partition.
        faults: what `repair` would fix; empty if the table is sound.
        notes: remarks on labels that name the other slot.
        single: whether there is no slot B.
        running: the running slot, if it is known.
    """

    disk: str
    disk_guid: Guid
    sector_size: int
    slots: Mapping[Slot, SlotView]
    ever_booted: bool
    next: Slot | None
    next_partition: int | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    single: bool
    running: Slot | None = None


class RunningDiskView(DiskView):
    """The state of a disk whose running slot is known. Made by :class:`Signpost`."""

    __slots__ = ()

    @property
    def active(self) -> Slot:
        """The running slot. Raises LayoutError if there is none."""
        if self.running is None:
            raise LayoutError(f"the running slot of {self.disk} is not known")
        return self.running


class GrownData(NamedTuple):
    """DATA before and after it grew (the same if there was no room), and what was repaired with it.

    ``before`` and ``after`` are None if another partition is the last one and there is no room behind it.
    """

    before: PartitionView | None
    after: PartitionView | None
    repaired: tuple[str, ...]


class UnbootedDisk:
    """A disk whose running slot is not known: what a boot stage or a rescue system can do with it.

    Args:
        medium: where storage is read and written.
        path: the device node or image file.
    """

    def __init__(self, medium: Medium, path: str) -> None:
        self.path = path
        self._disk = Disk(medium, path)

    def view(self) -> DiskView:
        """Return the state of the disk. Raises TableError, LayoutError or MediumError."""
        return _disk_view(self.path, self._disk.load())

    def layout(self) -> Layout:
        """Return which partitions make the slots. Raises TableError, LayoutError or MediumError."""
        return sets.find(self._disk.load().table.entries)

    def take_next(self, without: Collection[Slot] = ()) -> Slot:
        """Do the bootloader's step: choose the slot, count one of its tries durably if it has any, return it.

        ``without`` are slots that were already tried without success at this start.

        As in GRUB, nothing is written if no try is counted, not even a repair: a boot must not depend on it.

        Raises:
            NothingBootableError: no BOOT partition is eligible.
            TableError, LayoutError, MediumError: the disk cannot be used.
        """
        loaded = self._disk.load()
        choice, slot = self._choose(loaded, without)
        if choice.counted:
            entry = loaded.table.entries[choice.entry_index]
            self._disk.store(loaded, {choice.entry_index: _with_flags(entry, choice.after)})
        return slot

    def rescue(self, slot: Slot, *, tries: int = 1) -> DiskView:
        """Let a slot be tried at the next boot, whatever its flags are; return the new state of the disk.

        It is the step of a rescue system, for an operator who knows that the slot has an image.

        Raises:
            LayoutError: there is no such slot, or no other one.
            TableChangedError, DiskBusyError: another program is using the disk; nothing was written.
            TableError, MediumError, ReadBackError: the disk cannot be used.
        """
        loaded = self._disk.load()
        layout, entries = sets.find(loaded.table.entries), loaded.table.entries
        if layout.single:
            raise LayoutError(f"{self.path} has one slot only: there is no choice")
        after = state.rescue(_state(entries, layout, slot.other), tries=tries)
        return _disk_view(self.path, self._disk.store(loaded, _changes(entries, layout, slot.other, after)))

    def predict(self, without: Collection[Slot] = ()) -> Slot:
        """Return the slot that :meth:`take_next` would take; write nothing. Raises the same errors."""
        return self._choose(self._disk.load(), without)[1]

    def _choose(self, loaded: Loaded, without: Collection[Slot]) -> tuple[Choice, Slot]:
        """Return the bootloader's choice and the slot it belongs to. Raises as :meth:`take_next`."""
        entries = loaded.table.entries
        slots = sets.find(entries).slots if without else {}
        choice = state.next_boot(entries, {slots[slot].boot for slot in without})
        if choice is None:
            raise NothingBootableError(f"{self.path}: no slot can boot")
        # Every BOOT partition belongs to a slot: a layout with a third one was refused.
        slot_of_boot = {parts.boot: slot for slot, parts in sets.find(entries).slots.items()}
        return choice, slot_of_boot[choice.entry_index]

    def repair_disk(self) -> tuple[str, ...]:
        """Repair the table and return the faults that it had; write nothing if there were none.

        Raises:
            LayoutError: the only valid table has no slots, so that it may be another system's; nothing was
                written.
        """
        loaded = self._disk.load()
        sets.find(loaded.table.entries)
        self._disk.store(loaded, {})
        return loaded.faults

    def grow(self, *, write: bool = True) -> GrownData:
        """Extend DATA, the last partition, to the end of the disk; move the backup of the table there.

        One store, as for the flags: a power cut leaves the old table or the new one.

        Args:
            write: whether to do it; otherwise only say what would be done.

        Raises:
            LayoutError: the disk has no slots, is smaller than its table says, or another partition than DATA
                is before the room; nothing was written.
            TableChangedError, DiskBusyError: another program is using the disk; nothing was written.
            TableError, MediumError, ReadBackError: the disk cannot be used.
        """
        loaded = self._disk.load()
        sets.find(loaded.table.entries)
        refuse_smaller(loaded.examined)
        grows = growth(loaded.pair.primary)
        if write:
            self._disk.store(loaded, grows.changes if grows else {})
        return _grown(grows, loaded.faults)

    def rewrite(self) -> None:
        """Write both copies of the table unchanged, to test the disk."""
        self._disk.store(self._disk.load(), {}, rewrite=True)


class BootStage(UnbootedDisk):
    """The former name of :class:`UnbootedDisk`, with its former members, for other people's scripts."""

    look = UnbootedDisk.view

    @property
    def disk(self) -> str:
        """The path of the device node or image file."""
        return self.path


class Signpost(UnbootedDisk):
    """A disk whose running slot is known: all commands.

    Args:
        medium: where storage is read and written.
        path: the device node or image file.
        active: the running slot.
    """

    def __init__(self, medium: Medium, path: str, active: Slot) -> None:
        super().__init__(medium, path)
        self.active = active

    def view(self) -> RunningDiskView:
        """Return the state of the disk. Raises TableError, LayoutError or MediumError."""
        return self._running_view(self._disk.load())

    def apply(self, command: Command, *, tries: int = 1) -> RunningDiskView:
        """Carry out a command durably and return the new state of the disk.

        Args:
            command: what to do.
            tries: how many boots ``mark-inactive-valid`` grants, 1 to 15.

        Raises:
            TransitionRefusedError: the flags do not allow it; nothing was written.
            TableChangedError, DiskBusyError: another program is using the disk; nothing was written.
            TableError, LayoutError: the table or the partitions are not valid; nothing was written.
            MediumError, ReadBackError: a read or write failed.
        """
        loaded = self._disk.load()
        entries, layout = loaded.table.entries, self._layout(loaded)
        before = _state(entries, layout, self.active)
        after = state.transition(command, before, tries=tries)
        return self._running_view(self._disk.store(loaded, _changes(entries, layout, self.active, after)))

    def repair(self) -> RunningDiskView:
        """Repair the table; write nothing if it is sound. Raises LayoutError before a write."""
        loaded = self._disk.load()
        self._layout(loaded)
        return self._running_view(self._disk.store(loaded, {}))

    def _layout(self, loaded: Loaded) -> Layout:
        """Return the layout, which must have the active slot. Raises LayoutError."""
        layout = sets.find(loaded.table.entries)
        if self.active not in layout.slots:
            raise LayoutError(f"{self.path} has no slot {self.active}: it has one slot only")
        return layout

    def _running_view(self, loaded: Loaded) -> RunningDiskView:
        """Return the view of a loaded table, which must have the active slot. Raises LayoutError."""
        self._layout(loaded)
        return RunningDiskView(*_disk_view(self.path, loaded)._replace(running=self.active))


def find_running(
    medium: Medium, *, sysfs: str = "/sys", root: str = "/", proc: str = "/proc", dev: str = "/dev"
) -> Signpost:
    """Find the disk and the slot of the running system. Raises LayoutError.

    Args:
        medium: where storage is read and written.
        sysfs: where sysfs is mounted.
        root: a path in the running root file system.
        proc: where procfs is mounted.
        dev: where device nodes are.
    """
    try:
        below = blockdev.running_root(sysfs, blockdev.device_below(root))
    except LayoutError:
        started = boot_partition(blockdev.command_line(proc))
        partition = blockdev.device_of_guid(dev, started) if started else None
        if partition is None:
            raise
        below = blockdev.running_root(sysfs, partition)
    disk = blockdev.node_of_device(sysfs, below.disk)
    return Signpost(medium, disk, _active(disk, UnbootedDisk(medium, disk).layout(), below))


def find_on(
    medium: Medium, disk: str, *, sysfs: str = "/sys", root: str = "/", proc: str = "/proc"
) -> Signpost:
    """Find the slot of the running system, which must be on this disk.

    Raises UsageError if the running system is on another disk (D29), LayoutError if it is in no slot.
    """
    device = blockdev.device_of_node(disk)
    if device is None:
        raise UsageError(f"{disk} is a file, not the disk of a running system", next_step=_STATE_ACTIVE)
    try:
        below = blockdev.running_root(sysfs, blockdev.device_below(root))
    except LayoutError:
        started = boot_partition(blockdev.command_line(proc))
        slots = UnbootedDisk(medium, disk).view().slots if started else {}
        active = next((slot for slot, parts in slots.items() if parts.boot.guid == started), None)
        if active is None:
            raise
        return Signpost(medium, disk, active)
    if device != below.disk:
        own = blockdev.node_of_device(sysfs, below.disk)
        raise UsageError(
            f"the running system is on {own}, not on {disk}", next_step=f"Omit --disk. {_STATE_ACTIVE}"
        )
    return Signpost(medium, disk, _active(disk, UnbootedDisk(medium, disk).layout(), below))


def devices(disk: str, *, sysfs: str = "/sys") -> dict[int, str]:
    """Return the device node of each partition, by number; empty for an image file or without sysfs."""
    device = blockdev.device_of_node(disk)
    try:
        return blockdev.partition_nodes(sysfs, device) if device else {}
    except LayoutError:
        return {}


def tell_kernel(disk: str, partition: PartitionView, *, sysfs: str = "/sys") -> bool:
    """Let the running kernel use all of a partition that has grown. Return whether it does.

    An image file has no partitions for the kernel, nor has a disk whose table it did not read. Raises
    MediumError if the kernel refuses.
    """
    device = blockdev.device_of_node(disk)
    sizes = blockdev.partition_sizes(sysfs, device) if device else {}
    if partition.number not in sizes:
        return False
    if sizes[partition.number] != partition.size:
        blockdev.resize_partition(disk, partition.number, offset=partition.offset, size=partition.size)
    return True


def _active(disk: str, layout: Layout, below: blockdev.RunningRoot) -> Slot:
    """Return the slot that the partitions below the running root belong to. Raises LayoutError."""
    slots = {layout.slot_of(number - 1) for number in below.partitions} - {None}
    if len(slots) == 1:
        return next(slot for slot in slots if slot)
    numbers = ", ".join(map(str, below.partitions))
    which = "several slots" if slots else "no slot"
    raise LayoutError(f"the running root is on partition {numbers} of {disk}, which belongs to {which}")


def _disk_view(disk: str, loaded: Loaded) -> DiskView:
    """Return the view of a loaded table."""
    table = loaded.table
    layout, choice = sets.find(table.entries), state.next_boot(table.entries)
    return DiskView(
        disk=disk,
        disk_guid=table.header.disk_guid,
        sector_size=table.sector_size,
        slots={slot: _slot_view(table, parts) for slot, parts in layout.slots.items()},
        ever_booted=gptprio.ever_booted(table.entries[layout.private].attributes),
        next=layout.slot_of(choice.entry_index) if choice else None,
        next_partition=choice.entry_index + 1 if choice else None,
        faults=loaded.faults,
        notes=layout.notes,
        single=layout.single,
    )


def _slot_view(table: Table, parts: sets.PartitionSet) -> SlotView:
    """Return the view of a slot."""
    boot, root, hash_ = (_partition_view(table, index) for index in parts)
    return SlotView(boot, root, hash_, gptprio.flags(table.entries[parts.boot].attributes))


def _grown(grows: Growth | None, repaired: tuple[str, ...]) -> GrownData:
    """Return what a growth changes."""
    if grows is None:
        return GrownData(None, None, repaired)
    before, after = (
        PartitionView(grows.number, *extent, grows.entry.label, grows.entry.guid)
        for extent in (grows.before, grows.after)
    )
    return GrownData(before, after, repaired)


def _partition_view(table: Table, index: int) -> PartitionView:
    """Return the view of the partition with this entry index."""
    entry, extent = table.entries[index], table.extent(index)
    return PartitionView(index + 1, extent.offset, extent.size, entry.label, entry.guid)


def _state(entries: tuple[PartitionEntry, ...], layout: Layout, active: Slot) -> state.State:
    """Return the flags on which a transition is decided."""
    flags = {slot: gptprio.flags(entries[parts.boot].attributes) for slot, parts in layout.slots.items()}
    ever_booted = gptprio.ever_booted(entries[layout.private].attributes)
    return state.State(flags[active], flags.get(active.other), ever_booted)


def _changes(
    entries: tuple[PartitionEntry, ...], layout: Layout, active: Slot, after: state.State
) -> dict[int, PartitionEntry]:
    """Return the entries that change, by index, with the flags in ``after``."""
    wanted = [(active, after.active)] + ([(active.other, after.inactive)] if after.inactive else [])
    boots = {layout.slots[slot].boot: flags for slot, flags in wanted}
    changes = {index: _with_flags(entries[index], flags) for index, flags in boots.items()}
    private = entries[layout.private]
    bits = gptprio.with_ever_booted(private.attributes, value=after.ever_booted)
    return changes | {layout.private: replace(private, attributes=bits)}


def _with_flags(entry: PartitionEntry, flags: Flags) -> PartitionEntry:
    """Return the entry with these flags in its attributes."""
    return replace(entry, attributes=gptprio.with_flags(entry.attributes, flags))
