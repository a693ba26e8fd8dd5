"""Where a signed target lies: only here do its name and a hash from the metadata become a path. PURE.

Rules:

* with consistent snapshots, the hash precedes the base name (TUF specification §6.2);
* signed does not mean harmless: the holder of a targets key chooses names and hashes. A hash is lower-case
  hexadecimal digits, a SHA-256 exactly 64 of them. A name is printable, relative, and has no component that
  is empty, ``.`` or ``..``. So no path leaves the folder that it is joined to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from updog.update_metadata.fields import excerpt, invalid, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST = re.compile(r"[0-9a-f]{32,128}")  # of MD5 up to SHA-512


def signed_sha256(name: str, hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of the target ``name``, 64 digits. Raises FaultsError."""
    try:
        return sha256(hashes["sha256"])
    except KeyError as error:
        raise invalid(f"target {excerpt(name)} is signed without a SHA-256") from error


def target_path(name: str, digest: str) -> str:
    """Return the path of a target relative to the targets folder or URL. Raises FaultsError."""
    if not _DIGEST.fullmatch(digest):
        raise invalid(f"target {excerpt(name)} is signed with the hash {excerpt(digest)}")
    if not name.isprintable() or {"", ".", ".."} & set(name.split("/")):
        raise invalid(f"the target name {excerpt(name)} is not a valid path below targets/")
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{digest}.{base}"
