"""The GUID partition table: decode and encode it, check both copies, choose the one to trust. PURE.

Rules it enforces (UEFI 2.10, chapter 5.3; each clause is cited above its check):

* the layout of a structure is written once, as a table of fields, and used in both directions; encoding what
  was decoded gives the same bytes, unknown bits and reserved bytes included;
* the two copies are examined independently, each with named faults; a copy with any fault is not trusted;
* if two valid copies differ, the primary is used, as firmware, kernel and bootloader do; the backup is
  written first, so a power cut between the two writes leaves the old state, never a mixture;
* without a valid copy nothing is repaired.

Units: an LBA counts sectors; offsets and sizes are bytes. A partition's number is its index plus one. *Array*
means the partition entry array; a *copy* is a header with its array.
"""

from __future__ import annotations

from binascii import crc32
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, NewType

from signpost.errors import LayoutError, TableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "ALIGNMENT",
    "SECTOR_SIZES",
    "UNUSED",
    "CopyName",
    "Examined",
    "Extent",
    "Geometry",
    "Guid",
    "Header",
    "NewPartition",
    "NewTable",
    "Pair",
    "PartitionEntry",
    "Table",
    "TableCopy",
    "TableFault",
    "examine",
    "guid",
    "guid_from_bytes",
    "guid_to_bytes",
    "new_table",
    "repair",
]

SECTOR_SIZES = (512, 4096)
"""Logical sector sizes in use: 512n and 512e disks, and 4Kn."""

ALIGNMENT = 1 << 20
"""Partitions start at multiples of 1 MiB, which suits every flash page and RAID stripe in use."""

MAX_ARRAY_BYTES = 1 << 20
"""Largest array to read: 64 times the usual size, so that a hostile header cannot exhaust the memory."""

PRIMARY_LBA = 1
"""LBA of the primary header (UEFI 5.3.2: "located in LBA 1")."""

Guid = NewType("Guid", str)
"""A GUID in canonical text form, lower case, as :func:`guid` returns it."""

UNUSED = Guid("00000000-0000-0000-0000-000000000000")
"""The partition type of an unused entry (UEFI Table 5-7)."""

_SIGNATURE = b"EFI PART"
_REVISION = 0x0001_0000
_MIN_ENTRY_BYTES = 128
_MIN_ARRAY_BYTES = 16384
_MAX_NAME_UNITS = 36


class Extent(NamedTuple):
    """A range of bytes of a disk."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte after the range."""
        return self.offset + self.size


class Geometry(NamedTuple):
    """The geometry of a disk: its sector size in bytes and its number of whole sectors."""

    sector_size: int
    sectors: int

    @property
    def last_lba(self) -> int:
        """LBA of the disk's last sector, where the backup header belongs (UEFI 5.3.2)."""
        return self.sectors - 1

    def sector(self, lba: int) -> Extent:
        """Return the extent of one sector, in bytes."""
        return Extent(lba * self.sector_size, self.sector_size)


# --- GUIDs -----------------------------------------------------------------------------------------

_GUID = Struct("<IHH8s")  # UEFI appendix A: three little-endian fields, then eight bytes


def guid(text: str) -> Guid:
    """Return the canonical form of a GUID in upper, lower or mixed case. Raises UsageError."""
    digits = text.replace("-", "")
    groups = [len(group) for group in text.split("-")]
    if groups != [8, 4, 4, 4, 12] or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise UsageError(f"not a GUID: {text!r}", next_step="Write it as 8-4-4-4-12 hexadecimal digits.")
    return Guid(text.lower())


def guid_from_bytes(data: bytes) -> Guid:
    """Decode the 16 bytes of a GUID on disk (UEFI appendix A, mixed-endian)."""
    first, second, third, rest = _GUID.unpack(data)
    return Guid(f"{first:08x}-{second:04x}-{third:04x}-{rest[:2].hex()}-{rest[2:].hex()}")


def guid_to_bytes(value: Guid) -> bytes:
    """Encode a GUID: the inverse of :func:`guid_from_bytes`."""
    first, second, third, fourth, fifth = value.split("-")
    return _GUID.pack(int(first, 16), int(second, 16), int(third, 16), bytes.fromhex(fourth + fifth))


# --- structures ------------------------------------------------------------------------------------


