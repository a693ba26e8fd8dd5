"""``refresh``, ``expirations`` and ``validate``: keep a repository alive, prove it whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import SPAN, ask_secrets, current_time, emit_last, existing, readable
from signpost.console import emit, example, json_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from datetime import timedelta


@click.command()
@click.option(
    "--within", type=SPAN, default="3d", show_default=True, help="Sign anew what expires in this time."
)
@json_option
@click.pass_obj
@example("repo-tools refresh --within 3d")
def refresh(repo: Path, /, *, within: timedelta, as_json: bool) -> int:
    """Sign anew what is near expiry, if the repository is whole.

    Exit status: 0 done, 1 failed, or a root near expiry whose keys are not at hand, 3 nothing near, 75 busy.
    """
    from repo_tools.expiry import refresh
    from repo_tools.render.upkeep import refreshed_text

    done = refresh(repo, within=within, now=current_time(), secrets=ask_secrets())
    emit(done.to_json(), refreshed_text(done), as_json=as_json)
    return int(ExitStatus.FAILED if done.unsigned else ExitStatus.DONE)


@click.command()
@click.option("--within", type=SPAN, default="3d", show_default=True, help="What counts as near.")
@json_option
@click.pass_obj
@example("repo-tools expirations --within 1w")
def expirations(repo: Path, /, *, within: timedelta, as_json: bool) -> int:
    """Say when each role's signature runs out.

    Exit status: 0 all later than --within, 1 one has expired or is near, or does not verify.
    """
    from repo_tools.chain import walk
    from repo_tools.expiry import expirations
    from repo_tools.render.upkeep import expirations_text
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    chain = walk(FolderSource(existing(repo)))
    complete(chain)
    rows = expirations(chain, now=current_time())
    near = any(row.within(within) for row in rows)
    document = {"expirations": [row.to_json() | {"near": row.within(within)} for row in rows]}
    emit(document, expirations_text(rows, within), as_json=as_json)
    return int(ExitStatus.FAILED if near else ExitStatus.DONE)


@click.command()
@click.argument("place", metavar="[URL or DIR]", required=False)
@json_option
@click.pass_obj
@example("repo-tools validate https://updates.example.com")
def validate(repo: Path, /, *, place: str | None, as_json: bool) -> int:
    """Check a whole repository as a client would, and then some; list every fault at once.

    All roots, signatures, versions and expiries; every target's length and SHA-256; every image's raw
    content by unpacking it; waves, max_version, floors and migrations; files that nothing signs.

    Exit status: 0 clean (notes are clean), 1 findings, 2 no repository here, 5 unreachable.
    """
    from repo_tools.bar import reporting
    from repo_tools.check import check
    from repo_tools.render.upkeep import report_document, report_text
    from repo_tools.source import source_of

    is_url = place is not None and "://" in place
    source = source_of(place if place and is_url else readable(Path(place) if place else repo))
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        report = check(source, now=current_time(), progress=progress)
    emit_last(report_document(report), report_text(report), as_json=as_json)
    return int(ExitStatus.DONE if report.clean else ExitStatus.FAILED)
