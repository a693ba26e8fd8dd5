"""PURE: old metadata and a change in, new metadata out.

Rules:

* version numbers are parameters and only increase; the caller knows which ones are already used;
* ``expires`` is in whole seconds (python-tuf refuses fractions); ``spec_version`` is "1.0.0", with which
  tough's editor works;
* a timestamp says when it was signed, so that nodes can judge their clocks;
* SHA-256 only: tough requires it, and the first listed hash is part of the file name;
* always consistent snapshots; fields that this program does not know are kept from the old version.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import TYPE_CHECKING

from tuf.api.metadata import MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from updog.update_metadata.signed_time import SIGNED_AT
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from tuf.api.metadata import Delegations, Key

SPEC_VERSION = "1.0.0"


def expiry(now: datetime, span: timedelta) -> datetime:
    """Return when a signature made at ``now`` expires, in whole seconds."""
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
    """Return targets metadata, top-level or a channel's, with ``changes`` added or replaced.

    ``delegations``, if given, replace the old ones.
    """
    new = deepcopy(old) if old else Targets(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires = version, expires
    new.targets = {**new.targets, **changes}
    new.delegations = delegations or new.delegations
    return new


def snapshot_after(
    old: Snapshot | None, changes: Mapping[str, MetaFile], *, version: int, expires: datetime
) -> Snapshot:
    """Return a snapshot with the changed targets metadata, role → file; other roles as before."""
    new = deepcopy(old) if old else Snapshot(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires = version, expires
    new.meta = {**new.meta, **{f"{role}.json": meta for role, meta in changes.items()}}
    return new


def timestamp_after(
    old: Timestamp | None, snapshot: MetaFile, *, version: int, expires: datetime, now: datetime
) -> Timestamp:
    """Return a timestamp that names this snapshot, and says that it was signed at ``now``."""
    new = deepcopy(old) if old else Timestamp(spec_version=SPEC_VERSION, expires=expires)
    new.version, new.expires, new.snapshot_meta = version, expires, snapshot
    new.unrecognized_fields[SIGNED_AT] = format_time(now.replace(microsecond=0))
    return new


def meta_file(data: bytes, version: int) -> MetaFile:
    """Return the entry of a metadata file: version, length and SHA-256."""
    return MetaFile(version=version, length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})


def target_file(name: str, *, length: int, sha256: str) -> TargetFile:
    """Return the entry of a target: length in bytes and SHA-256 in hexadecimal."""
    return TargetFile(length=length, hashes={"sha256": sha256}, path=name)
