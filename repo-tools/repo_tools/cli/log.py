"""``log``: the changes to the releases of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import channel_option, require_repository
from repo_tools.keys.holders import short_keyid
from signpost.console import QuickCommand, emit, example, json_option
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from repo_tools.keys.holders import Holder
    from repo_tools.repository.change_log import LogEntry


@click.command(cls=QuickCommand)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N changes.")
@channel_option
@json_option
@click.pass_obj
@example("repo-tools log --channel stable --last 5")
def log(repo: Path, /, *, last: int | None, channel: str | None, as_json: bool) -> None:
    """Show the signed log of changes.

    Shows for each change its time, what was done to which release, why, and the holders of all keys that
    signed it, by the signatures of the metadata that published it.

    Exit status: 0 done, 1 the repository or its log is broken, 2 not a repository.
    """
    from repo_tools.repository.log_signers import signers_of_changes
    from repo_tools.repository.published import log_of

    folder = require_repository(repo)
    entries = log_of(folder, channel)[-(last or 0) :]
    signers = signers_of_changes(folder, channel, entries)
    changes = [
        entry.to_json() | {"signed_by": [holder.to_json() for holder in signers.get(entry.number, ())]}
        for entry in entries
    ]
    emit({"changes": changes}, log_text(entries, signers), as_json=as_json)


def log_text(entries: Sequence[LogEntry], signers: Mapping[int, Sequence[Holder]]) -> str:
    """Return the entries, oldest first, each with its effects, its reason and who signed it."""
    texts = []
    for entry in entries:
        change = entry.change
        lines = [f"{readable_time(entry.at)}  {change.action} {change.subject}", *change.effects]
        lines += [f"because: {change.reason}"] if change.reason else []
        known = signers.get(entry.number, ())
        who = ", ".join(map(str, known)) or ", ".join(f"key {short_keyid(keyid)}" for keyid in entry.keys)
        texts.append("\n    ".join([*lines, f"signed by {who}"]))
    return "\n".join(texts) or "there are no changes yet"
