"""``channel`` and ``promote``: releases for a part of the fleet, approved by their own keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.options import (
    DRY_RUN,
    PATH,
    REASON,
    TIME,
    VERSION,
    ask_secrets,
    current_time,
    family_options,
    leave_if_pending,
    require_repository,
    which_release,
)
from signpost.console import QuickCommand, QuickGroup, emit, example, json_option

if TYPE_CHECKING:
    from datetime import datetime

    from updog.update_metadata.version import Version


@click.group(cls=QuickGroup)
@example("repo-tools channel list")
def channel() -> None:
    """Create and show channels: dev, beta, stable, or others.

    A channel has its own keys and threshold, and its manifest is NAME/manifest.json. A node follows a channel
    with `channel = "NAME"` in updog.toml.
    """


@channel.command("add")
@click.argument("name")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="[NAME=]URI[,PUBLIC.pem]",
    help="An available key of the channel, and its holder.  [default NAME: of the file or token label]",
)
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    metavar="[NAME=]FILE.pem",
    help="A key of the channel that another holder has.",
)
@click.option(
    "--threshold",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many of its keys must sign.",
)
@click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes.")
@DRY_RUN
@json_option
@click.pass_obj
@example(
    "repo-tools channel add dev --signer file2:keys/dev.pem",
    "repo-tools channel add stable --signer file2:anna.pem \\",
    "  --public-key boris=boris.pub.pem --threshold 2",
)
def channel_add(
    repo: Path,
    /,
    *,
    name: str,
    signers: tuple[str, ...],
    public_keys: tuple[str, ...],
    threshold: int,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add a channel, which offers nothing yet.

    Add channels in the order in which releases are promoted. Relative paths start at the current folder. This
    command does not change repo.toml: add the printed lines under [signers]. If --threshold requires other
    holders' keys, the channel waits in a file for their signatures. The names of the holders are signed with
    the delegation; `log` and `channel pending` show them.

    Exit status: 0 done, 1 failed, 2 wrong usage, an unusable key, or the name is in use, 3 NOT in force yet:
    other holders must sign, 75 busy.
    """
    from repo_tools import config
    from repo_tools.keys.given import given_keys
    from repo_tools.render.channels import committed_text
    from repo_tools.repository import channel_files

    secrets = ask_secrets()
    folder = require_repository(repo)
    given = given_keys(signers, public_keys, folder, secrets)
    wanted = channel_files.NewChannel(
        name=name,
        signers=given.signers,
        public_keys=given.public_keys,
        names=given.names,
        threshold=threshold,
        reason=reason,
    )
    act = channel_files.plan_add if dry_run else channel_files.add
    done = act(folder, wanted, now=current_time(), secrets=secrets)
    lines = config.missing_signer_lines(folder, wanted.uris)
    hint = ["add to repo.toml, under [signers]:", *lines] if lines else []
    head = f"added {name}" if done.pending is None else f"{name} does not exist yet"
    document = {"channel": name, "signer_lines": lines, **done.to_json()}
    if dry_run:
        head, document["dry_run"] = f"would add {name}", True
    emit(
        document,
        "\n".join([head, committed_text(done, dry_run=dry_run), *hint]),
        as_json=as_json,
    )
    leave_if_pending(done)


@channel.command("list")
@json_option
@click.pass_obj
@example("repo-tools channel list")
def channel_list(repo: Path, /, *, as_json: bool) -> None:
    """List the channels: keys, expiry, and what each offers.

    They are in the order in which clients search them.

    Exit status: 0 done, 1 the repository is broken, 2 not a repository.
    """
    from repo_tools.render.channels import channels_text
    from repo_tools.repository.channel_files import describe_channels

    rows = describe_channels(require_repository(repo))
    emit({"channels": rows}, channels_text(rows), as_json=as_json)


@channel.command("show")
@click.argument("name")
@json_option
@click.pass_obj
@example("repo-tools channel show stable")
def channel_show(repo: Path, /, *, name: str, as_json: bool) -> None:
    """Show one channel: its keys, its delegation, what it offers.

    Exit status: 0 done, 1 the repository is broken, 2 no such channel.
    """
    from repo_tools.errors import ChannelError
    from repo_tools.render.channels import channel_text
    from repo_tools.repository.channel_files import describe_channels

    rows = {row["name"]: row for row in describe_channels(require_repository(repo))}
    if name not in rows:
        raise ChannelError(f"there is no channel {name!r}; existing channels: {', '.join(rows) or 'none'}")
    emit(rows[name], channel_text(rows[name]), as_json=as_json)


