"""Load, decide, store: what the command line and updog call.

Rules it enforces:

* every change is one load, one pure decision, one durable store; a refusal stores nothing;
* what is shown as next is computed by the same function that takes the next boot;
* the running slot is stated by the caller or found below the running root, never guessed; a running root on
  another disk is refused (D29).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from signpost import blockdev, gptprio, sets, state
from signpost.disk import Disk
from signpost.errors import LayoutError, NothingBootableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from signpost.disk import Loaded
    from signpost.gpt import Entry, Guid, Table
    from signpost.gptprio import Flags
    from signpost.medium import Medium
    from signpost.sets import Layout, Slot
    from signpost.state import Choice, Command

_SAY_ACTIVE = "For another disk, say which slot of it counts as running: --active A or --active B."


class PartitionView(NamedTuple):
    """One partition: its number, its place in bytes, its label and its own GUID."""

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


class DiskView(NamedTuple):
    """A disk as it is, whichever slot runs.

    Attributes:
        disk: the path it was opened by.
        disk_guid: the GUID of its table.
        sector_size: bytes.
        slots: A, and B unless the disk is single.
        ever_booted: whether a boot has ever succeeded.
        next: the slot the bootloader takes next; None if nothing boots, or a partition of no slot.
        next_partition: the number of the partition the bootloader takes next, if any.
        faults: what `repair` would put right; empty when the table is sound.
        notes: what is odd about the partitions.
        single: whether there is no slot B.
        running: the slot that runs, if that is known.
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


class View(DiskView):
    """A disk as it is, with the slot that runs. Only :class:`Signpost` makes one, and it knows the slot."""

    __slots__ = ()

    @property
    def active(self) -> Slot:
        """The slot that runs."""
        if self.running is None:
            raise LayoutError(f"the running slot of {self.disk} is not known")
        return self.running


class BootStage:
    """A disk whose running slot is not known: what a boot stage or a rescue system can do with it.

    Args:
        medium: the door to storage.
        disk: path of the device node or image file.
    """

    def __init__(self, medium: Medium, disk: str) -> None:
        self.disk = disk
        self._disk = Disk(medium, disk)

    def look(self) -> DiskView:
        """Return the disk as it is. Raises TableError, LayoutError or MediumError."""
        return _look(self.disk, self._disk.load())

    def layout(self) -> Layout:
        """Return which partitions make the slots. Raises TableError, LayoutError or MediumError."""
        return sets.find(self._disk.load().table.entries)

    def take_next(self, without: Collection[Slot] = ()) -> Slot:
        """Do the bootloader's step: choose the slot, count its try durably if it has one, and return it.

        ``without`` are slots that this start has tried already, in vain.

        As with GRUB, nothing is written when no try is counted, not even a repair: a boot must not depend
        on it.

        Raises:
            NothingBootableError: no BOOT partition is eligible.
            LayoutError: the partition to boot belongs to no slot.
        """
        loaded = self._disk.load()
        choice, slot = self._choose(loaded, without)
        if choice.counted:
            entry = loaded.table.entries[choice.entry_index]
            self._disk.store(loaded, {choice.entry_index: _with_flags(entry, choice.after)})
        return slot

    def predict(self, without: Collection[Slot] = ()) -> Slot:
        """Return the slot :meth:`take_next` would take, writing nothing. Raises as that does."""
        return self._choose(self._disk.load(), without)[1]

    def _choose(self, loaded: Loaded, without: Collection[Slot]) -> tuple[Choice, Slot]:
        """Return what the bootloader takes, and the slot it belongs to."""
        entries = loaded.table.entries
        slots = sets.find(entries).slots if without else {}
        choice = state.next_boot(entries, {slots[slot].boot for slot in without})
        if choice is None:
            raise NothingBootableError(f"{self.disk}: no slot can boot")
        slot = sets.find(entries).slot_of(choice.entry_index)
        if slot is None:
            number = choice.entry_index + 1
            raise LayoutError(f"{self.disk}: partition {number} is the next to boot and belongs to no slot")
        return choice, slot

    def repair_disk(self) -> tuple[str, ...]:
        """Put both copies of the table right and return the faults there were; write nothing if none."""
        loaded = self._disk.load()
        self._disk.store(loaded, {})
        return loaded.faults

    def rewrite(self) -> None:
        """Write both copies of the table as they are (a test of the disk, and of this program)."""
        self._disk.store(self._disk.load(), {}, rewrite=True)


