"""``waves`` and ``withdraw``: steer a release after publishing."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.words import (
    REASON,
    TIME,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    existing,
    family_options,
    which_release,
)
from signpost.console import emit, example, json_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from repo_tools.release import Which
    from repo_tools.steer import Decide
    from updog.update_metadata.version import Version


def steering_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that steers a release takes.

    It is called with ``which`` release and ``reason``; the rest is for :func:`_steer`.
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
        click.option(
            "--dry-run", is_flag=True, help="Say what it would do to the fleet, and change nothing."
        ),
        click.argument("version", type=VERSION),
    ):
        wrapped = option(wrapped)
    return wrapped


def _steer(repo: Path, decide: Decide, *, channel: str | None, dry_run: bool, as_json: bool) -> None:
    """Say what a step would do, or take it and say what it did."""
    from repo_tools import steer
    from repo_tools.release import manifest_of
    from repo_tools.render.channels import committed_text
    from repo_tools.render.releases import step_text

    now = current_time()
    if dry_run:
        step = decide(manifest_of(existing(repo), channel), now)
        emit(step.to_json() | {"dry_run": True}, step_text(step, done=False), as_json=as_json)
        return
    step, done = steer.take(repo, decide, now=now, channel=channel, secrets=ask_secrets())
    text = f"{step_text(step, done=done.pending is None)}\n{committed_text(done)}"
    emit(step.to_json() | done.to_json(), text, as_json=as_json)


@click.group()
@example("repo-tools waves show 1.1.0")
def waves() -> None:
    """Show and change how a release spreads over the fleet."""


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
    """Show a release's waves: starts, seeds, share of the fleet, and now. Without VERSION: all releases.

    Exit status: 0 done, 1 the repository is broken, 2 no such release.
    """
    from repo_tools.release import manifest_of
    from repo_tools.render.releases import release_row, releases_text, waves_document, waves_text

    manifest = manifest_of(existing(repo), channel)
    now = current_time()
    if version is None:
        rows = [release_row(update, now) for update in manifest.updates]
        emit({"releases": rows}, releases_text(rows), as_json=as_json)
        return
    update = which_release(version, variant, arch).of(manifest)
    emit(waves_document(update, now), waves_text(update, now), as_json=as_json)


@waves.command("set")
@steering_options
@click.option("--policy", required=True, help="default, accelerated, slow-roll, ohno, FILE.toml or none.")
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@click.pass_obj
@example('repo-tools waves set 1.1.0 --policy slow-roll --start-at "in 2 days"')
def waves_set(
    repo: Path,
    /,
    *,
    which: Which,
    policy: str,
    start_at: datetime | None,
    reason: str,
    **how: Any,
) -> None:
    """Give a published release other waves, and sign.

    Nodes for which it has opened already may have taken it; the new waves are for the others.

    Exit status: 0 done, 1 failed, 2 no such release or policy, or it is held, 75 busy.
    """
    from repo_tools.release import policy_named, waves_of
    from repo_tools.steer import setting

    planned = waves_of(policy_named(policy), start_at or current_time())
    decide = setting(which, planned, reason=reason)
    _steer(repo, decide, **how)


@waves.command("hold")
@steering_options
@click.pass_obj
@example('repo-tools waves hold 1.1.0 --reason "boots fail on wide NVMe"')
def waves_hold(
    repo: Path,
    /,
    *,
    which: Which,
    reason: str,
    **how: Any,
) -> None:
    """Hold a release back: no node that does not run it takes it, and its clock stands still.

    It holds for every node, those that ignore waves and Bottlerocket's own updog included. Nodes that run it
    keep it; `withdraw` takes it back from them as well. A node asked why says the reason.

    Exit status: 0 done, 1 failed, 2 no such release, 3 held or withdrawn already, 75 busy.
    """
    from repo_tools.steer import holding

    decide = holding(which, reason=reason)
    _steer(repo, decide, **how)


@waves.command("resume")
@steering_options
@click.option(
    "--policy", help="Other waves instead: default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option("--start-at", type=TIME, help="When those other waves start.  [default: now]")
@click.pass_obj
@example("repo-tools waves resume 1.1.0 --dry-run")
def waves_resume(
    repo: Path,
    /,
    *,
    which: Which,
    policy: str | None,
    start_at: datetime | None,
    reason: str,
    **how: Any,
) -> None:
    """Go on with a held release: what was left of its waves moves by the length of the hold.

    Nobody is let in by the pause itself: the wave that was under way goes on from the node it had reached.

    Exit status: 0 done, 1 failed, 2 no such release or policy, 3 it is not held, 75 busy.
    """
    from repo_tools.release import policy_named, waves_of
    from repo_tools.steer import resuming

    if start_at and policy is None:
        raise click.UsageError("--start-at needs --policy: without one the waves of before go on")
    others = waves_of(policy_named(policy), start_at or current_time()) if policy else None
    decide = resuming(which, waves=others, reason=reason)
    _steer(repo, decide, **how)


@waves.command("open")
@steering_options
@click.pass_obj
@example('repo-tools waves open 1.1.0 --reason "fixes a hole that is being used"')
def waves_open(
    repo: Path,
    /,
    *,
    which: Which,
    reason: str,
    **how: Any,
) -> None:
    """Open a release to the whole fleet at once.

    Exit status: 0 done, 1 failed, 2 no such release, or it is held, 3 it is open to all already, 75 busy.
    """
    from repo_tools.steer import opening

    decide = opening(which, reason=reason)
    _steer(repo, decide, **how)


@click.command()
@steering_options
@click.pass_obj
@example("repo-tools withdraw 1.1.0 --dry-run")
def withdraw(
    repo: Path,
    /,
    *,
    which: Which,
    reason: str,
    **how: Any,
) -> None:
    """Take a release back: nodes that run it go down to the one below, no other node takes it.

    Its images stay where they are, for nodes in the middle of a download.

    Exit status: 0 done, 1 failed, 2 no such release or a newer one is on offer, 3 withdrawn already, 75 busy.
    """
    from repo_tools.steer import withdrawing

    decide = withdrawing(which, reason=reason)
    _steer(repo, decide, **how)
