"""Destinations by name: a bucket's URL, or the path of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools.copies.folder_destination import FolderDestination
from repo_tools.copies.s3 import S3_SCHEME, S3Destination
from repo_tools.errors import DestinationError
from repo_tools.trust.source import folder_of
from updog.url import without_secrets

if TYPE_CHECKING:
    from repo_tools.copies.destination import Destination


def destination_of(place: str) -> Destination:
    """Return the destination for ``s3://BUCKET[/PREFIX]``, ``file:///FOLDER`` or the path of a folder.

    Raises:
        DestinationError: ``place`` is none of these. UsageError: it is not a folder of this machine.
    """
    if place.startswith(S3_SCHEME):
        return S3Destination.named(place)
    if not place or ("://" in place and not place.lower().startswith("file:")):
        raise DestinationError(
            without_secrets(f"{place!r} is not a destination"),
            next_step="Write s3://BUCKET/PREFIX, or a folder's path.",
        )
    return FolderDestination(folder_of(place))
