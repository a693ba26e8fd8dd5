"""Check what is correctly signed but dangerous: keys, delegations, expiries, strays, the log.

Rules:

* nothing here is decided by a client: each finding names what its publisher should check;
* a folder can be searched for files that should not be there, a web server cannot.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from itertools import combinations
from typing import TYPE_CHECKING
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Snapshot, Targets

from repo_tools.errors import BrokenRepositoryError
from repo_tools.keys.holders import short_keyid
from repo_tools.keys.signers import is_same_key
from repo_tools.repository.change_log import LOG
from repo_tools.repository.published import MANIFEST, logged_changes, read_log
from repo_tools.trust import channels
from repo_tools.trust.chain import MAX_METADATA_BYTES, versions_among
from repo_tools.trust.channels import TARGETS, target_name
from repo_tools.trust.findings import Finding
from repo_tools.trust.source import FolderSource
from updog.update_metadata.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from repo_tools.repository.change_log import LogEntry
    from repo_tools.trust.chain import Chain, Verified
    from repo_tools.trust.source import Source

LONGEST_EXPIRY = timedelta(days=3653)
"""Ten years: a thief of a key whose signatures are valid for longer can freeze nodes permanently."""

_NUMBERED = re.compile(r"[1-9][0-9]*\.(.+\.json)")


def faults(source: Source, chain: Chain, now: datetime) -> Iterator[Finding]:
    """Yield the findings of a chain that verified, as far as it did."""
    yield from _keys(chain)
    yield from _expiries(chain, now)
    yield from _delegations(chain)
    yield from _shrunk(source, chain)
    yield from _strays(source, chain)
    yield from _logs(source, chain)


def _keys(chain: Chain) -> Iterator[Finding]:
    """Yield a root that one key can replace, and keys that a role lists under several keyids."""
    if chain.root is None:
        return
    place = f"metadata/{chain.roots[-1].name}"
    if chain.root.roles["root"].threshold == 1:
        yield Finding(
            code="root-threshold-one", place=place, message="one stolen key is enough to replace root"
        )
    groups = [(name, role.keyids, chain.root.keys, place) for name, role in chain.root.roles.items()]
    for link in chain.all_targets():
        if (delegations := link.signed.delegations) is not None:
            roles = (delegations.roles or {}).items()
            groups += [(name, role.keyids, delegations.keys, f"metadata/{link.name}") for name, role in roles]
    for name, keyids, keys, where in groups:
        for one, other in combinations([keyid for keyid in keyids if keyid in keys], 2):
            if is_same_key(keys[one], keys[other]):
                two = f"{short_keyid(one)} and {short_keyid(other)}"
                message = f"{name}: {two} are one key: its holder makes two signatures"
                yield Finding(code="key-duplicate", place=where, message=message, subject=name)


def _expiries(chain: Chain, now: datetime) -> Iterator[Finding]:
    for link in chain.verified():
        if link.signed.expires - now > LONGEST_EXPIRY:
            message = f"expires in {link.signed.expires:%Y}"
            yield Finding(code="expires-far", place=f"metadata/{link.name}", message=message)


def _delegations(chain: Chain) -> Iterator[Finding]:
    """Yield roles that may sign the manifest of another channel, or of the top-level releases."""
    if chain.targets is None:
        return
    names = channels.names(chain.targets.signed)
    for name in names:
        role = channels.delegated_role(chain.targets.signed, name)
        others = [None, *(other for other in names if other != name)]
        for manifest in (target_name(other, MANIFEST) for other in others):
            if role.paths is not None and role.is_delegated_path(manifest):
                message = f"{name} may sign {manifest}, which is not its own"
                place = f"metadata/{chain.targets.name}"
                yield Finding(code="delegation-wide", place=place, message=message, subject=name)


def _shrunk(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield what the snapshot before listed and this one does not: clients refuse that (§5.5.5)."""
    if chain.snapshot is None:
        return
    version = chain.snapshot.signed.version - 1
    before = _snapshot(source, version) if version else None
    if before is None:
        return
    for name in sorted(before.meta.keys() - chain.snapshot.signed.meta.keys()):
        message = f"{name}, which snapshot {version} listed, is no longer listed"
        yield Finding(code="snapshot-shrunk", place=f"metadata/{chain.snapshot.name}", message=message)


