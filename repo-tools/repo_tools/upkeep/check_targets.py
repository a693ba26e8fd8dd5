"""Check that the targets exist as signed and unpack to what the manifest says, several at a time.

Rules:

* of a target's bytes at most one fault is reported, the first one that explains the others;
* images are unpacked as a node unpacks them (:mod:`repo_tools.images.stored`), chunk by chunk if they have an
  index that describes them;
* what a well-formed image states about itself fits its release (:mod:`repo_tools.images.contents`), and the
  boot stage can start it (:mod:`repo_tools.images.inspection`): an ext4 boot image is unpacked into a
  temporary file for that;
* a remote target whose connection breaks is resumed from there with a range request;
* an index, its fingerprints and the heads of its deltas are parsed as a node parses them, and have to
  describe the image, and the base, that the manifest names.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from itertools import chain as chained
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Self

from repo_tools.errors import InspectionToolError, StoredImageError, TargetError
from repo_tools.images.boot_image import inspect_boot
from repo_tools.images.contents import EXT4, HEAD_BYTES, ImageContents
from repo_tools.images.inspection import format_faults, other_root
from repo_tools.images.stored import reported, unpacked, unpacked_by_chunks
from repo_tools.images.verity import MAX_HASH_IMAGE_BYTES, HashImage, WatchedRoot
from repo_tools.repository.published import PublishedTarget
from repo_tools.trust.findings import Finding
from repo_tools.trust.source import resumable_blocks
from signpost.progress import Action, Progress, ProgressStep
from signpost.sets import ImageKind
from updog.errors import IndexFormatError
from updog.image.delta import Delta
from updog.image.index import Fingerprints, Index, max_index_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tuf.api.metadata import TargetFile

    from repo_tools.trust.source import Source
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.packs import DeltaFile, Pack
    from updog.update_metadata.version import Version

_THREADS = 4  # targets at a time: hashing and unpacking release the interpreter's lock
_MAX_FINGERPRINTS_BYTES = 1 << 28
_OF_BOOTING = (
    "boot-"  # codes of images whose bytes are as signed: what belongs to them is checked all the same
)


def faults(
    source: Source,
    listed: Mapping[str, TargetFile],
    manifest: Manifest | None,
    *,
    known: Collection[str] = frozenset(),
    depth: Depth,
    progress: Progress,
) -> Iterator[Finding]:
    """Yield what is wrong with the signed targets, in the order of their names.

    Args:
        source: where they are.
        listed: name → what is signed.
        manifest: says what images unpack to; None where it cannot be read.
        known: names of targets that were checked already.
        depth: how much of them is read.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        RepositoryUnreachableError, MediumError: one cannot be read.
    """
    images = {
        update.images.of(kind): _Image(
            kind=kind,
            release=update,
            content=update.contents.of(kind) if update.contents else None,
            index=update.packs.of(kind).index if update.packs else None,
        )
        for update in (manifest.updates if manifest else ())
        for kind in ImageKind
    }
    targets = _Targets(
        source=source,
        listed=listed,
        images=images,
        hash_images=_HashImages(source, listed),
        depth=depth,
        progress=progress,
        formats={},
    )
    bad: set[str] = set()
    names = sorted(set(listed).difference(known))
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(targets.faults, names):
            for finding in found:
                if not finding.code.startswith(_OF_BOOTING):
                    bad.add(finding.subject)
                yield finding
    if manifest and depth is not Depth.SIZES:
        for update in manifest.updates:
            if depth is Depth.INSPECTED:
                yield from _unknown_images(update, targets)
            yield from _pack_faults(source, listed, manifest, update, bad)


class Depth(Enum):
    """How much of the targets is read.

    SIZES: they exist with their length. CONTENTS: all their bytes. INSPECTED: also what is in boot images.
    """

    SIZES = 0
    CONTENTS = 1
    INSPECTED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """An image in the manifest: its release, what it unpacks to, the name of its index, if any."""

    kind: ImageKind
    release: Update
    content: Content | None
    index: str | None


class _HashImages:
    """The hash images of the releases, by the names of their targets: each is read once, from any thread."""

    def __init__(self, source: Source, listed: Mapping[str, TargetFile]) -> None:
        self._source = source
        self._listed = listed
        self._known: dict[str, HashImage | None] = {}
        self._locks: dict[str, Lock] = {}

    def of(self, name: str) -> HashImage | None:
        """Return a hash image, None if it cannot be judged or its own faults are reported."""
        with self._locks.setdefault(name, Lock()):
            if name not in self._known:
                self._known[name] = self._read(name)
            return self._known[name]

    def _read(self, name: str) -> HashImage | None:
        if name not in self._listed:
            return None
        data = bytearray()
        try:
            signed = PublishedTarget.of(name, self._listed[name])
            blocks = resumable_blocks(self._source, signed.path, signed.length) or iter(())
            for block in unpacked(blocks, name):
                data += block
                if len(data) > MAX_HASH_IMAGE_BYTES:
                    return None
        except (TargetError, StoredImageError):
            return None
        return HashImage.of(bytes(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Targets:
    """Checks targets one by one: the stored bytes, and what ``images`` (by name) unpack to.

    Attributes:
        formats: name of an image → its format, of those that were read; filled by :meth:`faults`.
    """

    source: Source
    listed: Mapping[str, TargetFile]
    images: Mapping[str, _Image]
    hash_images: _HashImages
    depth: Depth
    progress: Progress
    formats: dict[str, str]

    def faults(self, name: str) -> list[Finding]:
        """Return what is wrong with one target."""
        try:
            item = PublishedTarget.of(name, self.listed[name])
        except TargetError as error:
            return [Finding(code="target-invalid", place="targets", message=error.message, subject=name)]
        if self.depth is Depth.SIZES:
            found = self._size_fault(item)
            faults = [found] if found else []
        else:
            faults = list(self._deep_faults(item))
        return [
            Finding(code=code, place=item.path, message=message, subject=name) for code, message in faults
        ]

    def _size_fault(self, listed: PublishedTarget) -> tuple[str, str] | None:
        length = self.source.size(listed.path)
        if length is None:
            return "target-missing", "not there"
        return None if length == listed.length else _wrong_length(length, listed)

    def _deep_faults(self, listed: PublishedTarget) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the bytes of a target, or with the image in them."""
        blocks = resumable_blocks(self.source, listed.path, listed.length)
        if blocks is None:
            yield "target-missing", "not there"
            return
        step = ProgressStep(action=Action.CHECK, item=listed.name, total=listed.length)
        stored = _Measured(reported(blocks, step, self.progress))
        image = self.images.get(listed.name)
        with _ReadImage(self._root_watched(image)) as read:
            index = self._fitting_index(image, listed) if image else None
            malformed = ""
            if image:
                raw = iter(stored)
                copied = image.kind is ImageKind.BOOT and self.depth is Depth.INSPECTED
                try:
                    read.drain(
                        unpacked_by_chunks(raw, index) if index else unpacked(raw, listed.name), copied=copied
                    )
                except StoredImageError as error:
                    malformed = error.message
            stored.drain()
            if stored.length != listed.length:
                yield _wrong_length(stored.length, listed)
            elif stored.sha256 != listed.sha256:
                yield "target-digest", f"SHA-256 is {stored.sha256}"
            elif malformed:
                yield "index-mismatch" if index else "image-malformed", malformed
            elif image:
                yield from self._image_faults(listed.name, image, read)

    def _root_watched(self, image: _Image | None) -> WatchedRoot | None:
        """Return what hashes a root image as its hash image says; None for another image."""
        if image is None or image.kind is not ImageKind.ROOT:
            return None
        beside = self.hash_images.of(image.release.images.hash)
        return WatchedRoot(beside.superblock) if beside else None

    def _image_faults(self, name: str, image: _Image, read: _ReadImage) -> Iterator[tuple[str, str]]:
        """Yield why a well-formed image is not the signed one, not of its release, or does not start."""
        content = image.content
        if content and (read.length, read.sha256) != (content.size, content.sha256):
            found = f"unpacks to {read.length} bytes of SHA-256 {read.sha256}"
            yield "content-mismatch", f"{found}; the manifest says {content.size} of {content.sha256}"
            return
        self.formats[name] = read.contents.format
        if fault := read.contents.misplaced(image.kind):
            yield "image-misplaced", fault
        elif self.depth is Depth.INSPECTED and (fault := read.contents.truncated(read.length)):
            yield "image-truncated", fault
        elif image.kind is ImageKind.BOOT:
            yield from self._boot_faults(image.release, read)
        elif image.kind is ImageKind.ROOT:
            yield from self._root_faults(image.release, read)

    def _boot_faults(self, release: Update, read: _ReadImage) -> Iterator[tuple[str, str]]:
        named = read.contents
        if self.depth is Depth.INSPECTED and named.format == EXT4:
            try:
                report = inspect_boot(read.copy, release.arch)
            except InspectionToolError as error:
                yield "boot-not-inspected", error.message
            else:
                yield from ((found.code, found.message) for found in report.faults)
                named = report.options if report.entry else named
        beside = self.hash_images.of(release.images.hash) if named.root_hashes else None
        if fault := other_root(named, beside):
            yield "boot-mismatch", fault

    def _root_faults(self, release: Update, read: _ReadImage) -> Iterator[tuple[str, str]]:
        beside = self.hash_images.of(release.images.hash)
        if beside and read.root and (fault := beside.fault(read.root)):
            yield "verity-mismatch", f"{release.images.hash} {fault}"
        elif fault := read.contents.names_other_version(release.variant, release.version):
            yield "version-mismatch", fault

    def _fitting_index(self, image: _Image, listed: PublishedTarget) -> Index | None:
        """Return an image's index, None if it has none or one whose own faults are reported elsewhere."""
        if image.index is None or image.index not in self.listed or image.content is None:
            return None
        try:
            signed = PublishedTarget.of(image.index, self.listed[image.index])
            data = _read(self.source, signed, max_index_bytes(image.content.size))
            if hashlib.sha256(data).hexdigest() != signed.sha256:
                return None
            index = Index.from_bytes(data)
        except (TargetError, IndexFormatError):
            return None
        return index if _describes(index, image.content, listed) else None


