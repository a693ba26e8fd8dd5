"""A disk image for a node's first boot: both slots, and a release in slot A.

Rules:

* the table is signpost's: GPT, partitions aligned to 1 MiB, types and labels of docs/reference; slot A has
  priority 1 and is successful, slot B is cleared;
* every byte written to slot A was verified on the way: stored length and SHA-256 against the signed
  targets, raw size and SHA-256 against the signed manifest;
* the file is sparse and needs no privilege; it gets its name when it is whole and flushed, so that there
  is no file at all after a failure, and an existing one is never touched;
* the EFI system partition holds the boot stage where firmware looks for it, or, without one, nothing: it
  is left to the boot loader of the platform.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from repo_tools.bootstage.efi import FALLBACK_PATH, make_partition
from repo_tools.chain import walk
from repo_tools.errors import BrokenRepositoryError, DiskExistsError, DiskLayoutError, StoredImageError
from repo_tools.images import Measured, unpacked
from repo_tools.progress import Progress, Step, silent
from repo_tools.session import complete, read_manifest
from repo_tools.source import source_of
from repo_tools.store import file_of
from signpost import sets
from signpost.errors import LayoutError, UsageError
from signpost.gpt import ALIGNMENT, SECTOR_SIZES, Extent, NewPartition, NewTable, guid, new_table
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from updog.update_metadata.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tuf.api.metadata import TargetFile

    from repo_tools.chain import Source
    from repo_tools.release import Which
    from signpost.gpt import Guid
    from updog.durable import Medium
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Update

ROLES = ("boot", "root", "hash")
_TYPES = {"boot": sets.BOOT, "root": sets.ROOT, "hash": sets.HASH}

EFI_BYTES = 64 << 20
"""Room for two boot stages, some 20 MB each: a new one is whole before it takes the old one's place."""

_EFI_NUMBER = 1

PRIVATE_BYTES = 16 << 20
"""Room for what the node must remember; upstream's is of this order."""

LEAST_DATA_BYTES = 256 << 20
"""DATA takes what the other partitions leave; a new disk has at least this: the images of a small system as
they are fetched, and beside them the 64 MiB that updog's health check wants free."""

