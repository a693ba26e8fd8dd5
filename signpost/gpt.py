"""The GUID partition table: bytes to values and back, and which copy to trust. PURE.

Rules it enforces (UEFI 2.10, chapter 5.3; each clause stands above its check):

* a structure's layout is written once, as a table of fields; reading and printing both come from it, and
  printing what was read gives the same bytes, unknown bits and reserved bytes included;
* the two copies are examined independently, each with named faults; a copy with any fault is not trusted;
* of two valid copies that differ the primary counts, as for firmware, kernel and bootloader; the table is
  written backup first, so a cut in between leaves the old state, never a mixture;
* with no valid copy there is nothing to repair from, and nothing is.

Units: an LBA counts sectors; offsets and sizes are bytes. A partition's number is its index plus one.
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

SECTOR_SIZES = (512, 4096)
"""Logical sector sizes in use: 512n and 512e disks, and 4Kn."""

ALIGNMENT = 1 << 20
"""Partitions start at multiples of 1 MiB, which suits every flash page and RAID stripe in use."""

MAX_ARRAY_BYTES = 1 << 20
"""Most bytes of entries to read: 64 times the usual array; a hostile header must not fill the memory."""

PRIMARY_LBA = 1
"""The primary header's place (UEFI 5.3.2: "located in LBA 1")."""

Guid = NewType("Guid", str)
"""A GUID in its canonical text form, lower case: the result of :func:`guid`."""

UNUSED = Guid("00000000-0000-0000-0000-000000000000")
"""The type of an entry that is not in use (UEFI Table 5-7)."""

_SIGNATURE = b"EFI PART"
_REVISION = 0x0001_0000
_LEAST_ENTRY = 128
_LEAST_ARRAY = 16384
_NAME_UNITS = 36


class Extent(NamedTuple):
    """A range of bytes of a disk."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte after the range."""
        return self.offset + self.size


class Geometry(NamedTuple):
    """What a table is measured against: the sector size in bytes and the number of whole sectors."""

    sector_size: int
    sectors: int

    @property
    def last_lba(self) -> int:
        """The disk's last sector, where the backup header belongs (UEFI 5.3.2)."""
        return self.sectors - 1

    def sector(self, lba: int) -> Extent:
        """Where one sector lies, in bytes."""
        return Extent(lba * self.sector_size, self.sector_size)


# --- GUIDs -----------------------------------------------------------------------------------------

_GUID = Struct("<IHH8s")  # UEFI appendix A: the first three fields are little-endian, the rest is bytes


def guid(text: str) -> Guid:
    """Return the canonical form of a GUID written in any case. Raises UsageError."""
    digits = text.replace("-", "")
    groups = [len(group) for group in text.split("-")]
    if groups != [8, 4, 4, 4, 12] or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise UsageError(f"not a GUID: {text!r}", next_step="Write it as 8-4-4-4-12 hexadecimal digits.")
    return Guid(text.lower())


def guid_from_bytes(data: bytes) -> Guid:
    """Read the 16 bytes of a GUID as they stand on disk (UEFI appendix A, mixed-endian)."""
    first, second, third, rest = _GUID.unpack(data)
    return Guid(f"{first:08x}-{second:04x}-{third:04x}-{rest[:2].hex()}-{rest[2:].hex()}")


def guid_to_bytes(value: Guid) -> bytes:
    """Print a GUID as it stands on disk: the inverse of :func:`guid_from_bytes`."""
    first, second, third, fourth, fifth = value.split("-")
    return _GUID.pack(int(first, 16), int(second, 16), int(third, 16), bytes.fromhex(fourth + fifth))


# --- layouts ---------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    """Numbers and raw bytes are kept as they are."""
    return value


def _name_from_bytes(data: bytes) -> str:
    """Read 36 UTF-16 units; trailing NULs go, everything else stays, lone surrogates included."""
    return data.decode("utf-16-le", "surrogatepass").rstrip("\0")


