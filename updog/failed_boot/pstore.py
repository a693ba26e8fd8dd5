"""Records that crashed kernels left in pstore: its own folder, and the one that systemd-pstore moves them to.

Rules it enforces:

* everything is bounded: the number of files, the depth of folders, and the bytes of each file (its end is
  read);
* only regular files are opened, without following links and without blocking; unreadable ones are skipped;
* nothing is removed: systemd-pstore does that, and an operator may want to examine it. A record is identified
  by its content, so that an old panic does not explain a new failure, even if it was moved in the meantime.

A panic's record in EFI variables consists of parts (``dmesg-efi_pstore-…``), one in RAM is
``dmesg-ramoops-N``; ``console-ramoops-N`` is the end of the console log of the previous boot, whether it
crashed or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from typing import TYPE_CHECKING

from updog.failed_boot.cause import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FILES = 256  # a panic in EFI variables has about ten parts; firmware has space for a few panics
MAX_DEPTH = 2  # systemd-pstore: a folder per crash, and in it a folder per record
MAX_BYTES = 1 << 16  # of a record: 64 KiB; kmsg_bytes is 10 KiB by default, and the cause is at the end
_KINDS = ("dmesg", "console-")


def read_records(folders: Iterable[Path]) -> tuple[Record, ...]:
    """Return the records in these folders, newest first. Reads at most :data:`MAX_FILES`."""
    found = []
    paths = (path for folder in folders for path in _paths(folder, MAX_DEPTH))
    for path in itertools.islice(paths, MAX_FILES):
        with contextlib.suppress(OSError):
            found.append(_read(path))
    newest_first = sorted(found, key=lambda record: (-record.time, record.name))
    return tuple({record.digest: record for record in newest_first}.values())


def _paths(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the paths of records in a folder and below it, the newest folder first."""
    try:
        entries = sorted(folder.iterdir(), reverse=True)[: 4 * MAX_FILES]
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(_KINDS):
            yield entry
        elif depth and not os.path.islink(entry):  # noqa: PTH114 - pathlib's raises PermissionError
            yield from _paths(entry, depth - 1)  # nothing, if it is not a folder


def _read(path: Path) -> Record:
    """Return one record, of a long file the end. Raises OSError if it is not a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > MAX_BYTES:
            os.lseek(descriptor, status.st_size - MAX_BYTES, os.SEEK_SET)
        data = b""
        while len(data) < MAX_BYTES and (block := os.read(descriptor, MAX_BYTES - len(data))):
            data += block
    finally:
        os.close(descriptor)
    digest = hashlib.sha256(data).hexdigest()[:16]
    text = data.decode("utf-8", errors="replace")
    return Record(name=path.name, text=text, digest=digest, time=status.st_mtime)
