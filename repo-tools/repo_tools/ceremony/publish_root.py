"""Publish a completely signed root in the repository.

Rules:

* the proposal must start from the published root, and both thresholds must be met; otherwise nothing happens;
* an online role whose keys change is re-signed with the new keys at once, and with it all metadata that list
  it: N+1.root.json is written first, ``timestamp.json`` last, so that a reader with the new root finds
  metadata that it accepts (clients then forget the versions that a thief of the old keys may have shown them:
  TUF specification §5.3.11);
* everything is signed and verified before the first byte is written; if the command is killed in between,
  the same command completes it: it verifies what the old keys signed with the old root;
* keys of the new root that this needs and repo.toml does not name are reported before anything is signed;
* old roots stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.ceremony.root_diff import Difference, changed_roles, differences
from repo_tools.config import ONLINE_ROLES
from repo_tools.errors import NothingToSignError, ProposalError, StaleProposalError, ThresholdError
from repo_tools.keys.holders import holders
from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.repository.session import reading, versions_of, writing
from repo_tools.trust.chain import Verified, walk
from repo_tools.trust.source import FolderSource

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.ceremony.root_proposal import Proposal
    from repo_tools.repository.session import Session
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class RootChange:
    """The result of publishing a root.

    Attributes:
        path: file of the new root. versions: role → its new version. changes: from the old root to the new.
    """

    path: Path
    versions: Mapping[str, int]
    changes: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "root_json": str(self.path),
            "metadata": dict(self.versions),
            "changes": [change.to_json() for change in self.changes],
        }


def publish(
    folder: Path,
    proposal: Proposal,
    *,
    now: datetime,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> RootChange:
    """Publish a completely signed root, and re-sign the online roles whose keys it changes.

    Raises:
        IncompleteProposalError: signatures are missing; the message says whose.
        StaleProposalError: it does not start from the published root.
        NothingToSignError: it is the published root.
        ProposalError: it is the first root of a repository, or has expired.
        ThresholdError, SigningKeyError: keys of a changed online role are not available; the message names
            those of the new root.
        BrokenRepositoryError, RepositoryBusyError, MediumError: see :mod:`repo_tools.errors`.
    """
    last_root = _require_publishable(folder, proposal, now).signed.version
    with writing(folder, medium or readable_medium(), secrets, now=now, last_root=last_root) as session:
        link, roles = _root_and_roles(session, proposal)
        return _changed(folder, proposal, session.publish_root(link, roles, now))


def plan(folder: Path, proposal: Proposal, *, now: datetime, secrets: Secrets = no_secrets) -> RootChange:
    """Return what publishing a root would do.

    Signs in memory, takes no lock, writes nothing. Raises what :func:`publish` raises, but never
    RepositoryBusyError.
    """
    last_root = _require_publishable(folder, proposal, now).signed.version
    session = reading(folder, readable_medium(), secrets, now=now, last_root=last_root)
    link, roles = _root_and_roles(session, proposal)
    return _changed(folder, proposal, versions_of(session.signed_with_root(link, roles, now)))


def _require_publishable(folder: Path, proposal: Proposal, now: datetime) -> Metadata[Root]:
    """Refuse a root that cannot be published, whatever keys are available; return the one before it."""
    base, root = proposal.base, proposal.root
    if base is None:
        raise ProposalError(
            "root 1 cannot be published in an existing repository: it is the first root of a new one",
            next_step="`repo-tools new DIR --root PROPOSAL --signer ROLE=URI …`",
        )
    proposal.require_complete()
    if root.expires <= now:
        raise ProposalError(
            f"root {root.version} expired on {root.expires:%Y-%m-%d}: no client would accept it",
            next_step="Create the proposal again and have it signed in time.",
        )
    _require_unpublished(FolderSource(folder), proposal)
    return base


def _root_and_roles(session: Session, proposal: Proposal) -> tuple[Verified[Root], tuple[str, ...]]:
    """Return the root to publish, and the online roles whose keys it changes, if these keys are available."""
    root = proposal.root
    _require_unpublished(session.store.source, proposal)
    require_base(session.published.root.data, proposal)
    roles = changed_roles(session.published.root.signed, root)
    if missing := unavailable_keys(root, roles, session.config.signers):
        raise ThresholdError(
            f"root {root.version} needs private keys that repo.toml does not name: {'; '.join(missing)}",
            next_step="Add a line for each under [signers]: "
            "`repo-tools root public-key URI --signer-line` prints it.",
        )
    name = f"{root.version}.root.json"
    return Verified(role="root", name=name, data=proposal.new.to_bytes(), signed=root), roles


def _changed(folder: Path, proposal: Proposal, versions: Mapping[str, int]) -> RootChange:
    changes = differences(proposal.base.signed, proposal.root) if proposal.base else []
    path = folder / "metadata" / f"{proposal.root.version}.root.json"
    return RootChange(path=path, versions=versions, changes=tuple(changes))


def unavailable_keys(root: Root, changed: Collection[str], uris: Collection[str]) -> list[str]:
    """Return the roles that publishing a root re-signs and that lack available keys, each with all its keys.

    Args:
        root: the new root.
        changed: its online roles whose keys change.
        uris: keyids that repo.toml names.
    """
    re_signed = set(changed) | ({"timestamp"} if changed else set())
    if "targets" in changed:
        re_signed.add("snapshot")  # it lists the targets
    found = []
    for role in (role for role in ONLINE_ROLES if role in re_signed):
        rule = root.roles[role]
        available = sum(keyid in uris for keyid in rule.keyids)
        if available < rule.threshold:
            keys = ", ".join(
                f"{holder}, {holder.key.scheme}"
                for holder in holders(root, role)
                if holder.key.keyid not in uris
            )
            found.append(f"{role}, {available} of {rule.threshold} available, lacks {keys}")
    return found


def _require_unpublished(source: FolderSource, proposal: Proposal) -> None:
    """Refuse a root that is completely published, or starts from another one; an interrupted one passes."""
    chain = walk(source)
    if is_published(chain.roots, proposal) and not chain.findings:
        raise NothingToSignError(f"root {proposal.root.version} is already published")


def is_published(roots: Sequence[Verified[Root]], proposal: Proposal) -> bool:
    """Return whether a proposal is the newest published root; if not, it must start from that root.

    Raises:
        StaleProposalError: it starts from another root.
    """
    if not roots:
        raise StaleProposalError("this repository has no published root")
    newest = roots[-1]
    if Metadata[Root].from_bytes(newest.data).signed_bytes == proposal.new.signed_bytes:
        return True
    require_base(newest.data, proposal)
    return False


def require_base(root: bytes, proposal: Proposal) -> None:
    """Refuse a proposal that does not start from this root. Raises StaleProposalError."""
    start = proposal.base.signed.version if proposal.base else 0
    trusted = parse_root(root)
    version = trusted.signed.version
    if start != version:
        raise StaleProposalError(f"it starts from root {start}, but the current root is root {version}")
    if proposal.base and proposal.base.signed_bytes != trusted.signed_bytes:
        raise StaleProposalError(f"the root {start} that it starts from is not the current root {start}")


def parse_root(data: bytes) -> Metadata[Root]:
    """Return the root in a file that an operator trusts. Raises ProposalError."""
    try:
        root = Metadata[Root].from_bytes(data)
    except RepositoryError as error:
        raise ProposalError(f"the root to compare it with cannot be read: {error}") from error
    if root.signed.type != Root.type:
        raise ProposalError(f"the root to compare it with is {root.signed.type} metadata")
    return root