def _name_to_bytes(name: str) -> bytes:
    """Print a name; the layout pads it with NULs."""
    return name.encode("utf-16-le", "surrogatepass")


class _Field:
    """One field of a structure: its attribute, its struct code, and how its value reads and prints."""

    __slots__ = ("code", "name", "read", "show")

    def __init__(
        self, name: str, code: str, read: Callable[[Any], Any] = _same, show: Callable[[Any], Any] = _same
    ) -> None:
        self.name, self.code, self.read, self.show = name, code, read, show


class _Layout:
    """Little-endian fields in order; what follows them is the structure's tail and is kept as bytes."""

    def __init__(self, *fields: _Field) -> None:
        self._fields = fields
        self._struct = Struct("<" + "".join(field.code for field in fields))
        self.size = self._struct.size

    def values(self, data: bytes) -> dict[str, Any]:
        """Read every field, and the tail."""
        raw = self._struct.unpack_from(data)
        values = {field.name: field.read(item) for field, item in zip(self._fields, raw, strict=True)}
        return values | {"tail": data[self.size :]}

    def data(self, value: Header | Entry) -> bytes:
        """Print every field, and the tail."""
        items = (field.show(getattr(value, field.name)) for field in self._fields)
        return self._struct.pack(*items) + value.tail


# UEFI Table 5-5, GPT Header.
_HEADER = _Layout(
    _Field("signature", "8s"),
    _Field("revision", "I"),
    _Field("header_size", "I"),
    _Field("header_crc", "I"),
    _Field("reserved", "I"),
    _Field("my_lba", "Q"),
    _Field("alternate_lba", "Q"),
    _Field("first_usable_lba", "Q"),
    _Field("last_usable_lba", "Q"),
    _Field("disk_guid", "16s", guid_from_bytes, guid_to_bytes),
    _Field("entries_lba", "Q"),
    _Field("entry_count", "I"),
    _Field("entry_size", "I"),
    _Field("entries_crc", "I"),
)

