"""What was fetched and verified, on the node's own file system, before a slot is given up.

A whole target grows from front to back in a file named by its signed SHA-256; pieces of other targets lie at
their own offsets in a sparse file beside it.

Rules it enforces:

* a file carries the name of its signed hash, so that it is used again whichever version, mirror or agent left
  it; a part is continued where it ends;
* nothing that lies here is trusted: it is hashed again whenever it is used;
* the folder is private (:mod:`updog.durable`), and nothing in it is opened through a link;
* bytes that turn out to be wrong are deleted at once.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from updog import durable
from updog.durable import opened_own
from updog.errors import DigestError
from updog.image.codec import verified
from updog.image.region import IO_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from signpost.medium import Medium
    from updog.image.index import Span
    from updog.trust import Target

    Fetch = Callable[[Target, int], Iterator[bytes]]
    """Yields the bytes of a target from a byte on."""


class Spool:
    """A folder of verified targets, and of verified pieces of others.

    Args:
        folder: where it is; created when something is kept.
        medium: how it is written.
    """

    def __init__(self, folder: Path, medium: Medium) -> None:
        self._folder = folder
        self._medium = medium
        self._is_private = False  # as far as is known

    def clear(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Remove every file but those named in ``keep``; a folder, such as lost+found, is not ours.

        Raises:
            MediumError: a file cannot be removed, or another user can write to the folder.
        """
        if not os.path.lexists(self._folder):
            return
        durable.require_private(self._folder)
        durable.remove_files(self._medium, self._folder, keep=keep)

    # -- whole targets -----------------------------------------------------------------------------------

    def missing(self, target: Target) -> int:
        """Return how many bytes of the target are not here yet."""
        path = self._path(target)
        return max(0, target.length - (path.lstat().st_size if os.path.lexists(path) else 0))

    def fetch(self, target: Target, fetch: Fetch, advance: Callable[[int], None]) -> None:
        """Fetch the target, continuing after what is here already, and verify all of it.

        Raises:
            DigestError: it is not what was signed; nothing of it is kept.
            UnreachableError: the rest could not be fetched; what arrived is kept.
            MediumError: it could not be written; what arrived is kept.
        """
        self._make_folder()
        path = str(self._path(target))
        if not os.path.lexists(path):
            self._medium.close(self._medium.create(path))
        try:
            self._complete(target, fetch, advance)
        except DigestError:
            self._medium.remove(path)
            raise

    def _complete(self, target: Target, fetch: Fetch, advance: Callable[[int], None]) -> None:
        """Hash what is here, append what is fetched, and compare at the end."""
        with opened_own(self._medium, self._path(target), write=True) as descriptor:
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
                f"{target.name} has {position} bytes with SHA-256 {digest.hexdigest()}, "
                f"signed are {target.length} bytes with {target.sha256}"
            )

    def blocks(self, target: Target) -> Iterator[bytes]:
        """Yield a spooled target, verified once more. Raises DigestError or MediumError."""
        with opened_own(self._medium, self._path(target)) as descriptor:
            yield from verified(
                self._read(descriptor, self._medium.size(descriptor)),
                name=target.name,
                length=target.length,
                sha256=target.sha256,
            )

    def small(self, target: Target) -> bytes:
        """Return a small target, verified, if all of it is here, else nothing. Raises MediumError."""
        path = self._path(target)
        if not os.path.lexists(path):
            return b""
        with opened_own(self._medium, path) as descriptor:
            data = self._medium.read_at(descriptor, target.length, 0)
        return data if hashlib.sha256(data).hexdigest() == target.sha256 else b""

    def keep_small(self, target: Target, data: bytes) -> None:
        """Keep a verified small target. Raises MediumError."""
        self._make_folder()
        path = str(self._path(target))
        self._medium.remove(path)
        descriptor = self._medium.create(path)
        try:
            self._medium.write_at(descriptor, data, 0)
        finally:
            self._medium.close(descriptor)

    # -- pieces of targets -------------------------------------------------------------------------------

    def pieces_name(self, target: Target) -> str:
        """Return the name of the file for pieces of a target."""
        return f"{target.sha256}.pieces"

    def has_pieces(self, target: Target) -> bool:
        """Tell whether there may be pieces of a target here."""
        return os.path.lexists(self._pieces_path(target))

    def piece(self, target: Target, span: Span) -> bytes:
        """Return a piece of a target, unverified; zeros or fewer bytes if it is not here.

        Raises:
            MediumError: there are no pieces of the target, or they could not be read.
        """
        with opened_own(self._medium, self._pieces_path(target)) as descriptor:
            return self._medium.read_at(descriptor, span.length, span.offset)

    def keep_piece(self, target: Target, offset: int, data: bytes) -> None:
        """Keep a verified piece of a target. Raises MediumError."""
        self._make_folder()
        path = self._pieces_path(target)
        if not self.has_pieces(target):
            self._medium.close(self._medium.create(str(path)))
        with opened_own(self._medium, path, write=True) as descriptor:
            self._medium.write_at(descriptor, data, offset)

    def flush_pieces(self, targets: Iterable[Target]) -> None:
        """Return once the kept pieces of these targets are on the medium. Raises MediumError."""
        for target in targets:
            with opened_own(self._medium, self._pieces_path(target), write=True) as descriptor:
                self._medium.flush(descriptor)

    def _make_folder(self) -> None:
        if self._is_private:  # asked once: pieces come by the thousand
            return
        durable.make_private(self._folder)
        self._is_private = True

    def _path(self, target: Target) -> Path:
        return self._folder / target.sha256

    def _pieces_path(self, target: Target) -> Path:
        return self._folder / self.pieces_name(target)

    def _read(self, descriptor: int, length: int) -> Iterator[bytes]:
        """Yield a file's first ``length`` bytes."""
        for offset in range(0, length, IO_BYTES):
            yield self._medium.read_at(descriptor, min(IO_BYTES, length - offset), offset)
