"""Metadata that are correctly signed and wrong, as a careless or malicious holder of the keys makes them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from repo_tools import config
from repo_tools.keys.signers import SignerStore
from repo_tools.keys.signing import sign
from repo_tools.repository import editor
from repo_tools.repository.published import MANIFEST
from repo_tools.repository.session import writing
from repo_tools.trust.chain import walk
from repo_tools.trust.source import FolderSource
from signpost.medium import OsMedium
from updog.update_metadata.target_path import target_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuf.api.metadata import Targets

    from tests.support.repositories import SmallRepository


def sign_manifest(repository: SmallRepository, data: bytes) -> None:
    """Sign any bytes as the manifest, as a careless publisher with the keys could."""
    folder = repository.folder
    old = walk(FolderSource(folder)).targets
    assert old is not None
    digest = hashlib.sha256(data).hexdigest()
    (folder / "targets" / target_path(MANIFEST, digest)).write_bytes(data)
    listed = editor.target_file(MANIFEST, length=len(data), sha256=digest)
    sign_targets(repository, lambda targets: targets.targets.update({MANIFEST: listed}))


def sign_targets(repository: SmallRepository, change: Callable[[Targets], object]) -> None:
    """Sign changed targets metadata and everything that refers to them."""
    folder = repository.folder
    chain = walk(FolderSource(folder))
    assert chain.root
    assert chain.targets
    assert chain.snapshot
    assert chain.timestamp
    signers = SignerStore(uris=config.load(folder).signers, folder=folder)
    change(chain.targets.signed)
    version = chain.targets.signed.version + 1
    expires = chain.targets.signed.expires
    new = editor.targets_after(chain.targets.signed, {}, version=version, expires=expires)
    targets = sign(new, signers, chain.root)
    meta = editor.meta_file(targets, version)
    snapshot = sign(
        editor.snapshot_after(chain.snapshot.signed, {"targets": meta}, version=version, expires=expires),
        signers,
        chain.root,
    )
    meta = editor.meta_file(snapshot, version)
    timestamp = sign(
        editor.timestamp_after(
            chain.timestamp.signed, meta, version=version, expires=expires, now=datetime.now(UTC)
        ),
        signers,
        chain.root,
    )
    (folder / "metadata" / f"{version}.targets.json").write_bytes(targets)
    (folder / "metadata" / f"{version}.snapshot.json").write_bytes(snapshot)
    (folder / "metadata" / "timestamp.json").write_bytes(timestamp)


def sign_edited_manifest(repository: SmallRepository, change: Callable[[dict[str, Any]], object]) -> None:
    """Sign the manifest with a change made to its JSON."""
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        document = json.loads(session.manifest.to_json())
    change(document)
    sign_manifest(repository, json.dumps(document).encode())
