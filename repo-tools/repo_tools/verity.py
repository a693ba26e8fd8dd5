"""The dm-verity hash image of a root image, made by ``veritysetup``.

Rules: no salt and a UUID taken from the release's name, so the same root always gives the same hash image
and anyone can make it again; SHA-256 over 4096-byte blocks, the format that the kernel calls 1.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from typing import TYPE_CHECKING

from repo_tools.errors import VerityError

if TYPE_CHECKING:
    from pathlib import Path

TOOL = "veritysetup"
PACKAGE = "cryptsetup-bin"
_NAMESPACE = uuid.UUID("6a5d2f0e-51c1-5a1b-9a3f-0f4f3c8c6b11")  # of names of releases; made once, at random
_ROOT_HASH = re.compile(r"^Root hash:\s*([0-9a-f]{64})\s*$", re.MULTILINE)


def make_hash_image(root: Path, target: Path, *, name: str) -> str:
    """Write the hash image of ``root`` to ``target`` and return the root hash, in hexadecimal.

    Args:
        root: raw root image; its size is a multiple of 4096 bytes.
        target: is created.
        name: of the release; gives the superblock its UUID.

    Raises:
        VerityError: the tool is missing, or failed.
    """
    identity = str(uuid.uuid5(_NAMESPACE, name))
    command = [TOOL, "format", "--salt=-", f"--uuid={identity}", str(root), str(target)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise VerityError(f"{TOOL} is not installed") from error
    found = _ROOT_HASH.search(run.stdout)
    if run.returncode or not found:
        raise VerityError(
            f"{TOOL} failed on {root}: {run.stderr.strip() or run.stdout.strip()}",
            next_step="The root image's size must be a multiple of 4096 bytes; or pass --hash FILE.",
        )
    return found[1]