def _unchanged(value: Any) -> Any:
    """Numbers and raw bytes need no conversion."""
    return value


def _decode_name(data: bytes) -> str:
    """Decode 36 UTF-16 code units without trailing NULs. The rest is kept, lone surrogates included."""
    return data.decode("utf-16-le", "surrogatepass").rstrip("\0")


def _encode_name(name: str) -> bytes:
    """Encode a name; the structure pads it with NULs."""
    return name.encode("utf-16-le", "surrogatepass")


class _Field:
    """One field of a structure: attribute name, struct code, and how to convert its value."""

    __slots__ = ("code", "decode", "encode", "name")

    def __init__(
        self,
        name: str,
        code: str,
        decode: Callable[[Any], Any] = _unchanged,
        encode: Callable[[Any], Any] = _unchanged,
    ) -> None:
        self.name, self.code, self.decode, self.encode = name, code, decode, encode


class _Structure:
    """Little-endian fields in order. The bytes after them are the structure's tail, which is kept."""

    def __init__(self, *fields: _Field) -> None:
        self._fields = fields
        self._struct = Struct("<" + "".join(field.code for field in fields))
        self.size = self._struct.size

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return the values of all fields by name, and the tail."""
        raw = self._struct.unpack_from(data)
        values = {field.name: field.decode(item) for field, item in zip(self._fields, raw, strict=True)}
        return values | {"tail": data[self.size :]}

    def encode(self, value: Header | PartitionEntry) -> bytes:
        """Return the bytes of all fields and the tail: the inverse of :meth:`decode`."""
        items = (field.encode(getattr(value, field.name)) for field in self._fields)
        return self._struct.pack(*items) + value.tail


# UEFI Table 5-5, GPT Header; the comments give the mnemonics that differ.
_HEADER = _Structure(
    _Field("signature", "8s"),
    _Field("revision", "I"),
    _Field("header_size", "I"),
    _Field("header_crc", "I"),  # HeaderCRC32
    _Field("reserved", "I"),
    _Field("my_lba", "Q"),
    _Field("alternate_lba", "Q"),
    _Field("first_usable_lba", "Q"),
    _Field("last_usable_lba", "Q"),
    _Field("disk_guid", "16s", guid_from_bytes, guid_to_bytes),
    _Field("array_lba", "Q"),  # PartitionEntryLBA
    _Field("entry_count", "I"),  # NumberOfPartitionEntries
    _Field("entry_size", "I"),  # SizeOfPartitionEntry
    _Field("array_crc", "I"),  # PartitionEntryArrayCRC32
)

# UEFI Table 5-6, GPT Partition Entry; the comments give the mnemonics that differ.
_ENTRY = _Structure(
    _Field("type", "16s", guid_from_bytes, guid_to_bytes),  # PartitionTypeGUID
    _Field("guid", "16s", guid_from_bytes, guid_to_bytes),  # UniquePartitionGUID
    _Field("first_lba", "Q"),  # StartingLBA
    _Field("last_lba", "Q"),  # EndingLBA
    _Field("attributes", "Q"),
    _Field("name", "72s", _decode_name, _encode_name),  # PartitionName
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One GPT header with the rest of its sector (UEFI Table 5-5). LBAs count sectors."""

    signature: bytes
    revision: int
    header_size: int
    header_crc: int
    reserved: int
    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: Guid
    array_lba: int
    entry_count: int
    entry_size: int
    array_crc: int
    tail: bytes

    @classmethod
    def from_bytes(cls, sector: bytes) -> Header:
        """Decode a whole sector. Any bytes are accepted; :func:`examine` checks whether they are a header."""
        return cls(**_HEADER.decode(sector))

    def to_bytes(self) -> bytes:
        """Encode the whole sector: the inverse of :meth:`from_bytes`."""
        return _HEADER.encode(self)

    def expected_crc(self) -> int:
        """Return the right ``header_crc``: CRC-32 of ``header_size`` bytes, this field zero (Table 5-5)."""
        return crc32(replace(self, header_crc=0).to_bytes()[: self.header_size])

    @property
    def array_bytes(self) -> int:
        """The size of the partition entry array in bytes."""
        return self.entry_count * self.entry_size


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionEntry:
    """One partition entry (UEFI Table 5-6). LBAs count sectors; ``last_lba`` is inclusive."""

    type: Guid = UNUSED
    guid: Guid = UNUSED
    first_lba: int = 0
    last_lba: int = 0
    attributes: int = 0
    name: str = ""
    tail: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> PartitionEntry:
        """Decode one entry of 128 or more bytes."""
        return cls(**_ENTRY.decode(data))

    def to_bytes(self) -> bytes:
        """Encode the entry: the inverse of :meth:`from_bytes`."""
        return _ENTRY.encode(self)

    @property
    def used(self) -> bool:
        """Whether this is a partition (UEFI Table 5-6: the type GUID of an unused entry is zero)."""
        return self.type != UNUSED

    @property
    def label(self) -> str:
        """The name up to its first NUL, for display; invalid UTF-16 becomes U+FFFD."""
        shown = self.name.partition("\0")[0]
        return _encode_name(shown).decode("utf-16-le", "replace")


