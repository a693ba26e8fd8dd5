"""`updog tuf`: the public TUF client conformance protocol, so that its suites can judge our client.

The protocol: ``init TRUSTED_ROOT``, ``refresh`` and ``download`` on one metadata folder; metadata is kept
under unversioned names; several ``--target-name`` in order, stopping at the first failure; what is there
already with the right hash is not fetched again; exit 0 or 1.
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

from signpost.console import example, note
from signpost.errors import ToolError, UsageError
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.trust import Target, Trust


@dataclass(frozen=True, kw_only=True, slots=True)
class _Client:
    """The protocol's options."""

    metadata_dir: Path
    metadata_url: str
    target_names: tuple[str, ...]
    target_base_url: str
    target_dir: Path | None


def _zero_or_one(command: Callable[..., None]) -> Callable[..., int]:
    """The protocol knows two exit statuses, whatever went wrong."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            command(*args, **kwargs)
        except ToolError as error:
            note(f"updog tuf: {error.message}")
            return 1
        return 0

    return run


@click.group("tuf")
@click.option(
    "--metadata-dir", type=click.Path(path_type=Path), required=True, help="Where metadata is kept."
)
@click.option("--metadata-url", default="", help="Base URL of the metadata.")
@click.option("--target-name", "target_names", multiple=True, help="Target to download; may be repeated.")
@click.option("--target-base-url", default="", help="Base URL of the targets.")
@click.option("--target-dir", type=click.Path(path_type=Path), help="Where targets are put.")
@click.pass_context
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
    """Start trusting with TRUSTED_ROOT."""
    _trust(client, durable.read_bytes(durable.OsMedium(), trusted_root))


@tuf.command("refresh")
@click.pass_obj
@_zero_or_one
@example("updog tuf --metadata-dir D --metadata-url URL refresh")
def refresh(client: _Client) -> None:
    """Bring the top-level metadata up to date."""
    _refreshed(client)


@tuf.command("download")
@click.pass_obj
@_zero_or_one
@example(
    "updog tuf --metadata-dir D --metadata-url URL \\",
    "    --target-name a --target-base-url URL --target-dir T download",
)
def download(client: _Client) -> None:
    """Bring the metadata up to date and download the targets, in order."""
    if client.target_dir is None or not client.target_names or not client.target_base_url:
        raise UsageError("download needs --target-name, --target-base-url and --target-dir")
    trust = _refreshed(client)
    for name in client.target_names:
        _download(client, trust.target(name), client.target_dir / quote(name, safe=""))


def _trust(client: _Client, bootstrap: bytes) -> Trust:
    from updog.transport import HttpTransport, Settings
    from updog.trust import Trust

    return Trust(
        client.metadata_dir,
        bootstrap=bootstrap,
        metadata_url=client.metadata_url,
        transport=HttpTransport(Settings()),
        medium=durable.OsMedium(),
    )


def _refreshed(client: _Client) -> Trust:
    """Refresh from the root that ``init`` was given: the lowest one in the history."""
    history = client.metadata_dir / "root_history"
    roots = sorted(history.glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
    if not roots:
        raise UsageError(f"{client.metadata_dir} has no trusted root: run init first")
    trust = _trust(client, roots[0].read_bytes())
    trust.refresh(datetime.now(UTC))
    return trust


def _download(client: _Client, target: Target, path: Path) -> None:
    """Fetch one target unless it is there already. Raises DigestError or UnreachableError."""
    from updog.image.codec import verified
    from updog.transport import HttpTransport, Settings

    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == target.sha256:
        return
    blocks = HttpTransport(Settings()).stream(client.target_base_url + target.path, limit=target.length)
    whole = verified(blocks, name=target.name, length=target.length, sha256=target.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_bytes(durable.OsMedium(), path, b"".join(whole))


def _folder_url(url: str) -> str:
    return url if url.endswith("/") or not url else f"{url}/"
