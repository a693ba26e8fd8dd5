"""`updog tuf`: the public TUF client conformance protocol, with which test suites can check our client.

The protocol: ``init TRUSTED_ROOT``, ``refresh`` and ``download`` on one metadata folder; metadata are kept
under unversioned names; several ``--target-name`` are downloaded in order, up to the first failure; a file
that already has the right hash is not fetched again; the exit status is 0 or 1.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from signpost.console import QuickGroup, example, note
from signpost.errors import ToolError, UsageError
from updog import durable
from updog.url import Url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.trust import Target, Trust


@dataclass(frozen=True, kw_only=True, slots=True)
class _Client:
    """The protocol's options."""

    metadata_dir: Path
    metadata_url: Url
    target_names: tuple[str, ...]
    target_base_url: Url
    target_dir: Path | None


def _zero_or_one(command: Callable[..., None]) -> Callable[..., int]:
    """Make a command exit with 0 or 1, the only statuses of the protocol."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            command(*args, **kwargs)
        except ToolError as error:
            note(f"updog tuf: {error.message}")
            return 1
        return 0

    return run


@click.group("tuf", cls=QuickGroup)
@click.option(
    "--metadata-dir", type=click.Path(path_type=Path), required=True, help="Folder for the metadata."
)
@click.option("--metadata-url", default="", help="Base URL of the metadata.")
@click.option("--target-name", "target_names", multiple=True, help="Target to download; may be repeated.")
@click.option("--target-base-url", default="", help="Base URL of the targets.")
@click.option("--target-dir", type=click.Path(path_type=Path), help="Folder for the targets.")
@click.pass_context
@example("updog tuf --metadata-dir D --metadata-url URL refresh")
def tuf(
    context: click.Context,
    metadata_dir: Path,
    metadata_url: str,
    target_names: tuple[str, ...],
    target_base_url: str,
    target_dir: Path | None,
) -> None:
    """Speak the public TUF client conformance protocol."""
    context.obj = _Client(
        metadata_dir=metadata_dir,
        metadata_url=_folder_url(metadata_url),
        target_names=target_names,
        target_base_url=_folder_url(target_base_url),
        target_dir=target_dir,
    )


@tuf.command("init")
@click.argument("trusted_root", type=click.Path(path_type=Path))
@click.pass_obj
@_zero_or_one
@example("updog tuf --metadata-dir D init root.json")
def init(client: _Client, trusted_root: Path) -> None:
    """Use TRUSTED_ROOT as the initial root."""
    _trust(client, trusted_root)


@tuf.command("refresh")
@click.pass_obj
@_zero_or_one
@example("updog tuf --metadata-dir D --metadata-url URL refresh")
def refresh(client: _Client) -> None:
    """Refresh the top-level metadata."""
    _refreshed(client)


@tuf.command("download")
@click.pass_obj
@_zero_or_one
@example(
    "updog tuf --metadata-dir D --metadata-url URL \\",
    "    --target-name a --target-base-url URL --target-dir T download",
)
def download(client: _Client) -> None:
    """Refresh the metadata and download the targets, in order."""
    if client.target_dir is None or not client.target_names or not str(client.target_base_url):
        raise UsageError("download needs --target-name, --target-base-url and --target-dir")
    trust = _refreshed(client)
    for name in client.target_names:
        _download(client, trust.target(name), client.target_dir / quote(name, safe=""))


def _trust(client: _Client, bootstrap: Path) -> Trust:
    from updog.transport import HttpTransport, TransportSettings
    from updog.trust import Trust, TrustedRoot

    medium = durable.OsMedium()
    return Trust(
        client.metadata_dir,
        bootstrap=TrustedRoot(path=bootstrap, data=durable.read_bytes(medium, bootstrap)),
        metadata_url=str(client.metadata_url),
        transport=HttpTransport(TransportSettings(urls=(client.metadata_url,))),
        medium=medium,
    )


def _refreshed(client: _Client) -> Trust:
    """Return refreshed metadata; start with the root given to ``init``, the lowest in the history."""
    history = client.metadata_dir / "root_history"
    roots = sorted(history.glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
    if not roots:
        raise UsageError(f"{client.metadata_dir} has no trusted root; run init first")
    trust = _trust(client, roots[0])
    trust.refresh(datetime.now(UTC))
    return trust


def _download(client: _Client, target: Target, path: Path) -> None:
    """Fetch one target, unless it already exists. Raises DigestError or UnreachableError."""
    from updog.image.codec import verified
    from updog.transport import HttpTransport, TransportSettings

    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == target.sha256:
        return
    blocks = HttpTransport(TransportSettings(urls=(client.target_base_url,))).stream(
        client.target_base_url.below(target.path), limit=target.length
    )
    blocks = verified(blocks, name=target.name, length=target.length, sha256=target.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_bytes(durable.OsMedium(), path, b"".join(blocks))


def _folder_url(url: str) -> Url:
    """Return a base URL; an empty one if the option was not given. Raises UsageError."""
    if not url:
        return Url(address="")
    try:
        return Url.parse_base(url)
    except ValueError as error:
        raise UsageError(f"{without_secrets(url)} is not a URL: {error}") from error
