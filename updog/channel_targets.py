"""The targets of a node's channel, and of no other channel; they are verified once more here.

Rules:

* python-tuf looks up a name in all roles to which it is delegated, and takes the first that lists it.
  Channels share the names of images, so the order of the channels would decide. A node of a channel therefore
  uses the targets of one role only: the role that lists the channel's manifest, which is either the role with
  the channel's name or the top-level targets;
* the files read here were fetched and verified by python-tuf. It is checked again that they belong to *this*
  refresh: version, length and hash as in the snapshot, and signatures by a threshold of the delegated keys;
* a channel's targets count only for the names that are delegated to it (TUF specification §5.6.7.2);
* the same for the channel's brake, if the snapshot lists one (:mod:`updog.update_metadata.holds`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Targets

from updog.errors import TrustError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tuf.api.metadata import DelegatedRole, Snapshot


def channel_role(top: Targets, channel: str, manifest: str) -> str | None:
    """Return the role that lists the targets of ``channel``; None if there is no such channel.

    Args:
        top: the top-level targets.
        channel: the channel that the node follows.
        manifest: target name of its manifest.
    """
    if manifest in top.targets:
        return Targets.type
    return channel if channel in _delegated(top) else None


def has_brake(top: Targets, snapshot: Snapshot, role: str) -> bool:
    """Return whether a brake of this name is delegated and published.

    The snapshot decides: a server of the files cannot hide a brake, because what it lists must be there. A
    delegation alone is a brake that was not published yet, or no longer.
    """
    return role in _delegated(top) and f"{role}.json" in snapshot.meta


def _delegated(top: Targets) -> Mapping[str, DelegatedRole]:
    return (top.delegations.roles if top.delegations else None) or {}


def channel_targets(folder: Path, channel: str, snapshot: Snapshot, top: Targets) -> Targets:
    """Return a channel's metadata from the state folder, without the names outside its delegation.

    Raises:
        TrustError: they do not belong to this refresh. OSError: the file cannot be read.
    """
    role = _delegated(top).get(channel)
    try:
        data = (folder / f"{channel}.json").read_bytes()
        meta = snapshot.meta[f"{channel}.json"]
        meta.verify_length_and_hashes(data)
        metadata = Metadata[Targets].from_bytes(data)
        top.verify_delegate(channel, metadata.signed_bytes, metadata.signatures)
    except (FileNotFoundError, KeyError, ValueError, tuf_errors.RepositoryError) as error:
        raise TrustError(f"the metadata of channel {channel!r} do not match the snapshot: {error}") from error
    signed = metadata.signed
    if signed.version != meta.version or role is None:
        raise TrustError(f"the metadata of channel {channel!r} do not have the version in the snapshot")
    signed.targets = {name: item for name, item in signed.targets.items() if role.is_delegated_path(name)}
    return signed
