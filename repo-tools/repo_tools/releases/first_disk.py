"""A disk image for a node's first boot: both slots, and a release in slot A.

Rules:

* the table is signpost's: GPT, partitions aligned to 1 MiB, types and labels of docs/reference; slot A has
  priority 1 and is successful, slot B is cleared;
* every byte written to slot A is verified: the stored file as a node verifies it, raw size and SHA-256
  against the signed manifest;
* the file is sparse and needs no privilege; it gets its name once it is complete and flushed, so that a
  failure leaves no file, and an existing file is never touched;
* the EFI system partition holds the boot stage where firmware looks for it; without a boot stage it is empty,
  for the boot loader of the platform.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from repo_tools.bootstage.efi import FALLBACK_PATH, make_partition
from repo_tools.errors import (
    BrokenRepositoryError,
    DiskExistsError,
    DiskLayoutError,
    StoredImageError,
    TargetError,
)
from repo_tools.images.stored import reported, unpacked_as_signed
from repo_tools.repository.published import PublishedTarget, read_manifest, require_complete
from repo_tools.trust.chain import walk
from repo_tools.trust.source import source_of
from signpost import sets
from signpost.errors import LayoutError, UsageError
from signpost.gpt import ALIGNMENT, SECTOR_SIZES, Extent, NewPartition, NewTable, guid, new_table
from signpost.gptprio import Flags, with_flags
from signpost.medium import OsMedium
from signpost.progress import Action, Progress, ProgressStep, silent
from signpost.sets import ImageKind, Slot
from updog.update_metadata.content import Content
from updog.update_metadata.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tuf.api.metadata import TargetFile

    from repo_tools.releases.release import ReleaseName
    from repo_tools.trust.source import Source
    from signpost.gpt import Guid
    from updog.durable import Medium
    from updog.update_metadata.manifest import Update

_TYPES = {"boot": sets.BOOT, "root": sets.ROOT, "hash": sets.HASH}

EFI_BYTES = 64 << 20
"""Room for two boot stages of some 20 MB each: a new one is complete before it replaces the old one."""

_EFI_NUMBER = 1

PRIVATE_BYTES = 16 << 20
"""Room for the node's state; upstream's partition is about as large."""

LEAST_DATA_BYTES = 256 << 20
"""DATA takes the rest of the disk, and on a new disk at least this: room for the images of a small system
while they are fetched, and for the 64 MiB that updog's health check wants free."""

_GROWTH = 2
"""A slot's partition is this many times as large as the first release's image, so that later ones fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskPlan:
    """What the disk should be like.

    Attributes:
        size: bytes of the whole disk; None for the smallest that holds everything.
        sector_size: 512 or 4096 bytes.
        slot_sizes: image → bytes of its partition in each slot; twice the image where not given.
        boot_stage: EFI binary that firmware starts; None leaves the EFI partition empty.
        channel: where the release is offered; None for the top-level manifest.
        new_guid: returns a new GUID; random unless a test replaces it.
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
    """The disk that was made: its path, its size in bytes, its partitions, and the contents of slot A.

    ``format`` is ``raw``, or that of :class:`repo_tools.releases.cloud_disk.CloudFormat`.
    """

    path: Path
    size: int
    sector_size: int
    disk_guid: Guid
    update: Update
    partitions: tuple[Partition, ...]
    contents: Mapping[ImageKind, Content]
    format: str = "raw"

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "disk": str(self.path),
            "format": self.format,
            "size": self.size,
            "sector_size": self.sector_size,
            "disk_guid": self.disk_guid,
            "partitions": [_partition_to_json(partition) for partition in self.partitions],
            "slots": {
                "A": {
                    "variant": self.update.variant,
                    "arch": self.update.arch,
                    "version": str(self.update.version),
                    **{kind: {"size": raw.size, "sha256": raw.sha256} for kind, raw in self.contents.items()},
                },
                "B": None,
            },
        }


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
    """Return image → bytes for ``boot=64MiB,root=2GiB``. Raises UsageError."""
    sizes: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        kind, _, size = word.partition("=")
        if kind not in [*ImageKind] or kind in sizes:
            raise UsageError(
                f"--slot-size {word}: {kind!r} is {'given twice' if kind in sizes else 'not an image'}",
                next_step="Write it as boot=64MiB,root=2GiB,hash=32MiB.",
            )
        sizes[kind] = parse_size(size)
    return sizes