class Table(NamedTuple):
    """A header and the entries it describes: one copy of the partition table."""

    header: Header
    entries: tuple[PartitionEntry, ...]

    @classmethod
    def from_bytes(cls, sector: bytes, array: bytes) -> Table:
        """Decode a header's sector and its array of ``entry_count`` entries of ``entry_size`` bytes."""
        header = Header.from_bytes(sector)
        size = header.entry_size
        blank, unused = bytes(size), PartitionEntry.from_bytes(bytes(size))
        pieces = (array[start : start + size] for start in range(0, header.array_bytes, size))
        entries = (unused if piece == blank else PartitionEntry.from_bytes(piece) for piece in pieces)
        return cls(header, tuple(entries))

    def array(self) -> bytes:
        """Encode the partition entry array."""
        return b"".join(entry.to_bytes() for entry in self.entries)

    def with_entries(self, changes: Mapping[int, PartitionEntry]) -> Table:
        """Return this table with entries replaced, by index, and both CRCs updated."""
        entries = (changes.get(index, entry) for index, entry in enumerate(self.entries))
        return self._replace(entries=tuple(entries)).with_crcs()

    def with_crcs(self) -> Table:
        """Return this table with both CRCs computed again, the array's first: the header contains it."""
        header = replace(self.header, array_crc=crc32(self.array()))
        return self._replace(header=replace(header, header_crc=header.expected_crc()))

    @property
    def sector_size(self) -> int:
        """The sector size in bytes; a header and its tail fill one sector."""
        return _HEADER.size + len(self.header.tail)

    def extent(self, index: int) -> Extent:
        """Return the extent of the partition of the entry ``index``, in bytes."""
        entry = self.entries[index]
        sectors = entry.last_lba - entry.first_lba + 1
        return Extent(entry.first_lba * self.sector_size, sectors * self.sector_size)

    def extents(self) -> dict[int, Extent]:
        """Return the extent of every partition, in bytes, by partition number."""
        return {index + 1: self.extent(index) for index, entry in enumerate(self.entries) if entry.used}

    def writes(self) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """Return offset and bytes of the two writes that store this copy: the array, then the header."""
        size = self.sector_size
        array = (self.header.array_lba * size, self.array())
        return array, (self.header.my_lba * size, self.header.to_bytes())


# --- examining -------------------------------------------------------------------------------------


class CopyName(StrEnum):
    """The two copies of the table."""

    PRIMARY = "primary"
    BACKUP = "backup"


class TableFault(StrEnum):
    """Why a copy is not trusted, or why the two copies need a repair."""

    SHORT = "the disk ends before the header's sector"
    SIGNATURE = "no GPT signature"
    HEADER_SIZE = "invalid header size"
    HEADER_CRC = "wrong header CRC"
    REVISION = "unknown GPT revision"
    MY_LBA = "MyLBA is not the header's own sector"
    ALTERNATE = "AlternateLBA is not the primary header's sector"
    ENTRY_SHAPE = "invalid size or number of partition entries"
    USABLE = "the usable sectors do not fit the disk"
    ARRAY_PLACE = "the partition entry array is in the wrong place"
    ARRAY_CRC = "wrong CRC of the partition entry array"
    RANGE = "a partition is outside the usable sectors"
    OVERLAP = "partitions overlap"
    FOREIGN = "it belongs to another disk's table"
    DIFFER = "the copies differ; the primary is used"
    NOT_AT_END = "the backup header is not at the end of the disk"


