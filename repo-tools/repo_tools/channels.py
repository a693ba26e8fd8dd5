"""PURE: what a channel is: a delegated role that offers releases of its own, and the names it may speak for.

Rules:

* a channel is a role that the top-level targets delegate to, with its own keys and threshold; its manifest
  is the target ``<channel>/manifest.json``. The top-level targets may offer releases too, as
  ``manifest.json``: no channel at all is written None here;
* a channel speaks for ``<channel>/*`` and for the images of this repository, ``<name>-*``, and for nothing
  else. Images have one name and one file in all channels, so that promoting one copies nothing;
* so two channels may list one image name, and only what a node's own channel lists counts for it: nobody
  looks an image up in another channel's list;
* a client that knows nothing of this looks through the channels in the order of the delegations. The last one
  added stands first: releases travel from the first channel to the last, and the last is guarded best;
* a name is short and plain, since it becomes a file's: ``N.<channel>.json``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tuf.api.metadata import DelegatedRole, Delegations

from repo_tools.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key
    from tuf.api.metadata import Targets

TARGETS = "targets"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAKEN = frozenset({"root", "targets", "snapshot", "timestamp", "mirrors"})


def require_name(name: str) -> str:
    """Return a channel's name. Raises ChannelError."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ChannelError(
            f"{name!r} is no name of a channel",
            next_step="Take up to 32 of a-z, 0-9, '_' and '-', a letter first, and no role of TUF.",
        )
    return name


def role_of(channel: str | None) -> str:
    """Return the role that offers a channel's releases."""
    return channel or TARGETS


def name_in(channel: str | None, name: str) -> str:
    """Return the target name of a channel's own file, such as ``stable/manifest.json``."""
    return f"{channel}/{name}" if channel else name


def names(targets: Targets) -> list[str]:
    """Return the channels that the top-level targets delegate to, the one asked first standing first."""
    delegations = targets.delegations
    return list(delegations.roles) if delegations and delegations.roles else []


def role(targets: Targets, channel: str) -> DelegatedRole:
    """Return a channel as it is delegated to. Raises ChannelError, naming the ones there are."""
    known = targets.delegations.roles if targets.delegations else None
    if not known or channel not in known:
        there = ", ".join(known or ()) or "there is none"
        raise ChannelError(f"there is no channel {channel!r} ({there})")
    return known[channel]


def keys(targets: Targets, channel: str) -> list[Key]:
    """Return the public keys of a channel. Raises ChannelError."""
    known = targets.delegations.keys if targets.delegations else {}
    return [known[keyid] for keyid in role(targets, channel).keyids]


def delegation(channel: str, keys: Sequence[Key], threshold: int, *, first_word: str) -> DelegatedRole:
    """Return the delegation of a new channel.

    Args:
        channel: its name.
        keys: whose signatures count.
        threshold: how many are needed.
        first_word: of every image's name in this repository.

    Raises:
        ChannelError: it could never be signed.
    """
    keyids = [key.keyid for key in keys]
    if not 1 <= threshold <= len(set(keyids)):
        raise ChannelError(
            f"a threshold of {threshold} with {len(set(keyids))} keys can never be met",
            next_step="Choose --threshold between 1 and the number of --signer and --public-key.",
        )
    paths = [f"{require_name(channel)}/*", f"{first_word}-*"]
    return DelegatedRole(channel, keyids, threshold, terminating=False, paths=paths)


def with_channel(old: Targets, new: DelegatedRole, keys: Sequence[Key]) -> Delegations:
    """Return the delegations with one more channel, asked before the others. Raises ChannelError."""
    before = old.delegations or Delegations({}, {})
    roles = dict(before.roles or {})
    if new.name in roles:
        raise ChannelError(f"there is a channel {new.name!r} already")
    return Delegations({**before.keys, **{key.keyid: key for key in keys}}, {new.name: new, **roles})