def create(
    repository: Path,
    disk: Path,
    which: ReleaseName,
    *,
    plan: DiskPlan | None = None,
    medium: Medium | None = None,
    progress: Progress = silent,
) -> CreatedDisk:
    """Make the disk image ``disk`` with a published release in slot A.

    Args:
        repository: folder of the repository.
        disk: path of the new file; must not exist.
        which: the release.
        plan: what the disk should be like; the defaults hold the release and later ones.
        medium: written through.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        DiskExistsError: the file exists. DiskLayoutError: the partitions do not fit.
        ReleaseError: no such release. StoredImageError: an image is not what was signed.
        BrokenRepositoryError, MediumError: as their names say.
    """
    plan, medium = plan or DiskPlan(), medium or OsMedium()
    require_absent(disk)
    source = source_of(repository)
    targets = require_complete(walk(source)).targets_of(plan.channel)
    update = which.of(read_manifest(source, targets, plan.channel))
    images = [_image(source, update, kind, targets.targets, progress) for kind in ImageKind]
    sizes = _slot_sizes(plan, images)
    disk_guid = guid(str(plan.new_guid()))
    wanted = _partitions(plan, sizes)
    table = _table(wanted, disk_guid, plan)
    efi = _efi_partition(plan)
    with _new_file(medium, disk) as descriptor:
        extents = table.pair.primary.extents()
        _write_sparse(medium, descriptor, extents[_EFI_NUMBER].offset, efi)
        written = {
            image.kind: _write(medium, descriptor, extents[number], image)
            for number, image in zip((2, 3, 4), images, strict=True)
        }
        for offset, data in table.writes():
            medium.write_at(descriptor, data, offset)
    return _described(disk, plan, table, update, written)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """One image of the release in the repository, and what the signed metadata say of it."""

    kind: ImageKind
    name: str
    source: Source
    listed: PublishedTarget
    content: Content | None
    progress: Progress

    def raw(self) -> Iterator[bytes]:
        """Return the raw image block by block; one that a node refuses raises StoredImageError on the way."""
        blocks = self.source.blocks(self.listed.path)
        if blocks is None:
            raise StoredImageError(f"{self.name} is not there")
        step = ProgressStep(action=Action.WRITE, item=self.name, total=self.listed.length)
        return unpacked_as_signed(
            reported(blocks, step, self.progress),
            name=self.name,
            length=self.listed.length,
            sha256=self.listed.sha256,
        )

    def size(self) -> int:
        """Return the size of the raw image in bytes; it is unpacked if the manifest does not say."""
        return self.content.size if self.content else sum(map(len, self.raw()))


def _image(
    source: Source, update: Update, kind: ImageKind, listed: Mapping[str, TargetFile], progress: Progress
) -> _Image:
    name = update.images.of(kind)
    if name not in listed:
        raise BrokenRepositoryError(f"{name} is in the manifest, but not listed")
    try:
        item = PublishedTarget.of(name, listed[name])
    except TargetError as error:
        raise BrokenRepositoryError(error.message) from error
    content = update.contents.of(kind) if update.contents else None
    return _Image(kind=kind, name=name, source=source, listed=item, content=content, progress=progress)


