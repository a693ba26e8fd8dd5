"""Where a repository is served from: a folder of a web server, or a bucket. What `push` needs of it.

Rules:

* content-addressed files are uploaded as often as anybody likes; everything else is written on a condition:
  only if what is there is still what was read before. So of two publishers at once one wins, and the other
  is told (RFC 9110 §13.1: ``If-Match`` and ``If-None-Match``; on this machine a lock);
* a file is there whole or not at all;
* how long caches may keep a file depends on its name alone: :func:`cache_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from repo_tools.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

S3_SCHEME = "s3://"
FILE_SCHEME = "file://"
_IMMUTABLE = "public, max-age=31536000, immutable"
_ALWAYS_ASKED = "no-cache"


def cache_control(path: str) -> str:
    """Return the Cache-Control of a file of a repository. PURE.

    Targets carry their hash in their name, and numbered metadata their version: they never change (RFC 8246).
    ``timestamp.json`` is asked for every time, with its ETag, so that a withdrawal is seen at once, and no
    node is shown an older one by one cache than it has seen through another: it would refuse that.
    """
    return _ALWAYS_ASKED if path == "metadata/timestamp.json" else _IMMUTABLE


def content_type(path: str) -> str:
    """Return the media type of a file of a repository. PURE."""
    return "application/json" if path.endswith(".json") else "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A file at a destination: its size in bytes, and when it was put there (UTC)."""

    size: int
    modified: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """What a file at a destination held when it was read, and the tag that tells whether it still does."""

    data: bytes
    tag: str


class Destination(Protocol):
    """A place that readers read. Paths begin with ``metadata/`` or ``targets/``.

    Every method raises DestinationError when the place cannot be used.
    """

    @property
    def name(self) -> str:
        """The place, as a person writes it."""
        ...

    def held(self, folder: str) -> Mapping[str, Held]:
        """Return every file below ``metadata`` or ``targets`` by its path, that folder included."""
        ...

    def read(self, path: str, most: int) -> Tagged | None:
        """Return a file of at most ``most`` bytes, None where there is none."""
        ...

    def upload(self, path: str, file: Path, told: Callable[[int], None]) -> None:
        """Put a local file there whole, in place of anything; ``told`` how many bytes each time some went."""
        ...

    def put(self, path: str, data: bytes, *, instead_of: Tagged | None) -> bool:
        """Write a small file if what is there is still ``instead_of`` (None: nothing); say if it was."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...


def destination_of(place: str) -> Destination:
    """Return the destination that ``s3://BUCKET[/PREFIX]``, ``file:///FOLDER`` or a folder's path names.

    Raises:
        DestinationError: it names none.
    """
    from repo_tools.folder_destination import FolderDestination
    from repo_tools.s3 import S3Destination

    if place.startswith(S3_SCHEME):
        return S3Destination.named(place)
    if place.startswith(FILE_SCHEME):
        return FolderDestination(Path(place.removeprefix(FILE_SCHEME)))
    if "://" in place or not place:
        raise DestinationError(
            f"{place!r} is no place to push to", next_step="Write s3://BUCKET/PREFIX, or a folder's path."
        )
    return FolderDestination(Path(place))
