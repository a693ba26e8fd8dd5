"""Read what people have into a tree: a folder, a tar archive, a container image, the output of mkosi.

Rules:

* what a source is, is known by what is in it, never by its name;
* nothing outside the source is read (no link leads out of it), nothing outside the scratch folder is written;
* contents stay in the source's files, or in one spool file of the scratch folder, and are read from there:
  both have to stay as they are as long as the tree is used;
* all that is left out is said (:attr:`Source.notes`).
"""

from __future__ import annotations

import enum
import hashlib
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repo_tools.errors import ImageSourceError
from repo_tools.image_build import container
from repo_tools.image_build.folder import cannot_read, read_folder
from repo_tools.image_build.layers import Budget, add_entries
from repo_tools.image_build.stored import (
    DEFAULT_LIMIT,
    Counted,
    Spool,
    is_packed,
    require_size,
    unpacked,
    whole_file,
)
from repo_tools.image_build.tar_reader import is_tar, read_tar
from repo_tools.image_build.tree import Kind, Tree
from signpost.text import counted, foreign

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from repo_tools.image_build.stored import StoredContent

_OF_ROOTS = ("usr", "etc", "bin")
_OF_MKOSI = "mkosi."  # names of its settings, caches and overlays
_MKOSI_OUTPUT = "mkosi.output"
_ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tar.xz", ".tar.zst")
_MOST_LISTED = 3

_KNOWN = (
    (0, b"hsqs", "a squashfs image; unpack it with unsquashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs image; unpack it with fsck.erofs --extract"),
    (0x438, b"\x53\xef", "an ext4 image; mount it"),
    (512, b"EFI PART", "a disk image; mount its root partition"),
    (0, b"QFI\xfb", "a qcow2 disk image; mount its root partition"),
    (0, b"BZh", "compressed by bzip2; unpack it"),
    (0, b"PK\x03\x04", "a zip archive; unpack it"),
    (0, b"070701", "a cpio archive; unpack it"),
)
"""What is not read: where its magic number is, the number, and what to do."""

_HEAD_BYTES = 2048


class SourceKind(enum.StrEnum):
    """What a source is."""

    FOLDER = "folder"
    TAR = "tar"
    OCI = "oci"
    SAVED = "docker-archive"
    MKOSI = "mkosi"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What was read.

    Attributes:
        arch: as ``uname -m`` names it; None if the source does not say.
        digest: of the image's manifest (OCI) or configuration (docker save), or of the tar archive as it is;
            None for a folder, which has none of its own.
        notes: sentences about what was left out.
    """

    tree: Tree
    kind: SourceKind
    arch: str | None = None
    digest: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """Kind and digest, as ``images.json`` has them."""
        return {"kind": str(self.kind), "digest": self.digest or ""}


def read(
    source: Path,
    scratch: Path,
    *,
    arch: str | None = None,
    image: str = "",
    limit_bytes: int = DEFAULT_LIMIT,
) -> Source:
    """Read a source.

    Args:
        source: a folder, or a file, which may be a pipe.
        scratch: a folder that exists and is not in the source; the caller removes it after the tree was used.
        arch: takes this one of a container image for several architectures; another one is refused.
        image: name of a container image, where the source has several.
        limit_bytes: what it may unpack to.

    Raises:
        ImageSourceError: it is of no known kind, damaged, not possible, too large, or cannot be read.
    """
    name = source.name or str(source)
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
        if is_folder and scratch.resolve().is_relative_to(source.resolve()):
            raise ImageSourceError(
                f"the output is inside of the source {source}",
                next_step="Name an output folder outside of it.",
            )
        output = _mkosi_output(source) if is_folder else None
    except OSError as error:
        raise cannot_read(source, error) from error
    if output is not None:
        found = read(output, scratch, arch=arch, image=image, limit_bytes=limit_bytes)
        return replace(found, kind=SourceKind.MKOSI)
    request = container.ImageRequest(
        source=name, spool=Spool(scratch, limit_bytes=limit_bytes), arch=arch, image=image
    )
    read_files = _read_folder if is_folder else _read_archive
    found = _of_container(read_files(source, name, request.spool), request)
    size = sum(
        inode.content.size
        for inode in {id(inode): inode for _, inode in found.tree.items()}.values()
        if inode.kind is Kind.FILE
    )
    require_size(size, limit_bytes, name=name)
    return found


def _of_container(found: Source, request: container.ImageRequest) -> Source:
    """Return the image if these files are one of a container, else what was found."""
    if container.is_oci_layout(found.tree):
        kind, image = SourceKind.OCI, container.read_oci_layout(found.tree, request)
    elif not _is_root(found.tree) and container.is_saved(found.tree):
        kind, image = SourceKind.SAVED, container.read_saved(found.tree, request)
    elif request.image:
        raise ImageSourceError(
            f"{request.source} is not a container image", next_step="Run the command without --image."
        )
    else:
        return found
    return Source(
        tree=image.tree,
        kind=kind,
        arch=image.arch or None,
        digest=image.digest,
        notes=_notes(without_lists=image.without_lists),
    )


def _is_root(tree: Tree) -> bool:
    return any(tree.get(name) is not None for name in _OF_ROOTS)


def _read_folder(folder: Path, name: str, spool: Spool) -> Source:
    del name, spool
    found = read_folder(folder)
    if not found.tree.children(""):
        raise ImageSourceError(f"{folder} is empty")
    return Source(
        tree=found.tree, kind=SourceKind.FOLDER, notes=_notes(sockets=found.sockets, mounted=found.mounted)
    )


def _read_archive(file: Path, name: str, spool: Spool) -> Source:
    digest = hashlib.sha256()
    archive = _archive(file, name, spool, digest)
    tree = Tree()
    without_lists = add_entries(tree, read_tar(archive, name=name), Budget(), name=name, is_layer=False)
    return Source(
        tree=tree,
        kind=SourceKind.TAR,
        digest=f"sha256:{digest.hexdigest()}",
        notes=_notes(without_lists=without_lists),
    )


def _archive(file: Path, name: str, spool: Spool, digest: hashlib._Hash) -> StoredContent:
    """Return where a tar archive can be read at any place of it: in its file, or in the spool."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            head = stream.read(_HEAD_BYTES)
            source = Counted(stream, digest.update, head=head)
            blocks = unpacked(source, head, name=name)
            if is_packed(head) or not stat.S_ISREG(status.st_mode):
                packed = (lambda: source.count) if is_packed(head) else None
                return spool.add(_tar_blocks(blocks, file), name=name, packed=packed)
            for _ in _tar_blocks(blocks, file):
                pass
            return whole_file(os.fsencode(file.resolve()), status.st_size)
    except OSError as error:
        raise cannot_read(file, error) from error


