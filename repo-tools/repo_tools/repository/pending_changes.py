"""Channel changes that wait for signatures: the files in ``pending/`` of a repository.

Rules:

* a file is never replaced by another change: two changes that start from the same version of a channel are
  two files, and only one of them can be finished. The same change written again keeps all its signatures;
* a hold that is already waiting is not made twice: a guard that runs every few minutes makes one file;
* a file that cannot be read is listed with the reason, and left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.errors import ChannelProposalError
from repo_tools.repository.change_log import HOLD
from repo_tools.repository.channel_proposal import MAX_PROPOSAL_BYTES, ChannelProposal
from signpost.errors import ToolError
from signpost.medium import OsMedium
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from updog.durable import Medium

PENDING_FOLDER = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingChange:
    """A file in ``pending/``: the proposal in it, or None and the ``fault`` that keeps it from being read."""

    path: Path
    proposal: ChannelProposal | None = None
    fault: str = ""


def load(path: Path) -> ChannelProposal:
    """Return the proposal in a file. Raises ChannelProposalError, ManifestError or MediumError."""
    if not path.exists():
        raise ChannelProposalError(
            f"there is no file {path}", next_step="`repo-tools channel pending` lists the waiting changes."
        )
    if not path.is_file():
        raise ChannelProposalError(f"{path} is not a regular file")
    if path.stat().st_size > MAX_PROPOSAL_BYTES:
        raise ChannelProposalError(f"{path} has more than {MAX_PROPOSAL_BYTES} bytes: not a channel proposal")
    data = durable.read_bytes(OsMedium(), path)
    try:
        return ChannelProposal.from_bytes(data)
    except ChannelProposalError as error:
        raise ChannelProposalError(f"{path}: {error.message}", next_step=error.next_step) from error


def changes_in(folder: Path, channel: str | None = None) -> list[PendingChange]:
    """Return the changes that wait in the repository in ``folder``, of one channel or of all, by file name.

    A file that cannot be read belongs to no channel: it is returned for all channels only.
    """
    found = []
    for path in sorted((folder / PENDING_FOLDER).glob("*.json")):
        try:
            proposal = load(path)
        except ToolError as error:
            found += [] if channel else [PendingChange(path=path, fault=error.message)]
        else:
            if channel in {None, proposal.channel}:
                found.append(PendingChange(path=path, proposal=proposal))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Where a change waits, with all its signatures, and the channel's other changes that wait."""

    path: Path
    proposal: ChannelProposal
    others: tuple[PendingChange, ...]


def keep(folder: Path, proposal: ChannelProposal, medium: Medium) -> Kept:
    """Write a proposal into ``pending/``, with the signatures of the same change that is already there.

    A hold that is already waiting is returned instead of a second one. Raises MediumError.
    """
    kept = where_kept(folder, proposal)
    if kept.proposal is proposal:
        kept.path.parent.mkdir(exist_ok=True)
        durable.write_bytes(medium, kept.path, proposal.to_bytes())
    return kept


def where_kept(folder: Path, proposal: ChannelProposal) -> Kept:
    """Return where :func:`keep` would write a proposal, and add the signatures that are already there."""
    waiting = changes_in(folder, proposal.channel)
    own = next((item for item in waiting if item.proposal and _is_same(item.proposal, proposal)), None)
    others = tuple(item for item in waiting if item is not own)
    if own is not None and own.proposal is not None:
        if not own.proposal.is_same_change(proposal):
            return Kept(path=own.path, proposal=own.proposal, others=others)
        proposal.add_signatures_of(own.proposal)
    path = own.path if own else _free_path(folder / PENDING_FOLDER, proposal)
    return Kept(path=path, proposal=proposal, others=others)


def _is_same(one: ChannelProposal, other: ChannelProposal) -> bool:
    """Return whether two proposals are the same change, or hold the same release."""
    if one.is_same_change(other):
        return True
    first, second = (item.log.entries[-1].change for item in (one, other))
    is_same_release = one.base == other.base and first.subject == second.subject
    return is_same_release and first.action == second.action == HOLD


def remove(folder: Path, proposal: ChannelProposal, medium: Medium) -> Sequence[PendingChange]:
    """Remove the files of a published change; return the channel's other waiting ones. Raises MediumError."""
    others = []
    for item in changes_in(folder, proposal.channel):
        if item.proposal and item.proposal.is_same_change(proposal):
            medium.remove(str(item.path))
        else:
            others.append(item)
    return others


def _free_path(place: Path, proposal: ChannelProposal) -> Path:
    """Return the path of a new file; a channel's name contains no dot, so that no two channels collide."""
    path, number = place / proposal.file_name, 1
    while path.exists() or path.is_symlink():
        number += 1
        path = (place / proposal.file_name).with_suffix(f".{number}.json")
    return path
