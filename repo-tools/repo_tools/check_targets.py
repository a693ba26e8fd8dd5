"""Are the targets there, as signed, and do they unpack to what the manifest says? Several at a time.

Rules:

* of one target at most one thing is reported, the first that explains the others;
* a remote target that breaks off is read on from there by range;
* an index, its fingerprints and the heads of its deltas are parsed as a node parses them, and have to speak
  of the image, and of the base, that the manifest names.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain as chained
from typing import TYPE_CHECKING

from repo_tools.errors import StoredImageError
from repo_tools.findings import Finding
from repo_tools.images import Measured, unpacked
from repo_tools.journey import ROLES
from repo_tools.progress import Progress, Step, one_at_a_time
from repo_tools.source import steady
from repo_tools.store import file_of
from updog.errors import IndexFormatError
from updog.image.delta import Delta
from updog.image.index import Fingerprints, Index, most_index_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tuf.api.metadata import TargetFile

    from repo_tools.chain import Source
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.packs import DeltaFile, Pack
    from updog.update_metadata.version import Version

_LINES = 4  # targets at a time: hashing and unpacking leave the interpreter's lock
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
        manifest: what images unpack to; None where it cannot be read.
        known: names that need no other look.
        deep: read all of them; else only look whether they are there with their length.
        progress: told after every block.

    Raises:
        RepositoryUnreachableError, MediumError: one cannot be read.
    """
    looking = _Targets(
        source=source,
        images=_contents(manifest) if manifest else {},
        deep=deep,
        progress=one_at_a_time(progress),
    )
    bad: set[str] = set()
    names = sorted(set(listed).difference(known))
    with ThreadPoolExecutor(_LINES) as pool:
        for finding in pool.map(lambda name: looking.fault(name, listed[name]), names):
            if finding:
                bad.add(finding.subject)
                yield finding
    if manifest and deep:
        for update in manifest.updates:
            yield from _pack_faults(source, listed, manifest, update, bad)


