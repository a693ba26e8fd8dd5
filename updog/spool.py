"""What was fetched and verified, on the node's own file system, before a slot is given up.

Whole images grow from front to back in a file with the name of their signed hash; pieces of seekable ones lie
where they are in their target, in a sparse file beside it.

Rules it enforces:

* a file carries the name of its signed hash, so that whatever version, mirror or agent left it, it is
  taken up again; a part is continued where it ends;
* nothing that lies here is believed: it is hashed again whenever it is used;
* bytes that turn out wrong are thrown away at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from signpost.medium import opened
from updog.errors import DigestError
from updog.image.codec import verified
from updog.image.install import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from signpost.medium import Medium
    from updog.image.index import Span
    from updog.trust import Target

    Fetch = Callable[[Target, int], Iterator[bytes]]
    """Yields the bytes of a target from a byte on."""


class Spool:
    """A folder of verified images."""

    def __init__(self, folder: Path, medium: Medium) -> None:
        self._folder = folder
        self._medium = medium

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediumError(f"cannot make {self._folder}: {error.strerror}") from error

    def missing(self, target: Target) -> int:
        """Return how many bytes of the target are not here yet."""
        path = self._part(target)
        return max(0, target.length - (path.stat().st_size if path.exists() else 0))

    def fetch(self, target: Target, fetch: Fetch, advance: Callable[[int], None]) -> None:
        """Bring the target here, continuing after what is here already, and check all of it.

        Raises:
            DigestError: it is not what was signed; nothing of it is kept.
            UnreachableError: the rest could not be had; what came is kept.
            MediumError: it could not be written; what came is kept.
        """
        self._make_folder()
        path = self._part(target)
        if not path.exists():
            self._medium.close(self._medium.create(str(path)))
        try:
            self._complete(target, fetch, advance)
        except DigestError:
            self._medium.remove(str(path))
            raise

    def _complete(self, target: Target, fetch: Fetch, advance: Callable[[int], None]) -> None:
        """Hash what is here, append what comes, and compare at the end."""
        with opened(self._medium, str(self._part(target)), write=True) as descriptor:
            position = self._medium.size(descriptor)
            if position > target.length:
                raise DigestError(f"the spooled part of {target.name} is longer than what was signed")
            digest = hashlib.sha256()
            for block in self._read(descriptor, position):
                digest.update(block)
                advance(len(block))
            for block in fetch(target, position) if position < target.length else ():
                self._medium.write_at(descriptor, block, position)
                position += len(block)
                digest.update(block)
                advance(len(block))
        if position != target.length or digest.hexdigest() != target.sha256:
            raise DigestError(
                f"{target.name}: got {position} bytes with SHA-256 {digest.hexdigest()}, "
                f"signed are {target.length} bytes with {target.sha256}"
            )

    def blocks(self, target: Target) -> Iterator[bytes]:
        """Yield a spooled target, checked once more. Raises DigestError or MediumError."""
        with opened(self._medium, str(self._part(target))) as descriptor:
            yield from verified(
                self._read(descriptor, self._medium.size(descriptor)),
                name=target.name,
                length=target.length,
                sha256=target.sha256,
            )

    def _read(self, descriptor: int, length: int) -> Iterator[bytes]:
        """Yield a file's first ``length`` bytes."""
        for offset in range(0, length, BLOCK_BYTES):
            yield self._medium.read_at(descriptor, min(BLOCK_BYTES, length - offset), offset)

    def clear(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Remove everything but the targets whose hashes are in ``keep``. Raises MediumError."""
        for path in self._folder.glob("*"):
            if path.name not in keep:
                self._medium.remove(str(path))

    def whole(self, target: Target) -> bytes:
        """Return a small target if all of it is here, else nothing."""
        path = self._part(target)
        if not path.exists():
            return b""
        with opened(self._medium, str(path)) as descriptor:
            data = self._medium.read_at(descriptor, target.length, 0)
        return data if hashlib.sha256(data).hexdigest() == target.sha256 else b""

    def put(self, target: Target, data: bytes) -> None:
        """Keep a verified small target. Raises MediumError."""
        self._make_folder()
        self._medium.remove(str(self._part(target)))
        descriptor = self._medium.create(str(self._part(target)))
        try:
            self._medium.write_at(descriptor, data, 0)
        finally:
            self._medium.close(descriptor)

    def pieces_name(self, target: Target) -> str:
        """Return the name of the file for pieces of a target."""
        return f"{target.sha256}.pieces"

    def has_pieces(self, target: Target) -> bool:
        """Tell whether there may be pieces of a target here."""
        return (self._folder / self.pieces_name(target)).exists()

    def keep(self, target: Target, offset: int, data: bytes) -> None:
        """Keep a verified piece of a target. Raises MediumError."""
        self._make_folder()
        path = str(self._folder / self.pieces_name(target))
        if not self.has_pieces(target):
            self._medium.close(self._medium.create(path))
        with opened(self._medium, path, write=True) as descriptor:
            self._medium.write_at(descriptor, data, offset)

    def settle(self, targets: Iterable[Target]) -> None:
        """Return once the kept pieces of these targets are on the medium. Raises MediumError."""
        for target in targets:
            with opened(self._medium, str(self._folder / self.pieces_name(target)), write=True) as descriptor:
                self._medium.flush(descriptor)

    def reader(self, target: Target) -> Callable[[Span], bytes]:
        """Return what reads pieces of a target, unverified; zeros or less where there are none."""
        path = str(self._folder / self.pieces_name(target))

        def read(span: Span) -> bytes:
            with opened(self._medium, path) as descriptor:
                return self._medium.read_at(descriptor, span.length, span.offset)

        return read

    def _part(self, target: Target) -> Path:
        return self._folder / target.sha256
