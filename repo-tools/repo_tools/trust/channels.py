"""PURE: a channel: a delegated targets role that offers its own releases, and the target names it may sign.

Rules:

* a channel is a role that the top-level targets delegate to, with its own keys and threshold; its manifest
  is the target ``<channel>/manifest.json``. The top-level targets can offer releases too, in
  ``manifest.json``; here, None in place of a channel's name means the top-level role;
* a channel is delegated the paths ``<channel>/*`` and ``<name>-*`` (the images of this repository), and no
  others. An image has the same name and file in all channels, so that promoting a release copies nothing;
* so two channels can list the same image name, and for a node only its own channel's entry counts: an image
  is never looked up in another channel's targets metadata;
* a client that does not know channels searches them in the order of the delegations. The channel added last
  is searched first: releases are promoted from the first channel to the last, and the last is protected best;
* a channel's name is short and plain, because it is part of a file name: ``N.<channel>.json``;
* a role whose name starts with ``brake-`` is not a channel but a channel's brake, which may list one target.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tuf.api.metadata import DelegatedRole, Delegations

from repo_tools.errors import ChannelError
from updog.update_metadata.holds import BRAKE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key
    from tuf.api.metadata import Targets

TARGETS = "targets"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAKEN = frozenset({"root", "targets", "snapshot", "timestamp", "mirrors"})


def require_name(name: str) -> str:
    """Return a channel's name. Raises ChannelError."""
    if not _NAME.fullmatch(name) or name in _TAKEN or is_brake(name):
        raise ChannelError(
            f"{name!r} cannot be the name of a channel",
            next_step="Use up to 32 of a-z, 0-9, '_', '-', starting with a letter; not a TUF role's name; "
            "not brake-….",
        )
    return name


def role_of(channel: str | None) -> str:
    """Return the name of the role that signs a channel's releases."""
    return channel or TARGETS


def target_name(channel: str | None, name: str) -> str:
    """Return the target name of a channel's own file, such as ``stable/manifest.json``."""
    return f"{channel}/{name}" if channel else name


def names(targets: Targets) -> list[str]:
    """Return the channels that the top-level targets delegate to, in the order in which clients search."""
    return [name for name in _delegated(targets) if not is_brake(name)]


def brakes(targets: Targets) -> list[str]:
    """Return the roles that are the brakes of channels, or of the top-level releases."""
    return [name for name in _delegated(targets) if is_brake(name)]


def is_brake(role: str) -> bool:
    """Return whether a role is a brake."""
    return role.startswith(BRAKE_PREFIX)


def _delegated(targets: Targets) -> list[str]:
    delegations = targets.delegations
    return list(delegations.roles) if delegations and delegations.roles else []


def delegated_role(targets: Targets, channel: str) -> DelegatedRole:
    """Return the delegation of a channel or a brake. Raises ChannelError, which names the channels."""
    known = targets.delegations.roles if targets.delegations else None
    if not known or channel not in known:
        existing = ", ".join(names(targets)) or "none"
        raise ChannelError(f"there is no channel {channel!r}; existing channels: {existing}")
    return known[channel]


def keys(targets: Targets, channel: str) -> list[Key]:
    """Return the public keys of a channel. Raises ChannelError."""
    known = targets.delegations.keys if targets.delegations else {}
    return [known[keyid] for keyid in delegated_role(targets, channel).keyids]


def delegation(channel: str, keys: Sequence[Key], threshold: int, *, first_word: str) -> DelegatedRole:
    """Return the delegation of a new channel.

    Args:
        channel: the channel's name.
        keys: the keys that can sign it.
        threshold: number of signatures required.
        first_word: first word of every image's name in this repository.

    Raises:
        ChannelError: the name is not allowed, or the threshold can never be met.
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
    """Return the delegations with one more channel, searched before the others. Raises ChannelError."""
    before = old.delegations or Delegations({}, {})
    roles = dict(before.roles or {})
    if new.name in roles:
        raise ChannelError(f"the channel {new.name!r} already exists")
    return Delegations({**before.keys, **{key.keyid: key for key in keys}}, {new.name: new, **roles})


def with_brake(old: Targets, new: DelegatedRole, keys: Sequence[Key]) -> Delegations:
    """Return the delegations with a brake, searched last: no other role lists its target."""
    before = old.delegations or Delegations({}, {})
    added = {key.keyid: key for key in keys}
    return Delegations({**before.keys, **added}, {**(before.roles or {}), new.name: new})


def without_brake(old: Targets, role: str) -> Delegations:
    """Return the delegations without a brake, and without the keys that no other role has."""
    before = old.delegations or Delegations({}, {})
    roles = {name: item for name, item in (before.roles or {}).items() if name != role}
    used = {keyid for item in roles.values() for keyid in item.keyids}
    return Delegations({keyid: key for keyid, key in before.keys.items() if keyid in used}, roles)
