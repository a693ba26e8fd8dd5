"""What readers find from a verified chain: metadata in the order of writing, and targets with their paths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from repo_tools.errors import BrokenRepositoryError, ChannelError, ExpiredRepositoryError, TargetError
from repo_tools.repository.change_log import LOG, MAX_LOG_BYTES, ChangeLog
from repo_tools.trust import channels
from repo_tools.trust.chain import Verified, walk
from repo_tools.trust.channels import TARGETS, role_of, target_name
from repo_tools.trust.expirations import expirations
from repo_tools.trust.source import source_of
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.holds import MAX_HOLDS_BYTES, Holds, brake_role, holds_name
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES, Manifest
from updog.update_metadata.target_path import signed_sha256, target_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

    from repo_tools.repository.change_log import LogEntry
    from repo_tools.trust.chain import Chain
    from repo_tools.trust.expirations import Expiration
    from repo_tools.trust.source import Source


TIMESTAMP = "metadata/timestamp.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTarget:
    """A target that signed metadata list. ``path`` begins with ``targets/``; ``length`` is in bytes."""

    name: str
    path: str
    length: int
    sha256: str

    @classmethod
    def of(cls, name: str, listed: TargetFile) -> Self:
        """Return a target as it is signed. Raises TargetError if that is not a file's name and SHA-256."""
        try:
            sha256 = signed_sha256(name, listed.hashes)
            path = f"targets/{target_path(name, sha256)}"
        except FaultsError as error:
            raise TargetError(str(error.faults[0])) from error
        return cls(name=name, path=path, length=listed.length, sha256=sha256)


def published_targets(chain: Chain) -> list[PublishedTarget]:
    """Return every target that the targets metadata of a chain list, by path. Raises TargetError."""
    found = {item.path: item for link in chain.all_targets() for item in targets_in(link.signed)}
    return [found[path] for path in sorted(found)]


def targets_in(targets: Targets) -> list[PublishedTarget]:
    """Return the targets that the top-level targets metadata or a channel's list. Raises TargetError."""
    found = [PublishedTarget.of(name, listed) for name, listed in targets.targets.items()]
    return sorted(found, key=lambda item: item.path)


def numbered_files(chain: Chain) -> dict[str, bytes]:
    """Return the metadata with a version number in the name, path → content, in the order of writing."""
    return {f"metadata/{link.name}": link.data for link in chain.roots} | current_files(chain)


def current_files(chain: Chain) -> dict[str, bytes]:
    """Return the metadata that the timestamp leads to, path → content, in the order of writing."""
    return {f"metadata/{link.name}": link.data for link in (*chain.all_targets(), chain.snapshot) if link}


def expired_roles(chain: Chain, now: datetime) -> list[Expiration]:
    """Return the roles whose signature has expired, from the root down."""
    return [row for row in expirations(chain, now=now) if row.expired]


def require_unexpired(chain: Chain, now: datetime, *, next_step: str = "") -> None:
    """Refuse a chain with an expired signature. Raises ExpiredRepositoryError."""
    if rows := expired_roles(chain, now):
        text = ", ".join(f"{row.name} on {row.expires:%Y-%m-%d %H:%M} UTC" for row in rows)
        raise ExpiredRepositoryError(f"expired: {text}", next_step=next_step)


def require_intact(folder: Path, targets: Sequence[PublishedTarget]) -> None:
    """Refuse targets whose files in ``folder`` are not what was signed. Raises TargetError, naming all."""
    if faults := [fault for item in targets if (fault := target_fault(folder / item.path, item))]:
        raise TargetError("; ".join(faults))


def target_fault(file: Path, item: PublishedTarget) -> str:
    """Return why a file is not the signed target, "" if it is."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            length = stream.tell()
    except OSError as error:
        return f"{item.path}: {error.strerror}"
    if length != item.length:
        return f"{item.path} has {length} bytes; {item.length} were signed"
    return "" if digest == item.sha256 else f"{item.path} has SHA-256 {digest}, which is not the signed one"


def manifest_of(place: Path | str, channel: str | None = None) -> Manifest:
    """Return the verified manifest of a repository in a folder or at a URL; expiry is not checked.

    Raises:
        ChannelError: there is no such channel.
        BrokenRepositoryError: the repository does not verify. ManifestError: the manifest has faults.
        RepositoryUnreachableError, MediumError: the repository cannot be read.
    """
    source = source_of(place)
    return read_manifest(source, require_complete(walk(source)).targets_of(channel), channel)


def log_of(place: Path | str, channel: str | None = None) -> list[LogEntry]:
    """Return the verified log of changes of a repository or channel, oldest first; expiry is not checked.

    Raises:
        ChannelError: there is no such channel.
        BrokenRepositoryError: the repository does not verify. ManifestError: the log has faults.
        RepositoryUnreachableError, MediumError: the repository cannot be read.
    """
    source = source_of(place)
    return logged_changes(source, require_complete(walk(source)).targets_of(channel), channel)


def logged_changes(source: Source, targets: Targets, channel: str | None) -> list[LogEntry]:
    """Return every change of a channel, oldest first, from all files of its log."""
    log = read_log(source, targets, target_name(channel, LOG))
    entries = list(log.entries)
    while log.earlier:
        name, following = log.earlier, entries[0].number
        log = read_log(source, targets, target_name(channel, name))
        if not log.entries or log.entries[-1].number != following - 1:
            raise BrokenRepositoryError(f"{name} does not end with change {following - 1}")
        entries = [*log.entries, *entries]
    return entries


MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A repository as its readers see it: everything is verified, except expiry."""

    root: Verified[Root]
    timestamp: Verified[Timestamp]
    snapshot: Verified[Snapshot]
    targets: Verified[Targets]
    channels: Mapping[str, Verified[Targets]]
    brakes: Mapping[str, Verified[Targets]]

    def signed_of(self, role: str) -> Targets:
        """Return the targets metadata of the top-level role, a channel or a brake."""
        roles = {TARGETS: self.targets, **self.channels, **self.brakes}
        return roles[role].signed

    def targets_of(self, channel: str | None) -> Targets:
        """Return the targets metadata of a channel, or the top-level ones. Raises ChannelError."""
        if channel is None:
            return self.targets.signed
        if channels.is_brake(channel):
            raise ChannelError(
                f"{channel!r} is a brake, not a channel", next_step="See `repo-tools brake show`."
            )
        channels.delegated_role(self.targets.signed, channel)
        return self.channels[channel].signed


