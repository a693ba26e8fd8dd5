"""Whether the images of a release are ones that the boot stage starts, found before they are signed.

Rules:

* a release in which neither boot nor root has a known format is published as it is: what it contains is not
  known here. If one of them has, the other one has to have one too;
* an ext4 boot image is read as the boot stage reads it (:mod:`repo_tools.images.boot_image`);
* a boot image for another boot loader (GRUB, a unified kernel image, another file system than ext4) is not a
  fault: it is said that it was not inspected, and only the root hashes in its bytes are compared;
* each fault has a code; `validate` uses the same ones for what is published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ImageError, UnfitImagesError, UnreadableImageError
from repo_tools.images.boot_image import OTHER_LOADERS, boot_fault, inspect_boot
from repo_tools.images.contents import EXT4, FAT, VERITY, ImageContents
from repo_tools.images.ext4 import Ext4Image
from repo_tools.images.image_fault import ImageFault
from repo_tools.images.verity import compare_with_root, read_hash_image
from signpost.bootstage import ENTRIES
from signpost.sets import ImageKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from repo_tools.images.boot_image import BootReport
    from repo_tools.images.verity import HashImage

_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What is known of the images of a release.

    Attributes:
        formats: image → its format, "" if it is not known. sizes: image → bytes.
        boot: what the boot stage starts; None if boot was not read.
        faults: what does not fit, the first ones explain others.
        notes: what was not inspected, one sentence each.
    """

    formats: Mapping[ImageKind, str]
    sizes: Mapping[ImageKind, int]
    boot: BootReport | None
    faults: tuple[ImageFault, ...]
    notes: tuple[str, ...]

    def require(self, files: Mapping[ImageKind, Path]) -> None:
        """Refuse images that do not fit. Raises UnfitImagesError; ``files`` are named in its message."""
        if not self.faults:
            return
        lines = [f"{files[fault.kind]}: {fault}" for fault in self.faults]
        head = f"the images have {len(lines)} faults:\n  " if len(lines) > 1 else ""
        raise UnfitImagesError(head + "\n  ".join(lines), next_step=self.faults[0].next_step)


def format_faults(formats: Mapping[ImageKind, str]) -> Iterator[ImageFault]:
    """Yield the image that has no known format, if the other one of boot and root has one.

    A tree of dm-verity says nothing here: one is made from any bytes.
    """
    judged = {kind: formats[kind] for kind in (ImageKind.BOOT, ImageKind.ROOT) if kind in formats}
    for kind, name in judged.items():
        if not name and any(judged.values()):
            other = next(f"{k} has one ({n})" for k, n in judged.items() if n)
            yield ImageFault(code="image-unknown", kind=kind, message=f"has no known format, but {other}")


def not_inspected(formats: Mapping[ImageKind, str], boot: BootReport | None) -> tuple[str, ...]:
    """Return what of a release is not inspected, one sentence each."""
    judged = [formats[kind] for kind in (ImageKind.BOOT, ImageKind.ROOT) if kind in formats]
    if judged and not any(judged):
        return ("not inspected: neither boot nor root has a known format",)
    if boot and boot.loader:
        return (f"boot not inspected: it is for another boot loader ({boot.loader})",)
    if formats.get(ImageKind.BOOT, EXT4) != EXT4:
        return (f"boot not inspected: the boot stage starts an {EXT4}, not a {formats[ImageKind.BOOT]}",)
    return ()


def other_root(seen: ImageContents, tree: HashImage | str | None) -> str:
    """Return why what names root hashes starts another root than that of a hash image, "" if it does not.

    ``tree`` is the hash image, or the root hash of it; None if it cannot be judged.
    """
    if tree is None:
        return ""
    return seen.names_other_root(tree) if isinstance(tree, str) else seen.names_root_other_than(tree)


