"""Seekable images: from a raw image to the targets that a node needs to fetch parts of it.

Rules:

* an image has four kinds of targets: the pack ``X.zst``, ``X.zst.index``, ``X.zst.fingerprints``, and one
  ``X.zst.delta-VERSION`` per base;
* chunks are cut along the blocks of the bases, so that a node that runs one of them fetches little;
* a delta is published only if a node fetches clearly less with it: :data:`LEAST_GAIN`;
* a base is read from the repository's own pack as a node reads it, and compared with what was signed: nodes
  could not apply a delta that was made from other bytes.
"""

from __future__ import annotations

import hashlib
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.errors import StoredImageError
from repo_tools.images.delta import make_delta, saving
from repo_tools.images.frames import known_blocks, pack
from repo_tools.images.packing import Output, Staged, read_image, size_of
from repo_tools.images.stored import unpacked_as_signed
from repo_tools.trust.source import READ_BYTES
from signpost.progress import Action, Progress, ProgressStep
from updog.errors import IndexFormatError
from updog.image.index import Fingerprints, Index
from updog.update_metadata.content import Content
from updog.update_metadata.packs import DeltaFile, Pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from repo_tools.images.frames import Known
    from updog.durable import Medium
    from updog.update_metadata.version import Version


LEAST_GAIN = 0.05
"""Share of what a node fetches without a delta that the delta must save; less is not worth a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaBase:
    """One image of an earlier release, as the repository has it.

    Attributes:
        version: of the release.
        name: of the pack's target. length: of the pack, bytes. sha256: of the pack. All three as signed.
        content: what the pack unpacks to, as the manifest says.
        pack: path of the stored pack. index, fingerprints: paths beside it; None where it has none.
    """

    version: Version
    name: str
    length: int
    sha256: str
    content: Content
    pack: Path
    index: Path | None
    fingerprints: Path | None

    def known(self) -> Known | None:
        """Return its blocks, None if it has no fingerprints. Raises StoredImageError."""
        if self.index is None or self.fingerprints is None:
            return None
        try:
            index = Index.from_bytes(self.index.read_bytes())
            return known_blocks(Fingerprints.from_bytes(self.fingerprints.read_bytes(), index))
        except (OSError, IndexFormatError) as error:
            raise StoredImageError(f"the index of {self.name} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Seekable:
    """A staged image with its index, fingerprints and deltas, which are the ``others``."""

    image: Staged
    pack: Pack
    others: tuple[Staged, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekableStager:
    """Where and how seekable images are made.

    Attributes:
        medium: written through. folder: for files that are not published yet. level: of zstd.
        progress: called at the beginning and after every block, from any thread.
    """

    medium: Medium
    folder: Path
    level: int
    progress: Progress

    def stage(
        self, image: Path, name: str, *, cut_along: Iterable[DeltaBase], deltas_from: Iterable[DeltaBase]
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
            self._stage_bytes(f"{name}.index", index.to_bytes()),
            self._stage_bytes(f"{name}.fingerprints", fingerprints.to_bytes()),
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
        step = ProgressStep(action=Action.COMPRESS, item=name, total=size_of(image))
        with Output(self.medium, self.folder / name) as output:
            blocks = read_image(image, step, self.progress)
            packed = pack(blocks, output.write, level=self.level, known=known)
            content = Content(size=packed.index.image_size, sha256=packed.index.image_sha256.hex())
            return output.finish(name, content), packed.index, packed.fingerprints

    def _stage_bytes(self, name: str, data: bytes) -> Staged:
        with Output(self.medium, self.folder / name) as output:
            output.write(data)
            return output.finish(name)

    def _delta(
        self, image: Path, name: str, index: Index, base: DeltaBase
    ) -> tuple[DeltaFile, Staged] | None:
        """Write the delta from ``base``; return None and leave no file if it saves too little."""
        target = f"{name}.delta-{base.version}".replace("+", "_")
        raw, path = self.folder / "base.raw", self.folder / target
        step = ProgressStep(action=Action.DELTA, item=target, total=index.image_size)
        try:
            self._unpack(base, raw)
            with _mapped(raw) as old, _mapped(image) as new, _created(self.medium, path) as write:
                delta = make_delta(index, new, old, write, advance=_counted(step, self.progress))
        finally:
            self.medium.remove(str(raw))
        if saving(delta, index) < LEAST_GAIN * (saving(delta, index) + delta.size):
            self.medium.remove(str(path))
            return None
        head = delta.head()
        file = DeltaFile(target=target, head_size=len(head), head_sha256=hashlib.sha256(head).hexdigest())
        return file, Staged(name=target, path=path, length=delta.size, sha256=_sha256(path))

    def _unpack(self, base: DeltaBase, raw: Path) -> None:
        """Write the raw image of ``base``. Raises StoredImageError if it is not what was signed."""
        try:
            with base.pack.open("rb") as pack, Output(self.medium, raw) as output:
                blocks = iter(lambda: pack.read(READ_BYTES), b"")
                for block in unpacked_as_signed(
                    blocks, name=base.name, length=base.length, sha256=base.sha256
                ):
                    output.write(block)
                content = output.content
        except OSError as error:
            raise StoredImageError(f"cannot read {base.name}: {error.strerror}") from error
        if (content.size, content.sha256) != (base.content.size, base.content.sha256):
            raise StoredImageError(f"{base.name} does not unpack to what the manifest says of {base.version}")


def _counted(step: ProgressStep, progress: Progress) -> Callable[[int], None]:
    """Return a function that adds up bytes of work and reports the sum."""
    done = 0
    progress(step)

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
