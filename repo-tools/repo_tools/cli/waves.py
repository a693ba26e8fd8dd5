"""``waves`` and ``withdraw``: steer a release after publishing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import (
    TIME,
    VERSION,
    ask_secrets,
    current_time,
    existing,
    family_options,
    which_release,
)
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from updog.update_metadata.version import Version


@click.group()
@example("repo-tools waves show 1.1.0")
def waves() -> None:
    """Show and change how a release spreads over the fleet."""


@waves.command("show")
@click.argument("version", type=VERSION, required=False)
@family_options
@json_option
@click.pass_obj
@example("repo-tools waves show 1.1.0")
def waves_show(
    repo: Path, /, *, version: Version | None, variant: str | None, arch: str | None, as_json: bool
) -> None:
    """Show a release's waves: starts, seeds, share of the fleet, and now. Without VERSION: all releases.

    Exit status: 0 done, 1 the repository is broken, 2 no such release.
    """
    from repo_tools.release import manifest_of
    from repo_tools.render.releases import release_row, releases_text, waves_document, waves_text

    manifest = manifest_of(existing(repo))
    now = current_time()
    if version is None:
        rows = [release_row(update, now) for update in manifest.updates]
        emit({"releases": rows}, releases_text(rows), as_json=as_json)
        return
    update = which_release(version, variant, arch).of(manifest)
    emit(waves_document(update, now), waves_text(update, now), as_json=as_json)


@waves.command("set")
@click.argument("version", type=VERSION)
@click.option("--policy", required=True, help="default, accelerated, slow-roll, ohno, FILE.toml or none.")
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@family_options
@json_option
@click.pass_obj
@example('repo-tools waves set 1.1.0 --policy slow-roll --start-at "in 2 days"')
def waves_set(
    repo: Path,
    /,
    *,
    version: Version,
    policy: str,
    start_at: datetime | None,
    variant: str | None,
    arch: str | None,
    as_json: bool,
) -> None:
    """Give a published release other waves, and sign.

    Nodes for which it has opened already may have taken it; the new waves hold for the others.

    Exit status: 0 done, 1 failed, 2 no such release or policy, 75 busy.
    """
    from repo_tools.release import policy_named, set_waves, waves_of
    from repo_tools.render.releases import waves_text
    from repo_tools.render.text import versions_text

    now = current_time()
    planned = waves_of(policy_named(policy), start_at or now)
    which = which_release(version, variant, arch)
    outcome = set_waves(repo, which, planned, now=now, secrets=ask_secrets())
    text = f"{waves_text(outcome.update, now)}\n{versions_text(outcome.versions)}"
    emit(outcome.to_json(), text, as_json=as_json)


@click.command()
@click.argument("version", type=VERSION)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@family_options
@json_option
@click.pass_obj
@example("repo-tools withdraw 1.1.0 --dry-run")
def withdraw(
    repo: Path, /, *, version: Version, dry_run: bool, variant: str | None, arch: str | None, as_json: bool
) -> None:
    """Take a release back: nodes that run it go down to the one below, no other node takes it.

    Its images stay where they are, for nodes in the middle of a download.

    Exit status: 0 done, 1 failed, 2 no such release or a newer one is on offer, 3 withdrawn already, 75 busy.
    """
    from repo_tools import release
    from repo_tools.render.releases import withdrawal_text
    from repo_tools.render.text import versions_text

    which = which_release(version, variant, arch)
    if dry_run:
        plan = release.plan_withdrawal(release.manifest_of(existing(repo)), which)
        emit(plan.to_json() | {"dry_run": True}, withdrawal_text(plan, done=False), as_json=as_json)
        return
    plan, versions = release.withdraw(repo, which, now=current_time(), secrets=ask_secrets())
    text = f"{withdrawal_text(plan, done=True)}\n{versions_text(versions)}"
    emit(plan.to_json() | {"metadata": dict(versions)}, text, as_json=as_json)
