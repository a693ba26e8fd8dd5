"""What kernels left behind when they died: pstore's own folder, and where systemd-pstore moves it.

Rules it enforces:

* everything is bounded: the number of files, the depth, and the bytes of each, of which the end is read;
* only plain files are opened, never through a link and never waiting; what cannot be read is passed over;
* nothing is removed: systemd-pstore does that, and a person may want to look. A record is told from those
  that were there before by its content, so that an old panic does not explain a new failure, wherever it
  was moved in the meantime.

A panic's record in EFI variables comes in parts (``dmesg-efi_pstore-…``), one in RAM as ``dmesg-ramoops-N``;
``console-ramoops-N`` is the end of the console of the boot before, however that ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from updog.postmortem import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FILES = 256  # a panic in EFI variables comes in some ten parts; firmware has room for a few panics
MAX_DEPTH = 2  # systemd-pstore: a folder a crash, in it a folder a record
MAX_BYTES = 1 << 16  # of a record: 64 KiB; kmsg_bytes is 10 KiB by default, and the cause stands at the end
_KINDS = ("dmesg", "console-")


def read_records(folders: Iterable[Path]) -> tuple[Record, ...]:
    """Return the records in these folders, newest first; none where there are none."""
    found = []
    for path in _bounded(folders):
        with contextlib.suppress(OSError):
            found.append(_read(path))
    newest_first = sorted(found, key=lambda record: (-record.time, record.name))
    return tuple({record.digest: record for record in newest_first}.values())


def _bounded(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the first :data:`MAX_FILES` paths of records."""
    left = MAX_FILES
    for folder in folders:
        for path in _paths(folder, MAX_DEPTH):
            if not left:
                return
            left -= 1
            yield path


def _paths(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the paths of records in a folder and below it, newest folder first."""
    try:
        entries = sorted(folder.iterdir(), reverse=True)[: 4 * MAX_FILES]
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(_KINDS):
            yield entry
        elif depth and entry.is_dir() and not entry.is_symlink():
            yield from _paths(entry, depth - 1)


def _read(path: Path) -> Record:
    """Return one record. Raises OSError where it is no plain file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{path} is not a plain file")
        data = _end(descriptor, facts.st_size)
    finally:
        os.close(descriptor)
    digest = hashlib.sha256(data).hexdigest()[:16]
    text = data.decode("utf-8", errors="replace")
    return Record(name=path.name, text=text, digest=digest, time=facts.st_mtime)


def _end(descriptor: int, size: int) -> bytes:
    """Return the last bytes of a file that says it has ``size``."""
    if size > MAX_BYTES:
        os.lseek(descriptor, size - MAX_BYTES, os.SEEK_SET)
    data = b""
    while len(data) < MAX_BYTES and (block := os.read(descriptor, MAX_BYTES - len(data))):
        data += block
    return data
