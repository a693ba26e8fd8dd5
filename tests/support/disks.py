"""Small disks with real partition tables, as bytes, and ways to damage them.

A disk has 8-sector partitions without the product's 1 MiB alignment, so that thousands are tested per second.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from signpost import gpt, gptprio, sets
from signpost.gptprio import Flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RUNNING = Flags(priority=1, successful=True)
LENGTH = 8
SLOT = (sets.BOOT, sets.ROOT, sets.HASH)
TWO_SLOTS = (*SLOT, *SLOT, sets.PRIVATE)
BOOT_A, BOOT_B, PRIVATE = 0, 3, 6
STRANGE_BITS = 1 << 63 | 1 << 60 | 1 << 58 | 1 << 47 | 1 << 2 | 1


class Shape(NamedTuple):
    """The form of a table: sector size, number and size of entries."""

    sector_size: int = 512
    entry_count: int = 128
    entry_size: int = 128


PLAIN = Shape()
SHAPES = {
    "512": PLAIN,
    "4096": Shape(sector_size=4096),
    "256-entries": Shape(entry_count=256),
    "5-sector-array": Shape(entry_count=9, entry_size=256),
    "256-byte-entries": Shape(entry_size=256),
    "4096-512-byte-entries": Shape(sector_size=4096, entry_count=36, entry_size=512),
}


def guid(number: int) -> gpt.Guid:
    """Return a GUID that is always the same for a number."""
    return gpt.guid(f"{number:08x}-89ab-4def-8123-456789abcdef")


def make_disk(
    flags: Sequence[Flags] = (RUNNING, Flags()),
    *,
    types: Sequence[gpt.Guid] = TWO_SLOTS,
    shape: Shape = PLAIN,
    labels: Sequence[str] = (),
    strange_bits: int = STRANGE_BITS,
    ever_booted: bool = False,
) -> bytes:
    """Return a disk.

    Args:
        flags: of the BOOT partitions, in table order.
        types: of the partitions, in table order.
        shape: of the table.
        labels: of the partitions; numbered if not given.
        strange_bits: bits set in every entry besides the flags.
        ever_booted: whether bit 57 is set on PRIVATE.
    """
    array_sectors = -(-max(shape.entry_count * shape.entry_size, 16384) // shape.sector_size)
    sectors = 2 * array_sectors + 3 + LENGTH * (len(types) + 1)
    fresh = gpt.new_table(
        (),
        disk_size=sectors * shape.sector_size,
        disk_guid=guid(999),
        sector_size=shape.sector_size,
        entry_count=shape.entry_count,
        entry_size=shape.entry_size,
    )
    start = fresh.pair.primary.header.first_usable_lba
    entries, left = {}, list(flags)
    for index, type_ in enumerate(types):
        bits = gptprio.with_flags(strange_bits, left.pop(0)) if type_ == sets.BOOT else strange_bits
        if type_ == sets.PRIVATE:
            bits = gptprio.with_ever_booted(strange_bits, value=ever_booted)
        entries[index] = gpt.PartitionEntry(
            type=type_,
            guid=guid(index),
            first_lba=start + index * LENGTH,
            last_lba=start + index * LENGTH + LENGTH - 1,
            attributes=bits,
            name=labels[index] if labels else f"partition {index + 1}",
            tail=b"\x5a" * (shape.entry_size - 128),
        )
    pair = fresh.pair.with_entries(entries)
    return write_all(fresh.protective_mbr.ljust(sectors * shape.sector_size, b"\0"), pair)


def write_all(disk: bytes, pair: gpt.Pair) -> bytes:
    """Return the disk with both copies of a table on it."""
    for table in pair:
        for offset, data in table.writes():
            disk = put(disk, offset, data)
    return disk


def put(disk: bytes, offset: int, data: bytes) -> bytes:
    """Return the disk with these bytes at an offset; from the end of the disk if that is negative."""
    start = offset if offset >= 0 else len(disk) + offset
    return disk[:start] + data + disk[start + len(data) :]


def flip(disk: bytes, offset: int) -> bytes:
    """Return the disk with one bit inverted."""
    return put(disk, offset, bytes([disk[offset] ^ 0x10]))


def examine(disk: bytes, sector_size: int = 512) -> gpt.Examined:
    """Examine a disk in memory."""
    geometry = gpt.Geometry(sector_size, len(disk) // sector_size)
    return gpt.examine(lambda extent: disk[extent.offset : extent.end], geometry)


def trusted(disk: bytes, sector_size: int = 512) -> gpt.Table:
    """Return the trusted table of a disk, which must have one."""
    table = examine(disk, sector_size).trusted
    assert table is not None
    return table


def raw_attributes(disk: bytes, index: int, *, array: int, entry_size: int = 128) -> int:
    """Read an entry's attributes directly from the bytes, without any code of the product."""
    return int(struct.unpack_from("<Q", disk, array + index * entry_size + 48)[0])


def raw_flags(attributes: int) -> tuple[int, int, bool]:
    """Read priority, tries and successful directly from the bits."""
    return attributes >> 48 & 15, attributes >> 52 & 15, bool(attributes >> 56 & 1)


def boot_flags(table: gpt.Table) -> list[Flags]:
    """Return the flags of the BOOT partitions, in table order."""
    return [gptprio.flags(entry.attributes) for entry in table.entries if entry.type == sets.BOOT]


def boots(flags: Iterable[Flags]) -> tuple[gpt.PartitionEntry, ...]:
    """Return entries of BOOT partitions with these flags."""
    return tuple(gpt.PartitionEntry(type=sets.BOOT, attributes=gptprio.with_flags(0, each)) for each in flags)


def with_header(disk: bytes, which: gpt.CopyName, **fields: object) -> bytes:
    """Return the disk with fields of one header changed and its CRC corrected."""
    found = examine(disk)
    copy = found.primary if which is gpt.CopyName.PRIMARY else found.backup
    assert copy.header is not None
    header = replace(copy.header, **fields)  # type: ignore[arg-type]
    return put(disk, copy.lba * 512, replace(header, header_crc=header.expected_crc()).to_bytes())
