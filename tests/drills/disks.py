"""Disks for drills: an EFI partition, two slots with real releases, PRIVATE; and ways to damage them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from signpost import gpt, sets
from signpost.app import Signpost, UnbootedDisk
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from signpost.state import Command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fixtures.os.release import Release
    from signpost.app import PartitionView
    from signpost.gpt import Guid

MEBIBYTE = 1 << 20
CONFIRMED, CLEARED = Flags(priority=1, successful=True), Flags()
_SIZES = {"boot": 33, "root": 150, "hash": 2}  # MiB, a little more than the releases need
_TYPES = {"boot": sets.BOOT, "root": sets.ROOT, "hash": sets.HASH}
_EFI_SIZE = 32 * MEBIBYTE
_NAMES = UUID("0e2f0a37-3f70-4a4c-9d8e-5a6d9f1e6b02")


@dataclass(frozen=True, kw_only=True)
class DrillDisk:
    """A disk image file and what can be done with it while the machine is off."""

    path: Path

    @property
    def flags(self) -> dict[Slot, Flags]:
        """Return the flags of both slots as they are on disk."""
        return {slot: view.flags for slot, view in self.stage.view().slots.items()}

    @property
    def stage(self) -> UnbootedDisk:
        """Return signpost's view of it."""
        return UnbootedDisk(OsMedium(), str(self.path))

    def part(self, role: str, slot: Slot) -> PartitionView:
        """Return a partition of a slot."""
        view: PartitionView = getattr(self.stage.view().slots[slot], role)
        return view

    def stage_b(self, *, tries: int = 1) -> None:
        """Do the last step of an update: B is valid, and next."""
        signpost = Signpost(OsMedium(), str(self.path), Slot.A)
        signpost.apply(Command.MARK_INACTIVE_VALID, tries=tries)
        signpost.apply(Command.UPGRADE_TO_INACTIVE)

    def damage(self, role: str, slot: Slot, found: bytes, put: bytes) -> None:
        """Replace some bytes of a partition by others."""
        assert len(found) == len(put)
        place = self.part(role, slot)
        with self.path.open("r+b") as disk:
            disk.seek(place.offset)
            at = disk.read(place.size).find(found)
            assert at >= 0, f"{found!r} does not stand in {role} of slot {slot}"
            disk.seek(place.offset + at)
            disk.write(put)

    def tables(self) -> bytes:
        """Return the first and the last MiB, where the copies of the table are."""
        with self.path.open("rb") as disk:
            head = disk.read(MEBIBYTE)
            disk.seek(-MEBIBYTE, 2)
            return head + disk.read()


def make_disk(
    path: Path,
    releases: Mapping[Slot, Release],
    flags: Mapping[Slot, Flags],
    *,
    sector_size: int = 512,
    efi: bytes = b"",
) -> DrillDisk:
    """Write a disk image.

    Args:
        path: of the file; its name decides the GUIDs.
        releases: what is in the slots.
        flags: of the slots; a slot that is not named is cleared.
        sector_size: of the table.
        efi: content of the EFI system partition.
    """
    parts = [gpt.NewPartition(sets.EFI_SYSTEM, _guid(f"{path.name} efi"), _EFI_SIZE, "EFI-SYSTEM")]
    for slot in Slot:
        for role, size in _SIZES.items():
            bits = with_flags(0, flags.get(slot, CLEARED)) if role == "boot" else 0
            label = f"BOTTLEROCKET-{role.upper()}-{slot}"
            unique = _guid(f"{path.name} {label}")
            parts.append(gpt.NewPartition(_TYPES[role], unique, size * MEBIBYTE, label, bits))
    private = _guid(f"{path.name} private")
    parts.append(gpt.NewPartition(sets.PRIVATE, private, MEBIBYTE, "BOTTLEROCKET-PRIVATE"))
    size = sum(part.size for part in parts) + 2 * MEBIBYTE
    table = gpt.new_table(parts, disk_size=size, disk_guid=_guid(path.name), sector_size=sector_size)
    with path.open("wb") as disk:
        disk.truncate(size)
        for offset, data in table.writes():
            disk.seek(offset)
            disk.write(data)
        disk.seek(table.pair.primary.extent(0).offset)
        disk.write(efi)
    made = DrillDisk(path=path)
    for slot, release in releases.items():
        for role, image in release.images().items():
            _write(path, made.part(role, slot).offset, image)
    return made


def _write(disk: Path, offset: int, image: Path) -> None:
    """Write an image into a disk, leaving holes where it has zeros."""
    with disk.open("r+b") as target, image.open("rb") as source:
        while block := source.read(MEBIBYTE):
            if block.count(0) != len(block):
                target.seek(offset)
                target.write(block)
            offset += len(block)


def _guid(name: str) -> Guid:
    return gpt.guid(str(uuid5(_NAMES, name)))
