"""A channel's targets are verified again when they are read, whatever has changed in the folder since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import MetaFile

from tests.support.tuf_repositories import TufRepository, signed_bytes, signer
from updog.channel_targets import channel_role, channel_targets
from updog.errors import TrustError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository() -> TufRepository:
    """Return a repository with one channel, whose snapshot has versions only, as the specification allows."""
    made = TufRepository()
    made.delegate("stable", ["stable/*"])
    made.put("stable/a", b"a", role="stable")
    made.publish()
    made.snapshot.meta["stable.json"] = MetaFile(1)
    return made


def _read(repository: TufRepository, folder: Path, data: bytes | None) -> set[str]:
    """Return the names of the targets, if the state folder has these bytes for the channel."""
    if data is not None:
        (folder / "stable.json").write_bytes(data)
    return set(channel_targets(folder, "stable", repository.snapshot, repository.targets).targets)


def test_a_channel_has_its_targets(repository: TufRepository, tmp_path: Path) -> None:
    assert _read(repository, tmp_path, repository.files["metadata/1.stable.json"]) == {"stable/a"}


def test_names_outside_its_delegation_do_not_count(repository: TufRepository, tmp_path: Path) -> None:
    repository.put("beta/b", b"b", role="stable")
    data = signed_bytes(repository.delegated["stable"], repository.signers["stable"])
    assert _read(repository, tmp_path, data) == {"stable/a"}


@pytest.mark.parametrize("names", [[], ["somebody"]], ids=["by nobody", "by another key"])
def test_metadata_that_its_keys_did_not_sign_are_refused(
    repository: TufRepository, tmp_path: Path, names: list[str]
) -> None:
    data = signed_bytes(repository.delegated["stable"], [signer(name) for name in names])
    with pytest.raises(TrustError, match="'stable' do not match the snapshot"):
        _read(repository, tmp_path, data)


def test_fewer_signatures_than_the_threshold_are_refused(repository: TufRepository, tmp_path: Path) -> None:
    delegations = repository.targets.delegations
    assert delegations
    assert delegations.roles
    second = signer("second")
    delegations.roles["stable"].keyids.append(second.public_key.keyid)
    delegations.keys[second.public_key.keyid] = second.public_key
    delegations.roles["stable"].threshold = 2
    payload, first = repository.delegated["stable"], repository.signers["stable"]
    with pytest.raises(TrustError):
        _read(repository, tmp_path, signed_bytes(payload, first))
    assert _read(repository, tmp_path, signed_bytes(payload, [*first, second])) == {"stable/a"}


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_than_the_snapshot_has_is_refused(
    repository: TufRepository, tmp_path: Path, version: int
) -> None:
    repository.snapshot.meta["stable.json"] = MetaFile(2)
    payload = repository.delegated["stable"]
    payload.version = version
    with pytest.raises(TrustError, match="version in the snapshot"):
        _read(repository, tmp_path, signed_bytes(payload, repository.signers["stable"]))


@pytest.mark.parametrize("facts", [{"length": 10}, {"hashes": {"sha256": "0" * 64}}], ids=["length", "hash"])
def test_another_length_or_hash_than_the_snapshot_has_is_refused(
    repository: TufRepository, tmp_path: Path, facts: dict[str, Any]
) -> None:
    repository.snapshot.meta["stable.json"] = MetaFile(1, **facts)
    with pytest.raises(TrustError, match="match the snapshot"):
        _read(repository, tmp_path, repository.files["metadata/1.stable.json"])


@pytest.mark.parametrize(
    "data", [None, b"", b"{}", b"\xff", b"[" * 5000], ids=["none", "empty", "{}", "ff", "deep"]
)
def test_what_is_not_metadata_is_refused(
    repository: TufRepository, tmp_path: Path, data: bytes | None
) -> None:
    with pytest.raises(TrustError, match="'stable' do not match the snapshot"):
        _read(repository, tmp_path, data)


def test_a_channel_that_the_snapshot_does_not_list_is_refused(
    repository: TufRepository, tmp_path: Path
) -> None:
    del repository.snapshot.meta["stable.json"]
    with pytest.raises(TrustError):
        _read(repository, tmp_path, repository.files["metadata/1.stable.json"])


def test_the_role_of_a_channel_is_the_one_that_lists_its_manifest(repository: TufRepository) -> None:
    repository.put("latest/manifest.json", b"{}")
    top = repository.targets
    assert channel_role(top, "stable", "stable/manifest.json") == "stable"
    assert channel_role(top, "latest", "latest/manifest.json") == "targets"
    assert channel_role(top, "beta", "beta/manifest.json") is None
    assert channel_role(TufRepository().targets, "stable", "stable/manifest.json") is None
