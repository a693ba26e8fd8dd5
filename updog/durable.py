"""State files that survive a power cut: either the old content or the new one, never a mixture.

Durable replace: a temporary file in the same folder, written, flushed, renamed over the target, and
the folder flushed (the order of POSIX ``rename`` with ``fsync``). Everything goes through a
:class:`~signpost.medium.Medium`, so that a test can record the calls and replay any prefix.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from signpost.medium import Medium, OsMedium, opened

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Medium", "OsMedium", "opened", "read_bytes", "write_bytes", "write_json"]

_TEMPORARY_SUFFIX = ".tmp"


def write_bytes(medium: Medium, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the content of ``path`` by ``data``, durably and in one step.

    Raises:
        MediumError: the old content is then still in place.
    """
    temporary = f"{path}{_TEMPORARY_SUFFIX}"
    medium.remove(temporary)  # left by a kill between create and rename
    descriptor = medium.create(temporary, mode)
    try:
        medium.write_at(descriptor, data, 0)
        medium.flush(descriptor)
    finally:
        medium.close(descriptor)
    medium.rename(temporary, str(path))
    medium.flush_folder(os.path.dirname(temporary) or ".")


def write_json(medium: Medium, path: Path, document: Any, *, mode: int = 0o644) -> None:
    """Replace the content of ``path`` by ``document`` as indented JSON. Raises MediumError."""
    write_bytes(medium, path, (json.dumps(document, indent=2) + "\n").encode(), mode=mode)


def read_bytes(medium: Medium, path: Path) -> bytes:
    """Return the whole content of a state file. Raises MediumError."""
    with opened(medium, str(path)) as descriptor:
        return medium.read_at(descriptor, medium.size(descriptor), 0)