class TableCopy(NamedTuple):
    """One copy as found on disk: the header's LBA, the bytes, the faults.

    ``header`` is set if the header itself is valid, ``table`` if the whole copy is.
    """

    name: CopyName
    lba: int
    sector: bytes
    array: bytes = b""
    header: Header | None = None
    table: Table | None = None
    faults: tuple[TableFault, ...] = ()


class Pair(NamedTuple):
    """Both copies of the table, as they should be on disk."""

    primary: Table
    backup: Table

    def with_entries(self, changes: Mapping[int, PartitionEntry]) -> Pair:
        """Return both copies with entries replaced, by index."""
        return Pair(self.primary.with_entries(changes), self.backup.with_entries(changes))


class Examined(NamedTuple):
    """Both copies as found on a disk of ``geometry``."""

    primary: TableCopy
    backup: TableCopy
    geometry: Geometry

    @property
    def trusted(self) -> Table | None:
        """The table to use: the primary if it is valid, else the backup if that is valid."""
        return self.primary.table or self.backup.table

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that :func:`repair` would fix, in words; empty if the table is sound."""
        copies = (f"{copy.name}: {fault}" for copy in (self.primary, self.backup) for fault in copy.faults)
        return (*copies, *_faults_between(self))


def examine(read: Callable[[Extent], bytes], geometry: Geometry) -> Examined:
    """Examine both copies of a disk, each by itself.

    The backup is the one that the primary header names (UEFI 5.3.2, AlternateLBA): at the end of the disk, or
    where the end was before the disk grew (D21). What else is at the end is only used if it belongs to the
    same table: a larger disk may still have the backup of an older system there.

    Args:
        read: returns the bytes of an extent, fewer at the end of the disk.
        geometry: the disk's sector size and length.
    """
    primary = _examine_copy(read, CopyName.PRIMARY, PRIMARY_LBA, geometry)
    at_end = _examine_copy(read, CopyName.BACKUP, geometry.last_lba, geometry)
    if len(primary.sector) < _HEADER.size or not has_signature(primary.sector):
        return Examined(primary, at_end, geometry)  # there is nothing to compare it with
    # Of a damaged header the fields are only hints: what is found there must be valid by itself.
    named = Header.from_bytes(primary.sector)
    if PRIMARY_LBA < named.alternate_lba < geometry.last_lba:
        moved = _examine_copy(read, CopyName.BACKUP, named.alternate_lba, geometry)
        if moved.table and (primary.header is None or _same_disk(moved.table, named)):
            return Examined(primary, moved, geometry)
    # In a header that is damaged or half written, zeros say nothing.
    unsaid = primary.header is None and (
        named.alternate_lba in {0, geometry.last_lba} or named.disk_guid == UNUSED
    )
    if at_end.table and not unsaid and not _same_disk(at_end.table, named):
        at_end = TableCopy(CopyName.BACKUP, at_end.lba, at_end.sector, faults=(TableFault.FOREIGN,))
    return Examined(primary, at_end, geometry)


def _same_disk(table: Table, header: Header) -> bool:
    """Whether a table and a header have the same disk GUID (UEFI table 5-5: it identifies the disk)."""
    return table.header.disk_guid == header.disk_guid


def _examine_copy(read: Callable[[Extent], bytes], name: CopyName, lba: int, geometry: Geometry) -> TableCopy:
    """Examine the copy whose header should be at ``lba``; its array is only read if the header is valid."""
    sector = read(geometry.sector(lba)) if lba >= PRIMARY_LBA else b""
    if len(sector) < geometry.sector_size:
        return TableCopy(name, lba, sector, faults=(TableFault.SHORT,))
    header = Header.from_bytes(sector)
    faults = _integrity_faults(header, len(sector)) or tuple(_field_faults(header, name, lba, geometry))
    if faults:
        return TableCopy(name, lba, sector, faults=faults)
    array = read(Extent(header.array_lba * geometry.sector_size, header.array_bytes))
    copy = TableCopy(name, lba, sector, array, header)
    # 5.3.2: "Check the CRC of the GUID Partition Entry Array" (D17).
    if crc32(array) != header.array_crc:
        return copy._replace(faults=(TableFault.ARRAY_CRC,))
    table = Table.from_bytes(sector, array)
    faults = tuple(_partition_faults(table))
    return copy._replace(faults=faults, table=None if faults else table)


def _integrity_faults(header: Header, sector_size: int) -> tuple[TableFault, ...]:
    """Check that this is an undamaged header; before that, its other fields mean nothing."""
    # Table 5-5, Signature: "must contain the ASCII string 'EFI PART'".
    if header.signature != _SIGNATURE:
        return (TableFault.SIGNATURE,)
    # Table 5-5, HeaderSize: at least 92 and no larger than the logical block size.
    if not _HEADER.size <= header.header_size <= sector_size:
        return (TableFault.HEADER_SIZE,)
    # 5.3.2: "Check the CRC of the GPT Header".
    if header.header_crc != header.expected_crc():
        return (TableFault.HEADER_CRC,)
    return ()


def _field_faults(header: Header, name: CopyName, lba: int, geometry: Geometry) -> Iterable[TableFault]:
    """Check the fields of an undamaged header; yield all faults."""
    # Table 5-5, Revision: 1.0; a later major version may have another layout.
    if header.revision >> 16 != _REVISION >> 16:
        yield TableFault.REVISION
    # 5.3.2: "Check that the MyLBA entry points to the LBA that contains the GPT Header" (D22).
    if header.my_lba != lba:
        yield TableFault.MY_LBA
    # Table 5-5, AlternateLBA: in the backup header, the LBA of the primary header.
    if name is CopyName.BACKUP and header.alternate_lba != PRIMARY_LBA:
        yield TableFault.ALTERNATE
    # Table 5-5, FirstUsableLBA and LastUsableLBA: the usable sectors are on the disk.
    if not header.first_usable_lba <= header.last_usable_lba + 1 <= geometry.sectors:
        yield TableFault.USABLE
    # Table 5-5, SizeOfPartitionEntry: "a value of 128 x 2^n".
    size = header.entry_size
    power_of_two = size & (size - 1) == 0
    if size < _MIN_ENTRY_BYTES or not power_of_two or not 0 < header.array_bytes <= MAX_ARRAY_BYTES:
        yield TableFault.ENTRY_SHAPE
    elif not _array_in_place(header, name, geometry.sector_size):
        yield TableFault.ARRAY_PLACE


def _array_in_place(header: Header, name: CopyName, sector_size: int) -> bool:
    """Whether the array is between its header and the usable sectors."""
    end = header.array_lba + _array_sectors(header, sector_size)
    # Table 5-5, FirstUsableLBA: after the primary header and its array.
    if name is CopyName.PRIMARY:
        return header.array_lba > PRIMARY_LBA and end <= header.first_usable_lba
    # 5.3.1: the backup's array is after the last usable sector and before the backup header.
    return header.array_lba > header.last_usable_lba and end <= header.my_lba


def _array_sectors(header: Header, sector_size: int) -> int:
    """Return the number of sectors that the array occupies."""
    return -(-header.array_bytes // sector_size)


def _partition_faults(table: Table) -> Iterable[TableFault]:
    """Check where the partitions are; yield all faults."""
    spans = sorted((entry.first_lba, entry.last_lba) for entry in table.entries if entry.used)
    first, last = table.header.first_usable_lba, table.header.last_usable_lba
    # Table 5-6, StartingLBA and EndingLBA: within the usable sectors, the end not before the start.
    if any(not first <= start <= end <= last for start, end in spans):
        yield TableFault.RANGE
    # 5.3.1: "GPT partitions do not overlap".
    if any(following[0] <= span[1] for span, following in pairwise(spans)):
        yield TableFault.OVERLAP


def _faults_between(examined: Examined) -> Iterable[str]:
    """Compare the two copies; yield the faults that neither has by itself."""
    primary, backup = examined.primary.table, examined.backup.table
    if primary and backup and _common_part(primary) != _common_part(backup):
        yield str(TableFault.DIFFER)
    # 5.3.2: when a volume has grown, its backup header must be moved to the new end (D21).
    ends = {examined.geometry.last_lba}
    ends |= {primary.header.alternate_lba} if primary else set()
    ends |= {backup.header.my_lba} if backup else set()
    if len(ends) > 1:
        yield f"{TableFault.NOT_AT_END} (sector {min(ends)}, not {max(ends)})"


def _common_part(table: Table) -> tuple[object, ...]:
    """Return what both copies of a sound table have in common: everything but their own positions."""
    header = table.header
    usable = (header.first_usable_lba, header.last_usable_lba)
    return (header.revision, header.disk_guid, usable, header.entry_size, table.entries)


def has_signature(data: bytes) -> bool:
    """Whether a sector starts with the signature of a GPT header."""
    return data.startswith(_SIGNATURE)


# --- repairing -------------------------------------------------------------------------------------


def repair(examined: Examined) -> Pair:
    """Return both copies as they should be. Those of a sound table are the ones on disk, bit for bit.

    Both copies are made from the trusted one. The backup is placed at the end of the disk; if the disk has
    grown, the usable sectors grow with it (UEFI 5.3.2). Raises TableError if neither copy is valid (D23), or
    if there is no room for the other copy.
    """
    primary, backup = examined.primary.table, examined.backup.table
    if primary and backup and not examined.faults:
        return Pair(primary, backup)
    trusted = examined.trusted
    if trusted is None:
        raise TableError("both copies of the partition table are invalid: " + "; ".join(examined.faults))
    arrays = _primary_array_lba(examined, trusted.header), _backup_array_lba(examined, trusted.header)
    last_lba, last_usable = examined.geometry.last_lba, trusted.header.last_usable_lba
    old_last_lba = trusted.header.alternate_lba if primary else trusted.header.my_lba
    if old_last_lba < last_lba:  # the disk has grown
        last_usable = arrays[1] - 1
    return _pair_at(trusted, arrays, last_usable, last_lba)


def _primary_array_lba(examined: Examined, trusted: Header) -> int:
    """Return the LBA for the primary's array: the one in a valid primary header, else LBA 2."""
    header, size = examined.primary.header, _array_sectors(trusted, examined.geometry.sector_size)
    places = [header.array_lba] if header else []
    for place in (*places, PRIMARY_LBA + 1):
        if place + size <= trusted.first_usable_lba:
            return place
    raise TableError("there is no room for the primary copy of the partition table before the partitions")


