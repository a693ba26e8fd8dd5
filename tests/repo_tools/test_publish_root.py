"""Publishing a new root: leaked online keys, clients that were shown too much, and kills at every step."""

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

from repo_tools.ceremony import publish_root
from repo_tools.errors import NothingToSignError
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import check
from tests.repo_tools.clients import Client
from tests.support.ceremonies import RepoTools, make_key, proposal_in
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

    from repo_tools.ceremony.root_proposal import Proposal

ONLINE = ("targets", "snapshot", "timestamp")
FAR = 2**31 - 1


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0"])


@pytest.fixture
def tool(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> RepoTools:
    return RepoTools(repository.folder, capsys)


def _rotated(tool: RepoTools, folder: Path, roles: tuple[str, ...], *, at_hand: bool = True) -> Proposal:
    """Return a finished proposal that replaces these roles' keys."""
    file = folder / "rotation.json"
    for role in roles:
        pem = make_key(folder, f"{role}-new")
        words = ("rotate", file, role, role, pem.with_suffix(".pub.pem"), "--role", role)
        tool.root(*words)
        if at_hand:
            tool.add_signer(pem)
    tool.sign(file, *(tool.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    return proposal_in(file)


@pytest.mark.parametrize(
    ("roles", "signed"),
    [
        (("timestamp",), {"root": 2, "timestamp": 3}),
        (("snapshot",), {"root": 2, "snapshot": 3, "timestamp": 3}),
        (("targets",), {"root": 2, "targets": 3, "snapshot": 3, "timestamp": 3}),
    ],
)
def test_what_changed_keys_had_signed_is_signed_again(
    tool: RepoTools,
    repository: SmallRepository,
    tmp_path: Path,
    roles: tuple[str, ...],
    signed: dict[str, int],
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        node.visit(url)
        proposal = _rotated(tool, tmp_path, roles)
        done = publish_root.publish(repository.folder, proposal, now=repository.now)
        assert done.versions == signed
        assert node.manifest(url).updates
        assert Client(tmp_path / "new-node", repository.root_json).manifest(url).updates
    assert check.check(FolderSource(repository.folder), now=repository.now).findings == ()
    repository.publish("1.1.0")


def _stolen(repository: SmallRepository, name: str) -> CryptoSigner:
    private: Any = load_pem_private_key((repository.folder / "keys" / f"{name}.pem").read_bytes(), None)
    return CryptoSigner(private)


def _fast_forward(repository: SmallRepository, folder: Path) -> SmallRepository:
    """Return a thief's copy of a repository, with versions that no honest repository will ever reach."""
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
    tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with _fast_forward(repository, tmp_path / "thief").served() as url:
        node.visit(url)
    with repository.served() as url, pytest.raises(RepositoryError):
        node.visit(url)
    proposal = _rotated(tool, tmp_path, ("snapshot", "timestamp"))
    publish_root.publish(repository.folder, proposal, now=repository.now)
    with repository.served() as url:
        assert node.manifest(url).updates


def test_the_stolen_keys_are_worth_nothing_afterwards(
    tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    proposal = _rotated(tool, tmp_path, ONLINE)
    publish_root.publish(repository.folder, proposal, now=repository.now)
    node = Client(tmp_path / "node", repository.root_json)
    with _fast_forward(repository, tmp_path / "thief").served() as url, pytest.raises(RepositoryError):
        node.visit(url)


def test_channels_stay_what_they_are_under_new_online_keys(
    tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    pem = make_key(tmp_path, "stable")
    tool.run("channel", "add", "stable", "--signer", f"file2:{pem}")
    tool.add_signer(pem)
    proposal = _rotated(tool, tmp_path, ONLINE)
    before = sorted(path.name for path in (repository.folder / "metadata").glob("*.stable.json"))
    publish_root.publish(repository.folder, proposal, now=repository.now)
    assert sorted(path.name for path in (repository.folder / "metadata").glob("*.stable.json")) == before
    assert check.check(FolderSource(repository.folder), now=repository.now).findings == ()
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        assert node.visit(url).get_targetinfo("stable/manifest.json")
    rows = tool.run("expirations", "--ical")
    assert rows.count("BEGIN:VEVENT") == len(set(re.findall("UID:(.*)@", rows))) == 5


def test_new_keys_that_are_not_available_publish_nothing(
    tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    _rotated(tool, tmp_path, ("timestamp",), at_hand=False)
    before = tree_digest(repository.folder)
    assert tool.error("publish", tmp_path / "rotation.json", status=1) == "threshold"
    assert tree_digest(repository.folder) == before


def test_a_root_alone_needs_no_online_key(
    tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    file = tmp_path / "root-2.json"
    tool.root("remove-key", file, "root-3")
    tool.sign(file, *(repository.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    shutil.rmtree(repository.folder / "keys")
    assert tool.root_json("publish", file)["metadata"] == {"root": 2}


def test_killed_at_every_step(tool: RepoTools, repository: SmallRepository, tmp_path: Path) -> None:
    proposal = _rotated(tool, tmp_path, ONLINE)
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        node.visit(url)
    recorder = KillingMedium()
    recorded = shutil.copytree(repository.folder, tmp_path / "recorded")
    publish_root.publish(recorded, proposal, now=repository.now, medium=recorder)
    points = list(kill_points(recorder.steps))
    assert len(points) > 20
    for number, torn in points:
        folder = shutil.copytree(repository.folder, tmp_path / f"at-{number}-{torn}")
        with pytest.raises(KilledError):
            publish_root.publish(
                folder, proposal, now=repository.now, medium=KillingMedium(number, torn=torn)
            )
        _once_more(folder, proposal, repository)
        copy = SmallRepository(folder=folder, now=repository.now)
        visitor = Client(
            shutil.copytree(tmp_path / "node", tmp_path / f"node-{number}-{torn}"), repository.root_json
        )
        with copy.served() as url:
            assert visitor.manifest(url).updates, recorder.steps[number]


def _once_more(folder: Path, proposal: Proposal, repository: SmallRepository) -> None:
    """Publish again after an interruption: it is completed, or was already complete; nothing is left over."""
    with suppress(NothingToSignError):
        publish_root.publish(folder, proposal, now=repository.now)
    findings = check.check(FolderSource(folder), now=repository.now).findings
    assert not [finding for finding in findings if finding.severity != "note"], findings
