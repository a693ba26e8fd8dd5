"""Common parts of the commands: types of arguments, options, the time, passphrases."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_tools.quantities import parse_share, parse_span
from repo_tools.repository.change_log import checked_reason, checked_urgent
from signpost.console import Parsed
from signpost.errors import ExitStatus
from updog.update_metadata.sizes import parse_size
from updog.update_metadata.times import parse_moment
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from repo_tools.keys.signers import Secrets
    from repo_tools.releases.release import ReleaseName
    from repo_tools.repository.session import Committed

VERSION = Parsed("version", Version.parse)
TIME = Parsed("time", lambda text: parse_moment(text, current_time()))
SPAN = Parsed("span", parse_span)
SHARE = Parsed("share", parse_share)
SIZE = Parsed("size", parse_size)
REASON = Parsed("reason", checked_reason)
URGENT = Parsed("why", checked_urgent)
PATH = click.Path(path_type=Path)


def current_time() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def _read_secret(name: str) -> str:
    """Return a secret from the environment, or ask for it at the terminal. Raises SigningKeyError."""
    from os import environ

    from repo_tools.keys.signers import secret_required, secret_variables

    for variable in secret_variables(name):
        if variable in environ:
            return environ[variable]
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            return str(click.prompt(name, hide_input=True, err=True))
        except click.Abort:  # not a fault of a key, which other keys could replace
            raise KeyboardInterrupt from None
    raise secret_required(name)


def ask_secrets() -> Secrets:
    """Return a source of secrets that asks once for each."""
    known: dict[str, str] = {}

    def ask(name: str) -> str:
        if name not in known:
            known[name] = _read_secret(name)
        return known[name]

    return ask


def new_passphrase(path: Path) -> str:
    """Return the passphrase for a new key: from the environment, or asked for twice."""
    from os import environ

    from repo_tools.keys.signers import PASSPHRASE_OF, secret_variables

    name = f"{PASSPHRASE_OF}{path}"
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    if not terminal or any(variable in environ for variable in secret_variables(name)):
        return _read_secret(name)
    return str(click.prompt(f"new {name}", hide_input=True, confirmation_prompt=True, err=True))


def require_repository(repo: Path) -> Path:
    """Return the folder if it is a repository. Raises NoRepositoryError."""
    from repo_tools.repository.store import Store
    from signpost.medium import OsMedium

    return Store.existing(repo, OsMedium()).folder


def leave_if_pending(done: Committed | None) -> None:
    """End the command in exit status 3 if its change is not in force yet: other holders must sign it."""
    if done is not None and done.pending is not None:
        click.get_current_context().exit(int(ExitStatus.NOTHING_TO_DO))


def require_readable(folder: Path) -> Path:
    """Return the folder if it is a repository, a mirror or a bundle. Raises NoRepositoryError."""
    from repo_tools.errors import NoRepositoryError

    if not (folder / "metadata").is_dir():
        raise NoRepositoryError(f"{folder} is not a repository: it lacks metadata/")
    return folder


def which_release(version: Version, variant: str | None, arch: str | None) -> ReleaseName:
    """Return the name of the release that a command is about."""
    from repo_tools.releases.release import ReleaseName

    return ReleaseName(version=version, variant=variant, arch=arch)


DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Only show what would be done; try the keys, change nothing."
)


def channel_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--channel``."""
    text = "Channel of the release.  [default: the top-level releases]"
    return click.option("--channel", metavar="NAME", help=text)(command)


def family_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--variant`` and ``--arch``, required if several releases have the same version."""
    command = click.option("--arch", help="Required if several releases have this version.")(command)
    return click.option("--variant", help="Required if several releases have this version.")(command)
