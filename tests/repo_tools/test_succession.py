"""A new root in its place: leaked online keys, clients that were shown too much, and kills at every step."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from repo_tools import check, succession
from repo_tools.errors import NothingToSignError
from repo_tools.source import FolderSource
from tests.repo_tools.clients import Client
from tests.support.ceremonies import Desk, make_key, proposal_in
from tests.support.repositories import (
    KilledError,
    KillingMedium,
    SmallRepository,
    kill_points,
    make_repository,
    tree_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.proposal import Proposal

ONLINE = ("targets", "snapshot", "timestamp")
FAR = 2**31 - 1


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0"])


@pytest.fixture
def desk(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(repository.folder, capsys)


def _rotated(desk: Desk, folder: Path, roles: tuple[str, ...], *, at_hand: bool = True) -> Proposal:
    """Return a finished proposal that puts new keys in the place of these roles' own."""
    file = folder / "rotation.json"
    for role in roles:
        pem = make_key(folder, f"{role}-new")
        words = ("rotate", file, role, role, pem.with_suffix(".pub.pem"), "--role", role)
        desk.says(*words)
        if at_hand:
            desk.at_hand(pem)
    desk.sign(file, *(desk.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    return proposal_in(file)


@pytest.mark.parametrize(
    ("roles", "signed"),
    [
        (("timestamp",), {"root": 2, "timestamp": 3}),
        (("snapshot",), {"root": 2, "snapshot": 3, "timestamp": 3}),
        (("targets",), {"root": 2, "targets": 3, "snapshot": 3, "timestamp": 3}),
    ],
)
def test_what_changed_keys_had_signed_is_signed_anew(
    desk: Desk, repository: SmallRepository, tmp_path: Path, roles: tuple[str, ...], signed: dict[str, int]
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        node.visit(url)
        proposal = _rotated(desk, tmp_path, roles)
        done = succession.publish(repository.folder, proposal, now=repository.now)
        assert done.versions == signed
        assert node.manifest(url).updates
        assert Client(tmp_path / "new-node", repository.root_json).manifest(url).updates
    assert check.check(FolderSource(repository.folder), now=repository.now).findings == ()
    repository.publish("1.1.0")


def _stolen(repository: SmallRepository, name: str) -> CryptoSigner:
    private: Any = load_pem_private_key((repository.folder / "keys" / f"{name}.pem").read_bytes(), None)
    return CryptoSigner(private)


def _fast_forward(repository: SmallRepository, folder: Path) -> SmallRepository:
    """Return a thief's copy of a repository, with versions that no honest one will ever reach."""
    copy = SmallRepository(folder=shutil.copytree(repository.folder, folder), now=repository.now)
    metadata = folder / "metadata"
    timestamp = Metadata[Timestamp].from_bytes((metadata / "timestamp.json").read_bytes())
    old = timestamp.signed.snapshot_meta.version
    snapshot = Metadata[Snapshot].from_bytes((metadata / f"{old}.snapshot.json").read_bytes())
    snapshot.signed.version = timestamp.signed.version = FAR
    snapshot.sign(_stolen(repository, "snapshot"))
    (metadata / f"{FAR}.snapshot.json").write_bytes(snapshot.to_bytes())
    timestamp.signed.snapshot_meta = MetaFile(version=FAR)
    timestamp.sign(_stolen(repository, "timestamp"))
    (metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
    return copy


def test_new_timestamp_and_snapshot_keys_recover_a_fast_forwarded_client(
    desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with _fast_forward(repository, tmp_path / "thief").served() as url:
        node.visit(url)
    with repository.served() as url, pytest.raises(RepositoryError):
        node.visit(url)
    proposal = _rotated(desk, tmp_path, ("snapshot", "timestamp"))
    succession.publish(repository.folder, proposal, now=repository.now)
    with repository.served() as url:
        assert node.manifest(url).updates


def test_the_stolen_keys_are_worth_nothing_afterwards(
    desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    proposal = _rotated(desk, tmp_path, ONLINE)
    succession.publish(repository.folder, proposal, now=repository.now)
    node = Client(tmp_path / "node", repository.root_json)
    with _fast_forward(repository, tmp_path / "thief").served() as url, pytest.raises(RepositoryError):
        node.visit(url)


def test_channels_stay_what_they_are_under_new_online_keys(
    desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    pem = make_key(tmp_path, "stable")
    desk.types("channel", "add", "stable", "--signer", f"file2:{pem}")
    desk.at_hand(pem)
    proposal = _rotated(desk, tmp_path, ONLINE)
    before = sorted(path.name for path in (repository.folder / "metadata").glob("*.stable.json"))
    succession.publish(repository.folder, proposal, now=repository.now)
    assert sorted(path.name for path in (repository.folder / "metadata").glob("*.stable.json")) == before
    assert check.check(FolderSource(repository.folder), now=repository.now).findings == ()
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        assert node.visit(url).get_targetinfo("stable/manifest.json")
    rows = desk.types("expirations", "--ical")
    assert rows.count("BEGIN:VEVENT") == len(set(re.findall("UID:(.*)@", rows))) == 5


def test_new_keys_that_are_not_at_hand_publish_nothing(
    desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    _rotated(desk, tmp_path, ("timestamp",), at_hand=False)
    before = tree_digest(repository.folder)
    assert desk.error("publish", tmp_path / "rotation.json", status=1) == "threshold"
    assert tree_digest(repository.folder) == before


def test_a_root_alone_needs_no_online_key(desk: Desk, repository: SmallRepository, tmp_path: Path) -> None:
    file = tmp_path / "root-2.json"
    desk.says("remove-key", file, "root-3")
    desk.sign(file, *(repository.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    shutil.rmtree(repository.folder / "keys")
    assert desk.told("publish", file)["metadata"] == {"root": 2}


def test_killed_at_every_step(desk: Desk, repository: SmallRepository, tmp_path: Path) -> None:
    proposal = _rotated(desk, tmp_path, ONLINE)
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        node.visit(url)
    recorder = KillingMedium()
    recorded = shutil.copytree(repository.folder, tmp_path / "recorded")
    succession.publish(recorded, proposal, now=repository.now, medium=recorder)
    points = list(kill_points(recorder.steps))
    assert len(points) > 20
    for number, torn in points:
        folder = shutil.copytree(repository.folder, tmp_path / f"at-{number}-{torn}")
        with pytest.raises(KilledError):
            succession.publish(folder, proposal, now=repository.now, medium=KillingMedium(number, torn=torn))
        _once_more(folder, proposal, repository)
        copy = SmallRepository(folder=folder, now=repository.now)
        visitor = Client(
            shutil.copytree(tmp_path / "node", tmp_path / f"node-{number}-{torn}"), repository.root_json
        )
        with copy.served() as url:
            assert visitor.manifest(url).updates, recorder.steps[number]


def _once_more(folder: Path, proposal: Proposal, repository: SmallRepository) -> None:
    """Publish again what was cut short: it is made good, or was done already; nothing is left over."""
    with suppress(NothingToSignError):
        succession.publish(folder, proposal, now=repository.now)
    findings = check.check(FolderSource(folder), now=repository.now).findings
    assert not [finding for finding in findings if finding.severity != "note"], findings