_GROWTH = 2
"""A slot is this many times as large as the first release's image, so that later ones fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the disk should be.

    Attributes:
        size: bytes of the whole disk; None for the least that holds everything.
        sector_size: 512 or 4096 bytes.
        slot_sizes: role → bytes of one slot's partition; twice the image for roles not named.
        boot_stage: EFI binary that firmware starts; None leaves the EFI partition empty.
        channel: where the release is offered; None for the top-level manifest.
        new_guid: gives a fresh GUID; random unless a test wants otherwise.
    """

    size: int | None = None
    sector_size: int = 512
    slot_sizes: Mapping[str, int] = field(default_factory=dict)
    boot_stage: bytes | None = None
    channel: str | None = None
    new_guid: Callable[[], UUID] = uuid4


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One partition as made. ``extent`` is in bytes; ``slot`` is None for those outside the slots."""

    number: int
    label: str
    type: Guid
    unique: Guid
    extent: Extent
    slot: Slot | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedDisk:
    """What was made: where, how large in bytes, its partitions, and what slot A holds by role."""

    path: Path
    size: int
    sector_size: int
    disk_guid: Guid
    update: Update
    partitions: tuple[Partition, ...]
    contents: Mapping[str, Written]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "disk": str(self.path),
            "size": self.size,
            "sector_size": self.sector_size,
            "disk_guid": self.disk_guid,
            "partitions": [_partition_to_json(partition) for partition in self.partitions],
            "slots": {
                "A": {
                    "variant": self.update.variant,
                    "arch": self.update.arch,
                    "version": str(self.update.version),
                    **{role: {"size": raw.size, "sha256": raw.sha256} for role, raw in self.contents.items()},
                },
                "B": None,
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The raw bytes of one image: size, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


def _partition_to_json(partition: Partition) -> dict[str, Any]:
    return {
        "number": partition.number,
        "label": partition.label,
        "type": partition.type,
        "guid": partition.unique,
        "offset": partition.extent.offset,
        "size": partition.extent.size,
        "slot": str(partition.slot) if partition.slot else None,
    }


def parse_slot_sizes(text: str) -> dict[str, int]:
    """Return role → bytes of ``boot=64MiB,root=2GiB``. Raises UsageError."""
    sizes: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        role, _, size = word.partition("=")
        if role not in ROLES or role in sizes:
            raise UsageError(
                f"--slot-size {word}: {role!r} is {'there twice' if role in sizes else 'no image'}",
                next_step="Write it as boot=64MiB,root=2GiB,hash=32MiB.",
            )
        sizes[role] = parse_size(size)
    return sizes


def create(
    repository: Path,
    disk: Path,
    which: Which,
    *,
    plan: Plan | None = None,
    medium: Medium | None = None,
    progress: Progress = silent,
) -> CreatedDisk:
    """Make the disk image ``disk`` with a published release in slot A.

    Args:
        repository: folder of the repository.
        disk: must not exist.
        which: the release.
        plan: sizes; the defaults hold the release and its successors.
        medium: written through.
        progress: told after every block.

    Raises:
        DiskExistsError: the file exists. DiskLayoutError: the partitions do not fit.
        ReleaseError: no such release. StoredImageError: an image is not what was signed.
        BrokenRepositoryError, MediumError: as their names say.
    """
    plan, medium = plan or Plan(), medium or OsMedium()
    _require_absent(disk)
    source = source_of(repository)
    targets = complete(walk(source)).listing(plan.channel)
    update = which.of(read_manifest(source, targets, plan.channel))
    images = [_image(source, update, role, targets.targets, progress) for role in ROLES]
    sizes = _slot_sizes(plan, images)
    disk_guid = guid(str(plan.new_guid()))
    wanted = _partitions(plan, sizes)
    table = _table(wanted, disk_guid, plan)
    efi = _efi_partition(plan)
    with _new_file(medium, disk) as descriptor:
        extents = table.pair.primary.extents()
        _write_sparse(medium, descriptor, extents[_EFI_NUMBER].offset, efi)
        written = {
            image.role: _write(medium, descriptor, extents[number], image)
            for number, image in zip((2, 3, 4), images, strict=True)
        }
        for offset, data in table.writes():
            medium.write_at(descriptor, data, offset)
    return _described(disk, plan, table, update, written)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """One image of the release in the repository, and what is known of it."""

    role: str
    name: str
    source: Source
    listed: TargetFile
    content: Content | None
    progress: Progress

    def raw(self) -> Iterator[bytes]:
        """Yield the raw image; whatever was not signed raises StoredImageError before the end."""
        blocks = self.source.blocks(f"targets/{file_of(self.name, self.listed.hashes['sha256'])}")
        if blocks is None:
            raise StoredImageError(f"{self.name} is not there")
        step = Step(action="write", item=self.name, total=self.listed.length)
        stored = Measured(blocks, step, self.progress)
        yield from unpacked(iter(stored), self.name)
        if (stored.length, stored.sha256) != (self.listed.length, self.listed.hashes["sha256"]):
            raise StoredImageError(f"{self.name} is not what was signed")

    def size(self) -> int:
        """Return the size of the raw image in bytes; it is unpacked to learn it where nobody says it."""
        return self.content.size if self.content else sum(map(len, self.raw()))


def _image(
    source: Source, update: Update, role: str, listed: Mapping[str, TargetFile], progress: Progress
) -> _Image:
    name = getattr(update.images, role)
    if name not in listed or "sha256" not in listed[name].hashes:
        raise BrokenRepositoryError(f"the manifest names {name}, which is not listed with a SHA-256")
    content = getattr(update.contents, role) if update.contents else None
    return _Image(
        role=role, name=name, source=source, listed=listed[name], content=content, progress=progress
    )


def _slot_sizes(plan: Plan, images: list[_Image]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for image in images:
        raw = image.size()
        size = plan.slot_sizes.get(image.role, raw * _GROWTH)
        if size < raw:
            raise DiskLayoutError(f"the {image.role} slot of {size} bytes is smaller than its image of {raw}")
        sizes[image.role] = _aligned(size)
    return sizes


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _partitions(plan: Plan, sizes: Mapping[str, int]) -> list[NewPartition]:
    """Return the partitions in table order; DATA, the last, takes what is left of the disk."""
    new = [_partition(plan, sets.EFI_SYSTEM, EFI_BYTES, "EFI-SYSTEM")]
    for slot in Slot:
        for role in ROLES:
            label = f"BOTTLEROCKET-{role.upper()}-{slot}"
            first = slot is Slot.A and role == "boot"
            attributes = with_flags(0, Flags(priority=1, successful=True)) if first else 0
            new.append(_partition(plan, _TYPES[role], sizes[role], label, attributes))
    new.append(_partition(plan, sets.PRIVATE, PRIVATE_BYTES, "BOTTLEROCKET-PRIVATE"))
    # 1 MiB before the first partition for the primary table, 1 MiB after the last for the backup.
    used = sum(partition.size for partition in new) + 2 * ALIGNMENT
    size = plan.size if plan.size is not None else used + LEAST_DATA_BYTES
    data = (size - used) // ALIGNMENT * ALIGNMENT
    if data < ALIGNMENT:
        raise DiskLayoutError(f"a disk of {size} bytes has no room for DATA: the rest takes {used}")
    return [*new, _partition(plan, sets.DATA, data, "BOTTLEROCKET-DATA")]


def _partition(plan: Plan, type_: Guid, size: int, name: str, attributes: int = 0) -> NewPartition:
    return NewPartition(
        type=type_, unique=guid(str(plan.new_guid())), size=size, name=name, attributes=attributes
    )


def _table(wanted: list[NewPartition], disk_guid: Guid, plan: Plan) -> NewTable:
    if plan.sector_size not in SECTOR_SIZES:
        raise DiskLayoutError(
            f"a sector size of {plan.sector_size} bytes is none that disks have", next_step="Use 512 or 4096."
        )
    size = plan.size or sum(partition.size for partition in wanted) + 2 * ALIGNMENT
    try:
        return new_table(wanted, disk_size=size, disk_guid=disk_guid, sector_size=plan.sector_size)
    except LayoutError as error:
        raise DiskLayoutError(error.message) from error


def _efi_partition(plan: Plan) -> Iterator[bytes]:
    """Yield the EFI system partition block by block, nothing without a boot stage. Raises DiskLayoutError.

    Made before the disk's file is, so that a missing tool is told first.
    """
    if plan.boot_stage is None:
        return iter(())
    if len(plan.boot_stage) > EFI_BYTES // 2:
        raise DiskLayoutError(
            f"the boot stage of {len(plan.boot_stage)} bytes takes more than half of the EFI partition",
            next_step="Build it with fewer --module; a later one has to fit beside it.",
        )
    content = make_partition(EFI_BYTES, {FALLBACK_PATH: plan.boot_stage}, sector_size=plan.sector_size)
    return (content[start : start + ALIGNMENT] for start in range(0, EFI_BYTES, ALIGNMENT))


def _require_absent(disk: Path) -> None:
    if disk.exists():
        raise DiskExistsError(f"{disk} exists")


@contextmanager
def _new_file(medium: Medium, disk: Path) -> Iterator[int]:
    """Give the descriptor of a file that gets the name ``disk`` if all goes well, and else is removed."""
    temporary = f"{disk}.partial"
    medium.remove(temporary)  # left by a kill
    descriptor = medium.create(temporary)
    try:
        try:
            yield descriptor
            medium.flush(descriptor)
        finally:
            medium.close(descriptor)
        _require_absent(disk)
        medium.rename(temporary, str(disk))
    except BaseException:
        medium.remove(temporary)
        raise
    medium.flush_folder(str(disk.parent))


def _write_sparse(medium: Medium, descriptor: int, offset: int, blocks: Iterator[bytes]) -> None:
    """Write blocks one behind the other, holes where they are all zeros."""
    for block in blocks:
        if block.count(0) != len(block):
            medium.write_at(descriptor, block, offset)
        offset += len(block)


def _write(medium: Medium, descriptor: int, extent: Extent, image: _Image) -> Written:
    """Write one raw image into its partition, holes where it has zeros. Raises StoredImageError."""
    digest, size = hashlib.sha256(), 0
    for block in image.raw():
        if size + len(block) > extent.size:
            raise StoredImageError(f"{image.name} unpacks to more than its partition holds")
        digest.update(block)
        if block.count(0) != len(block):
            medium.write_at(descriptor, block, extent.offset + size)
        size += len(block)
    written = Written(size=size, sha256=digest.hexdigest())
    said = image.content
    if said and (said.size, said.sha256) != (written.size, written.sha256):
        raise StoredImageError(f"{image.name} does not unpack to what the manifest says")
    return written


def _described(
    disk: Path, plan: Plan, table: NewTable, update: Update, written: Mapping[str, Written]
) -> CreatedDisk:
    primary = table.pair.primary
    layout = sets.find(primary.entries)
    partitions = tuple(
        Partition(
            number=number,
            label=primary.entries[number - 1].label,
            type=primary.entries[number - 1].type,
            unique=primary.entries[number - 1].unique,
            extent=extent,
            slot=layout.slot_of(number - 1),
        )
        for number, extent in primary.extents().items()
    )
    return CreatedDisk(
        path=disk,
        size=(primary.header.alternate_lba + 1) * plan.sector_size,
        sector_size=plan.sector_size,
        disk_guid=primary.header.disk_guid,
        update=update,
        partitions=partitions,
        contents=written,
    )
