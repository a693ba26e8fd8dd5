"""``log``: what was done to the releases of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import channel_option, existing
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N changes.")
@channel_option
@json_option
@click.pass_obj
@example("repo-tools log --channel stable --last 5")
def log(repo: Path, /, *, last: int | None, channel: str | None, as_json: bool) -> None:
    """Show the signed log of changes: when, with which keys, what was done to which release, and why.

    Exit status: 0 done, 1 the repository or its log is broken, 2 no repository here.
    """
    from repo_tools.release import log_of
    from repo_tools.render.log import log_text

    entries = log_of(existing(repo), channel)[-(last or 0) :]
    emit({"changes": [entry.to_json() for entry in entries]}, log_text(entries), as_json=as_json)
