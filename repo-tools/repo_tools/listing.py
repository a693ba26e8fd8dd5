"""What a verified chain leads readers to: metadata in the order of writing, and targets with their paths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.errors import ExpiredRepositoryError, TargetError
from repo_tools.expiry import expirations
from repo_tools.store import file_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import TargetFile, Targets

    from repo_tools.chain import Chain
    from repo_tools.expiry import Expiration

TIMESTAMP = "metadata/timestamp.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A target that readers are led to. ``path`` begins with ``targets/``; ``length`` is in bytes."""

    name: str
    path: str
    length: int
    sha256: str


def listed_targets(chain: Chain) -> list[Listed]:
    """Return every target that a complete chain leads to, by path. Raises TargetError."""
    found = {item.path: item for link in chain.lists() for item in listed_by(link.signed)}
    return [found[path] for path in sorted(found)]


def listed_by(targets: Targets) -> list[Listed]:
    """Return the targets of one list, the top-level one or a channel's, by path. Raises TargetError."""
    found = [_listed(name, target) for name, target in targets.targets.items()]
    return sorted(found, key=lambda item: item.path)


def _listed(name: str, target: TargetFile) -> Listed:
    digest = target.hashes.get("sha256")
    if digest is None:
        raise TargetError(f"{name} is signed without a SHA-256")
    if name.startswith("/") or {"..", ".", ""} & set(name.split("/")):
        raise TargetError(f"{name!r} is no name of a file below targets/")
    path = f"targets/{file_of(name, digest)}"
    return Listed(name=name, path=path, length=target.length, sha256=digest)


def numbered_files(chain: Chain) -> dict[str, bytes]:
    """Return the metadata with a number in their name, path → bytes, in the order of writing."""
    return root_files(chain) | current_files(chain)


def root_files(chain: Chain) -> dict[str, bytes]:
    """Return every root, path → bytes, rising."""
    return {f"metadata/{link.name}": link.data for link in chain.roots}


def current_files(chain: Chain) -> dict[str, bytes]:
    """Return what the timestamp leads to, path → bytes, in the order of writing."""
    return {f"metadata/{link.name}": link.data for link in (*chain.lists(), chain.snapshot) if link}


def expired(chain: Chain, now: datetime) -> list[Expiration]:
    """Return the roles whose signature has run out, from the root down."""
    return [row for row in expirations(chain, now=now) if row.expired]


def require_fresh(chain: Chain, now: datetime, *, next_step: str = "") -> None:
    """Refuse a chain of which a signature has run out. Raises ExpiredRepositoryError."""
    if late := expired(chain, now):
        words = ", ".join(f"{row.name} on {row.expires:%Y-%m-%d %H:%M} UTC" for row in late)
        raise ExpiredRepositoryError(f"expired: {words}", next_step=next_step)


def require_whole(folder: Path, targets: Sequence[Listed]) -> None:
    """Refuse targets that are not in ``folder`` as they were signed. Raises TargetError, naming all."""
    if faults := [fault for item in targets if (fault := fault_of(folder / item.path, item))]:
        raise TargetError("; ".join(faults))


def fault_of(file: Path, item: Listed) -> str:
    """Return why a file is not the target, nothing if it is."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            length = stream.tell()
    except OSError as error:
        return f"{item.path}: {error.strerror}"
    if length != item.length:
        return f"{item.path} has {length} bytes, signed are {item.length}"
    return "" if digest == item.sha256 else f"{item.path} has SHA-256 {digest}"