def require_complete(chain: Chain) -> Published:
    """Return the repository if its whole chain verified. Raises BrokenRepositoryError."""
    if chain.findings or not (chain.timestamp and chain.snapshot and chain.targets):
        first = chain.findings[0]
        raise BrokenRepositoryError(
            f"{first.place}: {first.message} ({first.code})", next_step=first.next_step
        )
    return Published(
        root=chain.roots[-1],
        timestamp=chain.timestamp,
        snapshot=chain.snapshot,
        targets=chain.targets,
        channels=chain.channels,
        brakes=chain.brakes,
    )


def read_manifest(source: Source, targets: Targets, channel: str | None = None) -> Manifest:
    """Return the manifest that signed targets list. Raises BrokenRepositoryError or ManifestError."""
    name = target_name(channel, MANIFEST)
    data = read_target(source, targets, name, MAX_MANIFEST_BYTES)
    if data is None:
        raise BrokenRepositoryError(f"the {role_of(channel)} metadata do not list {name}")
    return Manifest.from_json(data)


def holds_of(place: Path | str, channel: str | None = None) -> Holds:
    """Return what a channel's brake holds; nothing without a brake. Raises as :func:`manifest_of` does."""
    source = source_of(place)
    return read_holds(source, require_complete(walk(source)), channel)


def offered_of(place: Path | str, channel: str | None = None) -> Manifest:
    """Return the manifest of a channel as its nodes see it: with the holds of its brake.

    Raises as :func:`manifest_of` does.
    """
    source = source_of(place)
    return read_offered(source, require_complete(walk(source)), channel)


def read_offered(source: Source, published: Published, channel: str | None) -> Manifest:
    """Return the manifest of a channel with the holds of its brake.

    Raises:
        BrokenRepositoryError, ManifestError: a file of them is not what was signed, or has faults.
    """
    manifest = read_manifest(source, published.targets_of(channel), channel)
    return read_holds(source, published, channel).applied_to(manifest)


def read_holds(source: Source, published: Published, channel: str | None) -> Holds:
    """Return what a channel's brake holds; nothing without one.

    Raises:
        BrokenRepositoryError, ManifestError: its file is not what was signed, or has faults.
    """
    role = brake_role(channel)
    if role not in published.brakes:
        return Holds()
    name = holds_name(channel)
    data = read_target(source, published.brakes[role].signed, name, MAX_HOLDS_BYTES)
    if data is None:
        raise BrokenRepositoryError(f"the {role} metadata do not list {name}")
    return Holds.from_json(data)


def read_log(source: Source, targets: Targets, name: str) -> ChangeLog:
    """Return a file of the log of changes by its target name; an empty log if it is not listed.

    Raises:
        BrokenRepositoryError, ManifestError: the file is not what was signed, or has faults.
    """
    data = read_target(source, targets, name, MAX_LOG_BYTES)
    return ChangeLog() if data is None else ChangeLog.from_json(data)


def read_target(source: Source, targets: Targets, name: str, limit: int) -> bytes | None:
    """Return a small target, verified; None if it is not listed. Raises BrokenRepositoryError."""
    listed = targets.targets.get(name)
    if listed is None:
        return None
    try:
        item = PublishedTarget.of(name, listed)
    except TargetError as error:
        raise BrokenRepositoryError(error.message) from error
    data = source.read(item.path, limit)
    if data is None:
        raise BrokenRepositoryError(f"{item.path} does not exist")
    if len(data) != item.length or hashlib.sha256(data).hexdigest() != item.sha256:
        raise BrokenRepositoryError(f"{item.path} is not what was signed")
    return data
