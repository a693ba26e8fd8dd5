"""A finished root, put in its place in the repository.

Rules:

* the proposal starts from the very root that is published, and both thresholds are met, or nothing happens;
* an online role whose keys change is signed anew by the new keys, with everything that names it, at once:
  N+1.root.json is written first, ``timestamp.json`` last, so that a reader who takes the new root finds
  metadata that it accepts (TUF specification §5.3.11 is then what makes clients forget the versions that a
  thief of the old keys may have shown them);
* everything is signed and verified before the first byte is written; a kill in between is made good by the
  same command again, which goes by the old root for what the old keys had signed;
* old roots stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.chain import Verified, walk
from repo_tools.differences import Difference, changed_roles, differences
from repo_tools.errors import NothingToSignError, ProposalError, StaleProposalError
from repo_tools.keys import Secrets, no_secrets
from repo_tools.session import writing
from repo_tools.source import FolderSource
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.proposal import Proposal
    from updog.durable import Medium


@dataclass(frozen=True, kw_only=True, slots=True)
class Succession:
    """What publishing a root did.

    Attributes:
        path: of the new root. versions: role → its new version. changes: from the old root to the new one.
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
) -> Succession:
    """Publish a finished root, and sign the online roles anew whose keys it changes.

    Raises:
        IncompleteProposalError: signatures are missing; says whose.
        StaleProposalError: it does not start from the published root.
        NothingToSignError: it is the published root.
        ProposalError: it begins a repository, or has expired.
        ThresholdError, SigningKeyError: keys of a changed online role are not at hand.
        BrokenRepositoryError, RepositoryBusyError, MediumError: as their names say.
    """
    base, root = proposal.base, proposal.root
    if base is None:
        raise ProposalError(
            "root 1 is not published into a repository: a repository begins with it",
            next_step="`repo-tools new DIR --root PROPOSAL --signer ROLE=URI …`",
        )
    proposal.require_complete()
    if root.expires <= now:
        raise ProposalError(
            f"root {root.version} has expired on {root.expires:%Y-%m-%d}: no client would take it",
            next_step="Make the proposal anew and have it signed in time.",
        )
    _require_unpublished(FolderSource(folder), proposal)
    with writing(folder, medium or OsMedium(), secrets, last_root=base.signed.version) as session:
        _require_unpublished(session.store.source, proposal)
        require_base(session.published.root.data, proposal)
        link = Verified(
            role="root", name=f"{root.version}.root.json", data=proposal.new.to_bytes(), signed=root
        )
        versions = session.succeed(link, changed_roles(base.signed, root), now)
    return Succession(
        path=folder / "metadata" / link.name,
        versions=versions,
        changes=tuple(differences(base.signed, root)),
    )


def _require_unpublished(source: FolderSource, proposal: Proposal) -> None:
    """Refuse what is published whole, or starts from another root; half published it is made good."""
    chain = walk(source)
    if is_published(chain.roots, proposal) and not chain.findings:
        raise NothingToSignError(f"root {proposal.root.version} is published already")


def is_published(roots: Sequence[Verified[Root]], proposal: Proposal) -> bool:
    """Return whether a proposal is the newest of the published roots; if not, it must start from that one.

    Raises:
        StaleProposalError: it starts from another root.
    """
    if not roots:
        raise StaleProposalError("no root is published here")
    newest = roots[-1]
    if Metadata[Root].from_bytes(newest.data).signed_bytes == proposal.new.signed_bytes:
        return True
    require_base(newest.data, proposal)
    return False


def require_base(root: bytes, proposal: Proposal) -> None:
    """Refuse a proposal that does not start from this root. Raises StaleProposalError."""
    start = proposal.base.signed.version if proposal.base else 0
    try:
        trusted = Metadata[Root].from_bytes(root)
    except RepositoryError as error:
        raise ProposalError(f"the root to compare it with cannot be read: {error}") from error
    version = trusted.signed.version
    if start != version:
        raise StaleProposalError(f"it starts from root {start}, and the root to go by is root {version}")
    if proposal.base and proposal.base.signed_bytes != trusted.signed_bytes:
        raise StaleProposalError(f"it starts from another root {start} than the one to go by")
