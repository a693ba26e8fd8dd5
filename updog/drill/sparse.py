"""Copies of disk images that keep their holes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_COPY_BYTES = 1 << 20


def copy(source: str | Path, target: str | Path) -> str:
    """Copy a file with its holes and its mode; return the target, as `shutil.copytree` expects."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        position = 0
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: no data up to the end
                break
            end = os.lseek(old.fileno(), position, os.SEEK_HOLE)
            while position < end:
                count = os.copy_file_range(
                    old.fileno(), new.fileno(), min(end - position, _COPY_BYTES * 64), position, position
                )
                position += count
    shutil.copymode(source, target)
    return str(target)