def _tar_blocks(blocks: Iterator[bytes], file: Path) -> Iterator[bytes]:
    """Yield the blocks of a tar archive; anything else is refused before it is unpacked or read."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _HEAD_BYTES:
            break
    if not is_tar(head):
        known = next((text for at, magic, text in _KNOWN if head.startswith(magic, at)), "")
        raise ImageSourceError(
            f"{file} is {known.split(';')[0]}" if known else f"{file} is neither a tar archive nor a folder",
            next_step=f"First{known.split(';')[1]}, and name the folder." if known else "",
        )
    yield head
    yield from blocks


def _mkosi_output(folder: Path) -> Path | None:
    """Return the root that mkosi put into its output folder, or that of its project; None if it is neither.

    It writes ``image/`` or ``image.tar…`` there, by the name that was configured, and other files beside it.
    """
    names = sorted(place.name for place in folder.iterdir())
    if {*_OF_ROOTS, container.OCI_LAYOUT, container.DOCKER_MANIFEST} & set(names):
        return None
    if _MKOSI_OUTPUT in names:
        folder = folder / _MKOSI_OUTPUT
        names = sorted(place.name for place in folder.iterdir())
    found: dict[Path, str] = {}
    for name in names:
        place = folder / name
        is_output = (place / "usr").is_dir() or (name.endswith(_ARCHIVE_ENDINGS) and place.is_file())
        if is_output and not name.startswith(_OF_MKOSI):
            found.setdefault(place.resolve(), name)
    if len(found) > 1:
        raise ImageSourceError(
            f"{folder} has several roots: {foreign(', '.join(found.values()))}", next_step="Name one of them."
        )
    return next(iter(found), None)


def _notes(
    *,
    sockets: Sequence[str] = (),
    mounted: Sequence[str] = (),
    without_lists: Sequence[str] = (),
) -> tuple[str, ...]:
    return tuple(
        f"{sentence}: {_listed(paths)}."
        for sentence, paths in (
            (f"{counted(len(sockets), 'socket')} left out", sockets),
            (f"what is mounted on {counted(len(mounted), 'folder')} was left out", mounted),
            (
                f"access control lists of {counted(len(without_lists), 'file')} (of tar --acls) are not kept",
                without_lists,
            ),
        )
        if paths
    )


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - _MOST_LISTED
    text = foreign(", ".join(f"/{path}" for path in sorted(paths)[:_MOST_LISTED]))
    return f"{text} and {more} more" if more > 0 else text
