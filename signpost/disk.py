"""A disk's partition table: loaded from either copy, stored durably.

Rules it enforces:

* written under the disk's lock, after the table was read again and found as it was loaded;
* everything cached is flushed before the first write, so that what was read is also what would survive;
* one copy complete (entries, then header), flushed and read back before the other is touched; a copy that
  is bad goes first, so that the only valid one is never the one being written, else backup before primary;
* a repair is part of the same write: both copies are written from the trusted one;
* with nothing to change and nothing to repair, nothing is written; the protective MBR is never written (D26).

The kernel's own view of the partitions is not refreshed: it holds their places, sizes and GUIDs, none of
which change here, and it refuses to be refreshed while one of them is mounted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from signpost import gpt
from signpost.errors import DiskBusyError, ReadBackError, TableChangedError, TableError
from signpost.medium import opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from signpost.medium import Medium

LOCK_PATIENCE = 10.0
"""Seconds to wait for the disk's lock: udev holds it while it looks at a disk that somebody wrote to and
closed, and takes a second and more for that on a slow or busy machine."""

_LOCK_PAUSE = 0.02


class Loaded(NamedTuple):
    """The table as found on disk, and as it should be."""

    examined: gpt.Examined
    pair: gpt.Pair

    @property
    def table(self) -> gpt.Table:
        """The table that counts."""
        return self.examined.trusted or self.pair.primary

    @property
    def faults(self) -> tuple[str, ...]:
        """What a repair would put right."""
        return self.examined.faults


class Disk:
    """A block device or an image file with a GUID partition table.

    Args:
        medium: the door to storage.
        path: the device node or file.
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

    def store(self, loaded: Loaded, changes: Mapping[int, gpt.Entry], *, rewrite: bool = False) -> Loaded:
        """Write changed entries, and the repair of what was loaded, durably; return the table as it is then.

        Args:
            loaded: the table the changes were decided on.
            changes: new entries by index.
            rewrite: write both copies even when nothing changes.

        Raises:
            TableChangedError: the table on disk is not the loaded one any more.
            DiskBusyError: another program holds the disk's lock.
            ReadBackError: the disk does not give back what was written.
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
            for table in _in_order(loaded.examined, wanted):
                self._write_copy(descriptor, table)
            return self._read(descriptor)

    def _lock(self, descriptor: int) -> None:
        """Take the disk's lock, waiting a little for whoever holds it."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._medium.lock(descriptor)
            except DiskBusyError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_LOCK_PAUSE)

    def _write_copy(self, descriptor: int, table: gpt.Table) -> None:
        """Write one copy, flush it, and read it back from the medium."""
        for offset, data in table.writes():
            self._medium.write_at(descriptor, data, offset)
        self._medium.flush(descriptor)
        for offset, data in table.writes():
            self._medium.forget(descriptor, offset, len(data))  # and nothing that an update reads meanwhile
            if self._medium.read_at(descriptor, len(data), offset) != data:
                raise ReadBackError(f"{self.path}: {len(data)} bytes written at {offset} read back different")

    def _read(self, descriptor: int) -> Loaded:
        """Read both copies with the sector size that fits."""
        found = [self._examine(descriptor, size) for size in self._sector_sizes(descriptor)]
        trusted = [examined for examined in found if examined.trusted]
        if len(trusted) > 1:
            raise TableError(
                f"{self.path} holds a partition table for 512-byte and one for 4096-byte sectors",
                next_step="Attach it as a block device of its true sector size (`losetup --sector-size`).",
            )
        examined = (trusted or found)[0]
        try:
            return Loaded(examined, gpt.repair(examined))
        except TableError as error:
            raise TableError(f"{self.path}: {error}") from error

    def _examine(self, descriptor: int, sector_size: int) -> gpt.Examined:
        """Examine both copies as of this sector size."""
        geometry = gpt.Geometry(sector_size, self._medium.size(descriptor) // sector_size)

        def read(extent: gpt.Extent) -> bytes:
            return self._medium.read_at(descriptor, extent.size, extent.offset)

        return gpt.examine(read, geometry)

    def _sector_sizes(self, descriptor: int) -> tuple[int, ...]:
        """Return the device's sector size; a file has none, so there the sizes at which a header is found."""
        known = self._medium.sector_size(descriptor)
        if known:
            return (known,)
        sizes = tuple(size for size in gpt.SECTOR_SIZES if self._has_header(descriptor, size))
        return sizes or gpt.SECTOR_SIZES[:1]

    def _has_header(self, descriptor: int, sector_size: int) -> bool:
        """Whether the signature stands in the primary's or the backup's place."""
        last = self._medium.size(descriptor) // sector_size - 1
        places = (lba * sector_size for lba in (gpt.PRIMARY_LBA, last) if lba > 0)
        return any(gpt.has_signature(self._medium.read_at(descriptor, 8, place)) for place in places)


def _in_order(examined: gpt.Examined, wanted: gpt.Pair) -> Iterator[gpt.Table]:
    """Give both copies in the order of writing: never the only valid one first."""
    if examined.primary.table:
        yield wanted.backup
        yield wanted.primary
    else:
        yield wanted.primary
        yield wanted.backup