def _contents(manifest: Manifest) -> dict[str, Content | None]:
    """Return image name → what it unpacks to, None where the manifest does not say."""
    return {
        getattr(update.images, role): getattr(update.contents, role) if update.contents else None
        for update in manifest.updates
        for role in ROLES
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Targets:
    """Looks at targets one by one: stored bytes, and what images unpack to."""

    source: Source
    images: Mapping[str, Content | None]
    deep: bool
    progress: Progress

    def fault(self, name: str, listed: TargetFile) -> Finding | None:
        """Return what is wrong with one target."""
        place = f"targets/{file_of(name, listed.hashes.get('sha256', ''))}"
        found = self._read(place, name, listed) if self.deep else self._looked_at(place, listed)
        return Finding(code=found[0], place=place, message=found[1], subject=name) if found else None

    def _looked_at(self, place: str, listed: TargetFile) -> tuple[str, str] | None:
        length = self.source.size(place)
        if length is None:
            return "target-missing", "not there"
        return None if length == listed.length else _wrong_length(length, listed)

    def _read(self, place: str, name: str, listed: TargetFile) -> tuple[str, str] | None:
        blocks = steady(self.source, place, listed.length)
        if blocks is None:
            return "target-missing", "not there"
        stored = Measured(blocks, Step(action="check", item=name, total=listed.length), self.progress)
        malformed, raw = _measure_raw(stored, name) if name in self.images else ("", None)
        stored.drain()
        if stored.length != listed.length:
            return _wrong_length(stored.length, listed)
        if stored.sha256 != listed.hashes.get("sha256"):
            return "target-digest", f"SHA-256 is {stored.sha256}"
        if malformed:
            return "image-malformed", malformed
        return _wrong_content(raw, self.images.get(name))


def _wrong_length(length: int, listed: TargetFile) -> tuple[str, str]:
    return "target-length", f"{length} bytes, signed are {listed.length}"


def _wrong_content(raw: tuple[int, str] | None, said: Content | None) -> tuple[str, str] | None:
    if raw is None or said is None or raw == (said.size, said.sha256):
        return None
    found = f"unpacks to {raw[0]} bytes of SHA-256 {raw[1]}"
    return "content-mismatch", f"{found}; the manifest says {said.size} of {said.sha256}"


def _measure_raw(stored: Measured, name: str) -> tuple[str, tuple[int, str] | None]:
    """Return why an image cannot be unpacked, or the size and SHA-256 of what it unpacks to."""
    size, digest = 0, hashlib.sha256()
    try:
        for block in unpacked(iter(stored), name):
            size += len(block)
            digest.update(block)
    except StoredImageError as error:
        return error.message, None
    return "", (size, digest.hexdigest())


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
            pack=getattr(update.packs, role),
            image=getattr(update.images, role),
            content=getattr(update.contents, role),
            bases={version: getattr(contents, role) for version, contents in bases.items()},
        ).faults()
        for role in ROLES
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pack:
    """Looks at what belongs to one seekable image; ``bases`` are the same image of other releases."""

    source: Source
    listed: Mapping[str, TargetFile]
    bad: set[str]
    pack: Pack
    image: str
    content: Content
    bases: Mapping[Version, Content]

    def faults(self) -> Iterator[Finding]:
        """Yield them; what was reported of the files themselves is not judged again."""
        if not self._usable(self.pack.index) or not self._usable(self.image):
            return
        try:
            index = Index.from_bytes(self._whole(self.pack.index, most_index_bytes(self.content.size)))
        except IndexFormatError as error:
            yield self._finding("index-mismatch", self.pack.index, str(error))
            return
        said = (self.content.size, self.content.sha256, self.listed[self.image].length)
        if (index.image_size, index.image_sha256.hex(), index.pack_size) != said:
            message = f"is the index of another image than {self.image}"
            yield self._finding("index-mismatch", self.pack.index, message)
            return
        yield from self._fingerprints(index)
        for version, delta in self.pack.deltas.items():
            yield from self._delta(index, version, delta)

    def _fingerprints(self, index: Index) -> Iterator[Finding]:
        name = self.pack.fingerprints
        if self._usable(name):
            try:
                Fingerprints.from_bytes(self._whole(name, _MAX_FINGERPRINTS_BYTES), index)
            except IndexFormatError as error:
                yield self._finding("index-mismatch", name, str(error))

    def _delta(self, index: Index, version: Version, delta: DeltaFile) -> Iterator[Finding]:
        if not self._usable(delta.target):
            return
        head = self._whole(delta.target, delta.head_size)
        if hashlib.sha256(head).hexdigest() != delta.head_sha256:
            yield self._finding("delta-mismatch", delta.target, "its head is not what the manifest says")
            return
        try:
            parsed = Delta.from_bytes(head, index)
        except IndexFormatError as error:
            yield self._finding("delta-mismatch", delta.target, str(error))
            return
        base = self.bases.get(version)
        if base and (parsed.base_size, parsed.base_sha256.hex()) != (base.size, base.sha256):
            message = f"starts from another image than that of {version}"
            yield self._finding("delta-mismatch", delta.target, message)

    def _usable(self, name: str) -> bool:
        return name in self.listed and name not in self.bad

    def _whole(self, name: str, most: int) -> bytes:
        """Return the first ``most`` bytes of a target that was verified before."""
        content = bytearray()
        for block in steady(self.source, self._place(name), self.listed[name].length) or ():
            content += block
            if len(content) >= most:
                break
        return bytes(content[:most])

    def _place(self, name: str) -> str:
        return f"targets/{file_of(name, self.listed[name].hashes.get('sha256', ''))}"

    def _finding(self, code: str, name: str, message: str) -> Finding:
        return Finding(code=code, place=self._place(name), message=message, subject=name)
