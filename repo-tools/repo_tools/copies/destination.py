"""The interface of a destination that `push` writes to: a folder of a web server, or a bucket.

Rules:

* content-addressed files can be uploaded any number of times; all other files are written on a condition:
  only if the stored file is still the one that was read before. So if two publishers write at once, one wins
  and the other gets an error (RFC 9110 §13.1: ``If-Match`` and ``If-None-Match``; on this machine a lock);
* a file appears completely or not at all;
* how long caches may keep a file depends only on its name: :func:`cache_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path


_IMMUTABLE = "public, max-age=31536000, immutable"
_REVALIDATE = "no-cache"


def cache_control(path: str) -> str:
    """Return the Cache-Control of a file of a repository. PURE.

    Targets have their hash in the name, and numbered metadata their version: they never change (RFC 8246).
    ``timestamp.json`` is revalidated every time, with its ETag: so a withdrawal takes effect at once, and a
    node never gets an older one from another cache, which it would refuse.
    """
    return _REVALIDATE if path == "metadata/timestamp.json" else _IMMUTABLE


def content_type(path: str) -> str:
    """Return the media type of a file of a repository. PURE."""
    return "application/json" if path.endswith(".json") else "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """A file at a destination: its size in bytes, and when it was written (UTC)."""

    size: int
    modified: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionedObject:
    """The content of a file at a destination when it was read, and its tag, which identifies the content."""

    data: bytes
    tag: str


class Destination(Protocol):
    """A place that readers fetch a repository from. Paths begin with ``metadata/`` or ``targets/``.

    Every method raises DestinationError if the destination cannot be used.
    """

    @property
    def name(self) -> str:
        """The URL or path of the destination."""
        ...

    def list_files(self, folder: str) -> Mapping[str, StoredObject]:
        """Return every file below ``metadata`` or ``targets`` by its path, which includes that folder."""
        ...

    def read(self, path: str, limit: int) -> VersionedObject | None:
        """Return a file of at most ``limit`` bytes, None if it does not exist."""
        ...

    def upload(self, path: str, file: Path, sent: Callable[[int], None]) -> None:
        """Store a local file, replacing any old one; ``sent`` is called with the number of new bytes."""
        ...

    def put(self, path: str, data: bytes, *, expected: VersionedObject | None) -> bool:
        """Write a small file if the stored one is still ``expected`` (None: no file); return if it was."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, if it exists."""
        ...
