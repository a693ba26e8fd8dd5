"""``brake``: stop a release of a channel at once, with one key that can do nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import (
    DRY_RUN,
    REASON,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    family_options,
    require_repository,
    which_release,
)
from signpost.console import QuickGroup, emit, example, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.releases.rollout import RolloutStep
    from repo_tools.repository.session import Committed
    from updog.update_metadata.version import Version


@click.group(cls=QuickGroup)
@example('repo-tools brake hold 1.1.0 --channel stable --reason "boot loop"')
def brake() -> None:
    """Stop a release at once, with a key that can do nothing else.

    A brake is for a channel that several holders sign: the engineer on duty, or the guard, holds a release
    with the brake's key, and the holders decide in the morning.
    """


@brake.command("add")
@channel_option
@click.option(
    "--signer",
    "signers",
    multiple=True,
    required=True,
    metavar="[NAME=]URI[,PUBLIC.pem]",
    help="An available key of the brake, and its holder.",
)
@click.option(
    "--public-key", "public_keys", multiple=True, metavar="[NAME=]FILE.pem", help="A key of another holder."
)
@json_option
@click.pass_obj
@example("repo-tools brake add --channel stable --signer duty=file2:keys/brake.pem")
def brake_add(
    repo: Path,
    /,
    *,
    channel: str | None,
    signers: tuple[str, ...],
    public_keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add a brake to a channel; it holds nothing yet.

    Any one of its keys is enough to hold a release. The targets key signs the new role. Relative paths start
    at the current folder. This command does not change repo.toml: add the printed lines under [signers].

    Exit status: 0 done, 1 failed, 2 wrong usage, no such channel, or it has a brake, 75 busy.
    """
    from repo_tools import config
    from repo_tools.keys.given import given_keys
    from repo_tools.releases.brake import NewBrake, add
    from repo_tools.text import versions_text

    secrets, folder = ask_secrets(), require_repository(repo)
    given = given_keys(signers, public_keys, folder, secrets)
    wanted = NewBrake(
        channel=channel, signers=given.signers, public_keys=given.public_keys, names=given.names
    )
    done = add(folder, wanted, now=current_time(), secrets=secrets)
    lines = config.missing_signer_lines(folder, wanted.uris)
    hint = ["add to repo.toml, under [signers]:", *lines] if lines else []
    text = "\n".join(
        [f"added a brake of {channel or 'the top-level releases'}", versions_text(done.versions), *hint]
    )
    emit({"channel": channel, "signer_lines": lines, **done.to_json()}, text, as_json=as_json)


@brake.command("hold")
@click.argument("version", type=VERSION)
@family_options
@channel_option
@click.option("--reason", type=REASON, default="", help="Why: one line, which nodes show.")
@DRY_RUN
@json_option
@click.pass_obj
@example('repo-tools brake hold 1.1.0 --channel stable --reason "boot loop"')
def brake_hold(
    repo: Path,
    /,
    *,
    version: Version,
    variant: str | None,
    arch: str | None,
    channel: str | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Hold a release with the brake: no more nodes take it.

    Nodes that installed it and were not restarted yet take it back at their next check. Its waves go on:
    `brake release` says to how many nodes it is open then. Bottlerocket's own updog does not know brakes.

    Exit status: 0 done, 1 failed, or no key of the brake is available, 2 no such release or brake, 3 already
    held or withdrawn, 75 busy.
    """
    from repo_tools.releases.brake import hold, plan_hold

    act = plan_hold if dry_run else hold
    step, done = act(
        require_repository(repo),
        which_release(version, variant, arch),
        channel=channel,
        reason=reason,
        now=current_time(),
        secrets=ask_secrets(),
    )
    _print_step(step, done, dry_run=dry_run, as_json=as_json)


@brake.command("release")
@click.argument("version", type=VERSION)
@family_options
@channel_option
@DRY_RUN
@json_option
@click.pass_obj
@example("repo-tools brake release 1.1.0 --channel stable")
def brake_release(
    repo: Path,
    /,
    *,
    version: Version,
    variant: str | None,
    arch: str | None,
    channel: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Release what the brake holds.

    A hold of the channel's own keys stays.

    Exit status: 0 done, 1 failed, or no key of the brake is available, 2 no such release or brake, 3 the
    brake does not hold it, 75 busy.
    """
    from repo_tools.releases.brake import plan_release, release

    act = plan_release if dry_run else release
    step, done = act(
        require_repository(repo),
        which_release(version, variant, arch),
        channel=channel,
        now=current_time(),
        secrets=ask_secrets(),
    )
    _print_step(step, done, dry_run=dry_run, as_json=as_json)


def _print_step(step: RolloutStep, done: Committed, *, dry_run: bool, as_json: bool) -> None:
    """Print what was held or released, or would be."""
    from repo_tools.render.channels import committed_text
    from repo_tools.render.releases import step_text

    text = f"{step_text(step, done=not dry_run)}\n{committed_text(done, dry_run=dry_run)}"
    document = step.to_json() | done.to_json() | ({"dry_run": True} if dry_run else {})
    emit(document, text, as_json=as_json)


@brake.command("remove")
@channel_option
@json_option
@click.pass_obj
@example("repo-tools brake remove --channel stable")
def brake_remove(repo: Path, /, *, channel: str | None, as_json: bool) -> None:
    """Remove a brake and all its holds, with the targets key.

    This is also the way out if the brake's keys are lost or stolen.

    Exit status: 0 done, 1 failed, 2 no such channel or brake, 75 busy.
    """
    from repo_tools.releases.brake import remove
    from repo_tools.render.channels import committed_text

    done = remove(require_repository(repo), channel, now=current_time(), secrets=ask_secrets())
    text = f"removed the brake of {channel or 'the top-level releases'}\n{committed_text(done)}"
    emit({"channel": channel, **done.to_json()}, text, as_json=as_json)


@brake.command("show")
@json_option
@click.pass_obj
@example("repo-tools brake show")
def brake_show(repo: Path, /, *, as_json: bool) -> None:
    """Show the brakes: their keys, expiry, and what they hold.

    Exit status: 0 done, 1 the repository is broken, 2 not a repository.
    """
    from repo_tools.releases.brake import describe_brakes
    from repo_tools.render.channels import brakes_text

    rows = describe_brakes(require_repository(repo))
    emit({"brakes": rows}, brakes_text(rows), as_json=as_json)
