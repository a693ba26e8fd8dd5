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

from repo_tools.spans import parse_span
from signpost.console import completion, emit, json_option, log_level_option, note, run, start_logging
from updog.update_metadata.times import parse_duration, parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

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
def cli(context: click.Context, repo: Path, log_level: str) -> None:
    r"""Publish signed A/B operating system updates as plain files.

    \b
    Example:
      repo-tools new demo
      repo-tools --repo demo publish --variant vm --arch x86_64 --version 1.0.0 \
        --boot boot.ext4 --root root.erofs --verity
      repo-tools --repo demo serve

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
    r"""Make a repository in DIR: keys, root, empty manifest, all signed, ready to serve.

    \b
    Example:
      repo-tools new demo --expires timestamp=1d

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
    r"""Compress images, sign them, and offer them as a release in waves.

    A reader sees the old release or the new one at any moment, also if this command is killed.
    With --json: one JSON object a line, the last one is the result.

    \b
    Example:
      repo-tools publish --variant vm --arch x86_64 --version 1.1.0 \
        --boot boot.ext4 --root root.erofs --hash root.verity --waves accelerated

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


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@json_option
@click.pass_obj
def serve(repo: Path, /, *, port: int, bind: str, as_json: bool) -> None:
    r"""Serve the repository's public files on this machine, to try things out.

    For a fleet, put metadata/ and targets/ on any web server, bucket or CDN. Ctrl-C ends it.

    \b
    Example:
      repo-tools --repo demo serve --port 8080

    Exit status: 0 ended by Ctrl-C, 1 cannot listen, 2 no repository here.
    """
    from repo_tools.serve import listen
    from repo_tools.store import Store
    from signpost.medium import OsMedium

    Store.existing(repo, OsMedium())
    with listen(repo, bind=bind, port=port) as server:
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
