"""The command line of repo-tools: words in, calls of the other modules, text or JSON out.

The only module that reads the clock, prints, asks for a passphrase or decides an exit status.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_tools.quantities import parse_size, parse_span
from signpost.console import (
    completion,
    emit,
    example,
    json_option,
    log_level_option,
    note,
    run,
    start_logging,
)
from signpost.errors import ExitStatus
from updog.update_metadata.times import parse_duration, parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from repo_tools.keys import Secrets

PASSPHRASE = "REPO_TOOLS_PASSPHRASE"  # noqa: S105 - the name of a variable

_EXIT = "\b\nExit status: 0 done, 1 failed, 2 wrong usage"


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """A click type over one of our parsers; its error ends the command as any other ToolError."""

    def __init__(self, name: str, parser: Callable[[str], Any]) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; defaults that are values already pass."""
        del param, ctx
        return self._parser(value) if isinstance(value, str) else value


def _moment(text: str) -> datetime:
    """Return an RFC 3339 time, or a time from now such as ``in 2 days``. Raises TimeError."""
    return _now() + parse_duration(text) if text.startswith("in ") else parse_time(text)


_VERSION = _Parsed("version", Version.parse)
_TIME = _Parsed("time", _moment)
_SPAN = _Parsed("span", parse_span)
_PATH = click.Path(path_type=Path)


def _now() -> datetime:
    return datetime.now(UTC)


def _secret(name: str) -> str:
    """Take a secret from the environment, or ask the person at the terminal. Raises SigningKeyError."""
    from os import environ

    if PASSPHRASE in environ:
        return environ[PASSPHRASE]
    if sys.stdin.isatty() and sys.stderr.isatty():
        return str(click.prompt(name, hide_input=True, err=True))
    from repo_tools.keys import no_secrets

    return no_secrets(name)


def _secrets() -> Secrets:
    """Return :func:`_secret`, remembering the answer, since one passphrase often guards several keys."""
    known: dict[str, str] = {}

    def ask(name: str) -> str:
        return known.setdefault(name, _secret(name))

    return ask