# UEFI Table 5-6, GPT Partition Entry.
_ENTRY = _Layout(
    _Field("type", "16s", guid_from_bytes, guid_to_bytes),
    _Field("unique", "16s", guid_from_bytes, guid_to_bytes),
    _Field("first_lba", "Q"),
    _Field("last_lba", "Q"),
    _Field("attributes", "Q"),
    _Field("name", "72s", _name_from_bytes, _name_to_bytes),
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
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int
    tail: bytes

    @classmethod
    def from_bytes(cls, sector: bytes) -> Header:
        """Read a whole sector. Any bytes are read; :func:`examine` says whether they are a header."""
        return cls(**_HEADER.values(sector))

    def to_bytes(self) -> bytes:
        """Print the whole sector: the inverse of :meth:`from_bytes`."""
        return _HEADER.data(self)

    def checksum(self) -> int:
        """What ``header_crc`` should be: CRC-32 of ``header_size`` bytes with that field zero (Table 5-5)."""
        return crc32(replace(self, header_crc=0).to_bytes()[: self.header_size])

    @property
    def array_bytes(self) -> int:
        """The size of the entry array in bytes."""
        return self.entry_count * self.entry_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One partition entry (UEFI Table 5-6). LBAs count sectors; ``last_lba`` belongs to the partition."""

    type: Guid = UNUSED
    unique: Guid = UNUSED
    first_lba: int = 0
    last_lba: int = 0
    attributes: int = 0
    name: str = ""
    tail: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Read one entry of 128 or more bytes."""
        return cls(**_ENTRY.values(data))

    def to_bytes(self) -> bytes:
        """Print the entry: the inverse of :meth:`from_bytes`."""
        return _ENTRY.data(self)

    @property
    def used(self) -> bool:
        """Whether this is a partition (UEFI Table 5-6: a zero type GUID says it is not)."""
        return self.type != UNUSED

    @property
    def label(self) -> str:
        """The name up to its first NUL, as people see it; broken UTF-16 shows as U+FFFD."""
        shown = self.name.partition("\0")[0]
        return shown.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Table(NamedTuple):
    """A header and the entries it describes: one copy of the partition table."""

    header: Header
    entries: tuple[Entry, ...]

    @classmethod
    def from_bytes(cls, sector: bytes, array: bytes) -> Table:
        """Read a header's sector and its array, ``entry_count`` entries of ``entry_size`` bytes."""
        header = Header.from_bytes(sector)
        size = header.entry_size
        blank, unused = bytes(size), Entry.from_bytes(bytes(size))
        pieces = (array[start : start + size] for start in range(0, header.array_bytes, size))
        entries = (unused if piece == blank else Entry.from_bytes(piece) for piece in pieces)
        return cls(header, tuple(entries))

    def array(self) -> bytes:
        """Print the entries."""
        return b"".join(entry.to_bytes() for entry in self.entries)

    def with_entry(self, index: int, entry: Entry) -> Table:
        """Return this table with one entry replaced and both checksums renewed."""
        return self.with_entries({index: entry})

    def with_entries(self, changes: Mapping[int, Entry]) -> Table:
        """Return this table with entries replaced, by index, and both checksums renewed."""
        entries = (changes.get(index, entry) for index, entry in enumerate(self.entries))
        return self._replace(entries=tuple(entries)).sealed()

    def sealed(self) -> Table:
        """Return this table with both checksums computed anew: entries first, the header covers them."""
        header = replace(self.header, entries_crc=crc32(self.array()))
        return self._replace(header=replace(header, header_crc=header.checksum()))

    @property
    def sector_size(self) -> int:
        """The sector size in bytes: a header and its tail fill one sector."""
        return _HEADER.size + len(self.header.tail)

    def extent(self, index: int) -> Extent:
        """Where the partition of the entry ``index`` lies, in bytes."""
        entry = self.entries[index]
        sectors = entry.last_lba - entry.first_lba + 1
        return Extent(entry.first_lba * self.sector_size, sectors * self.sector_size)

    def extents(self) -> dict[int, Extent]:
        """Where every partition lies, in bytes, by partition number."""
        return {index + 1: self.extent(index) for index, entry in enumerate(self.entries) if entry.used}

    def writes(self) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """Return the offset and bytes of the two writes that put this copy on disk, array before header."""
        size = self.sector_size
        array = (self.header.entries_lba * size, self.array())
        return array, (self.header.my_lba * size, self.header.to_bytes())


# --- examining -------------------------------------------------------------------------------------


class Role(StrEnum):
    """Which of the two copies."""

    PRIMARY = "primary"
    BACKUP = "backup"


class Fault(StrEnum):
    """Why a copy is not trusted, or why the two together need a repair."""

    SHORT = "the disk ends before its sector"
    SIGNATURE = "no GPT signature"
    HEADER_SIZE = "impossible header size"
    HEADER_CRC = "header checksum wrong"
    REVISION = "unknown revision of the format"
    MY_LBA = "header says it belongs elsewhere"
    ALTERNATE = "header does not point at the primary"
    ENTRY_SHAPE = "impossible entry size or count"
    USABLE = "usable range does not fit the disk"
    ARRAY_PLACE = "entries lie outside their place"
    ENTRIES_CRC = "entries checksum wrong"
    RANGE = "a partition lies outside the usable range"
    OVERLAP = "partitions overlap"
    DIFFER = "the copies differ; the primary counts"
    NOT_AT_END = "the backup is not at the end of the disk"


class Copy(NamedTuple):
    """One copy as found: where, its bytes, what is wrong with it.

    ``header`` is there when the header alone is valid, ``table`` when the whole copy is.
    """

    role: Role
    lba: int
    sector: bytes
    array: bytes = b""
    header: Header | None = None
    table: Table | None = None
    faults: tuple[Fault, ...] = ()


class Pair(NamedTuple):
    """Both copies of the table, as they should stand on disk."""

    primary: Table
    backup: Table

    def with_entries(self, changes: Mapping[int, Entry]) -> Pair:
        """Return both copies with entries replaced, by index."""
        return Pair(self.primary.with_entries(changes), self.backup.with_entries(changes))


class Examined(NamedTuple):
    """Both copies as found on a disk of ``geometry``."""

    primary: Copy
    backup: Copy
    geometry: Geometry

    @property
    def trusted(self) -> Table | None:
        """The copy that counts: the primary if it is valid, else the backup, else none."""
        return self.primary.table or self.backup.table

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that :func:`repair` would put right, in words; empty when the table is sound."""
        copies = (f"{copy.role}: {fault}" for copy in (self.primary, self.backup) for fault in copy.faults)
        return (*copies, *_faults_between(self))


def examine(read: Callable[[Extent], bytes], geometry: Geometry) -> Examined:
    """Examine both copies of a disk independently.

    The backup is looked for in the last sector and, if that holds none, where the primary points: there it
    stays behind when a disk grows (D21).

    Args:
        read: returns the bytes of a range, fewer at the end of the disk.
        geometry: the disk's sector size and length.
    """
    primary = _examine_copy(read, Role.PRIMARY, PRIMARY_LBA, geometry)
    backup = _examine_copy(read, Role.BACKUP, geometry.last_lba, geometry)
    hint = _believed_end(primary)
    if backup.table is None and PRIMARY_LBA < hint < geometry.last_lba:
        elsewhere = _examine_copy(read, Role.BACKUP, hint, geometry)
        backup = elsewhere if elsewhere.table else backup
    return Examined(primary, backup, geometry)


def _examine_copy(read: Callable[[Extent], bytes], role: Role, lba: int, geometry: Geometry) -> Copy:
    """Examine the copy whose header should be at ``lba``; its entries are read if the header is valid."""
    sector = read(geometry.sector(lba)) if lba >= PRIMARY_LBA else b""
    if len(sector) < geometry.sector_size:
        return Copy(role, lba, sector, faults=(Fault.SHORT,))
    header = Header.from_bytes(sector)
    faults = _identity_faults(header, len(sector)) or tuple(_place_faults(header, role, lba, geometry))
    if faults:
        return Copy(role, lba, sector, faults=faults)
    array = read(Extent(header.entries_lba * geometry.sector_size, header.array_bytes))
    return _examine_array(Copy(role, lba, sector, array, header))


def _identity_faults(header: Header, sector_size: int) -> tuple[Fault, ...]:
    """Say whether this is a header at all, and whole; nothing else in it means anything before."""
    # Table 5-5, Signature: "must contain the ASCII string 'EFI PART'".
    if header.signature != _SIGNATURE:
        return (Fault.SIGNATURE,)
    # Table 5-5, HeaderSize: at least 92 and no larger than the logical block size.
    if not _HEADER.size <= header.header_size <= sector_size:
        return (Fault.HEADER_SIZE,)
    # 5.3.2: "Check the CRC of the GPT Header".
    if header.header_crc != header.checksum():
        return (Fault.HEADER_CRC,)
    return ()


def _place_faults(header: Header, role: Role, lba: int, geometry: Geometry) -> Iterable[Fault]:
    """Name every fault of a whole header's fields."""
    # Table 5-5, Revision: 1.0; a later major number may mean another layout.
    if header.revision >> 16 != _REVISION >> 16:
        yield Fault.REVISION
    # 5.3.2: "Check that the MyLBA entry points to the LBA that contains the GPT Header" (D22).
    if header.my_lba != lba:
        yield Fault.MY_LBA
    # Table 5-5, AlternateLBA: the backup's is the primary's place.
    if role is Role.BACKUP and header.alternate_lba != PRIMARY_LBA:
        yield Fault.ALTERNATE
    # Table 5-5, LastUsableLBA: the usable blocks lie on the disk.
    if not header.first_usable_lba <= header.last_usable_lba + 1 <= geometry.sectors:
        yield Fault.USABLE
    # Table 5-5, SizeOfPartitionEntry: "a value of 128 x 2^n".
    if not _is_entry_size(header.entry_size) or not 0 < header.array_bytes <= MAX_ARRAY_BYTES:
        yield Fault.ENTRY_SHAPE
    elif not _array_in_place(header, role, geometry.sector_size):
        yield Fault.ARRAY_PLACE


def _is_entry_size(size: int) -> bool:
    """Whether this is 128 times a power of two."""
    return size >= _LEAST_ENTRY and size & (size - 1) == 0


def _array_in_place(header: Header, role: Role, sector_size: int) -> bool:
    """Whether the array lies between its header and the usable blocks."""
    end = header.entries_lba + _sectors(header, sector_size)
    # Table 5-5, FirstUsableLBA: after the primary header and its entry array.
    if role is Role.PRIMARY:
        return header.entries_lba > PRIMARY_LBA and end <= header.first_usable_lba
    # 5.3.1: the backup's array lies after the last usable block and before the backup header.
    return header.entries_lba > header.last_usable_lba and end <= header.my_lba


def _sectors(header: Header, sector_size: int) -> int:
    """How many sectors the entry array takes."""
    return -(-header.array_bytes // sector_size)


def _examine_array(copy: Copy) -> Copy:
    """Examine the entries below a valid header."""
    header = copy.header
    # 5.3.2: "Check the CRC of the GUID Partition Entry Array" (D17).
    if header is None or crc32(copy.array) != header.entries_crc:
        return copy._replace(faults=(Fault.ENTRIES_CRC,))
    table = Table.from_bytes(copy.sector, copy.array)
    faults = tuple(_partition_faults(table))
    return copy._replace(faults=faults, table=None if faults else table)


def _partition_faults(table: Table) -> Iterable[Fault]:
    """Name the faults of where the partitions lie."""
    spans = sorted((entry.first_lba, entry.last_lba) for entry in table.entries if entry.used)
    first, last = table.header.first_usable_lba, table.header.last_usable_lba
    # Table 5-6, StartingLBA and EndingLBA: inside the usable blocks, the end not before the start.
    if any(not first <= start <= end <= last for start, end in spans):
        yield Fault.RANGE
    # 5.3.1: "GPT partitions do not overlap".
    if any(following[0] <= span[1] for span, following in pairwise(spans)):
        yield Fault.OVERLAP


def _faults_between(examined: Examined) -> Iterable[str]:
    """Name the faults of two copies that each may be valid."""
    primary, backup = examined.primary.table, examined.backup.table
    if primary and backup and _statement(primary) != _statement(backup):
        yield str(Fault.DIFFER)
    # 5.3.2: a grown volume's backup header has to be moved to its new end (D21).
    ends = {examined.geometry.last_lba}
    ends |= {primary.header.alternate_lba} if primary else set()
    ends |= {backup.header.my_lba} if backup else set()
    if len(ends) > 1:
        yield f"{Fault.NOT_AT_END} (sector {min(ends)}, not {max(ends)})"


def _statement(table: Table) -> tuple[object, ...]:
    """What a copy says, without where it stands: equal in both copies of a sound table."""
    header = table.header
    usable = (header.first_usable_lba, header.last_usable_lba)
    return (header.revision, header.disk_guid, usable, header.entry_size, table.entries)


def has_signature(data: bytes) -> bool:
    """Whether a sector begins like a GPT header."""
    return data.startswith(_SIGNATURE)


def _believed_end(copy: Copy) -> int:
    """Return the disk's last sector as a copy has it; from a primary with a bad checksum only a hint."""
    if len(copy.sector) < _HEADER.size or not has_signature(copy.sector):
        return 0
    return copy.lba if copy.role is Role.BACKUP else Header.from_bytes(copy.sector).alternate_lba


# --- repairing -------------------------------------------------------------------------------------


def repair(examined: Examined) -> Pair:
    """Return both copies as they should be; a sound table's are the ones on disk, bit for bit.

    The trusted copy is printed for both places. The backup goes to the end of the disk, and on a disk that
    has grown the usable blocks grow with it (UEFI 5.3.2). Raises TableError when neither copy is valid
    (D23), or when there is no room for the other copy.
    """
    primary, backup = examined.primary.table, examined.backup.table
    if primary and backup and not examined.faults:
        return Pair(primary, backup)
    trusted = examined.trusted
    if trusted is None:
        raise TableError("both copies of the partition table are bad: " + "; ".join(examined.faults))
    places = _primary_array(examined, trusted.header), _backup_array(examined, trusted.header)
    last_usable = _last_usable(examined, trusted.header, places[1])
    return _placed_pair(trusted, places, last_usable, examined.geometry.last_lba)


def _primary_array(examined: Examined, trusted: Header) -> int:
    """Return the sector for the primary's entries: where a valid primary header has them, else sector 2."""
    header, size = examined.primary.header, _sectors(trusted, examined.geometry.sector_size)
    places = [header.entries_lba] if header else []
    for place in (*places, PRIMARY_LBA + 1):
        if place + size <= trusted.first_usable_lba:
            return place
    raise TableError("there is no room for the primary copy of the partition table before the partitions")


def _backup_array(examined: Examined, trusted: Header) -> int:
    """Return the sector for the backup's entries: where a valid header there has them, else before it."""
    sector_size, last_lba = examined.geometry.sector_size, examined.geometry.last_lba
    header, size = examined.backup.header, _sectors(trusted, sector_size)
    places = [header.entries_lba] if header and header.my_lba == last_lba else []
    for place in (*places, last_lba - _reserved(trusted.array_bytes, sector_size), last_lba - size):
        if trusted.last_usable_lba < place <= last_lba - size:
            return place
    raise TableError("there is no room for the backup copy of the partition table at the end of the disk")


def _reserved(array_bytes: int, sector_size: int) -> int:
    """Return how many sectors to keep free for an array."""
    # 5.3.1: "a minimum of 16,384 bytes ... must be reserved for the GPT Partition Entry Array".
    return -(-max(array_bytes, _LEAST_ARRAY) // sector_size)


def _last_usable(examined: Examined, trusted: Header, backup_array: int) -> int:
    """Return the last usable sector: up to the backup's entries if the disk grew, else as it was."""
    believed = trusted.alternate_lba if examined.primary.table else trusted.my_lba
    return backup_array - 1 if believed < examined.geometry.last_lba else trusted.last_usable_lba


def _placed_pair(trusted: Table, arrays: tuple[int, int], last_usable: int, last_lba: int) -> Pair:
    """Print one table for both places."""
    common = replace(trusted.header, last_usable_lba=last_usable)
    primary = replace(common, my_lba=PRIMARY_LBA, alternate_lba=last_lba, entries_lba=arrays[0])
    backup = replace(common, my_lba=last_lba, alternate_lba=PRIMARY_LBA, entries_lba=arrays[1])
    return Pair(trusted._replace(header=primary).sealed(), trusted._replace(header=backup).sealed())


# --- making ----------------------------------------------------------------------------------------


class NewPartition(NamedTuple):
    """A partition to be made. ``size`` is in bytes; ``attributes`` are the entry's 64 bits."""

    type: Guid
    unique: Guid
    size: int
    name: str
    attributes: int = 0


class NewTable(NamedTuple):
    """A fresh table: the protective MBR's sector and both copies."""

    protective_mbr: bytes
    pair: Pair

    def writes(self) -> tuple[tuple[int, bytes], ...]:
        """Return offset and bytes of every write that puts the table on an empty disk."""
        return ((0, self.protective_mbr), *self.pair.backup.writes(), *self.pair.primary.writes())


def new_table(
    partitions: Sequence[NewPartition],
    *,
    disk_size: int,
    disk_guid: Guid,
    sector_size: int = 512,
    entry_count: int = 128,
    entry_size: int = _LEAST_ENTRY,
) -> NewTable:
    """Make the table of an empty disk; partitions follow each other in order, each aligned to 1 MiB.

    Args:
        partitions: in table order; the first is partition number 1.
        disk_size: bytes; what is beyond the last whole sector stays unused.
        disk_guid: the disk's own GUID.
        sector_size: 512 or 4096 bytes.
        entry_count: how many entries the table has room for.
        entry_size: bytes of an entry, 128 times a power of two.

    Raises:
        LayoutError: the partitions do not fit.
        UsageError: a name is too long for its 36 UTF-16 units.
    """
    last_lba = disk_size // sector_size - 1
    reserved = _reserved(entry_count * entry_size, sector_size)
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
        entries_lba=PRIMARY_LBA + 1,
        entry_count=entry_count,
        entry_size=entry_size,
        entries_crc=0,
        tail=bytes(sector_size - _HEADER.size),
    )
    table = Table(header=header, entries=_new_entries(partitions, header, sector_size))
    arrays = (header.entries_lba, last_lba - reserved)
    pair = _placed_pair(table, arrays, header.last_usable_lba, last_lba)
    return NewTable(protective_mbr(Geometry(sector_size, last_lba + 1)), pair)


def _new_entries(partitions: Sequence[NewPartition], header: Header, sector_size: int) -> tuple[Entry, ...]:
    """Place the partitions one after the other and fill the array up with unused entries."""
    tail, step = bytes(header.entry_size - _LEAST_ENTRY), ALIGNMENT // sector_size
    entries, free = [], header.first_usable_lba
    for partition in partitions:
        first = -(-free // step) * step
        free = first + -(-partition.size // sector_size)
        entries.append(_new_entry(partition, first, free - 1, tail))
    if free - 1 > header.last_usable_lba or len(entries) > header.entry_count:
        raise LayoutError(
            f"{len(entries)} partitions need {free} sectors; the disk has {header.last_usable_lba + 1} "
            f"for {header.entry_count} partitions",
            next_step="Make the disk larger or the partitions smaller.",
        )
    return (*entries, *[Entry(tail=tail)] * (header.entry_count - len(entries)))


def _new_entry(partition: NewPartition, first: int, last: int, tail: bytes) -> Entry:
    """Make one entry."""
    # Table 5-6, PartitionName: 72 bytes, 36 UTF-16 units.
    if len(_name_to_bytes(partition.name)) > 2 * _NAME_UNITS:
        raise UsageError(
            f"partition name too long: {partition.name!r}", next_step="Use 36 characters or less."
        )
    if partition.size <= 0:
        raise UsageError(f"partition {partition.name!r} has no size", next_step="Give its size in bytes.")
    return Entry(
        type=partition.type,
        unique=partition.unique,
        first_lba=first,
        last_lba=last,
        attributes=partition.attributes,
        name=partition.name,
        tail=tail,
    )


# UEFI Table 5-3, Protective MBR: boot code, signature and one record of type 0xEE over the whole disk.
_MBR = Struct("<446xB3sB3sII48x2s")


def protective_mbr(geometry: Geometry) -> bytes:
    """Make the sector that keeps older tools from seeing an empty disk (UEFI 5.2.3)."""
    # Table 5-4, SizeInLBA: the disk's size minus one, or 0xFFFFFFFF if that does not fit.
    size = min(geometry.last_lba, 0xFFFF_FFFF)
    record = _MBR.pack(0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", PRIMARY_LBA, size, b"\x55\xaa")
    return record.ljust(geometry.sector_size, b"\0")
