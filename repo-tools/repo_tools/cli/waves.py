"""``waves`` and ``withdraw``: control the rollout of a published release."""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import (
    REASON,
    TIME,
    URGENT,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    family_options,
    leave_if_pending,
    require_repository,
    which_release,
)
from signpost.console import QuickCommand, QuickGroup, RenamedOption, emit, example, json_option, note
from signpost.errors import ToolError
from signpost.journal import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.releases.release import ReleaseName
    from repo_tools.releases.rollout import Decide
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version


def rollout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments of every command that changes a rollout.

    The command is called with ``which`` release and ``reason``; the others are for :func:`_change_rollout`.
    """

    @wraps(command)
    def named(*, version: Version, variant: str | None, arch: str | None, **others: Any) -> Any:
        return command(which=which_release(version, variant, arch), **others)

    wrapped: Callable[..., Any] = named
    for option in (
        json_option,
        family_options,
        channel_option,
        click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes."),
        click.option("--dry-run", is_flag=True, help="Only show the effect on the fleet; change nothing."),
        click.argument("version", type=VERSION),
    ):
        wrapped = option(wrapped)
    return wrapped


ALL = click.option(
    "--all",
    "for_every",
    is_flag=True,
    help="For every variant and architecture of the version, in one change.",
)


def _decision(
    which: ReleaseName, decision: Callable[[ReleaseName], Decide], *, for_every: bool
) -> Callable[..., Any]:
    """Return the decision for one release, or for every one of the version."""
    from repo_tools.releases.rollout import for_all

    return for_all(which, decision) if for_every else decision(which)


def _change_rollout(
    repo: Path, decide: Callable[..., Any], *, channel: str | None, dry_run: bool, as_json: bool
) -> None:
    """Take a step, or with ``dry_run`` only show its effects."""
    from repo_tools.releases import rollout
    from repo_tools.releases.release import telling_channels
    from repo_tools.render.channels import committed_text
    from repo_tools.render.releases import step_text
    from repo_tools.repository.published import manifest_of

    now = current_time()
    if dry_run:
        with telling_channels(require_repository(repo)):
            step = decide(manifest_of(repo, channel), now)
        emit(step.to_json() | {"dry_run": True}, step_text(step, done=False), as_json=as_json)
        return
    with telling_channels(repo):
        step, done = rollout.take(repo, decide, now=now, channel=channel, secrets=ask_secrets())
    text = f"{step_text(step, done=done.pending is None)}\n{committed_text(done)}"
    document = step.to_json() | done.to_json()
    free = [release for release in step.releases if release.hold is None]
    if free and _is_braked(repo, channel, free):
        text += "\nthe brake still holds it: see `repo-tools brake release`"
        document["held_by_brake"] = True
    emit(document, text, as_json=as_json)
    leave_if_pending(done)


def _is_braked(repo: Path, channel: str | None, releases: Sequence[Update]) -> bool:
    """Return whether the brake holds one of these. A fault of its file is reported: the change is made."""
    from repo_tools.repository.published import holds_of

    try:
        brake = holds_of(repo, channel)
    except ToolError as error:
        note(f"it is not known whether the brake still holds it: {error}", Severity.WARNING)
        return False
    return any(brake.find(release.key) for release in releases)


@click.group(cls=QuickGroup)
@example("repo-tools waves show 1.1.0")
def waves() -> None:
    """Show and change the rollout of a release."""


@waves.command("show")
@click.argument("version", type=VERSION, required=False)
@family_options
@channel_option
@json_option
@click.pass_obj
@example("repo-tools waves show 1.1.0")
def waves_show(
    repo: Path,
    /,
    *,
    version: Version | None,
    variant: str | None,
    arch: str | None,
    channel: str | None,
    as_json: bool,
) -> None:
    """Show a release's waves; without VERSION all releases.

    Shows of each wave its start, its seeds, its share of the fleet, and whether it is open now.

    Exit status: 0 done, 1 the repository is broken, 2 no such release.
    """
    from repo_tools.releases.release import telling_channels
    from repo_tools.render.releases import release_row, releases_text, waves_document, waves_text
    from repo_tools.repository.published import offered_of

    folder = require_repository(repo)
    manifest = offered_of(folder, channel)
    now = current_time()
    if version is None:
        rows = [release_row(update, now) for update in manifest.updates]
        emit({"releases": rows}, releases_text(rows), as_json=as_json)
        return
    with telling_channels(folder):
        update = which_release(version, variant, arch).of(manifest)
    emit(waves_document(update, now), waves_text(update, now), as_json=as_json)


@waves.command("set")
@rollout_options
@click.option(
    "--waves",
    "policy",
    cls=RenamedOption,
    former="--policy",
    metavar="POLICY",
    required=True,
    help="default, accelerated, slow-roll, ohno, FILE.toml or none.",
)
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@click.pass_obj
@example('repo-tools waves set 1.1.0 --waves slow-roll --start-at "in 2 days"')
def waves_set(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    policy: str,
    start_at: datetime | None,
    reason: str,
    **how: Any,
) -> None:
    """Set other waves for a published release, and sign.

    Nodes in waves that have already opened may have taken the release; the new waves are for the others.

    Exit status: 0 done, 1 failed, 2 no such release or policy, or it is held, 3 NOT in force yet: other
    holders must sign, 75 busy.
    """
    from repo_tools.releases.release import policy_named, waves_of
    from repo_tools.releases.rollout import setting

    planned = waves_of(policy_named(policy), start_at or current_time())
    decide = setting(which, planned, reason=reason)
    _change_rollout(repo, decide, **how)


@waves.command("hold")
@rollout_options
@ALL
@click.pass_obj
@example(
    'repo-tools waves hold 1.1.0 --reason "boots fail on wide NVMe"',
    'repo-tools waves hold 1.1.0 --all --reason "boots fail"',
)
def waves_hold(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    reason: str,
    for_every: bool,
    **how: Any,
) -> None:
    """Hold a release: no more nodes take it.

    Its wave schedule is paused. This applies to every node, including those that ignore waves and
    Bottlerocket's own updog. Nodes that run the release keep it; use `withdraw` to take it back from them.
    `updog why` on a node shows the reason.

    Exit status: 0 done, 1 failed, 2 no such release, 3 already held or withdrawn, or NOT in force yet: other
    holders must sign, 75 busy.
    """
    from repo_tools.releases.rollout import holding

    decide = _decision(which, partial(holding, reason=reason), for_every=for_every)
    _change_rollout(repo, decide, **how)


@waves.command("resume")
@rollout_options
@click.option(
    "--waves",
    "policy",
    cls=RenamedOption,
    former="--policy",
    metavar="POLICY",
    help="Other waves instead: default, accelerated, slow-roll, ohno, FILE.toml or none.",
)
@click.option("--start-at", type=TIME, help="When those other waves start.  [default: now]")
@click.pass_obj
@example("repo-tools waves resume 1.1.0 --dry-run")
def waves_resume(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    policy: str | None,
    start_at: datetime | None,
    reason: str,
    **how: Any,
) -> None:
    """Continue a held release.

    The rest of its waves is delayed by the length of the hold. No node is let in by the pause itself: the
    wave in progress continues from the seed that it had reached.

    Exit status: 0 done, 1 failed, 2 no such release or policy, 3 it is not held, or NOT in force yet: other
    holders must sign, 75 busy.
    """
    from repo_tools.releases.release import policy_named, waves_of
    from repo_tools.releases.rollout import resuming

    if start_at and policy is None:
        raise click.UsageError("--start-at requires --waves: without it the earlier waves continue")
    others = waves_of(policy_named(policy), start_at or current_time()) if policy else None
    decide = resuming(which, waves=others, reason=reason)
    _change_rollout(repo, decide, **how)


@waves.command("open")
@rollout_options
@ALL
@click.pass_obj
@example('repo-tools waves open 1.1.0 --reason "fixes an exploited vulnerability"')
def waves_open(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    reason: str,
    for_every: bool,
    **how: Any,
) -> None:
    """Open a release to the whole fleet at once.

    Exit status: 0 done, 1 failed, 2 no such release, or it is held, 3 it is already open to all, or NOT in
    force yet: other holders must sign, 75 busy.
    """
    from repo_tools.releases.rollout import opening

    decide = _decision(which, partial(opening, reason=reason), for_every=for_every)
    _change_rollout(repo, decide, **how)


@waves.command("mark")
@rollout_options
@click.option("--urgent", type=URGENT, metavar="WHY", help="It is urgent: one sentence for nodes.")
@click.option("--not-urgent", is_flag=True, help="It is not urgent any more.")
@ALL
@click.pass_obj
@example(
    'repo-tools waves mark 1.1.0 --urgent "fixes an exploited vulnerability"',
    "repo-tools waves mark 1.1.0 --not-urgent",
)
def waves_mark(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    urgent: str | None,
    not_urgent: bool,
    reason: str,
    for_every: bool,
    **how: Any,
) -> None:
    """Mark a published release as urgent, or as not urgent any more.

    Nodes that update by themselves pass the gates that their operators named in auto.urgent, and say WHY.
    Its waves do not open by that: `waves open` does it.

    Exit status: 0 done, 1 failed, 2 no such release, 3 it is marked like this already, or withdrawn, or NOT
    in force yet: other holders must sign, 75 busy.
    """
    from repo_tools.releases.rollout import marking

    if (urgent is None) is not not_urgent:
        raise click.UsageError("pass either --urgent WHY or --not-urgent")
    decide = _decision(which, partial(marking, urgent=urgent or "", reason=reason), for_every=for_every)
    _change_rollout(repo, decide, **how)


@click.command(cls=QuickCommand)
@rollout_options
@ALL
@click.pass_obj
@example("repo-tools withdraw 1.1.0 --dry-run")
def withdraw(
    repo: Path,
    /,
    *,
    which: ReleaseName,
    reason: str,
    for_every: bool,
    **how: Any,
) -> None:
    """Withdraw a release: nodes go back to the one below.

    No other node takes it. Its images stay where they are, for nodes that are fetching them.

    Exit status: 0 done, 1 failed, 2 no such release or a newer one is on offer, 3 already withdrawn, or NOT
    in force yet: other holders must sign, 75 busy.
    """
    from repo_tools.releases.rollout import withdrawing

    decide = _decision(which, partial(withdrawing, reason=reason), for_every=for_every)
    _change_rollout(repo, decide, **how)