def _describes(index: Index, content: Content, pack: PublishedTarget) -> bool:
    """Return whether an index is that of an image and of its pack."""
    wanted = (content.size, content.sha256, pack.length)
    return (index.image_size, index.image_sha256.hex(), index.pack_size) == wanted


def _read(source: Source, listed: PublishedTarget, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a target, nothing if it does not exist."""
    content = bytearray()
    for block in resumable_blocks(source, listed.path, listed.length) or ():
        content += block
        if len(content) >= limit:
            break
    return bytes(content[:limit])


def _wrong_length(length: int, listed: PublishedTarget) -> tuple[str, str]:
    return "target-length", f"{length} bytes, signed are {listed.length}"


class _ReadImage:
    """What is known of an image after its bytes have passed. Use it in a ``with`` block.

    Attributes:
        contents: what it states about itself. root: its dm-verity tree; None if it is not a root image.
        copy: where it was written to, if it was to be copied and is an ext4.
    """

    def __init__(self, root: WatchedRoot | None) -> None:
        self.contents = ImageContents()
        self.root = root
        self._measured = _Measured(iter(()))
        self._files = ExitStack()
        self.copy = Path(os.devnull)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._files.close()

    def drain(self, raw: Iterator[bytes], *, copied: bool) -> None:
        """Read an image to its end; if it is ``copied``, and an ext4, write it to :attr:`copy` too.

        Raises:
            StoredImageError: it is not well formed.
        """
        seen = self.contents.watched(raw)
        seen = self.root.watched(seen) if self.root else seen
        self._measured = _Measured(self._copied(seen) if copied else seen)
        self._measured.drain()

    def _copied(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks, and write those of an ext4 to a temporary file; zeros become holes."""
        file = self._files.enter_context(NamedTemporaryFile())  # noqa: SIM115 - closed with the image
        self.copy = Path(file.name)
        size = 0
        for block in blocks:
            if (size < HEAD_BYTES or self.contents.format == EXT4) and block.strip(b"\0"):
                file.seek(size)
                file.write(block)
            size += len(block)
            yield block
        file.truncate(size)
        file.flush()

    @property
    def length(self) -> int:
        """How many bytes have passed."""
        return self._measured.length

    @property
    def sha256(self) -> str:
        """SHA-256 of what has passed, in hexadecimal."""
        return self._measured.sha256


def _unknown_images(update: Update, targets: _Targets) -> Iterator[Finding]:
    """Yield the image of a release that has no known format beside one that has, if both were read."""
    names = dict(update.images.items())
    formats = {kind: targets.formats[name] for kind, name in names.items() if name in targets.formats}
    for fault in format_faults(formats):
        name = names[fault.kind]
        place = PublishedTarget.of(name, targets.listed[name]).path
        yield Finding(code=fault.code, place=place, message=fault.message, subject=name)


class _Measured:
    """Blocks that are counted and hashed as they pass."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._digest = hashlib.sha256()
        self.length = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._digest.update(block)
            self.length += len(block)
            yield block

    def drain(self) -> None:
        """Read what is left."""
        for _ in self:
            pass

    @property
    def sha256(self) -> str:
        """SHA-256 of what has passed, in hexadecimal."""
        return self._digest.hexdigest()


def _pack_faults(
    source: Source,
    listed: Mapping[str, TargetFile],
    manifest: Manifest,
    update: Update,
    bad: set[str],
) -> Iterator[Finding]:
    """Yield what is wrong with the indexes, fingerprints and deltas of a release."""
    if update.packs is None or update.contents is None:
        return
    family = {other.version: other for other in manifest.updates_of(update.variant, update.arch)}
    bases = {version: other.contents for version, other in family.items() if other.contents}
    yield from chained.from_iterable(
        _Pack(
            source=source,
            listed=listed,
            bad=bad,
            pack=update.packs.of(kind),
            image=update.images.of(kind),
            content=update.contents.of(kind),
            bases={version: contents.of(kind) for version, contents in bases.items()},
        ).faults()
        for kind in ImageKind
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pack:
    """Checks what belongs to one seekable image; ``bases`` are the same image of other releases."""

    source: Source
    listed: Mapping[str, TargetFile]
    bad: set[str]
    pack: Pack
    image: str
    content: Content
    bases: Mapping[Version, Content]

    def faults(self) -> Iterator[Finding]:
        """Yield the faults; files with a fault that was reported already are not checked again."""
        if not self._usable(self.pack.index) or not self._usable(self.image):
            return
        try:
            index = Index.from_bytes(self._read(self.pack.index, max_index_bytes(self.content.size)))
        except IndexFormatError as error:
            yield self._finding("index-mismatch", self.pack.index, str(error))
            return
        if not _describes(index, self.content, PublishedTarget.of(self.image, self.listed[self.image])):
            message = f"does not describe {self.image}"
            yield self._finding("index-mismatch", self.pack.index, message)
            return
        yield from self._fingerprints(index)
        for version, delta in self.pack.deltas.items():
            yield from self._delta(index, version, delta)

    def _fingerprints(self, index: Index) -> Iterator[Finding]:
        name = self.pack.fingerprints
        if self._usable(name):
            try:
                Fingerprints.from_bytes(self._read(name, _MAX_FINGERPRINTS_BYTES), index)
            except IndexFormatError as error:
                yield self._finding("index-mismatch", name, str(error))

    def _delta(self, index: Index, version: Version, delta: DeltaFile) -> Iterator[Finding]:
        if not self._usable(delta.target):
            return
        head = self._read(delta.target, delta.head_size)
        if hashlib.sha256(head).hexdigest() != delta.head_sha256:
            yield self._finding(
                "delta-mismatch", delta.target, "its head differs from what the manifest says"
            )
            return
        try:
            parsed = Delta.from_bytes(head, index)
        except IndexFormatError as error:
            yield self._finding("delta-mismatch", delta.target, str(error))
            return
        base = self.bases.get(version)
        if base and (parsed.base_size, parsed.base_sha256.hex()) != (base.size, base.sha256):
            message = f"was made from an image other than that of {version}"
            yield self._finding("delta-mismatch", delta.target, message)

    def _usable(self, name: str) -> bool:
        return name in self.listed and name not in self.bad

    def _read(self, name: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a target that was verified before."""
        return _read(self.source, PublishedTarget.of(name, self.listed[name]), limit)

    def _finding(self, code: str, name: str, message: str) -> Finding:
        place = PublishedTarget.of(name, self.listed[name]).path
        return Finding(code=code, place=place, message=message, subject=name)
