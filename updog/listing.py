"""What a node's channel lists: its own targets and no others, verified once more on the way to them.

Rules:

* python-tuf looks a name up in all roles that may speak for it and takes the first that lists it. Channels
  share the names of images, so a node would go by whatever channel is asked first. A node of a channel
  therefore goes by one list: that of the role which lists the channel's manifest, which is the role of the
  channel's name, or the top-level targets;
* what is read here was fetched and verified by python-tuf. That it is the file of *this* check is seen again:
  the version, length and hash that the snapshot gives, and a threshold of the keys that the targets give;
* a channel's list counts only for the names that are delegated to it (TUF specification §5.6.7.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Targets

from updog.errors import TrustError

if TYPE_CHECKING:
    from pathlib import Path

    from tuf.api.metadata import Snapshot


def own_role(top: Targets, channel: str, manifest: str) -> str | None:
    """Return the role that a node of ``channel`` goes by; None where there is no such channel.

    Args:
        top: the top-level targets.
        channel: what the node follows.
        manifest: target name of its manifest.
    """
    if manifest in top.targets:
        return Targets.type
    known = top.delegations.roles if top.delegations else None
    return channel if known and channel in known else None


def own_list(folder: Path, channel: str, snapshot: Snapshot, top: Targets) -> Targets:
    """Return a channel's metadata as they lie in the state folder, less names it may not speak for.

    Raises:
        TrustError: they are not those of this check.
    """
    role = (top.delegations.roles or {})[channel] if top.delegations else None
    try:
        data = (folder / f"{channel}.json").read_bytes()
        meta = snapshot.meta[f"{channel}.json"]
        meta.verify_length_and_hashes(data)
        metadata = Metadata[Targets].from_bytes(data)
        top.verify_delegate(channel, metadata.signed_bytes, metadata.signatures)
    except (OSError, KeyError, ValueError, tuf_errors.RepositoryError) as error:
        raise TrustError(f"the channel {channel!r} is not what the snapshot says: {error}") from error
    signed = metadata.signed
    if signed.version != meta.version or role is None:
        raise TrustError(f"the channel {channel!r} is not of the version that the snapshot says")
    signed.targets = {name: item for name, item in signed.targets.items() if role.is_delegated_path(name)}
    return signed