def inspect_images(
    files: Mapping[ImageKind, Path], tree: HashImage | str | None, arch: str, *, deep: bool = True
) -> Inspection:
    """Return what does not fit in the images of a release. Whether the tree is that of root is not compared.

    Reads boot's files, or all of boot where these are not known, and the beginnings of the others.

    Args:
        files: raw images.
        tree: the hash image, or the root hash of one that was made; None if it cannot be judged.
        arch: architecture of the release; "" if it is not known.
        deep: else only what the bytes of boot name is compared, and whether images were exchanged.

    Raises:
        ImageError: an image cannot be read. InspectionToolError: debugfs is not installed.
    """
    sizes = {kind: _size(path) for kind, path in files.items()}
    heads = {kind: _contents(path, whole=False) for kind, path in files.items()}
    formats = {kind: contents.format for kind, contents in heads.items()}
    faults = [
        ImageFault(code="image-misplaced", kind=kind, message=fault)
        for kind, contents in heads.items()
        if (fault := contents.misplaced(kind))
    ]
    if deep and not faults:
        faults += [
            ImageFault(code="image-truncated", kind=kind, message=fault)
            for kind, contents in heads.items()
            if (fault := contents.truncated(sizes[kind]))
        ] or format_faults(formats)
    boot = None
    if ImageKind.BOOT in files and not faults:
        path = files[ImageKind.BOOT]
        boot = inspect_boot(path, arch) if deep and formats[ImageKind.BOOT] == EXT4 else None
        faults += boot.faults if boot else ()
        seen = boot.options if boot and boot.entry else _contents(path, whole=True)
        if fault := other_root(seen, tree):
            faults.append(boot_fault("boot-mismatch", fault))
    notes = not_inspected(formats, boot) if deep else ("not inspected, as --no-inspect says",)
    return Inspection(formats=formats, sizes=sizes, boot=boot, faults=tuple(faults), notes=notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseReport:
    """What `repo-tools inspect` sees.

    Attributes:
        files: image → its path. inspection: of them; root and hash compared.
        root_hash: of the hash image, in hexadecimal; "" if it is not known.
        versions: variant → the versions that os-release files in root name; compressed ones are not seen.
    """

    files: Mapping[ImageKind, Path]
    inspection: Inspection
    root_hash: str
    versions: Mapping[str, Collection[str]]

    @property
    def fits(self) -> bool:
        """Whether there is no fault."""
        return not self.inspection.faults

    def to_json(self) -> dict[str, Any]:
        """Return it as ``inspect --json`` prints it."""
        seen = self.inspection
        entry = seen.boot.entry if seen.boot else None
        return {
            "fits": self.fits,
            "images": {
                str(kind): {
                    "file": str(path),
                    "format": seen.formats[kind] or None,
                    "size": seen.sizes[kind],
                }
                for kind, path in self.files.items()
            },
            "entry": {
                "name": entry.name,
                "title": entry.title,
                "version": entry.version,
                "linux": entry.linux,
                "initrd": list(entry.initrd),
                "options": entry.options,
                "machine": seen.boot.machine or None if seen.boot else None,
            }
            if entry
            else None,
            "root_hash": self.root_hash or None,
            "versions": {variant: sorted(found) for variant, found in sorted(self.versions.items())},
            "faults": [fault.to_json() for fault in seen.faults],
            "not_inspected": list(seen.notes),
        }


def inspect_release(
    paths: Iterable[Path], *, arch: str = "", slots: Mapping[str, int] | None = None
) -> ReleaseReport:
    """Return what is seen in images of a release: all of them, or some. Root is read once.

    Args:
        paths: raw images, or folders that have them; which image it is follows from its format.
        arch: architecture of the release; "" if it is not known.
        slots: image → size in bytes of the nodes' partition for it, where known.

    Raises:
        ImageError: two are the same image, none is known, or one cannot be read.
        VerityError: root or hash cannot be read. InspectionToolError: debugfs is not installed.
    """
    files = recognized(paths)
    contents = ImageContents()
    tree: HashImage | None = None
    others: list[ImageFault] = []
    if ImageKind.ROOT in files and ImageKind.HASH in files:
        tree, fault = compare_with_root(
            files[ImageKind.ROOT], files[ImageKind.HASH], watched=contents.watched
        )
        others = [ImageFault(code="verity-mismatch", kind=ImageKind.HASH, message=fault)] if fault else []
    elif ImageKind.ROOT in files:
        contents = _contents(files[ImageKind.ROOT], whole=True)
    elif ImageKind.HASH in files:
        tree = read_hash_image(files[ImageKind.HASH])
    seen = inspect_images(files, tree, arch)
    others += [
        ImageFault(
            code="image-too-large", kind=kind, message=f"has {size} bytes, its partition {slots[kind]}"
        )
        for kind, size in seen.sizes.items()
        if slots and size > slots.get(kind, size)
    ]
    return ReleaseReport(
        files=files,
        inspection=replace(seen, faults=(*seen.faults, *others)),
        root_hash=tree.root_hash if tree else "",
        versions=contents.versions,
    )


def recognized(paths: Iterable[Path]) -> dict[ImageKind, Path]:
    """Return the images by what they are, told from their formats and from what an ext4 contains.

    An ext4 with nothing to boot is taken for root, or for boot beside a root; what has no known format, for a
    hash image. Of a folder, files without a known format are left out.

    Raises:
        ImageError: two are the same image, one is none, or cannot be read. InspectionToolError: no debugfs.
    """
    found: dict[ImageKind, Path] = {}
    guessed: list[tuple[tuple[ImageKind, ...], Path]] = []
    for path in paths:
        for file in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
            kinds = _kinds_of(file)
            if len(kinds) == 1 and kinds[0] in found:
                message = f"{found[kinds[0]]} and {file} are both {kinds[0]} images"
                raise ImageError(message, next_step="Name one image of each kind.")
            if len(kinds) == 1:
                found[kinds[0]] = file
            elif kinds or file == path:
                guessed.append((kinds or (ImageKind.HASH,), file))
    for kinds, file in guessed:
        kind = next((kind for kind in kinds if kind not in found), None)
        if kind is None or (kind is ImageKind.HASH and not found):
            raise ImageError(f"{file}: no image of a known format", next_step=_KNOWN)
        found[kind] = file
    if not found:
        raise ImageError("no image of a known format was named", next_step=_KNOWN)
    return {kind: found[kind] for kind in ImageKind if kind in found}


_KNOWN = "Name raw images, not packed ones: ext4, erofs, squashfs, dm-verity."


def _kinds_of(path: Path) -> tuple[ImageKind, ...]:
    """Return which images of a release it can be by its format, the likely one first; () if it is unknown."""
    name = _contents(path, whole=False).format
    if name == EXT4:
        try:
            files = Ext4Image(path)
            is_boot = any(files.find(place) for place in (ENTRIES, *OTHER_LOADERS))
        except UnreadableImageError:
            is_boot = False
        return (ImageKind.BOOT,) if is_boot else (ImageKind.ROOT, ImageKind.BOOT)
    if name in {VERITY, FAT}:
        return (ImageKind.HASH,) if name == VERITY else (ImageKind.BOOT,)
    return (ImageKind.ROOT,) if name else ()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error


def _contents(path: Path, *, whole: bool) -> ImageContents:
    """Return what an image states about itself; of its first block, if not of the whole image."""
    contents = ImageContents()
    try:
        with path.open("rb") as stream:
            for _ in contents.watched(iter(partial(stream.read, _READ_BYTES), b"")):
                if not whole:
                    break
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    return contents
