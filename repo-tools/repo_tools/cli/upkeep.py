"""``refresh``, ``expirations`` and ``validate``: keep a repository alive, prove it whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import PATH, SPAN, ask_secrets, current_time, emit_last, existing, readable
from signpost.console import emit, example, json_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from repo_tools.check import Report


WITHIN = click.option("--within", type=SPAN, default="3d", show_default=True, help="What counts as near.")
ROOT_WITHIN = click.option(
    "--root-within", type=SPAN, default="30d", show_default=True, help="The same of root: its keys are far."
)


@click.command()
@WITHIN
@ROOT_WITHIN
@json_option
@click.pass_obj
@example("repo-tools refresh --within 3d")
def refresh(repo: Path, /, *, within: timedelta, root_within: timedelta, as_json: bool) -> int:
    """Sign anew what is near expiry, if the repository is whole.

    A fault of the repository ends it in status 1 also if nothing is near.

    Exit status: 0 done, 1 failed, or a root near expiry whose keys are not at hand, 3 nothing near, 75 busy.
    """
    from repo_tools.expiry import refresh
    from repo_tools.render.upkeep import refreshed_text

    now = current_time()
    done = refresh(repo, within=within, root_within=root_within, now=now, secrets=ask_secrets())
    emit(done.to_json(), refreshed_text(done), as_json=as_json)
    return int(ExitStatus.FAILED if done.unsigned else ExitStatus.DONE)


@click.command()
@WITHIN
@ROOT_WITHIN
@click.option("--ical", is_flag=True, help="Print an iCalendar file, an event with an alarm for each role.")
@json_option
@click.pass_obj
@example("repo-tools expirations --within 1w", "repo-tools expirations --ical > expirations.ics")
def expirations(
    repo: Path, /, *, within: timedelta, root_within: timedelta, ical: bool, as_json: bool
) -> ExitStatus:
    """Say when each role's signature runs out.

    Exit status: 0 all later than --within, 1 one has expired or is near, or does not verify, 2 wrong usage.
    """
    from repo_tools import config
    from repo_tools.chain import walk
    from repo_tools.expiry import Notice, expirations
    from repo_tools.render.calendar import calendar_text
    from repo_tools.render.upkeep import expirations_text
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    if ical and as_json:
        raise click.UsageError("--ical and --json are two forms of one answer; choose one")
    folder, now, notice = existing(repo), current_time(), Notice(within=within, root=root_within)
    chain = walk(FolderSource(folder))
    complete(chain)
    rows = expirations(chain, now=now)
    if ical:
        click.echo(calendar_text(rows, notice, name=config.load(folder).name, now=now), nl=False)
    else:
        document = {"expirations": [row.to_json() | {"near": notice.near(row)} for row in rows]}
        emit(document, expirations_text(rows, notice), as_json=as_json)
    return ExitStatus.FAILED if any(map(notice.near, rows)) else ExitStatus.DONE


@click.command()
@click.argument("place", metavar="[URL or DIR]", required=False)
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Of the nodes' partitions.  [default: [slots] of repo.toml]",
)
@click.option(
    "--sarif", "sarif_file", metavar="FILE", type=PATH, help="Write the findings as SARIF 2.1.0 too."
)
@json_option
@click.pass_obj
@example(
    "repo-tools validate https://updates.example.com",
    "repo-tools --repo demo validate --sarif validate.sarif",
)
def validate(
    repo: Path, /, *, place: str | None, slot_size: str, sarif_file: Path | None, as_json: bool
) -> int:
    """Check a whole repository as a client would, and then some; list every fault at once.

    All roots, keys, signatures, versions and expiries; every target's length and SHA-256; what every image
    unpacks to, its index and deltas; waves, max_version, and whether every published version reaches the
    newest one through floors and migrations; files that nothing signs; what a web server should do otherwise.
    docs/reference/findings.md lists the codes.

    Exit status: 0 clean (notes are clean), 1 findings, 2 no repository here, 5 unreachable.
    """
    from repo_tools.bar import reporting
    from repo_tools.check import Checking, check
    from repo_tools.render.upkeep import report_document, report_text
    from repo_tools.source import source_of

    is_url = place is not None and "://" in place
    folder = None if is_url else readable(Path(place) if place else repo)
    source = source_of(folder or place or repo)
    how = Checking(slots=_slots(slot_size, folder))
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        report = check(source, now=current_time(), how=how, progress=progress)
    if sarif_file:
        _write_sarif(sarif_file, report)
    emit_last(report_document(report), report_text(report), as_json=as_json)
    return int(ExitStatus.DONE if report.clean else ExitStatus.FAILED)


def _slots(words: str, folder: Path | None) -> Mapping[str, int]:
    """Return the partitions' sizes as given, or as the repository's own configuration declares them."""
    from repo_tools import config
    from repo_tools.disk import parse_slot_sizes

    if words or folder is None or not (folder / config.FILE).is_file():
        return parse_slot_sizes(words)
    return config.load(folder).slots


def _write_sarif(file: Path, report: Report) -> None:
    import json
    from importlib.metadata import version

    from repo_tools.render.sarif import sarif
    from signpost.errors import MediumError

    try:
        file.write_text(
            json.dumps(sarif(report, version=version("updog")), indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise MediumError(f"cannot write {file}: {error.strerror}", next_step="Check --sarif.") from error
