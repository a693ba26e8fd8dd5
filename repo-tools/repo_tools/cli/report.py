"""``report``: how a rollout went, from logs, as text or as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import (
    PATH,
    SPAN,
    VERSION,
    channel_option,
    family_options,
    require_repository,
    which_release,
)
from signpost.console import QuickCommand, emit, example, json_option

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from updog.update_metadata.version import Version


@click.command(cls=QuickCommand)
@click.argument("version", type=VERSION)
@click.argument("logs", type=PATH, nargs=-1, required=True)
@click.option("--page", type=PATH, metavar="FILE.html", help="Write the report as one HTML file.")
@click.option(
    "--patience", type=SPAN, default="6h", show_default=True, help="Time until a node counts as stuck."
)
@click.option("--only-seen", is_flag=True, help="Count only outcomes of nodes that took the release in LOGS.")
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
    """Show how a rollout went, from access logs.

    Shows versions, progress of the waves, failures and their causes, and stuck nodes. The waves are those of
    the published release. LOGS are access logs (nginx, Apache, CloudFront, S3, JSON; also compressed with
    gzip, zstd, xz or bzip2) and files of JSON outcome lines.

    Exit status: 0 done, 2 wrong usage, no such release, unreadable logs, or the extra [fleet] is missing.
    """
    from repo_tools.extras import extra
    from repo_tools.repository.published import manifest_of

    with extra("fleet"):
        from repo_tools.fleet.evidence import EvidenceOptions, gather
        from repo_tools.fleet.logs import Logs
        from repo_tools.fleet.page import page_of, write_page
    from repo_tools.render.watching import evidence_document, evidence_text

    manifest = manifest_of(require_repository(repo), channel)
    update = which_release(version, variant, arch).of(manifest)
    options = EvidenceOptions(
        patience=patience, only_seen=only_seen, channel=channel, siblings=manifest.updates
    )
    with Logs(logs) as opened:
        evidence = gather(opened, update, options)
    if page:
        write_page(page, page_of(evidence, patience=patience))
    emit(evidence_document(evidence), evidence_text(evidence), as_json=as_json)
