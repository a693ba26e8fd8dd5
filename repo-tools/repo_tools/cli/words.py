"""What the commands share: types of arguments, the time, the passphrase, the last line of long work."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_tools.changes import one_line
from repo_tools.quantities import parse_share, parse_span
from signpost.console import Parsed, emit
from updog.update_metadata.sizes import parse_size
from updog.update_metadata.times import parse_moment
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from repo_tools.keys import Secrets
    from repo_tools.release import Which

PASSPHRASE = "REPO_TOOLS_PASSPHRASE"  # noqa: S105 - the name of a variable
TOKEN_PIN = "REPO_TOOLS_PIN"  # noqa: S105 - the same


VERSION = Parsed("version", Version.parse)
TIME = Parsed("time", lambda text: parse_moment(text, current_time()))
SPAN = Parsed("span", parse_span)
SHARE = Parsed("share", parse_share)
SIZE = Parsed("size", parse_size)
REASON = Parsed("reason", one_line)
PATH = click.Path(path_type=Path)


def current_time() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def _secret(name: str) -> str:
    """Take a secret from the environment, or ask the person at the terminal. Raises SigningKeyError."""
    from os import environ

    from repo_tools.keys import PIN

    variable = TOKEN_PIN if name == PIN else PASSPHRASE
    if variable in environ:
        return environ[variable]
    if sys.stdin.isatty() and sys.stderr.isatty():
        return str(click.prompt(name, hide_input=True, err=True))
    from repo_tools.errors import SigningKeyError

    raise SigningKeyError(f"a {name} is needed", next_step=f"Give it in the environment variable {variable}.")


def ask_secrets() -> Secrets:
    """Return :func:`_secret`, remembering the answer, since one passphrase often guards several keys."""
    known: dict[str, str] = {}

    def ask(name: str) -> str:
        return known.setdefault(name, _secret(name))

    return ask


def new_passphrase(path: Path) -> str:
    """Return the passphrase of a key that is to be made: from the environment, or asked for twice."""
    from os import environ

    if PASSPHRASE in environ or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return _secret(f"passphrase of {path}")
    name = f"new passphrase of {path}"
    return str(click.prompt(name, hide_input=True, confirmation_prompt=True, err=True))


def emit_last(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of long work: as the last line of NDJSON, or as text."""
    if as_json:
        click.echo(json.dumps({"event": "result", **document}))
    else:
        emit(document, text, as_json=False)


def existing(repo: Path) -> Path:
    """Return the folder if it holds a repository. Raises NoRepositoryError."""
    from repo_tools.store import Store
    from signpost.medium import OsMedium

    return Store.existing(repo, OsMedium()).folder


def readable(place: Path) -> Path:
    """Return the folder if a repository, a mirror or a bundle can be read there. Raises NoRepositoryError."""
    from repo_tools.errors import NoRepositoryError

    if not (place / "metadata").is_dir():
        raise NoRepositoryError(f"{place} holds no repository (metadata/)")
    return place


def which_release(version: Version, variant: str | None, arch: str | None) -> Which:
    """Return the release that the words of a command name."""
    from repo_tools.release import Which

    return Which(version=version, variant=variant, arch=arch)


def channel_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--channel``."""
    text = "The channel it is about.  [default: the releases of no channel]"
    return click.option("--channel", metavar="NAME", help=text)(command)


def family_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--variant`` and ``--arch``, needed where several releases have the version."""
    command = click.option("--arch", help="Needed where several releases have the version.")(command)
    return click.option("--variant", help="Needed where several releases have the version.")(command)