def _strays(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield files that are not metadata of a known role, and links that lead out of the repository."""
    names = (source.names("metadata") or []) if chain.targets else []
    files = [link.name.partition(".")[2] for link in chain.all_targets()]
    strays = [name for name in names if not _is_of(name, {"root.json", "snapshot.json", *files})]
    once = _listed_once(source, names) if strays else set()  # roles that were removed since
    for name in strays:
        if not _is_of(name, once):
            message = "is not metadata of any role of this repository"
            yield Finding(code="metadata-stray", place=f"metadata/{name}", message=message)
    for path in source.links_out() if isinstance(source, FolderSource) else ():
        yield Finding(code="link-outside", place=path, message="is a link to a place outside the repository")


def _is_of(name: str, files: Collection[str]) -> bool:
    """Return whether a file of ``metadata`` is a version of one of these, the timestamp, or temporary."""
    match = _NUMBERED.fullmatch(name)
    return name.endswith(".tmp") or name == "timestamp.json" or (match is not None and match[1] in files)


def _listed_once(source: Source, names: list[str]) -> set[str]:
    """Return the file names that any snapshot in the folder lists, or targets metadata in it delegate to.

    A writer that was killed while it added a channel has left targets metadata that no snapshot lists.
    """
    listed: set[str] = set()
    for role in ("snapshot", TARGETS):
        for version in versions_among(names, role):
            with suppress(RepositoryError):
                data = source.read(f"metadata/{version}.{role}.json", MAX_METADATA_BYTES) or b""
                signed = Metadata.from_bytes(data).signed
                delegations = getattr(signed, "delegations", None)
                files = [
                    *getattr(signed, "meta", ()),
                    *(f"{name}.json" for name in getattr(delegations, "roles", None) or ()),
                ]
                listed.update(quote(name, safe="") for name in files)
    return listed


def _logs(source: Source, chain: Chain) -> Iterator[Finding]:
    """Yield why a log of changes cannot be read to its beginning."""
    names = source.names("metadata")  # None: a web server
    snapshots = _snapshots(source, names or [])
    links = [link for link in (chain.targets, *chain.channels.values()) if link]
    for link in links:
        channel = None if link.role == TARGETS else link.role
        place = target_name(channel, LOG)
        try:
            entries = logged_changes(source, link.signed, channel)
        except (BrokenRepositoryError, ManifestError) as error:
            yield Finding(code="log-invalid", place=place, message=error.message)
            continue
        if entries and entries[0].number != 1:
            message = f"begins with change {entries[0].number}; those before are gone"
            yield Finding(code="log-invalid", place=place, message=message)
        earlier = _earlier_versions(names, link, snapshots)
        yield from _log_shrunk(source, link, place, entries, earlier)


def _log_shrunk(
    source: Source, link: Verified[Targets], place: str, entries: list[LogEntry], earlier: list[int]
) -> Iterator[Finding]:
    """Yield changes that an ``earlier`` version logged (newest first), and this one does not or differently.

    The last change of an earlier version may be another one now: a writer that was killed has left a version
    that was never in force, and the next change has its number.
    """
    current = {entry.number: entry for entry in entries}
    for version in earlier:
        logged = _log_in(source, f"{version}.{quote(link.role, safe='')}.json", place)
        if logged is None:
            continue
        if not entries and logged:
            message = f"{link.name} does not list it; {link.role} {version} did"
            yield Finding(code="log-missing", place=place, message=message)
        elif changed := [
            entry.number
            for entry in logged
            if entry.number not in current or (entry != logged[-1] and current[entry.number] != entry)
        ]:
            message = f"change {changed[0]} is no longer what {link.role} {version} logged"
            yield Finding(code="log-invalid", place=place, message=message)
        return  # that one is compared with those before it


def _earlier_versions(
    names: list[str] | None, link: Verified[Targets], snapshots: Sequence[Snapshot]
) -> list[int]:
    """Return the versions before the current one that may be there, newest first.

    Only what a snapshot lists can have been in force: a killed writer leaves other files.
    """
    current = link.signed.version
    if names is None:  # a web server
        return [current - 1] if current > 1 else []
    name = f"{link.role}.json"
    listed = {snapshot.meta[name].version for snapshot in snapshots if name in snapshot.meta}
    earlier = (version for version in reversed(versions_among(names, link.role)) if version < current)
    return [version for version in earlier if version in listed]


def _snapshots(source: Source, names: list[str]) -> list[Snapshot]:
    """Return the snapshots in the folder that can be read, of any version."""
    versions = versions_among(names, "snapshot")
    return [found for version in versions if (found := _snapshot(source, version))]


def _snapshot(source: Source, version: int) -> Snapshot | None:
    """Return a snapshot by its version; None if it is not there or cannot be read."""
    with suppress(RepositoryError):
        data = source.read(f"metadata/{version}.snapshot.json", MAX_METADATA_BYTES) or b""
        signed = Metadata[Snapshot].from_bytes(data).signed
        if isinstance(signed, Snapshot):  # a file of this name can be another role's
            return signed
    return None


def _log_in(source: Source, name: str, log: str) -> list[LogEntry] | None:
    """Return the newest file of the log that metadata list, None if it is not there or was pruned."""
    try:
        data = source.read(f"metadata/{name}", MAX_METADATA_BYTES) or b""
        signed = Metadata[Targets].from_bytes(data).signed
        is_listed = log in getattr(signed, "targets", ())
        return list(read_log(source, signed, log).entries) if is_listed else None
    except (RepositoryError, BrokenRepositoryError, ManifestError):
        return None
