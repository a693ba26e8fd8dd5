"""What the boot stage would start from a boot image, read without mounting it.

Rules:

* the entry is read by the boot stage's own functions (:mod:`signpost.bootstage`), from copies of the files
  in ``loader/entries``;
* the kernel and the initrds that it names are there, and the kernel is for the architecture of the release;
* the options have ``panic=`` and a root hash, and are not too long with what the boot stage adds to them;
* an image for another boot loader is not judged.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.errors import UnreadableImageError
from repo_tools.images.contents import ImageContents
from repo_tools.images.ext4 import Ext4Image
from repo_tools.images.image_fault import ImageFault
from repo_tools.images.kernel_header import EFI_NAMES, HEAD_BYTES, machine_of
from signpost import bls
from signpost.app import PartitionView, SlotView
from signpost.bootrecord import BootRecord, Passed, Reason
from signpost.bootstage import ENTRIES, command_line, read_entry
from signpost.errors import BootEntryError, KernelLoadError, MediumError
from signpost.gpt import Guid
from signpost.gptprio import LIMIT, Flags
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from signpost.text import line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from repo_tools.images.ext4 import Inode
    from signpost.bls import BootEntry

_MAX_ENTRIES = 256  # of a BOOT that are read
OTHER_LOADERS = (
    "grub/grub.cfg",
    "grub2/grub.cfg",
    "grub.cfg",
    "boot/grub/grub.cfg",
    "EFI/Linux",
    "extlinux/extlinux.conf",
)
_FOREIGN_KEYS = re.compile(rb"^[ \t]*(?:uki|uki-url|efi)[ \t]", re.MULTILINE)  # keys instead of `linux`
_PANIC = re.compile(r"panic=(-?[0-9]{1,10})")
_GUID = Guid("00000000-0000-0000-0000-000000000000")
_PARTITION = PartitionView(number=0, offset=0, size=0, label="", guid=_GUID)
_SLOT = SlotView(boot=_PARTITION, root=_PARTITION, hash=_PARTITION, flags=Flags())
_LONGEST_RECORD = BootRecord(slot=Slot.A, tries=LIMIT, passed=(Passed(Slot.B, max(Reason, key=len)),))


@dataclass(frozen=True, kw_only=True, slots=True)
class BootReport:
    """What the boot stage would start from a boot image.

    Attributes:
        entry: the boot entry; None if another boot loader reads this image, or it has a fault.
        machine: for which the kernel is, as EFI names it; "" if that is not known.
        sizes: path → bytes, of the kernel and the initrds that are there.
        loader: what another boot loader reads; "" if it is the boot stage that reads this image.
        faults: why it does not start.
    """

    entry: BootEntry | None = None
    machine: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    loader: str = ""
    faults: tuple[ImageFault, ...] = ()

    @property
    def options(self) -> ImageContents:
        """The entry's options, searched for root hashes as a whole image is."""
        contents = ImageContents()
        for _ in contents.watched(iter([self.entry.options.encode()] if self.entry else [])):
            pass
        return contents


def boot_fault(code: str, message: str) -> ImageFault:
    """Return a fault of the boot image."""
    return ImageFault(code=code, kind=ImageKind.BOOT, message=line(message))


def inspect_boot(image: Path, arch: str = "") -> BootReport:
    """Return what the boot stage would start from an ext4 boot image.

    Args:
        image: raw.
        arch: architecture of the release; "" to take it from the entry.

    Raises:
        InspectionToolError: debugfs is not installed.
    """
    try:
        files = Ext4Image(image)
        other = next((path for path in OTHER_LOADERS if files.find(path)), "")
        if other and not files.find(ENTRIES):
            return BootReport(loader=other)
        try:
            entry = _entry_of(files, arch)
        except BootEntryError as error:
            return BootReport(faults=(boot_fault("boot-entry", error.message),))
        if entry is None:
            return BootReport(loader=f"{ENTRIES} without a key linux")
        return _report(files, entry, arch)
    except UnreadableImageError as error:
        return BootReport(faults=(boot_fault("boot-unreadable", error.message),))


def _entry_of(files: Ext4Image, arch: str) -> BootEntry | None:
    """Return the entry that the boot stage starts, None if all are for another boot loader.

    Raises BootEntryError, also where an entry is not a file: the boot stage stops at it.
    """
    with tempfile.TemporaryDirectory() as name:
        copies = Path(name, ENTRIES)
        contents = dict(_entry_files(files))
        if files.find(ENTRIES):
            copies.mkdir(parents=True)
        for file, data in contents.items():
            if data is None:
                (copies / file).mkdir()  # what is not a file is not read as one
            else:
                (copies / file).write_bytes(data)
        machines = [EFI_NAMES.get(arch, arch.lower())] if arch else list(dict.fromkeys(EFI_NAMES.values()))
        faults: list[BootEntryError] = []
        for machine in machines:
            try:
                return read_entry(OsMedium(), name, machine)
            except BootEntryError as error:
                faults.append(error)
            except MediumError as error:
                raise BootEntryError(error.message.replace(f"{name}/", "")) from error
        if contents and all(data and _FOREIGN_KEYS.search(data) for data in contents.values()):
            return None
        raise faults[0]


def _entry_files(files: Ext4Image) -> Iterator[tuple[str, bytes | None]]:
    """Yield the names of the entries, with their content; None for what is not a file."""
    folder = files.find(ENTRIES)
    names = sorted(files.folder(folder.number)) if folder and folder.is_folder else []
    entries = [os.fsdecode(name) for name in names if name.endswith(b".conf")]
    for name in entries[:_MAX_ENTRIES]:
        found = files.find(f"{ENTRIES}/{name}")
        yield name, files.read(found, bls.MAX_BYTES + 1) if found and found.is_file else None


def _report(files: Ext4Image, entry: BootEntry, arch: str) -> BootReport:
    there: dict[str, Inode] = {}
    faults = []
    for key, path in (("linux", entry.linux), *(("initrd", path) for path in entry.initrd)):
        file = files.find(path)
        if file and file.is_file and file.size:
            there[path] = file
        else:
            what = "is empty" if file and file.is_file else "is not there"
            faults.append(boot_fault("boot-file-missing", f"{entry.name}: {key} {path} {what}"))
    machine = machine_of(files.read(there[entry.linux], HEAD_BYTES)) if entry.linux in there else ""
    wanted = EFI_NAMES.get(arch, "")
    if entry.linux in there and wanted and machine != wanted:
        found = f"for {machine}" if machine else "not a kernel that is known"
        message = f"{entry.name}: {entry.linux} is {found}, and the release for {arch} ({wanted})"
        faults.append(boot_fault("boot-kernel", message))
    return BootReport(
        entry=entry,
        machine=machine,
        sizes={path: inode.size for path, inode in there.items()},
        faults=(*faults, *_option_faults(entry)),
    )


def _option_faults(entry: BootEntry) -> Iterator[ImageFault]:
    try:
        command_line(entry, _SLOT, _LONGEST_RECORD, damaged=True)
    except KernelLoadError as error:
        yield boot_fault("boot-entry", error.message)
    seconds = [found[1] for word in entry.options.split() if (found := _PANIC.fullmatch(word))]
    if not seconds or not int(seconds[-1]):
        message = f"{entry.name}: its options have no panic=SECONDS: after a panic the node would stay down"
        yield boot_fault("boot-panic", message)
    if not BootReport(entry=entry).options.root_hashes:
        message = f"{entry.name}: its options name no root hash (roothash=)"
        yield boot_fault("boot-mismatch", message)
