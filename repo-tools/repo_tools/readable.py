"""Files and folders that a repository's readers need: everybody can read them, whatever the umask.

A web server usually runs as another user. With a umask of 077 (hardened hosts, cron, runners of CI) it would
answer 403 for all that is published from then on. Private keys and their folder keep the modes that they are
created with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from signpost.medium import OsMedium

if TYPE_CHECKING:
    from pathlib import Path

_READABLE_FOLDER = 0o555
READABLE_FILE = 0o444


def readable_medium() -> OsMedium:
    """Return the storage of the operating system, for files that everybody can read."""
    return OsMedium(readable=True)


def create_folder(folder: Path) -> None:
    """Create a folder that everybody can read, and those above it; existing ones stay as they are.

    Raises:
        OSError: it cannot be created.
    """
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            add_mode(path, _READABLE_FOLDER)


def add_mode(path: Path, bits: int) -> None:
    """Add permission bits to a file or folder. Raises OSError."""
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)
