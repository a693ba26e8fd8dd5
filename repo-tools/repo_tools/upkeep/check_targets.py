"""Check that the targets exist as signed and unpack to what the manifest says, several at a time.

Rules:

* at most one fault of a target is reported, the first one that explains the others;
* images are unpacked as a node unpacks them (:mod:`repo_tools.images.stored`), chunk by chunk if they have an
  index that describes them;
* what a well-formed image states about itself fits its release (:mod:`repo_tools.images.contents`);
* a remote target whose connection breaks is resumed from there with a range request;
* an index, its fingerprints and the heads of its deltas are parsed as a node parses them, and have to
  describe the image, and the base, that the manifest names.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain as chained
from threading import Lock
from typing import TYPE_CHECKING

from repo_tools.errors import StoredImageError, TargetError
from repo_tools.images.contents import ImageContents
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


def faults(
    source: Source,
    listed: Mapping[str, TargetFile],
    manifest: Manifest | None,
    *,
    known: Collection[str] = frozenset(),
    deep: bool,
    progress: Progress,
) -> Iterator[Finding]:
    """Yield what is wrong with the signed targets, in the order of their names.

    Args:
        source: where they are.
        listed: name → what is signed.
        manifest: says what images unpack to; None where it cannot be read.
        known: names of targets that were checked already.
        deep: read all of them; else only check that they exist with their length.
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
        deep=deep,
        progress=progress,
    )
    bad: set[str] = set()
    names = sorted(set(listed).difference(known))
    with ThreadPoolExecutor(_THREADS) as pool:
        for finding in pool.map(targets.fault, names):
            if finding:
                bad.add(finding.subject)
                yield finding
    if manifest and deep:
        for update in manifest.updates:
            yield from _pack_faults(source, listed, manifest, update, bad)


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
    """Checks targets one by one: the stored bytes, and what ``images`` (by name) unpack to."""

    source: Source
    listed: Mapping[str, TargetFile]
    images: Mapping[str, _Image]
    hash_images: _HashImages
    deep: bool
    progress: Progress

    def fault(self, name: str) -> Finding | None:
        """Return what is wrong with one target."""
        try:
            item = PublishedTarget.of(name, self.listed[name])
        except TargetError as error:
            return Finding(code="target-invalid", place="targets", message=error.message, subject=name)
        found = self._deep_fault(item) if self.deep else self._size_fault(item)
        return Finding(code=found[0], place=item.path, message=found[1], subject=name) if found else None

    def _size_fault(self, listed: PublishedTarget) -> tuple[str, str] | None:
        length = self.source.size(listed.path)
        if length is None:
            return "target-missing", "not there"
        return None if length == listed.length else _wrong_length(length, listed)

    def _deep_fault(self, listed: PublishedTarget) -> tuple[str, str] | None:
        blocks = resumable_blocks(self.source, listed.path, listed.length)
        if blocks is None:
            return "target-missing", "not there"
        step = ProgressStep(action=Action.CHECK, item=listed.name, total=listed.length)
        stored = _Measured(reported(blocks, step, self.progress))
        malformed, raw, content, index = "", None, None, None
        contents, root = ImageContents(), None
        if image := self.images.get(listed.name):
            content, index = image.content, self._fitting_index(image, listed)
            blocks = iter(stored)
            unpacking = unpacked_by_chunks(blocks, index) if index else unpacked(blocks, listed.name)
            seen = contents.watched(unpacking)
            if image.kind is ImageKind.ROOT and (beside := self.hash_images.of(image.release.images.hash)):
                root = WatchedRoot(beside.superblock)
                seen = root.watched(seen)
            raw = _Measured(seen)
            try:
                raw.drain()
            except StoredImageError as error:
                malformed = error.message
        stored.drain()
        if stored.length != listed.length:
            return _wrong_length(stored.length, listed)
        if stored.sha256 != listed.sha256:
            return "target-digest", f"SHA-256 is {stored.sha256}"
        if malformed:
            return "index-mismatch" if index else "image-malformed", malformed
        if raw and content and (raw.length, raw.sha256) != (content.size, content.sha256):
            found = f"unpacks to {raw.length} bytes of SHA-256 {raw.sha256}"
            return "content-mismatch", f"{found}; the manifest says {content.size} of {content.sha256}"
        return self._release_fault(image, contents, root) if image else None

    def _release_fault(
        self, image: _Image, contents: ImageContents, root: WatchedRoot | None
    ) -> tuple[str, str] | None:
        """Return why a well-formed image does not belong to its release."""
        release = image.release
        if fault := contents.misplaced(image.kind):
            return "image-misplaced", fault
        if image.kind is ImageKind.HASH or (image.kind is ImageKind.BOOT and not contents.root_hashes):
            return None
        beside = self.hash_images.of(release.images.hash)
        if image.kind is ImageKind.BOOT:
            fault = contents.names_root_other_than(beside) if beside else ""
            return ("boot-mismatch", fault) if fault else None
        if beside and root and (fault := beside.fault(root)):
            return "verity-mismatch", f"{release.images.hash} {fault}"
        fault = contents.names_other_version(release.variant, release.version)
        return ("version-mismatch", fault) if fault else None

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
