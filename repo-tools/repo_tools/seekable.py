"""Seekable images: from a raw image to the targets a node needs to fetch parts of it.

Rules:

* four kinds of targets stand beside each other: the pack ``X.zst``, ``X.zst.index``, ``X.zst.fingerprints``
  and one ``X.zst.delta-VERSION`` a base;
* chunks are cut along the blocks of the bases, so that whoever runs one of them fetches little;
* a delta is published only when it is smaller than what it spares;
* a base is unpacked from the repository's own pack and compared with what was signed: a delta from other
  bytes than nodes have would be of no use to anybody.
"""

from __future__ import annotations

import hashlib
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.delta import make_delta, saving
from repo_tools.errors import ImageError, StoredImageError
from repo_tools.images import Output, Staged, size_of, unpacked
from repo_tools.pack import known_blocks, pack
from repo_tools.progress import Progress, Step
from repo_tools.source import BLOCK_BYTES
from updog.errors import IndexFormatError
from updog.image.index import Fingerprints, Index
from updog.update_metadata.content import Content
from updog.update_metadata.packs import DeltaFile, Pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from repo_tools.pack import Known
    from updog.durable import Medium
    from updog.update_metadata.version import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """One image of an earlier release, as the repository has it.

    Attributes:
        version: of the release. name: of the pack's target. content: what it unpacks to.
        pack: path of the stored pack. index, fingerprints: paths beside it; None where it has none.
    """

    version: Version
    name: str
    content: Content
    pack: Path
    index: Path | None
    fingerprints: Path | None

    def known(self) -> Known | None:
        """Return its blocks, None where it has no fingerprints. Raises StoredImageError."""
        if self.index is None or self.fingerprints is None:
            return None
        try:
            index = Index.from_bytes(self.index.read_bytes())
            return known_blocks(Fingerprints.from_bytes(self.fingerprints.read_bytes(), index))
        except (OSError, IndexFormatError) as error:
            raise StoredImageError(f"the index of {self.name} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Seekable:
    """A staged image with everything that belongs to it: ``image`` first, then the other targets."""

    image: Staged
    pack: Pack
    others: tuple[Staged, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where and how seekable images are made.

    Attributes:
        medium: written through. folder: for files that are not published yet. level: of zstd.
        progress: told after every block.
    """

    medium: Medium
    folder: Path
    level: int
    progress: Progress

    def stage(
        self, image: Path, name: str, *, cut_along: Iterable[Base], deltas_from: Iterable[Base]
    ) -> Seekable:
        """Make all targets of a raw image.

        Args:
            image: raw.
            name: of the pack's target.
            cut_along: earlier releases whose blocks chunks are cut along.
            deltas_from: earlier releases to make deltas from.

        Raises:
            ImageError: the image cannot be read, or changes meanwhile.
            StoredImageError: a base is not what the repository says. MediumError: writing failed.
        """
        known = tuple(filter(None, (base.known() for base in cut_along)))
        staged, index, fingerprints = self._pack(image, name, known)
        others = [
            self._whole(f"{name}.index", index.to_bytes()),
            self._whole(f"{name}.fingerprints", fingerprints.to_bytes()),
        ]
        deltas = {}
        for base in deltas_from:
            if made := self._delta(image, name, index, base):
                deltas[base.version], file = made
                others.append(file)
        pack = Pack(index=others[0].name, fingerprints=others[1].name, deltas=deltas)
        return Seekable(image=staged, pack=pack, others=tuple(others))

    def _pack(self, image: Path, name: str, known: tuple[Known, ...]) -> tuple[Staged, Index, Fingerprints]:
        """Write the pack and return it with its index and fingerprints."""
        size = size_of(image)
        path = self.folder / name
        output = Output(self.medium, path)
        try:
            step = Step(action="compress", item=name, total=size)
            packed = pack(_blocks(image, step, self.progress), output.write, level=self.level, known=known)
            output.flush()
        finally:
            output.close()
        if packed.index.image_size != size:
            raise ImageError(
                f"{image} changed while it was read: {size} bytes, then {packed.index.image_size}"
            )
        content = Content(size=size, sha256=packed.index.image_sha256.hex())
        staged = Staged(name=name, path=path, length=output.length, sha256=output.sha256, content=content)
        return staged, packed.index, packed.fingerprints

    def _whole(self, name: str, data: bytes) -> Staged:
        """Write a small target."""
        output = Output(self.medium, self.folder / name)
        try:
            output.write(data)
            output.flush()
        finally:
            output.close()
        return Staged(name=name, path=self.folder / name, length=output.length, sha256=output.sha256)

    def _delta(self, image: Path, name: str, index: Index, base: Base) -> tuple[DeltaFile, Staged] | None:
        """Write the delta from ``base``; None, and no file, if it would save nothing."""
        target = f"{name}.delta-{base.version}".replace("+", "_")
        raw, path = self.folder / "base.raw", self.folder / target
        step = Step(action="delta", item=target, total=index.image_size)
        try:
            self._unpack(base, raw)
            with _mapped(raw) as old, _mapped(image) as new, _created(self.medium, path) as write:
                delta = make_delta(index, new, old, write, advance=_counted(step, self.progress))
        finally:
            self.medium.remove(str(raw))
        if saving(delta, index) <= 0:
            self.medium.remove(str(path))
            return None
        head = delta.head()
        file = DeltaFile(target=target, head_size=len(head), head_sha256=hashlib.sha256(head).hexdigest())
        return file, Staged(name=target, path=path, length=delta.size, sha256=_sha256(path))

    def _unpack(self, base: Base, raw: Path) -> None:
        """Write the raw image of ``base``. Raises StoredImageError if it is not what was signed."""
        output = Output(self.medium, raw)
        try:
            with base.pack.open("rb") as stored:
                for block in unpacked(iter(lambda: stored.read(BLOCK_BYTES), b""), base.name):
                    output.write(block)
        except OSError as error:
            raise StoredImageError(f"cannot read {base.name}: {error.strerror}") from error
        finally:
            output.close()
        if Content(size=output.length, sha256=output.sha256) != base.content:
            raise StoredImageError(f"{base.name} does not unpack to what the manifest says of {base.version}")


def _blocks(image: Path, step: Step, progress: Progress) -> Iterator[bytes]:
    """Yield the image block by block. Raises ImageError."""
    seen = 0
    try:
        with image.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                seen += len(block)
                yield block
                progress(step.at(seen))
    except OSError as error:
        raise ImageError(f"cannot read the image {image}: {error.strerror}") from error


def _counted(step: Step, progress: Progress) -> Callable[[int], None]:
    """Return what adds up pieces of work for ``progress``."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(step.at(done))

    return advance


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file of at least one byte for reading."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@contextmanager
def _created(medium: Medium, path: Path) -> Iterator[Callable[[bytes, int], None]]:
    """Create a file that is written anywhere and flushed at the end."""
    descriptor = medium.create(str(path))
    try:
        yield lambda data, offset: medium.write_at(descriptor, data, offset)
        medium.flush(descriptor)
    finally:
        medium.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
