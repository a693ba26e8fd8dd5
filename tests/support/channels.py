"""A repository with channels; each has its own keys in ``keys/<channel>-<number>.pem``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.keys import signers
from repo_tools.repository import channel_files
from signpost.console import run
from signpost.medium import OsMedium
from updog.config import parse
from updog.repository import Repository, http_settings
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.keys.signers import KeySource
    from repo_tools.repository.session import Committed
    from tests.support.repositories import SmallRepository


def make_key(folder: Path, name: str) -> KeySource:
    """Return a new key in ``keys/<name>.pem`` of a repository."""
    made = signers.create_key(OsMedium(), folder / "keys" / f"{name}.pem", None)
    return signers.KeySource(uri=f"file2:keys/{name}.pem", key=made.key)


def add_channel(
    repository: SmallRepository, name: str, *, available: Sequence[bool] = (True,), threshold: int = 1
) -> Committed:
    """Add a channel with one key for each item of ``available``: whether its private key is in repo.toml."""
    made = [make_key(repository.folder, f"{name}-{number}") for number in range(1, len(available) + 1)]
    wanted = channel_files.NewChannel(
        name=name,
        signers=[item for item, here in zip(made, available, strict=True) if here],
        public_keys=[item.key for item, here in zip(made, available, strict=True) if not here],
        threshold=threshold,
        names={item.key.keyid: f"{name}-{number}" for number, item in enumerate(made, 1)},
    )
    done = channel_files.add(repository.folder, wanted, now=repository.now)
    path = repository.folder / config.FILE
    lines = [config.signer_line(item.key.keyid, item.uri) for item in wanted.signers]
    path.write_text(path.read_text() + "\n".join([*lines, ""]))
    return done


def sign_pending(repository: SmallRepository, file: Path, *names: str) -> None:
    """Sign a waiting change with the keys ``keys/<name>.pem``, as their holders do elsewhere."""
    for name in names:
        key = f"file2:{repository.folder}/keys/{name}.pem"
        assert run(cli, ["channel", "sign", str(file), "--key", key]) == 0


def channel_client(
    repository: SmallRepository, folder: Path, url: str, channel: str | None, now: datetime | None = None
) -> Repository:
    """Return the repository as a node of this channel sees it, verified; its state is in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "root.json").write_bytes(repository.root_json)
    follow = f'channel = "{channel}"\n' if channel else ""
    settings = parse(
        f'metadata_base_url = "{url}/metadata/"\ntargets_base_url = "{url}/targets/"\n{follow}'
        'trusted_root = "root.json"\nstate_dir = "state"\nseed = 1\ndownload_tries = 1\n',
        folder,
    )
    return Repository(
        settings,
        http_settings(settings, Version.parse("1.0.0")),
        medium=OsMedium(),
        now=now or repository.now,
        latest_known=None,
    )
