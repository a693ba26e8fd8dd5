"""Hash images of dm-verity, as the real `veritysetup` makes them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def format_verity(root: Path, hash_image: Path, *options: str) -> str:
    """Write the hash image of a root image; return the root hash, in hexadecimal."""
    command = ["veritysetup", "format", *options, str(root), str(hash_image)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return next(line.split()[-1] for line in printed.splitlines() if line.startswith("Root hash:"))
