"""One change to a channel: signed by enough of its holders it is published, else it waits for the others.

Rules:

* whether signatures are enough is decided by the keys that the top-level targets give to the channel, never
  by what a file from elsewhere says; of a new channel, by whoever holds the targets key and runs the command;
* what waits changes nothing for readers: images lie in ``targets/``, listed by nothing yet, and the file with
  the signatures in ``pending/``. It fits only the state of the channel it was made from;
* everything a channel's metadata newly list is read and compared before it is published.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuf.api.metadata import Metadata

from repo_tools import channels, editor
from repo_tools.chain import unsigned_by
from repo_tools.changes import LOG, ChangeLog
from repo_tools.channels import TARGETS, name_in
from repo_tools.errors import PendingError, TargetError, ThresholdError
from repo_tools.keys import Secrets, no_secrets
from repo_tools.listing import Listed, require_whole
from repo_tools.pending import Pending
from repo_tools.session import MANIFEST, Committed, Session, listed_files, read_manifest, writing
from repo_tools.signing import add_signatures, sign
from repo_tools.store import file_of
from updog import durable
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import Key
    from tuf.api.metadata import DelegatedRole, Targets

    from repo_tools.changes import Change
    from repo_tools.images import Staged
    from updog.durable import Medium

FOLDER = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelSession(Session):
    """A repository that is locked for one change of a channel. Made by :func:`writing_in`."""

    def publish(
        self, draft: Targets, files: Mapping[str, bytes], staged: Sequence[Staged], now: datetime
    ) -> Committed:
        """Sign a channel's next metadata; publish them if that is enough, else leave them for the others."""
        targets = self.published.targets.signed
        role = channels.role(targets, self.channel or "")
        return settle(
            self,
            Pending(
                role=role,
                keys=channels.keys(targets, role.name),
                base=self.listing.version,
                metadata=Metadata(draft),
                files=files,
            ),
            staged,
            now,
        )


@contextmanager
def writing_in(
    folder: Path, medium: Medium, secrets: Secrets = no_secrets, channel: str | None = None
) -> Iterator[Session]:
    """Lock a repository for one change of a channel, or of the top-level releases.

    Raises:
        ChannelError: there is no such channel.
        ToolError: those of :func:`repo_tools.session.writing`.
    """
    with writing(folder, medium, secrets) as session:
        if channel is None:
            yield session
            return
        listing = session.published.listing(channel)
        yield ChannelSession(
            store=session.store,
            config=session.config,
            signers=session.signers,
            published=session.published,
            manifest=read_manifest(session.store.source, listing, channel),
            channel=channel,
        )


def first_version(
    session: Session, role: DelegatedRole, keys: Sequence[Key], change: Change, now: datetime
) -> Pending:
    """Return the first metadata of a new channel, which offers nothing yet."""
    hands = [key.keyid for key in keys if session.signers.has(key.keyid)]
    log = ChangeLog().with_change(change, at=now.replace(microsecond=0), keys=hands)
    files = {
        name_in(role.name, MANIFEST): Manifest.empty().to_json(),
        name_in(role.name, LOG): log.to_json(),
    }
    draft = editor.targets_after(
        None,
        listed_files(files),
        version=1 + session.store.highest(role.name),
        expires=session.expiry(TARGETS, now),
    )
    return Pending(role=role, keys=keys, base=0, metadata=Metadata(draft), files=files)


def settle(session: Session, pending: Pending, staged: Sequence[Staged], now: datetime) -> Committed:
    """Sign a channel's next metadata with the keys at hand; publish them if that is enough.

    Raises:
        PendingError: they were made from another state of the channel, or have expired.
        ThresholdError: no key of the channel has signed. TargetError: something they list is not here.
        SigningKeyError, MediumError: as their names say.
    """
    _require_fitting(session, pending, now)
    add_signatures(
        pending.metadata,
        session.signers,
        [key for key in pending.keys if key.keyid not in pending.metadata.signatures],
    )
    delegator, ready = _delegator(session, pending, now)
    missing = unsigned_by(delegator, pending.channel, pending.metadata)
    if missing and not pending.signed:
        raise ThresholdError(f"{pending.channel} {missing} of targets {delegator.version}")
    if missing:
        return _leave(session, pending, staged)
    _require_targets(session, pending, staged)
    version = pending.metadata.signed.version
    lists = {**ready, pending.channel: (version, pending.metadata.to_bytes())}
    return session.write(lists, pending.files, staged, now)


def _require_fitting(session: Session, pending: Pending, now: datetime) -> None:
    there = session.published.channels.get(pending.channel)
    version = there.signed.version if there else 0
    if pending.base != version:
        raise PendingError(
            f"{pending.channel} is at version {version} by now; this was made from version {pending.base}"
        )
    if pending.metadata.signed.version <= version:
        raise PendingError(f"it is version {pending.metadata.signed.version}, which is not above {version}")
    if pending.metadata.signed.expires <= now:
        raise PendingError(f"it has expired on {pending.metadata.signed.expires:%Y-%m-%d %H:%M} UTC")


def _delegator(
    session: Session, pending: Pending, now: datetime
) -> tuple[Targets, dict[str, tuple[int, bytes]]]:
    """Return who says whose signatures count; for a new channel the next targets metadata, to be written."""
    if pending.channel in session.published.channels:
        return session.published.targets.signed, {}
    targets = session.published.targets.signed
    delegations = channels.with_channel(targets, pending.role, pending.keys)
    draft = session.next_list(TARGETS, now, {}, delegations)
    return draft, {TARGETS: (draft.version, sign(draft, session.signers, session.published.root.signed))}


def _leave(session: Session, pending: Pending, staged: Sequence[Staged]) -> Committed:
    """Keep what has been made until the others have signed."""
    store = session.store
    if staged:
        store.place(staged)
    store.tidy()
    folder = store.folder / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / pending.file_name
    durable.write_bytes(store.medium, path, pending.to_bytes())
    return Committed(versions={}, pending=path)


def _require_targets(session: Session, pending: Pending, staged: Sequence[Staged]) -> None:
    """Read what is newly listed and lies in the repository already. Raises TargetError."""
    there = session.published.channels.get(pending.channel)
    before = there.signed.targets if there else {}
    at_hand = {item.name for item in staged} | set(pending.files)
    new = [
        Listed(
            name=name,
            path=f"targets/{file_of(name, listed.hashes['sha256'])}",
            length=listed.length,
            sha256=listed.hashes["sha256"],
        )
        for name, listed in pending.metadata.signed.targets.items()
        if name not in at_hand and before.get(name) != listed
    ]
    for item in new:
        if not pending.role.is_delegated_path(item.name):
            raise TargetError(f"the channel {pending.channel} cannot speak for {item.name}")
    require_whole(session.store.folder, new)
