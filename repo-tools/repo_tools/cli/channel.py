"""``channel`` and ``promote``: releases for a part of the fleet, approved by keys of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repo_tools.cli.words import (
    PATH,
    REASON,
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

    from updog.update_metadata.version import Version


@click.group()
@example("repo-tools channel list")
def channel() -> None:
    """Make and look at channels: dev, beta, stable, or whatever you call them.

    A channel has keys and a threshold of its own, and its manifest is NAME/manifest.json. A node follows one
    with `channel = "NAME"` in updog.toml.
    """


@channel.command("add")
@click.argument("name")
@click.option(
    "--signer", "signers", multiple=True, metavar="URI[,PUBLIC.pem]", help="A key of it that is at hand."
)
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    type=PATH,
    metavar="FILE.pem",
    help="A key of it that somebody else holds.",
)
@click.option("--threshold", type=int, default=1, show_default=True, help="How many of its keys must sign.")
@click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes.")
@json_option
@click.pass_obj
@example(
    "repo-tools channel add dev --signer file2:keys/dev.pem",
    "repo-tools channel add stable --signer file2:anna.pem --public-key boris.pub.pem --threshold 2",
)
def channel_add(
    repo: Path,
    /,
    *,
    name: str,
    signers: tuple[str, ...],
    public_keys: tuple[Path, ...],
    threshold: int,
    reason: str,
    as_json: bool,
) -> None:
    """Add a channel that offers nothing yet. Add them in the order in which releases travel.

    The path of a file2: URI starts at --repo, as it does in repo.toml. That file is yours: put the lines
    that this prints under [signers]. Where --threshold asks for keys of
    others, the channel waits in a file for their signatures.

    Exit status: 0 done, 1 failed, 2 wrong usage, a key that cannot be used, or the name is taken, 75 busy.
    """
    from repo_tools import channel_files, config, keys
    from repo_tools.render.channels import committed_text

    secrets = ask_secrets()
    here = existing(repo)
    given = [  # as repo.toml has them: paths start at the repository
        replace(keys.source(word, here, secrets), uri=word.partition(",")[0]) for word in signers
    ]
    wanted = channel_files.NewChannel(
        name=name,
        signers=given,
        public_keys=[keys.load_public(path) for path in public_keys],
        threshold=threshold,
        reason=reason,
    )
    done = channel_files.add(here, wanted, now=current_time(), secrets=secrets)
    known = config.load(here).signers
    lines = [config.signer_line(item.key.keyid, item.uri) for item in given if item.key.keyid not in known]
    hint = ["for repo.toml, under [signers]:", *lines] if lines else []
    head = f"added {name}" if done.pending is None else f"{name} is not there yet"
    emit(
        {"channel": name, "signer_lines": lines, **done.to_json()},
        "\n".join([head, committed_text(done), *hint]),
        as_json=as_json,
    )


@channel.command("list")
@json_option
@click.pass_obj
@example("repo-tools channel list")
def channel_list(repo: Path, /, *, as_json: bool) -> None:
    """List the channels: threshold, keys at hand, expiry, what each offers.

    The one that clients look through first stands first.

    Exit status: 0 done, 1 the repository is broken, 2 no repository here.
    """
    from repo_tools.channel_files import described
    from repo_tools.render.channels import channels_text

    rows = described(existing(repo))
    emit({"channels": rows}, channels_text(rows), as_json=as_json)


@channel.command("show")
@click.argument("name")
@json_option
@click.pass_obj
@example("repo-tools channel show stable")
def channel_show(repo: Path, /, *, name: str, as_json: bool) -> None:
    """Show one channel: its keys, what it may speak for, what it offers.

    Exit status: 0 done, 1 the repository is broken, 2 no such channel.
    """
    from repo_tools.channel_files import described
    from repo_tools.errors import ChannelError
    from repo_tools.render.channels import channel_text

    rows = {row["name"]: row for row in described(existing(repo))}
    if name not in rows:
        raise ChannelError(f"there is no channel {name!r} ({', '.join(rows) or 'there is none'})")
    emit(rows[name], channel_text(rows[name]), as_json=as_json)


@channel.command("sign")
@click.argument("file", type=PATH)
@click.option("--key", "uris", multiple=True, metavar="URI", help="Your key.  [default: those of repo.toml]")
@json_option
@click.pass_obj
@example("repo-tools channel sign stable-4.json --key file2:boris.pem")
def channel_sign(repo: Path, /, *, file: Path, uris: tuple[str, ...], as_json: bool) -> None:
    """Show what waits for signatures in FILE, and sign it. With --key, no repository is needed.

    Exit status: 0 done, 1 failed, 2 wrong usage, no such file, or not a key of the channel, 3 signed already.
    """
    from repo_tools import channel_files, config, keys
    from repo_tools.render.channels import pending_text
    from signpost.medium import OsMedium
    from updog import durable

    secrets = ask_secrets()
    pending = channel_files.load(file)
    folder = Path().absolute() if uris else existing(repo)
    given = {item.key.keyid: item.uri for item in (keys.source(uri, folder, secrets) for uri in uris)}
    known = given or dict(config.load(folder).signers)
    own = channel_files.add_signature(pending, keys.SignerStore(uris=known, folder=folder, secrets=secrets))
    durable.write_bytes(OsMedium(), file, pending.to_bytes())
    emit(pending.to_json(), pending_text(pending, own), as_json=as_json)


@channel.command("finish")
@click.argument("file", type=PATH)
@json_option
@click.pass_obj
@example("repo-tools channel finish pending/stable-4.json")
def channel_finish(repo: Path, /, *, file: Path, as_json: bool) -> None:
    """Publish what the holders of a channel's keys have signed in FILE.

    Keys of the channel that are at hand here sign as well. Everything it newly lists is read and compared
    first.

    Exit status: 0 done, 1 signatures are missing or it failed, 2 it does not fit the repository, 75 busy.
    """
    from repo_tools import channel_files
    from repo_tools.errors import ThresholdError
    from repo_tools.render.channels import committed_text, pending_text

    pending = channel_files.load(file)
    done = channel_files.finish(existing(repo), pending, now=current_time(), secrets=ask_secrets())
    if done.pending:
        version = pending.metadata.signed.version
        raise ThresholdError(
            f"{pending.channel} version {version} needs {pending.missing} more signatures",
            next_step=f"The next holder: repo-tools channel sign {done.pending} --key URI",
        )
    text = f"{pending_text(pending)}\n{committed_text(done)}"
    emit(pending.to_json() | done.to_json(), text, as_json=as_json)


@click.command()
@click.argument("version", type=VERSION)
@click.option("--from", "source", required=True, metavar="NAME", help="The channel it is in; '-' for none.")
@click.option("--to", "target", required=True, metavar="NAME", help="The channel it goes to; '-' for none.")
@click.option(
    "--waves", default="", metavar="POLICY", help="default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option("--start-at", type=TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]")
@family_options
@click.option("--reason", type=REASON, default="", help="Why: one line, for the log of changes.")
@click.option("--dry-run", is_flag=True, help="Say what it would do to the fleet, and change nothing.")
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
    """Offer a release of one channel in another. Its images are not copied, their digests are approved.

    Whoever holds the first channel's keys can change nothing about it afterwards. Where the other channel
    needs more signatures than there are keys at hand, the change waits for them in a file.

    Exit status: 0 done, 1 failed, or an image is not what was signed, 2 wrong usage, no such release, or it
    is held or withdrawn, 75 busy.
    """
    from repo_tools import promote as promoting
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
        existing(repo), promotion, now=current_time(), dry_run=dry_run, secrets=ask_secrets()
    )
    document = promoted.to_json() | (done.to_json() if done else {"dry_run": True})
    emit(document, promoted_text(promoted, done), as_json=as_json)
