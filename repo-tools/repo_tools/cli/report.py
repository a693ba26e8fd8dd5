"""``report``: what a roll-out did, from logs, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import PATH, SPAN, VERSION, channel_option, existing, family_options, which_release
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from updog.update_metadata.version import Version


@click.command()
@click.argument("version", type=VERSION)
@click.argument("logs", type=PATH, nargs=-1, required=True)
@click.option("--page", type=PATH, metavar="FILE.html", help="Write the report as one HTML file.")
@click.option("--patience", type=SPAN, default="6h", show_default=True, help="Until a node counts as stuck.")
@click.option("--only-seen", is_flag=True, help="Only outcomes of nodes that LOGS show taking the release.")
@channel_option
@family_options
@json_option
@click.pass_obj
@example("repo-tools report 1.1.0 /var/log/nginx/access.log* --page rollout.html")
def report(
    repo: Path,
    /,
    *,
    version: Version,
    logs: tuple[Path, ...],
    page: Path | None,
    patience: timedelta,
    only_seen: bool,
    channel: str | None,
    variant: str | None,
    arch: str | None,
    as_json: bool,
) -> None:
    """Say what a roll-out did: versions, waves against their plan, failures and why, stuck nodes.

    LOGS are access logs (nginx, Apache, CloudFront, S3; also gzip) and files of JSON outcome lines.
    Waves are those of the published release.

    Exit status: 0 done, 2 wrong usage, no such release, unreadable logs, or the extra [fleet] is missing.
    """
    from repo_tools.extras import extra
    from repo_tools.release import manifest_of

    with extra("fleet"):
        from repo_tools.fleet.evidence import Terms, gather
        from repo_tools.fleet.logs import Logs
        from repo_tools.fleet.page import page_of, write_page
    from repo_tools.render.watching import evidence_document, evidence_text

    update = which_release(version, variant, arch).of(manifest_of(existing(repo), channel))
    with Logs(logs) as read:
        evidence = gather(read, update, Terms(patience=patience, only_seen=only_seen, channel=channel))
    if page:
        write_page(page, page_of(evidence, patience=patience))
    emit(evidence_document(evidence), evidence_text(evidence), as_json=as_json)
