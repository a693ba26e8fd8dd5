"""A repository with channels, each with keys of its own in ``keys/<channel>-<number>.pem``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repo_tools import channel_files, config, keys
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from repo_tools.keys import KeySource
    from repo_tools.session import Committed
    from tests.support.repositories import SmallRepository


def make_key(folder: Path, name: str) -> KeySource:
    """Return a new key in ``keys/<name>.pem`` of a repository."""
    made = keys.create_key(OsMedium(), folder / "keys" / f"{name}.pem", None)
    return keys.KeySource(uri=f"file2:keys/{name}.pem", key=made.key)


def add_channel(
    repository: SmallRepository, name: str, *, hands: Sequence[bool] = (True,), threshold: int = 1
) -> Committed:
    """Add a channel with a key for each of ``hands``: at hand from then on where it says so."""
    made = [make_key(repository.folder, f"{name}-{number}") for number in range(1, len(hands) + 1)]
    wanted = channel_files.NewChannel(
        name=name,
        signers=[item for item, here in zip(made, hands, strict=True) if here],
        public_keys=[item.key for item, here in zip(made, hands, strict=True) if not here],
        threshold=threshold,
    )
    done = channel_files.add(repository.folder, wanted, now=repository.now)
    path = repository.folder / config.FILE
    lines = [config.signer_line(item.key.keyid, item.uri) for item in wanted.signers]
    path.write_text(path.read_text() + "\n".join([*lines, ""]))
    return done
