"""``refresh``, ``expirations`` and ``validate``: re-sign a repository in time, and check it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import PATH, SPAN, ask_secrets, current_time, require_readable, require_repository
from signpost.console import QuickCommand, emit, emit_last, example, json_option, note, quiet_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from repo_tools.upkeep.check import Report


WITHIN = click.option(
    "--within",
    type=SPAN,
    default="3d",
    show_default=True,
    help="Roles that expire within this time are near.",
)
ROOT_WITHIN = click.option(
    "--root-within",
    type=SPAN,
    default="30d",
    show_default=True,
    help="The same for root: its holders need more time.",
)


@click.command(cls=QuickCommand)
@WITHIN
@ROOT_WITHIN
@click.option(
    "--clock-is-right",
    is_flag=True,
    help="The last signature is of a clock that was ahead: re-sign all online roles now.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be signed; try the keys, change nothing.")
@json_option
@click.pass_obj
@example("repo-tools refresh --within 3d")
def refresh(
    repo: Path,
    /,
    *,
    within: timedelta,
    root_within: timedelta,
    clock_is_right: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Re-sign what is near expiry, if the repository is sound.

    If the repository has a fault, the exit status is 1, even if nothing is near expiry. A role near expiry
    whose keys are not here is a warning: bring what was signed to the readers; `expirations` ends in 1.
    Needs the metadata only: a checkout without images will do.

    Exit status: 0 signed, 1 failed, 3 nothing is near expiry, or only roles whose keys are not here, 75 busy.
    """
    from repo_tools.render.check import refreshed_text
    from repo_tools.text import versions_text
    from repo_tools.trust.expirations import RenewalWindow
    from repo_tools.upkeep.refresh import plan_refresh, refresh, refresh_by_this_clock

    now, secrets = current_time(), ask_secrets()
    if dry_run and clock_is_right:
        raise click.UsageError("--dry-run and --clock-is-right exclude each other")
    if dry_run:
        window = RenewalWindow(within=within, root=root_within)
        plan = plan_refresh(repo, window, now=now, secrets=secrets)
        lines = [versions_text(plan.versions, dry_run=True) if plan.versions else "would sign nothing"]
        lines += [f"could not sign {role}: {reason}" for role, reason in plan.unsigned.items()]
        document = {"would_sign": list(plan.versions), "dry_run": True, **plan.to_json()}
        emit(document, "\n".join(lines), as_json=as_json)
        return int(ExitStatus.DONE if plan.versions else ExitStatus.NOTHING_TO_DO)
    if clock_is_right:
        done = refresh_by_this_clock(repo, now=now, secrets=secrets)
    else:
        done = refresh(repo, within=within, root_within=root_within, now=now, secrets=secrets)
    emit(done.to_json(), refreshed_text(done), as_json=as_json)
    for role, reason in done.unsigned.items():
        note(f"repo-tools: warning: {role} expires soon and is NOT signed: {reason}")
    return int(ExitStatus.DONE if done.versions else ExitStatus.NOTHING_TO_DO)


@click.command(cls=QuickCommand)
@WITHIN
@ROOT_WITHIN
@click.option("--ical", is_flag=True, help="Print an iCalendar file, an event with an alarm for each role.")
@json_option
@click.pass_obj
@example("repo-tools expirations --within 1w", "repo-tools expirations --ical > expirations.ics")
def expirations(
    repo: Path, /, *, within: timedelta, root_within: timedelta, ical: bool, as_json: bool
) -> ExitStatus:
    """Show when each role's signature expires.

    Exit status: 0 none is near expiry, 1 one is near expiry, has expired or does not verify, 2 wrong usage.
    """
    from repo_tools import config
    from repo_tools.render.calendar import calendar_text
    from repo_tools.render.check import expirations_text
    from repo_tools.repository.published import require_complete
    from repo_tools.trust.chain import walk
    from repo_tools.trust.expirations import RenewalWindow, expirations
    from repo_tools.trust.source import FolderSource

    if ical and as_json:
        raise click.UsageError("--ical and --json exclude each other")
    folder, now, window = (
        require_repository(repo),
        current_time(),
        RenewalWindow(within=within, root=root_within),
    )
    chain = walk(FolderSource(folder))
    require_complete(chain)
    rows = expirations(chain, now=now)
    if ical:
        click.echo(calendar_text(rows, window, name=config.load(folder).name, now=now), nl=False)
    else:
        document = {"expirations": [row.to_json() | {"near": window.is_due(row)} for row in rows]}
        emit(document, expirations_text(rows, window), as_json=as_json)
    return ExitStatus.FAILED if any(map(window.is_due, rows)) else ExitStatus.DONE


@click.command(cls=QuickCommand)
@click.argument("place", metavar="[URL or DIR]", required=False)
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Sizes of the nodes' partitions.  [default: [slots] of repo.toml]",
)
@click.option(
    "--no-inspect", is_flag=True, help="Do not check whether the boot stage can start the boot images."
)
@click.option(
    "--sarif", "sarif_file", metavar="FILE", type=PATH, help="Also write the findings as SARIF 2.1.0."
)
@quiet_option
@json_option
@click.pass_obj
@example(
    "repo-tools validate https://updates.example.com",
    "repo-tools --repo demo validate --sarif validate.sarif",
)
def validate(
    repo: Path,
    /,
    *,
    place: str | None,
    slot_size: str,
    no_inspect: bool,
    sarif_file: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Check a whole repository, and list every fault.

    Checks what a client checks, and more: all roots, keys, signatures, versions and expiries; the length and
    SHA-256 of every target; the content of every image, its index and deltas; whether the boot stage can
    start the boot images (see `inspect`); waves, max_version, and whether every published version reaches
    the newest one through floors and migrations; files without a signature; the settings of the web server.
    Each finding has a stable code, its place and a next step.

    Exit status: 0 clean (there may be notes), 1 findings, 2 not a repository, 5 unreachable.
    """
    from repo_tools.render.check import report_document, report_text
    from repo_tools.trust.source import FolderSource, source_of
    from repo_tools.upkeep.check import CheckOptions, check
    from updog.progress import reporting

    source = source_of(place or repo)
    folder = require_readable(source.folder) if isinstance(source, FolderSource) else None
    options = CheckOptions(slots=slot_sizes(slot_size, folder), inspect=not no_inspect)
    with reporting(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet) as progress:
        report = check(source, now=current_time(), options=options, progress=progress)
    if sarif_file:
        _write_sarif(sarif_file, report)
    emit_last(report_document(report), report_text(report), as_json=as_json)
    return int(ExitStatus.DONE if report.clean else ExitStatus.FAILED)


def slot_sizes(words: str, folder: Path | None) -> Mapping[str, int]:
    """Return the sizes of the nodes' partitions, from --slot-size or from the repository's ``repo.toml``."""
    from repo_tools import config
    from repo_tools.releases.first_disk import parse_slot_sizes

    if words or folder is None or not (folder / config.FILE).is_file():
        return parse_slot_sizes(words)
    return config.load(folder).slots


def _write_sarif(file: Path, report: Report) -> None:
    import json
    from importlib.metadata import version

    from repo_tools.extras import DISTRIBUTION
    from repo_tools.render.sarif import sarif
    from signpost.errors import MediumError

    try:
        file.write_text(
            json.dumps(sarif(report, version=version(DISTRIBUTION)), indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        message = f"cannot write {file}: {error.strerror}"
        raise MediumError.of(message, error, otherwise="Check --sarif.") from error