@channel.command("sign")
@click.argument("file", type=PATH)
@click.option("--key", "uris", multiple=True, metavar="URI", help="Your key.  [default: those of repo.toml]")
@json_option
@click.pass_obj
@example("repo-tools channel sign stable-4.json --key file2:boris.pem")
def channel_sign(repo: Path, /, *, file: Path, uris: tuple[str, ...], as_json: bool) -> None:
    """Show the channel proposal in FILE, and sign it.

    With --key, no repository is needed.

    Exit status: 0 done, 1 failed, 2 wrong usage, no such file, or not a key of the channel, 3 already signed.
    """
    from repo_tools import config
    from repo_tools.keys import signers
    from repo_tools.render.channels import pending_text
    from repo_tools.repository import channel_files, pending_changes
    from signpost.medium import OsMedium
    from updog import durable

    secrets = ask_secrets()
    proposal = pending_changes.load(file)
    folder = Path().absolute() if uris else require_repository(repo)
    given = {item.key.keyid: item.uri for item in (signers.key_source(uri, folder, secrets) for uri in uris)}
    known = given or dict(config.load(folder).signers)
    new = channel_files.add_signature(
        proposal, signers.SignerStore(uris=known, folder=folder, secrets=secrets)
    )
    durable.write_bytes(OsMedium(), file, proposal.to_bytes())
    emit(proposal.to_json(), pending_text(proposal, new), as_json=as_json)


@channel.command("pending")
@click.argument("name", required=False)
@json_option
@click.pass_obj
@example("repo-tools channel pending", "repo-tools channel pending stable")
def channel_pending(repo: Path, /, *, name: str | None, as_json: bool) -> None:
    """List the changes that wait for signatures.

    With NAME, those of one channel. Shows of each its file, what it changes, who has signed and who has not,
    and whether it still fits the channel. A change that is outdated is never published: make it again, and
    delete its file.

    Exit status: 0 done, 1 the repository is broken, 2 not a repository, or no such channel.
    """
    from repo_tools.releases.finish import waiting
    from repo_tools.render.channels import pending_changes_text

    rows = [change.to_json() for change in waiting(require_repository(repo), name, now=current_time())]
    emit({"pending": rows}, pending_changes_text(rows), as_json=as_json)


@channel.command("finish")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@click.option(
    "--accept-elapsed", is_flag=True, help="Publish it although waves of it have started while it waited."
)
@DRY_RUN
@json_option
@click.pass_obj
@example("repo-tools channel finish pending/stable-4.json")
def channel_finish(
    repo: Path, /, *, files: tuple[Path, ...], accept_elapsed: bool, dry_run: bool, as_json: bool
) -> None:
    """Publish a signed channel proposal.

    Several FILEs are copies of one change, each with other signatures. Available keys of the channel sign as
    well. First, every newly listed target is read and compared, and the change is judged again: it is refused
    if the release is now held or withdrawn in the channel that it is promoted from, or if waves of it have
    started while it waited for signatures.

    Exit status: 0 done, 1 waves have started, or it failed, 2 it does not fit the repository, 3 already
    published, or NOT in force yet: other holders must sign, 75 busy.
    """
    from repo_tools.releases.finish import finish, plan_finish
    from repo_tools.render.channels import finished_text
    from repo_tools.repository.pending_changes import load

    copies = [load(file) for file in files]
    act = plan_finish if dry_run else finish
    done = act(
        require_repository(repo),
        copies,
        now=current_time(),
        accept_elapsed=accept_elapsed,
        secrets=ask_secrets(),
    )
    document = done.proposal.to_json() | done.committed.to_json() | ({"dry_run": True} if dry_run else {})
    emit(document, finished_text(done, dry_run=dry_run), as_json=as_json)
    leave_if_pending(done.committed)


@click.command(cls=QuickCommand)
@click.argument("version", type=VERSION)
@click.option("--from", "source", required=True, metavar="NAME", help="Channel of the release; '-' for none.")
@click.option("--to", "target", required=True, metavar="NAME", help="Channel to offer it in; '-' for none.")
@click.option(
    "--waves", default="", metavar="POLICY", help="default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@family_options
@click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes.")
@click.option("--dry-run", is_flag=True, help="Only show the effect on the fleet; change nothing.")
@json_option
@click.pass_obj
@example("repo-tools promote 1.1.0 --from dev --to beta --waves accelerated")
def promote(
    repo: Path,
    /,
    *,
    version: Version,
    source: str,
    target: str,
    waves: str,
    start_at: datetime | None,
    variant: str | None,
    arch: str | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Offer a release of one channel in another.

    Its images are not copied: the other channel approves their digests, so that the holders of the first
    channel's keys cannot change the release afterwards. If the other channel requires more signatures than
    keys are available, the change waits for them in a file.

    Exit status: 0 done, 1 failed, or an image is not what was signed, 2 wrong usage, no such release, or it
    is held or withdrawn, 3 already in the other channel, or NOT in force yet: other holders must sign, 75
    busy.
    """
    from repo_tools.releases import promote as promoting
    from repo_tools.render.channels import promoted_text

    promotion = promoting.Promotion(
        which=which_release(version, variant, arch),
        source=None if source == "-" else source,
        target=None if target == "-" else target,
        waves=waves,
        start_at=start_at,
        reason=reason,
    )
    promoted, done = promoting.promote(
        require_repository(repo), promotion, now=current_time(), dry_run=dry_run, secrets=ask_secrets()
    )
    document = promoted.to_json() | (done.to_json() if done else {"dry_run": True})
    emit(document, promoted_text(promoted, done), as_json=as_json)
    leave_if_pending(done)
