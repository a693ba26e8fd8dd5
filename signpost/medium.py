"""The one door to durable storage: every write and flush of a disk or a state file goes through it.

:class:`Medium` names exactly the operating system's calls that change what survives a power cut. The
programs use :class:`OsMedium`; a test passes one that records the calls in order and replays any prefix.

Rules it enforces:

* a short read or write is continued, never returned;
* every ``OSError`` becomes a :class:`~signpost.errors.MediumError` that names the path;
* a new file is created exclusively, so that nothing is truncated by opening it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, Protocol

from signpost.errors import DiskBusyError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator

from contextlib import contextmanager

_FOLIO_BYTES = 1 << 21  # the largest that readahead and writes make, on bounds of its own size
_BLKSSZGET = 0x1268  # linux/fs.h: logical sector size in bytes


class Medium(Protocol):
    """What the programs may do to storage. Paths are strings; offsets and lengths are bytes."""

    def open(self, path: str, *, write: bool) -> int:
        """Open an existing file or device and return its descriptor; never creates or truncates."""
        ...

    def create(self, path: str, mode: int = 0o644) -> int:
        """Create a file that must not exist yet and return a descriptor for reading and writing."""
        ...

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        ...

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Return up to ``length`` bytes at ``offset``; fewer only at the end of the medium."""
        ...

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        ...

    def flush(self, descriptor: int) -> None:
        """Return once everything written through this descriptor is on the medium (fsync)."""
        ...

    def forget(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        """Drop what the kernel has of a stretch (length 0: all), so that reading it asks the medium."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Put ``source`` in the place of ``target`` in one step."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def flush_folder(self, path: str) -> None:
        """Return once the names in this folder are on the medium."""
        ...

    def size(self, descriptor: int) -> int:
        """Return the size of a file or block device in bytes."""
        ...

    def sector_size(self, descriptor: int) -> int | None:
        """Return a block device's logical sector size in bytes, None for a plain file."""
        ...

    def lock(self, descriptor: int) -> None:
        """Take the advisory lock of this file for as long as it is open, or raise DiskBusyError."""
        ...


@contextmanager
def _translated(action: str, where: str | int) -> Iterator[None]:
    """Turn an ``OSError`` into a MediumError that says what was being done to which path or descriptor."""
    try:
        yield
    except OSError as error:
        raise MediumError(f"cannot {action} {_name(where)}: {error.strerror or error}") from error


class OsMedium:
    """The operating system's own storage."""

    def open(self, path: str, *, write: bool) -> int:
        """Open an existing file or device. Raises MediumError."""
        with _translated("open", path):
            return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def create(self, path: str, mode: int = 0o644) -> int:
        """Create a file exclusively. Raises MediumError."""
        with _translated("create", path):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def close(self, descriptor: int) -> None:
        """Close a descriptor and give up its lock, which a child that a thread just forked may still have."""
        with _translated("close", descriptor):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read until ``length`` bytes or the end of the medium. Raises MediumError."""
        with _translated("read", descriptor):
            data = os.pread(descriptor, length, offset)
            if len(data) in (0, length):
                return data
            pieces = [data]
            while data and (missing := length - sum(map(len, pieces))):
                data = os.pread(descriptor, missing, offset + length - missing)
                pieces.append(data)
        return b"".join(pieces)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write everything, continuing after short writes. Raises MediumError."""
        rest = memoryview(data)
        with _translated("write", descriptor):
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def flush(self, descriptor: int) -> None:
        """Fsync. Raises MediumError."""
        with _translated("flush", descriptor):
            os.fsync(descriptor)

    def forget(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        """Advise the kernel to drop its copy; call :meth:`flush` first.

        What it caches in one piece (a folio) and is only partly in the stretch would stay: so to the next
        bounds of folios, on both sides.
        """
        start = offset // _FOLIO_BYTES * _FOLIO_BYTES
        end = -(-(offset + length) // _FOLIO_BYTES) * _FOLIO_BYTES
        with _translated("drop cached pages of", descriptor):
            os.posix_fadvise(descriptor, start, end - start if length else 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        """Rename over ``target``. Raises MediumError."""
        with _translated("replace", target):
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Unlink, if there. Raises MediumError."""
        with _translated("remove", path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return

    def flush_folder(self, path: str) -> None:
        """Fsync a folder. Raises MediumError."""
        with _translated("flush", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def size(self, descriptor: int) -> int:
        """Size in bytes of a plain file or block device. Raises MediumError."""
        with _translated("measure", descriptor):
            return os.lseek(descriptor, 0, os.SEEK_END)

    def sector_size(self, descriptor: int) -> int | None:
        """Logical sector size in bytes of a block device, None for a plain file. Raises MediumError."""
        with _translated("ask the sector size of", descriptor):
            if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
                return None
            answer = fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4))
        return int.from_bytes(answer, "little")

    def lock(self, descriptor: int) -> None:
        """Flock exclusively without waiting. Raises DiskBusyError or MediumError."""
        with _translated("lock", descriptor):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DiskBusyError(f"{_name(descriptor)} is locked by another program") from error


def _name(descriptor: str | int) -> str:
    """Return a path as it is, or the path behind a descriptor, for messages."""
    if isinstance(descriptor, str):
        return descriptor
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return f"descriptor {descriptor}"


@contextmanager
def opened(medium: Medium, path: str, *, write: bool = False) -> Iterator[int]:
    """Open ``path`` on ``medium`` for the length of a ``with`` block."""
    descriptor = medium.open(path, write=write)
    try:
        yield descriptor
    finally:
        medium.close(descriptor)
