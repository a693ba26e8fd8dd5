"""``root``: look at the root of trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import current_time, existing
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
@example("repo-tools root show")
def root() -> None:
    """Look at the root of trust."""


@root.command("show")
@json_option
@click.pass_obj
@example("repo-tools root show")
def root_show(repo: Path, /, *, as_json: bool) -> None:
    """Show the roles, their keys and thresholds, when root expires, and which keys are at hand.

    Exit status: 0 done, 1 the roots do not verify, 2 no repository here.
    """
    from repo_tools import config
    from repo_tools.chain import walk
    from repo_tools.render.root import root_document, root_text
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    newest = complete(walk(FolderSource(existing(repo)))).root.signed
    document = root_document(newest, config.load(repo).signers)
    emit(document, root_text(document, newest.expires - current_time()), as_json=as_json)
