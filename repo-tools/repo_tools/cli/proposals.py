"""Proposals of a root as the commands handle them: files, words of the command line, what to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import ask_secrets, current_time, existing
from repo_tools.config import ROLES
from signpost.console import emit
from signpost.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from securesystemslib.signer import Signer
    from tuf.api.metadata import Metadata, Root

    from repo_tools.holders import Holder
    from repo_tools.proposal import Proposal


def edit(
    repo: Path,
    file: Path,
    expires: timedelta | None,
    change: Callable[[Proposal], Proposal],
    *,
    as_json: bool,
) -> None:
    """Change the proposal in a file, or begin one from the repository's root."""
    from repo_tools import config, drafting, editor

    now = current_time()
    if file.exists():
        proposal = drafting.lasting(load(file), editor.expiry(now, expires) if expires else None)
        compared(repo, proposal, None)
    else:
        span = expires or config.load(existing(repo)).expires["root"]
        proposal = drafting.begun(_published(repo), editor.expiry(now, span))
    store(repo, file, change(proposal), as_json=as_json)


def _published(repo: Path) -> Metadata[Root]:
    from tuf.api.metadata import Metadata, Root

    from repo_tools.chain import walk
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    return Metadata[Root].from_bytes(complete(walk(FolderSource(repo))).root.data)


def compared(repo: Path, proposal: Proposal, trusted_root: Path | None) -> str:
    """Return in words what a proposal was held against: the published root, a trusted one, or nothing.

    Raises:
        StaleProposalError: it starts from another root.
    """
    from repo_tools import succession
    from repo_tools.chain import walk
    from repo_tools.config import FILE
    from repo_tools.render.ceremony import PUBLISHED
    from repo_tools.source import FolderSource

    if trusted_root:
        succession.require_base(_read(trusted_root), proposal)
        return f"as {trusted_root} has it"
    if proposal.base is None or not (repo / FILE).is_file():
        return ""
    published = succession.is_published(walk(FolderSource(repo)).roots, proposal)
    return PUBLISHED if published else "the published one"


def store(repo: Path, file: Path, proposal: Proposal, *, as_json: bool) -> None:
    """Write a proposal that has been edited, and show it."""
    from repo_tools.render.ceremony import proposal_document, proposal_text

    write(file, proposal)
    held_against, now = compared(repo, proposal, None), current_time()
    text = f"wrote {file}\n{proposal_text(proposal, held_against, now)}"
    emit(proposal_document(proposal, held_against, now), text, as_json=as_json)


def load(*files: Path) -> Proposal:
    """Return the proposal in these files, their signatures put together."""
    from repo_tools.proposal import Proposal, joined

    proposals = []
    for file in files:
        data = _read(file)
        try:
            proposals.append(Proposal.from_bytes(data))
        except ToolError as error:
            raise type(error)(f"{file}: {error.message}", next_step=error.next_step) from error
    return joined(proposals)


def _read(file: Path) -> bytes:
    from repo_tools.errors import ProposalError

    try:
        return file.read_bytes()
    except OSError as error:
        raise ProposalError(f"cannot read {file}: {error.strerror}", next_step="Check the path.") from error


def write(file: Path, proposal: Proposal) -> None:
    """Write a proposal into a file, durably. Raises MediumError."""
    from signpost.medium import OsMedium
    from updog import durable

    durable.write_bytes(OsMedium(), file, proposal.to_bytes())


def signer(word: str, proposal: Proposal) -> Signer:
    """Return the signer of a private key, which must be a root key of the old root or the new one."""
    from pathlib import Path

    from repo_tools.keys import SignerStore, source
    from repo_tools.proposal import counted_key

    secrets = ask_secrets()
    given = source(word, Path(), secrets)
    key = counted_key(proposal, given.key)
    return SignerStore(uris={key.keyid: given.uri}, folder=Path(), secrets=secrets).of([key])[0]


def holder(name: str, public: Path) -> Holder:
    """Return the holder of a public key in a PEM file. Raises SigningKeyError."""
    from repo_tools.holders import Holder
    from repo_tools.keys import load_public

    return Holder(name=name, key=load_public(public))


def members(words: tuple[str, ...]) -> dict[str, list[Holder]]:
    """Return role → holders of ``ROLE=NAME,PUBLIC.pem`` words. Raises UsageError."""
    from pathlib import Path

    members: dict[str, list[Holder]] = {role: [] for role in ROLES}
    for word in words:
        role, _, rest = word.partition("=")
        name, _, public = rest.rpartition(",")
        if role not in ROLES or not name or not public:
            raise click.UsageError(f"--key {word}: not ROLE=NAME,PUBLIC.pem; roles are {', '.join(ROLES)}")
        members[role].append(holder(name, Path(public)))
    return members


def thresholds(words: tuple[str, ...]) -> dict[str, int]:
    """Return role → threshold of ``ROLE=N`` words. Raises UsageError."""
    thresholds = {}
    for word in words:
        role, _, number = word.partition("=")
        if role not in ROLES or not number.isdecimal():
            raise click.UsageError(f"--threshold {word}: not ROLE=N; roles are {', '.join(ROLES)}")
        thresholds[role] = int(number)
    return thresholds
