"""Root proposals on the command line: their files, their arguments, and what they are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import ask_secrets, current_time, require_repository
from repo_tools.config import ROLES
from signpost.console import emit
from signpost.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from securesystemslib.signer import Signer

    from repo_tools.ceremony.root_proposal import Proposal
    from repo_tools.keys.holders import Holder


def edit(
    repo: Path,
    file: Path,
    expires: timedelta | None,
    change: Callable[[Proposal], Proposal],
    *,
    as_json: bool,
) -> None:
    """Change the proposal in a file, or start one from the repository's root."""
    from tuf.api.metadata import Metadata, Root

    from repo_tools import config
    from repo_tools.ceremony import root_draft
    from repo_tools.ceremony.root_proposal import with_earlier_roots
    from repo_tools.repository import editor
    from repo_tools.repository.published import require_complete
    from repo_tools.trust.chain import walk
    from repo_tools.trust.source import FolderSource

    now = current_time()
    if file.exists():
        proposal = root_draft.with_expiry(load(file), editor.expiry(now, expires) if expires else None)
        compare(repo, proposal, None)
    else:
        span = expires or config.load(require_repository(repo)).expires["root"]
        chain = walk(FolderSource(repo))
        require_complete(chain)
        *earlier, base = (Metadata[Root].from_bytes(link.data) for link in chain.roots)
        proposal = with_earlier_roots(root_draft.following(base, editor.expiry(now, span)), earlier)
    write_and_show(repo, file, change(proposal), as_json=as_json)


def compare(repo: Path, proposal: Proposal, trusted_root: Path | None) -> str:
    """Compare a proposal with the published root, or a trusted one; return as text which, "" for none.

    From an older trusted root, the chain to the proposal's base is verified with the roots in the proposal.

    Raises:
        StaleProposalError: it starts from another root.
        TamperedProposalError: a root in between is not signed by the one before it.
    """
    from repo_tools.ceremony import publish_root
    from repo_tools.ceremony.root_proposal import walk_to_base
    from repo_tools.config import FILE
    from repo_tools.render.ceremony import PUBLISHED
    from repo_tools.trust.chain import walk
    from repo_tools.trust.source import FolderSource

    if trusted_root:
        trusted = publish_root.parse_root(_read(trusted_root))
        steps = walk_to_base(trusted, proposal)
        way = f", and {steps} verified step{'s' if steps > 1 else ''} from it" if steps else ""
        return f"as in {trusted_root}{way}"
    if proposal.base is None or not (repo / FILE).is_file():
        return ""
    published = publish_root.is_published(walk(FolderSource(repo)).roots, proposal)
    return PUBLISHED if published else "the published one"


def write_and_show(repo: Path, file: Path, proposal: Proposal, *, as_json: bool) -> None:
    """Write a new or edited proposal, and show it."""
    from repo_tools.render.ceremony import proposal_document, proposal_text

    write(file, proposal)
    compared_with, now = compare(repo, proposal, None), current_time()
    lacking = keys_to_add(repo, proposal)
    text = f"wrote {file}\n{proposal_text(proposal, compared_with, now, lacking)}"
    emit(proposal_document(proposal, compared_with, now, lacking), text, as_json=as_json)


def keys_to_add(repo: Path, proposal: Proposal) -> list[str]:
    """Return the new root's online keys that publishing needs and repo.toml does not name; none elsewhere."""
    from repo_tools import config
    from repo_tools.ceremony.publish_root import unavailable_keys
    from repo_tools.ceremony.root_diff import changed_roles

    if proposal.base is None or not (repo / config.FILE).is_file():
        return []
    changed = changed_roles(proposal.base.signed, proposal.root)
    return unavailable_keys(proposal.root, changed, config.load(repo).signers)


def load(*files: Path) -> Proposal:
    """Return the proposal in these files, with the signatures of all of them."""
    from repo_tools.ceremony.root_proposal import Proposal, merge_signatures

    proposals = []
    for file in files:
        data = _read(file)
        try:
            proposals.append(Proposal.from_bytes(data))
        except ToolError as error:
            raise type(error)(f"{file}: {error.message}", next_step=error.next_step) from error
    return merge_signatures(proposals)


def _read(file: Path) -> bytes:
    from repo_tools.errors import ProposalError

    try:
        return file.read_bytes()
    except OSError as error:
        raise ProposalError(f"cannot read {file}: {error.strerror}", next_step="Check the path.") from error


def write(file: Path, proposal: Proposal) -> None:
    """Write a proposal durably into a file. Raises MediumError."""
    from signpost.medium import OsMedium
    from updog import durable

    durable.write_bytes(OsMedium(), file, proposal.to_bytes())


def root_signer(text: str, proposal: Proposal) -> Signer:
    """Return a signer with a private key, which must be a root key of the old root or the new one."""
    from pathlib import Path

    from repo_tools.ceremony.root_proposal import matching_root_key
    from repo_tools.keys.signers import SignerStore, key_source

    secrets = ask_secrets()
    given = key_source(text, Path(), secrets)
    key = matching_root_key(proposal, given.key)
    return SignerStore(uris={key.keyid: given.uri}, folder=Path(), secrets=secrets).of([key])[0]


def load_holder(name: str, public: Path) -> Holder:
    """Return the holder of the public key in a PEM file. Raises SigningKeyError."""
    from repo_tools.keys.holders import Holder
    from repo_tools.keys.signers import load_public

    return Holder(name=name, key=load_public(public))


def parse_members(words: tuple[str, ...]) -> dict[str, list[Holder]]:
    """Return role → holders from ``ROLE=NAME,PUBLIC.pem`` texts. Raises UsageError."""
    from pathlib import Path

    members: dict[str, list[Holder]] = {role: [] for role in ROLES}
    for word in words:
        role, _, rest = word.partition("=")
        name, _, public = rest.rpartition(",")
        if role not in ROLES or not name or not public:
            raise click.UsageError(f"--key {word}: not ROLE=NAME,PUBLIC.pem; roles are {', '.join(ROLES)}")
        members[role].append(load_holder(name, Path(public)))
    return members


def parse_thresholds(words: tuple[str, ...]) -> dict[str, int]:
    """Return role → threshold from ``ROLE=N`` texts. Raises UsageError."""
    thresholds = {}
    for word in words:
        role, _, number = word.partition("=")
        if role not in ROLES or not number.isdecimal() or not 0 < int(number[:9]) < 10**6:
            raise click.UsageError(
                f"--threshold {word}: not ROLE=N, N at least 1; roles are {', '.join(ROLES)}"
            )
        thresholds[role] = int(number)
    return thresholds
