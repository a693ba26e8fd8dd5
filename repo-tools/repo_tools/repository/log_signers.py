"""Who signed each change in a log: the valid signatures of the metadata that listed it first.

The log is signed, so that it cannot name those who sign it later. The numbered metadata that are still in the
repository prove it: the earliest version whose log ends with a change is the one that published this change;
later versions with the same log were only re-signed. For older changes the metadata may be gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from securesystemslib.exceptions import Error as SslibError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from repo_tools.errors import BrokenRepositoryError
from repo_tools.keys.holders import Holder, holder_names
from repo_tools.repository.change_log import LOG
from repo_tools.repository.published import read_log, require_complete
from repo_tools.trust import channels
from repo_tools.trust.chain import MAX_METADATA_BYTES, versions_among, walk
from repo_tools.trust.channels import role_of, target_name
from repo_tools.trust.source import source_of
from updog.update_metadata.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from securesystemslib.signer import Key

    from repo_tools.repository.change_log import LogEntry
    from repo_tools.trust.chain import Chain
    from repo_tools.trust.source import Source


def signers_of_changes(
    place: Path | str, channel: str | None, entries: Collection[LogEntry]
) -> dict[int, tuple[Holder, ...]]:
    """Return number of a change → holders who signed it, for those of ``entries`` that can be proved.

    Raises:
        ChannelError: there is no such channel.
        BrokenRepositoryError: the repository does not verify.
        RepositoryUnreachableError, MediumError: the repository cannot be read.
    """
    source = source_of(place)
    chain = walk(source)
    current = require_complete(chain).targets_of(channel)
    keys, names = _keys_and_names(chain, channel)
    wanted = {entry.number: entry for entry in entries}
    found: dict[int, tuple[Holder, ...]] = {}
    last: dict[str, LogEntry | None] = {}
    versions = versions_among(source.names("metadata") or [], role_of(channel))
    for version in sorted((version for version in versions if version <= current.version), reverse=True):
        if not wanted or (found and min(found) < min(wanted)):
            break
        metadata = _targets(source, f"metadata/{version}.{role_of(channel)}.json")
        listed = metadata.signed.targets.get(target_name(channel, LOG)) if metadata else None
        if metadata is None or listed is None:
            continue
        digest = listed.hashes.get("sha256", "")
        if digest not in last:
            last[digest] = _last_entry(source, metadata.signed, channel)
        entry = last[digest]
        if entry is not None and (wanted.get(entry.number, entry) == entry):
            found[entry.number] = _valid_signers(metadata, keys, names)
    return {number: holders for number, holders in found.items() if number in wanted and holders}


def _keys_and_names(chain: Chain, channel: str | None) -> tuple[dict[str, Key], Mapping[str, str]]:
    """Return the keys that can have signed the role, of every root, and their holders' names."""
    targets = chain.targets
    if channel and targets:
        keys = {key.keyid: key for key in channels.keys(targets.signed, channel)}
        return keys, holder_names(targets.signed)
    names: dict[str, str] = {}
    keys = {}
    for link in chain.roots:
        keys.update({keyid: link.signed.keys[keyid] for keyid in link.signed.roles[role_of(None)].keyids})
        names.update(holder_names(link.signed))
    return keys, names


def _targets(source: Source, path: str) -> Metadata[Targets] | None:
    data = source.read(path, MAX_METADATA_BYTES)
    try:
        return Metadata[Targets].from_bytes(data) if data is not None else None
    except RepositoryError:
        return None


def _last_entry(source: Source, targets: Targets, channel: str | None) -> LogEntry | None:
    """Return the last change of the log that these metadata list; None if the file is gone."""
    try:
        entries = read_log(source, targets, target_name(channel, LOG)).entries
    except (BrokenRepositoryError, ManifestError):
        return None
    return entries[-1] if entries else None


def _valid_signers(
    metadata: Metadata[Targets], keys: Mapping[str, Key], names: Mapping[str, str]
) -> tuple[Holder, ...]:
    """Return the holders of these keys with a valid signature."""
    found = []
    for keyid, signature in metadata.signatures.items():
        if keyid not in keys:
            continue
        try:
            keys[keyid].verify_signature(signature, metadata.signed_bytes)
        except (SslibError, RepositoryError):  # the latter: it has no canonical form
            continue
        found.append(Holder(name=names.get(keyid, ""), key=keys[keyid]))
    return tuple(found)