class Signpost(BootStage):
    """A disk with a running slot: every command.

    Args:
        medium: the door to storage.
        disk: path of the device node or image file.
        active: the slot that runs.
    """

    def __init__(self, medium: Medium, disk: str, active: Slot) -> None:
        super().__init__(medium, disk)
        self.active = active

    def view(self) -> View:
        """Return the disk as it is. Raises TableError, LayoutError or MediumError."""
        return self._view(self._disk.load())

    def apply(self, command: Command, *, tries: int = 1) -> View:
        """Carry out a command durably and return the disk as it is then.

        Args:
            command: what to do.
            tries: how many boots ``mark-inactive-valid`` grants, 1 to 15.

        Raises:
            TransitionRefusedError: the flags do not allow it; nothing was written.
            TableChangedError, DiskBusyError: somebody else is at it; nothing was written.
            TableError, LayoutError, MediumError, ReadBackError: the disk is not as it must be.
        """
        loaded = self._disk.load()
        entries, layout = loaded.table.entries, self._layout(loaded)
        before = _state(entries, layout, self.active)
        after = state.transition(command, before, tries=tries)
        return self._view(self._disk.store(loaded, _changes(entries, layout, self.active, after)))

    def repair(self) -> View:
        """Put both copies of the table right; write nothing if they are."""
        return self._view(self._disk.store(self._disk.load(), {}))

    def _layout(self, loaded: Loaded) -> Layout:
        """Return the layout, which must have the active slot."""
        layout = sets.find(loaded.table.entries)
        if self.active not in layout.slots:
            raise LayoutError(f"{self.disk} has no slot {self.active}: it has one slot only")
        return layout

    def _view(self, loaded: Loaded) -> View:
        """Look at the disk from the active slot."""
        self._layout(loaded)
        return View(*_look(self.disk, loaded)._replace(running=self.active))


def find_running(medium: Medium, *, sysfs: str = "/sys", root: str = "/") -> Signpost:
    """Find the disk and the slot the running system stands on. Raises LayoutError.

    Args:
        medium: the door to storage.
        sysfs: where sysfs is mounted.
        root: a path in the running root file system.
    """
    below = blockdev.running(sysfs, blockdev.below(root))
    disk = blockdev.node(sysfs, below.disk)
    return Signpost(medium, disk, _active(disk, BootStage(medium, disk).layout(), below))


def find_on(medium: Medium, disk: str, *, sysfs: str = "/sys", root: str = "/") -> Signpost:
    """Find the slot the running system stands on, on this disk.

    Raises UsageError when the running system stands on another disk (D29), LayoutError when on none.
    """
    device = blockdev.of_node(disk)
    if device is None:
        raise UsageError(f"{disk} is a file, from which no system runs", next_step=_SAY_ACTIVE)
    below = blockdev.running(sysfs, blockdev.below(root))
    if device != below.disk:
        raise UsageError(
            f"the running system does not stand on {disk} but on {blockdev.node(sysfs, below.disk)}",
            next_step=f"Leave --disk out. {_SAY_ACTIVE}",
        )
    return Signpost(medium, disk, _active(disk, BootStage(medium, disk).layout(), below))


def devices(disk: str, *, sysfs: str = "/sys") -> dict[int, str]:
    """Return the device node of each partition, by number; empty for an image file or without sysfs."""
    device = blockdev.of_node(disk)
    try:
        return blockdev.partition_nodes(sysfs, device) if device else {}
    except LayoutError:
        return {}


def _active(disk: str, layout: Layout, below: blockdev.Running) -> Slot:
    """Return the slot that has one of the partitions below the running root. Raises LayoutError."""
    slots = {layout.slot_of(number - 1) for number in below.partitions} - {None}
    if len(slots) == 1:
        return next(slot for slot in slots if slot)
    numbers = ", ".join(map(str, below.partitions))
    raise LayoutError(f"partition {numbers} of {disk}, where the running root lies, is not in one slot")


def _look(disk: str, loaded: Loaded) -> DiskView:
    """Describe a loaded table."""
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
    """Describe a slot."""
    boot, root, hash_ = (_partition_view(table, index) for index in parts)
    return SlotView(boot, root, hash_, gptprio.flags(table.entries[parts.boot].attributes))


def _partition_view(table: Table, index: int) -> PartitionView:
    """Describe a partition."""
    entry, extent = table.entries[index], table.extent(index)
    return PartitionView(index + 1, extent.offset, extent.size, entry.label, entry.unique)


def _state(entries: tuple[Entry, ...], layout: Layout, active: Slot) -> state.State:
    """Read the flags a transition is decided on."""
    flags = {slot: gptprio.flags(entries[parts.boot].attributes) for slot, parts in layout.slots.items()}
    ever_booted = gptprio.ever_booted(entries[layout.private].attributes)
    return state.State(flags[active], flags.get(active.other), ever_booted)


def _changes(
    entries: tuple[Entry, ...], layout: Layout, active: Slot, after: state.State
) -> dict[int, Entry]:
    """Print flags into the entries that hold them."""
    wanted = [(active, after.active)] + ([(active.other, after.inactive)] if after.inactive else [])
    boots = {layout.slots[slot].boot: flags for slot, flags in wanted}
    changes = {index: _with_flags(entries[index], flags) for index, flags in boots.items()}
    private = entries[layout.private]
    bits = gptprio.with_ever_booted(private.attributes, value=after.ever_booted)
    return changes | {layout.private: replace(private, attributes=bits)}


def _with_flags(entry: Entry, flags: Flags) -> Entry:
    """Return the entry with these flags."""
    return replace(entry, attributes=gptprio.with_flags(entry.attributes, flags))