def _emit_last(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of long work: as the last line of NDJSON, or as text."""
    if as_json:
        click.echo(json.dumps({"event": "result", **document}))
    else:
        emit(document, text, as_json=False)


@click.group("repo-tools", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--repo",
    type=_PATH,
    default=Path(),
    show_default="here",
    help="The repository: the folder with repo.toml.",
)
@log_level_option
@click.version_option(package_name="updog")
@click.pass_context
@example(
    "repo-tools new demo",
    "repo-tools --repo demo publish --variant vm --arch x86_64 --version 1.0.0 \\",
    "  --boot boot.ext4 --root root.erofs --verity",
    "repo-tools --repo demo serve",
)
def cli(context: click.Context, repo: Path, log_level: str) -> None:
    """Publish signed A/B operating system updates as plain files.

    Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing to do, 5 repository
    unreachable, 75 another publisher is at work.
    """
    start_logging(log_level)
    context.obj = repo


cli.add_command(completion)


@cli.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--name", default="os", show_default=True, help="First word of every image's name.")
@click.option("--root-threshold", type=int, default=2, show_default=True, help="Signatures a root needs.")
@click.option("--root-keys", type=int, default=3, show_default=True, help="Test keys to make for root.")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="ROLE=URI[,PUBLIC.pem]",
    help="Sign a role with this key instead of a test key; several are allowed.",
)
@click.option("--expires", multiple=True, metavar="ROLE=7d", help="How long signatures of a role last.")
@click.option(
    "--encrypt", is_flag=True, help=f"Encrypt the test keys; the passphrase is asked, or in {PASSPHRASE}."
)
@json_option
@example("repo-tools new demo --expires timestamp=1d")
def new(
    *,
    folder: Path,
    name: str,
    root_threshold: int,
    root_keys: int,
    signers: tuple[str, ...],
    expires: tuple[str, ...],
    encrypt: bool,
    as_json: bool,
) -> None:
    """Make a repository in DIR: keys, root, empty manifest, all signed, ready to serve.

    Exit status: 0 done, 1 failed, 2 wrong usage, or DIR is not empty.
    """
    from repo_tools import new as making
    from repo_tools.config import parse_expires
    from repo_tools.render import created_text

    secrets = _secrets()
    plan = making.Plan(
        name=name,
        root_threshold=root_threshold,
        root_keys=root_keys,
        signers=making.parse_signers(signers),
        expires=parse_expires(expires),
        passphrase=secrets("passphrase of the new test keys") if encrypt else None,
    )
    created = making.create(folder, now=_now(), plan=plan, secrets=secrets)
    emit(created.to_json(), created_text(created), as_json=as_json)
    if created.test_keys:
        note(f"warning: the keys in {folder / making.KEYS} are for tests only: they lie on this disk.")


@cli.command()
@click.option("--variant", required=True, help="Flavour of the operating system.")
@click.option("--arch", required=True, help="Machine architecture, such as x86_64.")
@click.option("--version", required=True, type=_VERSION, help="Semantic version of the release.")
@click.option("--boot", required=True, type=_PATH, help="Raw boot image.")
@click.option("--root", required=True, type=_PATH, help="Raw root image.")
@click.option("--hash", "hash_image", type=_PATH, help="Raw dm-verity hash image.")
@click.option("--verity", is_flag=True, help="Make the hash image from the root image with veritysetup.")
@click.option(
    "--waves", default="", metavar="POLICY", help="default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option(
    "--start-at", type=_TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]"
)
@click.option("--max-version", type=_VERSION, help="Withdraw every version above this one.")
@click.option("--floor", type=_VERSION, help="Nodes below this version must pass through it first.")
@click.option(
    "--compression", type=click.Choice(["zstd", "lz4"]), help="Format of the images.  [default: repo.toml]"
)
@click.option("--level", type=int, help="Level of the compression.  [default: repo.toml]")
@json_option
@click.pass_obj
@example(
    "repo-tools publish --variant vm --arch x86_64 --version 1.1.0 \\",
    "  --boot boot.ext4 --root root.erofs --hash root.verity --waves accelerated",
)
def publish(
    repo: Path,
    /,
    *,
    boot: Path,
    root: Path,
    hash_image: Path | None,
    verity: bool,
    compression: str | None,
    level: int | None,
    as_json: bool,
    **facts: Any,
) -> None:
    """Compress images, sign them, and offer them as a release in waves.

    A reader sees the old release or the new one at any moment, also if this command is killed.
    With --json: one JSON object a line, the last one is the result.

    Exit status: 0 done, 1 failed, 2 wrong usage, or the version is there already, 75 busy.
    """
    from repo_tools.bar import reporting
    from repo_tools.release import NewRelease, publish
    from repo_tools.render import published_text

    if (hash_image is None) is not verity:
        raise click.UsageError("pass either --hash FILE or --verity")
    release = NewRelease(
        boot=boot, root=root, hash=hash_image, packing=_packing(repo, compression, level), **facts
    )
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        outcome = publish(repo, release, now=_now(), secrets=_secrets(), progress=progress)
    _emit_last(outcome.to_json(), published_text(outcome), as_json=as_json)


def _packing(repo: Path, compression: str | None, level: int | None) -> Any:
    """Return the packing asked for, the repository's own in what was not. Raises UsageError."""
    from repo_tools import config
    from repo_tools.images import Packing
    from updog.update_metadata.errors import FaultsError

    if compression is None and level is None:
        return None
    settings = config.load(repo)
    chosen = compression or settings.compression
    default = settings.level if chosen == settings.compression else config.DEFAULT_LEVELS[chosen]
    packing = Packing(compression=chosen, level=default if level is None else level)
    try:
        config.check_level(packing.compression, packing.level)
    except FaultsError as error:
        raise click.UsageError(str(error.faults[0])) from error
    return packing


def _which(version: Version, variant: str | None, arch: str | None) -> Any:
    from repo_tools.release import Which

    return Which(version=version, variant=variant, arch=arch)


def _family_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--variant`` and ``--arch``, needed where several releases have the version."""
    command = click.option("--arch", help="Needed where several releases have the version.")(command)
    return click.option("--variant", help="Needed where several releases have the version.")(command)


@cli.group()
@example("repo-tools waves show 1.1.0")
def waves() -> None:
    """Show and change how a release spreads over the fleet."""


@waves.command("show")
@click.argument("version", type=_VERSION, required=False)
@_family_options
@json_option
@click.pass_obj
@example("repo-tools waves show 1.1.0")
def waves_show(
    repo: Path, /, *, version: Version | None, variant: str | None, arch: str | None, as_json: bool
) -> None:
    """Show a release's waves: starts, seeds, share of the fleet, and now. Without VERSION: all releases.

    Exit status: 0 done, 1 the repository is broken, 2 no such release.
    """
    from repo_tools import render
    from repo_tools.release import manifest_of

    manifest = manifest_of(_existing(repo))
    now = _now()
    if version is None:
        rows = [render.release_row(update, now) for update in manifest.updates]
        emit({"releases": rows}, render.releases_text(rows), as_json=as_json)
        return
    update = _which(version, variant, arch).of(manifest)
    emit(render.waves_document(update, now), render.waves_text(update, now), as_json=as_json)


@waves.command("set")
@click.argument("version", type=_VERSION)
@click.option("--policy", required=True, help="default, accelerated, slow-roll, ohno, FILE.toml or none.")
@click.option(
    "--start-at", type=_TIME, help="When the waves start: RFC 3339, or 'in 2 days'.  [default: now]"
)
@_family_options
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
    from repo_tools import render
    from repo_tools.release import policy_named, set_waves, waves_of

    now = _now()
    planned = waves_of(policy_named(policy), start_at or now)
    which = _which(version, variant, arch)
    outcome = set_waves(repo, which, planned, now=now, secrets=_secrets())
    text = f"{render.waves_text(outcome.update, now)}\n{render.versions_text(outcome.versions)}"
    emit(outcome.to_json(), text, as_json=as_json)


@cli.command()
@click.argument("version", type=_VERSION)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@_family_options
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
    from repo_tools import release, render

    which = _which(version, variant, arch)
    if dry_run:
        plan = release.plan_withdrawal(release.manifest_of(_existing(repo)), which)
        emit(plan.to_json() | {"dry_run": True}, render.withdrawal_text(plan, done=False), as_json=as_json)
        return
    plan, versions = release.withdraw(repo, which, now=_now(), secrets=_secrets())
    text = f"{render.withdrawal_text(plan, done=True)}\n{render.versions_text(versions)}"
    emit(plan.to_json() | {"metadata": dict(versions)}, text, as_json=as_json)


@cli.command()
@click.option(
    "--within", type=_SPAN, default="3d", show_default=True, help="Sign anew what expires in this time."
)
@json_option
@click.pass_obj
@example("repo-tools refresh --within 3d")
def refresh(repo: Path, /, *, within: timedelta, as_json: bool) -> int:
    """Sign anew what is near expiry, if the repository is whole.

    Exit status: 0 done, 1 failed, or a root near expiry whose keys are not at hand, 3 nothing near, 75 busy.
    """
    from repo_tools import render
    from repo_tools.expiry import refresh

    done = refresh(repo, within=within, now=_now(), secrets=_secrets())
    emit(done.to_json(), render.refreshed_text(done), as_json=as_json)
    return int(ExitStatus.FAILED if done.unsigned else ExitStatus.DONE)


@cli.command()
@click.option("--within", type=_SPAN, default="3d", show_default=True, help="What counts as near.")
@json_option
@click.pass_obj
@example("repo-tools expirations --within 1w")
def expirations(repo: Path, /, *, within: timedelta, as_json: bool) -> int:
    """Say when each role's signature runs out.

    Exit status: 0 all later than --within, 1 one has expired or is near, or does not verify.
    """
    from repo_tools import render
    from repo_tools.chain import walk
    from repo_tools.expiry import expirations
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    chain = walk(FolderSource(_existing(repo)))
    complete(chain)
    rows = expirations(chain, now=_now())
    near = any(row.within(within) for row in rows)
    document = {"expirations": [row.to_json() | {"near": row.within(within)} for row in rows]}
    emit(document, render.expirations_text(rows, within), as_json=as_json)
    return int(ExitStatus.FAILED if near else ExitStatus.DONE)


@cli.command()
@click.argument("place", metavar="[URL or DIR]", required=False)
@json_option
@click.pass_obj
@example("repo-tools validate https://updates.example.com")
def validate(repo: Path, /, *, place: str | None, as_json: bool) -> int:
    """Check a whole repository as a client would, and then some; list every fault at once.

    All roots, signatures, versions and expiries; every target's length and SHA-256; every image's raw
    content by unpacking it; waves, max_version, floors and migrations; files that nothing signs.

    Exit status: 0 clean (notes are clean), 1 findings, 2 no repository here, 5 unreachable.
    """
    from repo_tools import render
    from repo_tools.bar import reporting
    from repo_tools.check import check
    from repo_tools.source import source_of

    is_url = place is not None and "://" in place
    source = source_of(place if place and is_url else _existing(Path(place) if place else repo))
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        report = check(source, now=_now(), progress=progress)
    _emit_last(render.report_document(report), render.report_text(report), as_json=as_json)
    return int(ExitStatus.DONE if report.clean else ExitStatus.FAILED)


@cli.group()
@example("repo-tools disk create node.img --version 1.0.0")
def disk() -> None:
    """Make disk images for a node's first boot."""


@disk.command("create")
@click.argument("file", metavar="DISK", type=_PATH)
@click.option("--version", required=True, type=_VERSION, help="The release to put in slot A.")
@_family_options
@click.option("--size", type=_Parsed("size", parse_size), help="Of the whole disk.  [default: what it takes]")
@click.option(
    "--sector-size",
    type=click.Choice(["512", "4096"]),
    default="512",
    show_default=True,
    help="Of the disk, in bytes.",
)
@click.option(
    "--slot-size",
    default="",
    metavar="boot=64MiB,…",
    help="Of one slot's partitions.  [default: twice the image]",
)
@json_option
@click.pass_obj
@example("repo-tools disk create node.img --version 1.0.0 --slot-size root=2GiB")
def disk_create(
    repo: Path,
    /,
    *,
    file: Path,
    version: Version,
    variant: str | None,
    arch: str | None,
    size: int | None,
    sector_size: str,
    slot_size: str,
    as_json: bool,
) -> None:
    """Make a disk image with two slots and a verified release in slot A. Needs no privilege.

    With --json: one JSON object a line, the last one lists partitions and digests.

    Exit status: 0 done, 1 failed, 2 wrong usage, DISK exists, or the sizes do not fit.
    """
    from repo_tools import disk as making
    from repo_tools import render
    from repo_tools.bar import reporting

    slot_sizes = making.parse_slot_sizes(slot_size)
    plan = making.Plan(size=size, sector_size=int(sector_size), slot_sizes=slot_sizes)
    which = _which(version, variant, arch)
    with reporting(sys.stdout, sys.stderr, as_json=as_json) as progress:
        made = making.create(_existing(repo), file, which, plan=plan, progress=progress)
    _emit_last(made.to_json(), render.disk_text(made), as_json=as_json)


@cli.group()
@example("repo-tools root show")
def root() -> None:
    """Look at the root of trust."""


@root.command("show")
@json_option
@click.pass_obj
@example("repo-tools root show")
def root_show(repo: Path, /, *, as_json: bool) -> None:
    """Show the roles, their keys and thresholds, when root expires, and which keys are at hand.

    Exit status: 0 done, 1 the roots do not verify, 2 no repository here.
    """
    from repo_tools import config, render
    from repo_tools.chain import walk
    from repo_tools.session import complete
    from repo_tools.source import FolderSource

    newest = complete(walk(FolderSource(_existing(repo)))).root.signed
    document = render.root_document(newest, config.load(repo).signers)
    emit(document, render.root_text(document, newest.expires - _now()), as_json=as_json)


def _existing(repo: Path) -> Path:
    """Return the folder if it holds a repository. Raises NoRepositoryError."""
    from repo_tools.store import Store
    from signpost.medium import OsMedium

    return Store.existing(repo, OsMedium()).folder


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@json_option
@click.pass_obj
@example("repo-tools --repo demo serve --port 8080")
def serve(repo: Path, /, *, port: int, bind: str, as_json: bool) -> None:
    """Serve the repository's public files on this machine, to try things out.

    For a fleet, put metadata/ and targets/ on any web server, bucket or CDN. Ctrl-C ends it.

    Exit status: 0 ended by Ctrl-C, 1 cannot listen, 2 no repository here.
    """
    from repo_tools.serve import listen

    with listen(_existing(repo), bind=bind, port=port) as server:
        document = {
            "url": server.url,
            "metadata": f"{server.url}/metadata/",
            "targets": f"{server.url}/targets/",
        }
        _emit_last(document, f"serving {repo} at {server.url} (Ctrl-C ends)", as_json=as_json)
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("ended")


def main() -> None:
    """Run the program and exit with its status (the console script)."""
    sys.exit(run(cli))


if __name__ == "__main__":
    main()