def _slot_sizes(plan: DiskPlan, images: list[_Image]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for image in images:
        raw = image.size()
        size = plan.slot_sizes.get(image.kind, raw * _GROWTH)
        if size < raw:
            raise DiskLayoutError(f"the {image.kind} slot of {size} bytes is smaller than its image of {raw}")
        sizes[image.kind] = -(-size // ALIGNMENT) * ALIGNMENT
    return sizes


def _partitions(plan: DiskPlan, sizes: Mapping[str, int]) -> list[NewPartition]:
    """Return the partitions in table order; DATA, the last one, takes the rest of the disk."""
    new = [_partition(plan, sets.EFI_SYSTEM, EFI_BYTES, "EFI-SYSTEM")]
    for slot in Slot:
        for kind in ImageKind:
            label = f"BOTTLEROCKET-{kind.upper()}-{slot}"
            first = slot is Slot.A and kind == "boot"
            attributes = with_flags(0, Flags(priority=1, successful=True)) if first else 0
            new.append(_partition(plan, _TYPES[kind], sizes[kind], label, attributes))
    new.append(_partition(plan, sets.PRIVATE, PRIVATE_BYTES, "BOTTLEROCKET-PRIVATE"))
    # 1 MiB before the first partition for the primary table, 1 MiB after the last for the backup.
    used = sum(partition.size for partition in new) + 2 * ALIGNMENT
    size = plan.size if plan.size is not None else used + LEAST_DATA_BYTES
    data = (size - used) // ALIGNMENT * ALIGNMENT
    if data < ALIGNMENT:
        raise DiskLayoutError(f"a disk of {size} bytes has no room for DATA: the rest takes {used}")
    return [*new, _partition(plan, sets.DATA, data, "BOTTLEROCKET-DATA")]


def _partition(plan: DiskPlan, type_: Guid, size: int, name: str, attributes: int = 0) -> NewPartition:
    return NewPartition(
        type=type_, guid=guid(str(plan.new_guid())), size=size, name=name, attributes=attributes
    )


def _table(wanted: list[NewPartition], disk_guid: Guid, plan: DiskPlan) -> NewTable:
    if plan.sector_size not in SECTOR_SIZES:
        raise DiskLayoutError(
            f"no disk has sectors of {plan.sector_size} bytes", next_step="Use 512 or 4096."
        )
    size = plan.size or sum(partition.size for partition in wanted) + 2 * ALIGNMENT
    try:
        return new_table(wanted, disk_size=size, disk_guid=disk_guid, sector_size=plan.sector_size)
    except LayoutError as error:
        raise DiskLayoutError(error.message) from error


def _efi_partition(plan: DiskPlan) -> Iterator[bytes]:
    """Yield the EFI system partition block by block, nothing without a boot stage. Raises DiskLayoutError.

    It is made before the disk's file, so that a missing tool leaves no file.
    """
    if plan.boot_stage is None:
        return iter(())
    if len(plan.boot_stage) > EFI_BYTES // 2:
        raise DiskLayoutError(
            f"the boot stage of {len(plan.boot_stage)} bytes takes more than half of the EFI partition",
            next_step="Build it with fewer --module; the next one has to fit beside it.",
        )
    content = make_partition(EFI_BYTES, {FALLBACK_PATH: plan.boot_stage}, sector_size=plan.sector_size)
    return (content[start : start + ALIGNMENT] for start in range(0, EFI_BYTES, ALIGNMENT))


def require_absent(disk: Path) -> None:
    """Refuse to replace a disk image. Raises DiskExistsError."""
    if disk.exists():
        raise DiskExistsError(f"{disk} exists")


@contextmanager
def _new_file(medium: Medium, disk: Path) -> Iterator[int]:
    """Give the descriptor of a file that is named ``disk`` on success and removed on failure."""
    temporary = f"{disk}.partial"
    medium.remove(temporary)  # left by a killed run
    descriptor = medium.create(temporary)
    try:
        try:
            yield descriptor
            medium.flush(descriptor)
        finally:
            medium.close(descriptor)
        require_absent(disk)
        medium.rename(temporary, str(disk))
    except BaseException:
        medium.remove(temporary)
        raise
    medium.flush_folder(str(disk.parent))


def _write_sparse(medium: Medium, descriptor: int, offset: int, blocks: Iterator[bytes]) -> None:
    """Write blocks one behind the other, leaving holes where they are all zeros."""
    for block in blocks:
        if block.count(0) != len(block):
            medium.write_at(descriptor, block, offset)
        offset += len(block)


def _write(medium: Medium, descriptor: int, extent: Extent, image: _Image) -> Content:
    """Write one raw image into its partition, leaving holes for zeros. Raises StoredImageError."""
    digest, size = hashlib.sha256(), 0
    for block in image.raw():
        if size + len(block) > extent.size:
            raise StoredImageError(f"{image.name} unpacks to more than its partition holds")
        digest.update(block)
        if block.count(0) != len(block):
            medium.write_at(descriptor, block, extent.offset + size)
        size += len(block)
    written = Content(size=size, sha256=digest.hexdigest())
    said = image.content
    if said and (said.size, said.sha256) != (written.size, written.sha256):
        raise StoredImageError(f"{image.name} does not unpack to what the manifest says")
    return written


def _described(
    disk: Path, plan: DiskPlan, table: NewTable, update: Update, written: Mapping[ImageKind, Content]
) -> CreatedDisk:
    primary = table.pair.primary
    layout = sets.find(primary.entries)
    partitions = tuple(
        Partition(
            number=number,
            label=primary.entries[number - 1].label,
            type=primary.entries[number - 1].type,
            unique=primary.entries[number - 1].guid,
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
