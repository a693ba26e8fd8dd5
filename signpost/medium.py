"""The only access to durable storage: every write and flush of a disk or a state file goes through it.

:class:`Medium` lists exactly the calls of the operating system that change what survives a power cut, and
those that read it. The programs use :class:`OsMedium`; a test passes one that records the calls in order and
replays any prefix of them.

Rules it enforces:

* a short read or write is continued, never returned;
* every ``OSError`` becomes a :class:`~signpost.errors.MediumError` that names the path;
* a new file is created exclusively, so that opening never truncates.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from signpost.errors import DiskBusyError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Medium", "OsMedium", "opened"]

_FOLIO_BYTES = 1 << 21  # the largest piece of page cache that readahead and writes make, aligned to its size
_READ_BITS = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_BLKSSZGET = 0x1268  # linux/fs.h: logical sector size in bytes


class Medium(Protocol):
    """What the programs may do with storage. Paths are strings; offsets and lengths are bytes."""

    def open(self, path: str, *, write: bool) -> int:
        """Open an existing file or device and return its descriptor; never creates or truncates."""
        ...

    def create(self, path: str, mode: int = 0o644) -> int:
        """Create a file that must not exist and return a descriptor for reading and writing."""
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
        """Return when everything written through this descriptor is on the medium (fsync)."""
        ...

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        """Drop the page cache of a range (length 0: to the end), so that the medium is read next."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Replace ``target`` by ``source`` atomically."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; if it does not exist, that is not an error."""
        ...

    def flush_folder(self, path: str) -> None:
        """Return when the names in this folder are on the medium (fsync)."""
        ...

    def size(self, descriptor: int) -> int:
        """Return the size of a file or block device in bytes."""
        ...

    def sector_size(self, descriptor: int) -> int | None:
        """Return a block device's logical sector size in bytes, None for a regular file."""
        ...

    def lock(self, descriptor: int) -> None:
        """Take this file's advisory lock until the descriptor is closed. Raises DiskBusyError."""
        ...


@contextmanager
def _translated(action: str, where: str | int) -> Iterator[None]:
    """Turn an ``OSError`` into a MediumError that names the action and the path or descriptor."""
    try:
        yield
    except OSError as error:
        raise MediumError.of(f"cannot {action} {_name(where)}: {error.strerror or error}", error) from error


class OsMedium:
    """The storage of the operating system: the :class:`Medium` that the programs use.

    Args:
        readable: whether everyone whom their mode allows can read new files, even if the umask forbids it.
    """

    _readable = False  # also of a subclass that does not call __init__

    def __init__(self, *, readable: bool = False) -> None:
        self._readable = readable

    def open(self, path: str, *, write: bool) -> int:
        """Open an existing file or device, without waiting for who writes to a FIFO. Raises MediumError."""
        with _translated("open", path):
            return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)

    def create(self, path: str, mode: int = 0o644) -> int:
        """Create a file exclusively. Raises MediumError."""
        with _translated("create", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            if self._readable:
                try:
                    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | mode & _READ_BITS)
                except OSError:
                    os.close(descriptor)
                    raise
            return descriptor

    def close(self, descriptor: int) -> None:
        """Close a descriptor and release its lock. Raises MediumError.

        Closing alone does not release it if a child process that a thread has just forked still has a copy.
        """
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
        """Write everything; continue after short writes. Raises MediumError."""
        rest = memoryview(data)
        with _translated("write", descriptor):
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def flush(self, descriptor: int) -> None:
        """Fsync. Raises MediumError."""
        with _translated("flush", descriptor):
            os.fsync(descriptor)

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        """Advise the kernel to drop its cached copy; call :meth:`flush` first. Raises MediumError.

        The kernel keeps a piece of its cache (a folio) that is only partly in the range, so the range is
        extended to the next folio boundary on both sides.
        """
        start = offset // _FOLIO_BYTES * _FOLIO_BYTES
        end = -(-(offset + length) // _FOLIO_BYTES) * _FOLIO_BYTES
        with _translated("drop cached pages of", descriptor):
            os.posix_fadvise(descriptor, start, end - start if length else 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        """Rename ``source`` to ``target``, replacing it. Raises MediumError."""
        with _translated("replace", target):
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Unlink a file, if it exists. Raises MediumError."""
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
        """Return the bytes of a regular file or block device; a folder has no size. Raises MediumError."""
        with _translated("find the size of", descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):  # its end is at 2**63 - 1 on some file systems
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return os.lseek(descriptor, 0, os.SEEK_END)

    def sector_size(self, descriptor: int) -> int | None:
        """Return the logical sector size in bytes, None for a regular file. Raises MediumError."""
        with _translated("read the sector size of", descriptor):
            if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
                return None
            answer = fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4))
        return int.from_bytes(answer, "little")

    def lock(self, descriptor: int) -> None:
        """Take an exclusive flock without waiting. Raises DiskBusyError or MediumError."""
        with _translated("lock", descriptor):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DiskBusyError(f"{_name(descriptor)} is locked by another program") from error


def _name(descriptor: str | int) -> str:
    """Return the path, or the path of an open descriptor, for messages."""
    if isinstance(descriptor, str):
        return descriptor
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return f"descriptor {descriptor}"


@contextmanager
def opened(medium: Medium, path: str, *, write: bool = False) -> Iterator[int]:
    """Open ``path`` on ``medium`` for the duration of a ``with`` block."""
    descriptor = medium.open(path, write=write)
    try:
        yield descriptor
    finally:
        medium.close(descriptor)
