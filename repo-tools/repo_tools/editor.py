"""PURE: old metadata and a change in, new metadata out.

Rules:

* versions are given and only rise; the caller knows which ones are spent;
* ``expires`` is in whole seconds (python-tuf refuses fractions); ``spec_version`` is "1.0.0", which keeps
  tough's editor working;
* SHA-256 only: tough requires it, and the first listed hash names the file;
* consistent snapshots always; what an old version carries beyond this program's knowledge is kept.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import TYPE_CHECKING

from tuf.api.metadata import MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from tuf.api.metadata import Delegations, Key

SPEC_VERSION = "1.0.0"


def expiry(now: datetime, span: timedelta) -> datetime:
    """Return when a signature made at ``now`` runs out, in whole seconds."""
    return now.replace(microsecond=0) + span


def first_root(keys: Mapping[str, Sequence[Key]], *, root_threshold: int, expires: datetime) -> Root:
    """Return root version 1 with these keys by role; only root has a threshold above 1."""
    roles = {role: Role([], root_threshold if role == "root" else 1) for role in keys}
    root = Root(version=1, spec_version=SPEC_VERSION, expires=expires, roles=roles, consistent_snapshot=True)
    for role, members in keys.items():
        for key in members:
            root.add_key(key, role)
    return root


def root_after(old: Root, *, expires: datetime) -> Root:
    """Return the next root: the same keys and thresholds, another expiry."""
    new = deepcopy(old)
    new.version, new.expires = old.version + 1, expires
    return new


def targets_after(
    old: Targets | None,
    changes: Mapping[str, TargetFile],
    *,
    version: int,
    expires: datetime,
    delegations: Delegations | None = None,
) -> Targets:
    """Return a list of targets, top-level or a channel's, with ``changes`` added or in place of the old.

    ``delegations`` take the place of the old ones, where given.
    """
    new = deepcopy(old) if old else Targets(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires = version, expires
    new.targets = {**new.targets, **changes}
    new.delegations = delegations or new.delegations
    return new


def snapshot_after(
    old: Snapshot | None, lists: Mapping[str, MetaFile], *, version: int, expires: datetime
) -> Snapshot:
    """Return a snapshot that names these lists of targets, role → file; other roles as before."""
    new = deepcopy(old) if old else Snapshot(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires = version, expires
    new.meta = {**new.meta, **{f"{role}.json": meta for role, meta in lists.items()}}
    return new


def timestamp_after(
    old: Timestamp | None, snapshot: MetaFile, *, version: int, expires: datetime
) -> Timestamp:
    """Return a timestamp that names this snapshot."""
    new = deepcopy(old) if old else Timestamp(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires, new.snapshot_meta = version, expires, snapshot
    return new


def meta_file(data: bytes, version: int) -> MetaFile:
    """Return how a metadata file is listed: version, length and SHA-256."""
    return MetaFile(version=version, length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})


def target_file(name: str, *, length: int, sha256: str) -> TargetFile:
    """Return how a target is listed: length in bytes and SHA-256 in hexadecimal."""
    return TargetFile(length=length, hashes={"sha256": sha256}, path=name)