def _backup_array_lba(examined: Examined, trusted: Header) -> int:
    """Return the LBA for the backup's array: the one in a valid header at the end, else before that."""
    sector_size, last_lba = examined.geometry.sector_size, examined.geometry.last_lba
    header, size = examined.backup.header, _array_sectors(trusted, sector_size)
    places = [header.array_lba] if header and header.my_lba == last_lba else []
    for place in (*places, last_lba - _reserved_sectors(trusted.array_bytes, sector_size), last_lba - size):
        if trusted.last_usable_lba < place <= last_lba - size:
            return place
    raise TableError("there is no room for the backup copy of the partition table at the end of the disk")


def _reserved_sectors(array_bytes: int, sector_size: int) -> int:
    """Return the number of sectors to reserve for an array."""
    # 5.3.1: "a minimum of 16,384 bytes ... must be reserved for the GPT Partition Entry Array".
    return -(-max(array_bytes, _MIN_ARRAY_BYTES) // sector_size)


def _pair_at(trusted: Table, arrays: tuple[int, int], last_usable: int, last_lba: int) -> Pair:
    """Make both copies of a table, with their arrays at these LBAs."""
    common = replace(trusted.header, last_usable_lba=last_usable)
    primary = replace(common, my_lba=PRIMARY_LBA, alternate_lba=last_lba, array_lba=arrays[0])
    backup = replace(common, my_lba=last_lba, alternate_lba=PRIMARY_LBA, array_lba=arrays[1])
    return Pair(trusted._replace(header=primary).with_crcs(), trusted._replace(header=backup).with_crcs())


# --- making ----------------------------------------------------------------------------------------


class NewPartition(NamedTuple):
    """A partition to create. ``size`` is in bytes; ``attributes`` are the 64 bits of its entry."""

    type: Guid
    guid: Guid
    size: int
    name: str
    attributes: int = 0


class NewTable(NamedTuple):
    """A new table: the sector of the protective MBR, and both copies."""

    protective_mbr: bytes
    pair: Pair

    def writes(self) -> tuple[tuple[int, bytes], ...]:
        """Return offset and bytes of all writes that put the table on an empty disk."""
        return ((0, self.protective_mbr), *self.pair.backup.writes(), *self.pair.primary.writes())


def new_table(
    partitions: Sequence[NewPartition],
    *,
    disk_size: int,
    disk_guid: Guid,
    sector_size: int = 512,
    entry_count: int = 128,
    entry_size: int = _MIN_ENTRY_BYTES,
) -> NewTable:
    """Make the table of an empty disk. The partitions follow one another, each aligned to 1 MiB.

    Args:
        partitions: in table order; the first is partition number 1.
        disk_size: bytes; a rest after the last whole sector stays unused.
        disk_guid: the GUID of the disk.
        sector_size: 512 or 4096 bytes.
        entry_count: the number of entries in the partition entry array.
        entry_size: bytes of one entry, 128 times a power of two.

    Raises:
        LayoutError: the partitions do not fit.
        UsageError: a partition has no size, or a name of more than 36 UTF-16 code units.
    """
    last_lba = disk_size // sector_size - 1
    reserved = _reserved_sectors(entry_count * entry_size, sector_size)
    header = Header(
        signature=_SIGNATURE,
        revision=_REVISION,
        header_size=_HEADER.size,
        header_crc=0,
        reserved=0,
        my_lba=PRIMARY_LBA,
        alternate_lba=last_lba,
        first_usable_lba=PRIMARY_LBA + 1 + reserved,
        last_usable_lba=last_lba - reserved - 1,
        disk_guid=disk_guid,
        array_lba=PRIMARY_LBA + 1,
        entry_count=entry_count,
        entry_size=entry_size,
        array_crc=0,
        tail=bytes(sector_size - _HEADER.size),
    )
    table = Table(header=header, entries=_new_entries(partitions, header, sector_size))
    arrays = (header.array_lba, last_lba - reserved)
    pair = _pair_at(table, arrays, header.last_usable_lba, last_lba)
    return NewTable(protective_mbr(Geometry(sector_size, last_lba + 1)), pair)


def _new_entries(
    partitions: Sequence[NewPartition], header: Header, sector_size: int
) -> tuple[PartitionEntry, ...]:
    """Place the partitions one after the other and fill the array with unused entries."""
    tail, step = bytes(header.entry_size - _MIN_ENTRY_BYTES), ALIGNMENT // sector_size
    entries, free = [], header.first_usable_lba
    for partition in partitions:
        first = -(-free // step) * step
        free = first + -(-partition.size // sector_size)
        entries.append(_new_entry(partition, first, free - 1, tail))
    if free - 1 > header.last_usable_lba or len(entries) > header.entry_count:
        raise LayoutError(
            f"the partitions need {free} sectors and {len(entries)} table entries; "
            f"the disk has {header.last_usable_lba + 1} and {header.entry_count}",
            next_step="Make the disk larger or the partitions smaller.",
        )
    return (*entries, *[PartitionEntry(tail=tail)] * (header.entry_count - len(entries)))


def _new_entry(partition: NewPartition, first: int, last: int, tail: bytes) -> PartitionEntry:
    """Return the entry of a partition at these sectors. Raises UsageError."""
    # Table 5-6, PartitionName: 72 bytes, 36 UTF-16 code units.
    if len(_encode_name(partition.name)) > 2 * _MAX_NAME_UNITS:
        raise UsageError(
            f"partition name too long: {partition.name!r}", next_step="Use at most 36 characters."
        )
    if partition.size <= 0:
        raise UsageError(f"partition {partition.name!r} has no size", next_step="State its size in bytes.")
    return PartitionEntry(
        type=partition.type,
        guid=partition.guid,
        first_lba=first,
        last_lba=last,
        attributes=partition.attributes,
        name=partition.name,
        tail=tail,
    )


# UEFI Table 5-3, Protective MBR: boot code, one record of type 0xEE for the whole disk, signature.
_MBR = Struct("<446xB3sB3sII48x2s")


def protective_mbr(geometry: Geometry) -> bytes:
    """Return the sector that prevents older tools from taking the disk for an empty one (UEFI 5.2.3)."""
    # Table 5-4, SizeInLBA: the disk's size minus one, or 0xFFFFFFFF if that is too large.
    size = min(geometry.last_lba, 0xFFFF_FFFF)
    record = _MBR.pack(0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", PRIMARY_LBA, size, b"\x55\xaa")
    return record.ljust(geometry.sector_size, b"\0")
