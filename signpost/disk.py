"""A disk's partition table: loaded from the copy that is trusted, stored durably.

Rules it enforces:

* the table is written under the disk's lock, after it was read again and found as it was loaded;
* everything cached is flushed before the first write, so that what was read is also what a power cut leaves;
* one copy is completely written (array, then header), flushed and read back before the other is touched. An
  invalid copy is written first, so that the only valid one is never the one being written; otherwise the
  backup is written before the primary. A backup that moves to the end of a grown disk is written first, too:
  of the old one only the primary header knows, however damaged that is;
* a repair is part of the same write: both copies are written from the trusted one;
* if there is nothing to change and nothing to repair, nothing is written; the protective MBR is never written
  (D26).

The kernel is not told to read the table again: it keeps positions, sizes and GUIDs, none of which change
here, and it refuses while one of the partitions is mounted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from signpost import gpt
from signpost.errors import DiskBusyError, ReadBackError, TableChangedError, TableError
from signpost.medium import opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signpost.medium import Medium

LOCK_PATIENCE = 10.0
"""Seconds to wait for the disk's lock. udev holds it while it probes a disk that a program wrote to and
closed, which takes a second and more on a slow or busy machine."""

_LOCK_RETRY_PAUSE = 0.02  # seconds


class Loaded(NamedTuple):
    """The table as found on disk, and both copies as they should be."""

    examined: gpt.Examined
    pair: gpt.Pair

    @property
    def table(self) -> gpt.Table:
        """The trusted table."""
        return self.examined.trusted or self.pair.primary

    @property
    def faults(self) -> tuple[str, ...]:
        """What a repair would fix, in words."""
        return self.examined.faults


class Disk:
    """A block device or an image file with a GUID partition table.

    Args:
        medium: where storage is read and written.
        path: the device node or image file.
        patience: seconds to wait for the disk's lock.
    """

    def __init__(self, medium: Medium, path: str, *, patience: float = LOCK_PATIENCE) -> None:
        self._medium = medium
        self.path = path
        self._patience = patience

    def load(self) -> Loaded:
        """Read and examine both copies.

        Raises:
            TableError: neither copy is valid.
            MediumError: the disk cannot be read.
        """
        with opened(self._medium, self.path) as descriptor:
            return self._read(descriptor)

    def store(
        self, loaded: Loaded, changes: Mapping[int, gpt.PartitionEntry], *, rewrite: bool = False
    ) -> Loaded:
        """Write changed entries and the repair of what was loaded, durably. Return the table as stored.

        Args:
            loaded: the table on which the changes were decided.
            changes: new entries by index.
            rewrite: write both copies even if nothing changes.

        Raises:
            TableChangedError: the table on disk is no longer the loaded one; nothing was written.
            DiskBusyError: another program holds the disk's lock; nothing was written.
            ReadBackError: the disk does not return what was written.
            MediumError: a read, write or flush failed.
        """
        wanted = loaded.pair.with_entries(changes)
        if wanted == loaded.pair and not loaded.faults and not rewrite:
            return loaded
        with opened(self._medium, self.path, write=True) as descriptor:
            self._lock(descriptor)
            if self._read(descriptor) != loaded:
                raise TableChangedError(f"{self.path}: the partition table changed since it was read")
            self._medium.flush(descriptor)
            order = (wanted.backup, wanted.primary) if _backup_first(loaded.examined, wanted) else wanted
            for table in order:
                self._write_copy(descriptor, table)
            return self._read(descriptor)

    def _lock(self, descriptor: int) -> None:
        """Take the disk's lock; wait for another program to release it. Raises DiskBusyError."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._medium.lock(descriptor)
            except DiskBusyError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_LOCK_RETRY_PAUSE)

    def _write_copy(self, descriptor: int, table: gpt.Table) -> None:
        """Write one copy, flush it, and read it back from the medium."""
        for offset, data in table.writes():
            self._medium.write_at(descriptor, data, offset)
        self._medium.flush(descriptor)
        for offset, data in table.writes():
            # Only these bytes: an update that reads images at the same time keeps its cache.
            self._medium.drop_cache(descriptor, offset, len(data))
            if self._medium.read_at(descriptor, len(data), offset) != data:
                raise ReadBackError(
                    f"{self.path}: {len(data)} bytes at offset {offset} differ from what was written"
                )

    def _read(self, descriptor: int) -> Loaded:
        """Read and examine both copies, with the sector size at which they are valid."""
        found = [self._examine(descriptor, size) for size in self._sector_sizes(descriptor)]
        trusted = [examined for examined in found if examined.trusted]
        if not trusted:
            self._refuse_other_sector_size(descriptor, found[0].geometry.sector_size)
        if len(trusted) > 1:
            raise TableError(
                f"{self.path} has two partition tables, one for 512-byte and one for 4096-byte sectors",
                next_step="Attach it as a block device with the right sector size (`losetup --sector-size`).",
            )
        examined = (trusted or found)[0]
        try:
            return Loaded(examined, gpt.repair(examined))
        except TableError as error:
            raise TableError(f"{self.path}: {error}") from error

    def _refuse_other_sector_size(self, descriptor: int, sector_size: int) -> None:
        """Raise TableError if the disk has a valid table for another sector size than its own."""
        for other in gpt.SECTOR_SIZES:
            if other != sector_size and self._examine(descriptor, other).trusted:
                raise TableError(
                    f"the partition table on {self.path} is for {other}-byte sectors; the disk has "
                    f"{sector_size}-byte sectors",
                    next_step=f"Write an image made for this disk (`repo-tools disk create --sector-size "
                    f"{sector_size}`), or attach it with `losetup --sector-size {other}`.",
                )

    def _examine(self, descriptor: int, sector_size: int) -> gpt.Examined:
        """Examine both copies, read with this sector size."""
        geometry = gpt.Geometry(sector_size, self._medium.size(descriptor) // sector_size)

        def read(extent: gpt.Extent) -> bytes:
            return self._medium.read_at(descriptor, extent.size, extent.offset)

        return gpt.examine(read, geometry)

    def _sector_sizes(self, descriptor: int) -> tuple[int, ...]:
        """Return the device's sector size; for a file, the sizes at which a header is found."""
        known = self._medium.sector_size(descriptor)
        if known:
            return (known,)
        sizes = tuple(size for size in gpt.SECTOR_SIZES if self._has_header(descriptor, size))
        return sizes or gpt.SECTOR_SIZES[:1]

    def _has_header(self, descriptor: int, sector_size: int) -> bool:
        """Whether there is a signature where the primary or the backup header should be."""
        last = self._medium.size(descriptor) // sector_size - 1
        offsets = (lba * sector_size for lba in (gpt.PRIMARY_LBA, last) if lba > 0)
        return any(gpt.has_signature(self._medium.read_at(descriptor, 8, offset)) for offset in offsets)


def _backup_first(examined: gpt.Examined, wanted: gpt.Pair) -> bool:
    """Whether the backup can be written first without touching the only valid copy."""
    old = examined.backup.table
    moves = old is not None and old.header.my_lba < wanted.backup.header.array_lba
    return examined.primary.table is not None or moves
