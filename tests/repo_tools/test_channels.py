"""Channels: which role may sign for what, promotion without copies, several signatures, and attacks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.copies import clone
from repo_tools.errors import ChannelError, ChannelProposalError, ReleaseError, TargetError, ThresholdError
from repo_tools.keys.signers import SignerStore
from repo_tools.releases import promote, rollout
from repo_tools.releases.finish import finish
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository import channel_files, editor, pending_changes
from repo_tools.repository.channel_proposal import ChannelProposal
from repo_tools.repository.published import log_of, manifest_of, published_targets
from repo_tools.trust import channels
from repo_tools.trust.chain import walk
from repo_tools.trust.expirations import expirations
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import refresh
from repo_tools.upkeep.check import CheckOptions, check
from signpost.console import run
from tests.repo_tools.clients import Client, fetched
from tests.support.channels import add_channel, channel_client, make_key, sign_pending
from tests.support.repositories import (
    KilledError,
    KillingMedium,
    SmallRepository,
    finding_codes,
    make_repository,
    run_on,
    tree_digest,
)
from updog.errors import DigestError, MissingTargetError, SignatureError
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.target_path import target_path
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from updog.repository import Repository

V1, V2 = Version.parse("1.0.0"), Version.parse("1.1.0")
NAMES = ("dev", "beta", "stable")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """Three channels; 1.0.0 is in all of them, 1.1.0 in dev only."""
    repository = make_repository(tmp_path_factory.mktemp("channels") / "repo", versions=[])
    for name in NAMES:
        add_channel(repository, name)
    repository.publish("1.0.0", channel="dev")
    _promote(repository, V1, "dev", "beta")
    _promote(repository, V1, "beta", "stable")
    repository.publish("1.1.0", channel="dev")
    return repository


@pytest.fixture
def repository(made: SmallRepository, tmp_path: Path) -> SmallRepository:
    return made.copied(tmp_path / "repo")


def _promote(
    repository: SmallRepository, version: Version, source: str | None, target: str | None, **facts: Any
) -> promote.Promoted:
    asked = Promotion(which=ReleaseName(version=version), source=source, target=target, waves="none", **facts)
    return promote.promote(repository.folder, asked, now=repository.now)[0]


def _versions(manifest: Manifest) -> list[str]:
    return [str(update.version) for update in manifest.updates]


def _offers(repository: SmallRepository, channel: str | None) -> list[str]:
    return _versions(manifest_of(repository.folder, channel))


def _root_image(node: Repository, version: Version) -> bytes:
    """Return the root image of a version as the node would fetch it, verified."""
    update = ReleaseName(version=version).of(node.manifest())
    return b"".join(node.verified(node.target(update.images.root)))


# Promotion


def test_a_node_follows_its_channel(repository: SmallRepository, tmp_path: Path) -> None:
    with repository.served() as url:
        offers = {
            name: _versions(channel_client(repository, tmp_path / name, url, name).manifest())
            for name in NAMES
        }
        assert channel_client(repository, tmp_path / "none", url, None).manifest() == Manifest.empty()
        with pytest.raises(MissingTargetError, match=r"'nightly/manifest\.json'"):
            channel_client(repository, tmp_path / "other", url, "nightly").manifest()
    assert offers == {"dev": ["1.0.0", "1.1.0"], "beta": ["1.0.0"], "stable": ["1.0.0"]}
    assert finding_codes(repository) == []


def test_promoting_copies_no_image_and_approves_its_digests(repository: SmallRepository) -> None:
    def images() -> dict[str, int]:
        folder = repository.folder / "targets"
        return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}

    before = images()
    promoted = _promote(repository, V2, "dev", "stable", reason="a week without a complaint")
    assert images() == before
    chain = walk(FolderSource(repository.folder))
    stable, dev = chain.channels["stable"].signed.targets, chain.channels["dev"].signed.targets
    assert promoted.targets
    assert all(stable[name] == dev[name] for name in promoted.targets)
    assert _offers(repository, "stable") == ["1.0.0", "1.1.0"]
    last = log_of(repository.folder, "stable")[-1]
    assert (last.change.action, last.change.reason) == ("promote from dev", "a week without a complaint")
    assert finding_codes(repository) == []
    paths = [item.path for item in published_targets(chain)]
    assert len(paths) == len(set(paths))


def test_the_target_channel_has_waves_of_its_own(repository: SmallRepository) -> None:
    asked = Promotion(which=ReleaseName(version=V2), source="dev", target="beta", waves="slow-roll")
    promote.promote(repository.folder, asked, now=repository.now)
    (update,) = [item for item in manifest_of(repository.folder, "beta").updates if item.version == V2]
    assert len(update.waves.starts) == 7
    assert manifest_of(repository.folder, "dev").updates[1].waves.starts == ()


def test_a_release_can_go_to_the_nodes_of_no_channel(repository: SmallRepository) -> None:
    _promote(repository, V2, "dev", None)
    assert _offers(repository, None) == ["1.1.0"]
    assert finding_codes(repository) == []


def test_steering_one_channel_leaves_the_others(repository: SmallRepository) -> None:
    _promote(repository, V2, "dev", "stable")
    assert run_on(repository, "waves", "hold", "1.1.0", "--channel", "stable", "--reason", "smoke") == 0
    held = {name: manifest_of(repository.folder, name).find("synthetic", "x86_64", V2) for name in NAMES}
    assert held["stable"] is not None
    assert held["stable"].hold is not None
    assert held["dev"] is not None
    assert held["dev"].hold is None
    assert run_on(repository, "withdraw", "1.1.0", "--channel", "dev") == 0
    assert [entry.change.action for entry in log_of(repository.folder, "stable")][-1] == "hold"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["promote", "9.0.0", "--from", "dev", "--to", "beta"], 2, "9.0.0 is not published"),
        (["promote", "1.1.0", "--from", "dev", "--to", "nightly"], 2, "no channel 'nightly'"),
        (["promote", "1.1.0", "--from", "nightly", "--to", "dev"], 2, "no channel 'nightly'"),
        (["promote", "1.1.0", "--from", "dev", "--to", "dev"], 2, "the same channel"),
        (["promote", "1.0.0", "--from", "dev", "--to", "stable"], 3, "is already in stable"),
        (
            ["promote", "1.1.0", "--from", "dev", "--to", "stable", "--waves", "ohhno"],
            2,
            "did you mean 'ohno'",
        ),
        (["channel", "show", "nightly"], 2, "no channel 'nightly'"),
        (["waves", "show", "--channel", "nightly"], 2, "no channel 'nightly'"),
        (["channel", "add", "dev", "--signer", "file2:keys/dev-1.pem"], 2, "channel 'dev' already exists"),
        (
            ["channel", "add", "Dev/2", "--signer", "file2:keys/dev-1.pem"],
            2,
            "cannot be the name of a channel",
        ),
        (
            ["channel", "add", "snapshot", "--signer", "file2:keys/dev-1.pem"],
            2,
            "cannot be the name of a channel",
        ),
        (["channel", "add", "x", "--signer", "file2:keys/dev-1.pem", "--threshold", "2"], 2, "never be met"),
        (["channel", "add", "x"], 2, "can never be met"),
        (["channel", "add", "x", "--signer", "file2:keys/absent.pem"], 2, "absent.pem"),
        (["channel", "finish", "absent.json"], 2, "there is no file absent.json"),
    ],
)
def test_wrong_input_changes_nothing(
    repository: SmallRepository,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    before = tree_digest(repository.folder)
    assert run_on(repository, *words) == status
    assert message in capsys.readouterr().err
    assert tree_digest(repository.folder) == before


def test_what_is_held_or_withdrawn_is_not_promoted(repository: SmallRepository) -> None:
    rollout.take(
        repository.folder, rollout.holding(ReleaseName(version=V2)), now=repository.now, channel="dev"
    )
    with pytest.raises(ReleaseError, match="is held in dev"):
        _promote(repository, V2, "dev", "stable")
    rollout.take(
        repository.folder, rollout.resuming(ReleaseName(version=V2)), now=repository.now, channel="dev"
    )
    rollout.take(
        repository.folder, rollout.withdrawing(ReleaseName(version=V2)), now=repository.now, channel="dev"
    )
    with pytest.raises(ReleaseError, match="is withdrawn in dev"):
        _promote(repository, V2, "dev", "stable")
    assert _offers(repository, "stable") == ["1.0.0"]


def test_a_version_has_one_content_in_all_channels(repository: SmallRepository) -> None:
    with pytest.raises(ReleaseError, match="published in dev"):
        repository.publish("1.1.0", channel="stable")


def test_an_image_that_is_not_what_dev_signed_is_not_approved(repository: SmallRepository) -> None:
    (image,) = (repository.folder / "targets").glob("*1.1.0-root.erofs.zst")
    image.write_bytes(image.read_bytes()[:-1] + b"!")
    before = tree_digest(repository.folder)
    with pytest.raises(TargetError, match="has SHA-256"):
        _promote(repository, V2, "dev", "stable")
    assert tree_digest(repository.folder) == before


def test_a_dry_run_shows_the_digests_and_changes_nothing(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(repository.folder)
    words = ["promote", "1.1.0", "--from", "dev", "--to", "stable", "--dry-run"]
    assert run_on(repository, *words) == 0
    said = capsys.readouterr().out
    assert said.startswith("would promote 1.1.0")
    assert said.count("approves ") >= 3
    assert run_on(repository, *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert tree_digest(repository.folder) == before
    assert run_on(repository, *words[:-1]) == 0
    assert capsys.readouterr().out.startswith("promoted 1.1.0")


# Attacks


def _nothing(targets: Targets) -> None:
    """Change nothing."""


def _resign(
    repository: SmallRepository, role: str, change: Callable[[Targets], None], by: str | None = None
) -> None:
    """Publish a channel's metadata, changed, as the holder of a channel's key and the online keys can."""
    folder = repository.folder / "metadata"
    chain = walk(FolderSource(repository.folder))
    assert chain.snapshot
    assert chain.timestamp
    assert chain.root
    assert chain.targets
    signers = SignerStore(uris=config.load(repository.folder).signers, folder=repository.folder)
    old = chain.channels[role].signed
    change(old)
    old.version += 1
    metadata: Metadata[Targets] = Metadata(old)
    for signer in signers.of(channels.keys(chain.targets.signed, by or role)):
        metadata.sign(signer)
    lists = {role: editor.meta_file(metadata.to_bytes(), old.version)}
    version = chain.snapshot.signed.version + 1
    snapshot: Metadata[Snapshot] = Metadata(
        editor.snapshot_after(
            chain.snapshot.signed, lists, version=version, expires=chain.snapshot.signed.expires
        )
    )
    online = {
        name: [chain.root.keys[k] for k in chain.root.roles[name].keyids]
        for name in ("snapshot", "timestamp")
    }
    for signer in signers.of(online["snapshot"]):
        snapshot.sign(signer)
    meta = editor.meta_file(snapshot.to_bytes(), version)
    timestamp: Metadata[Timestamp] = Metadata(
        editor.timestamp_after(
            chain.timestamp.signed,
            meta,
            version=chain.timestamp.signed.version + 1,
            expires=chain.timestamp.signed.expires,
            now=datetime.now(UTC),
        )
    )
    for signer in signers.of(online["timestamp"]):
        timestamp.sign(signer)
    (folder / f"{old.version}.{role}.json").write_bytes(metadata.to_bytes())
    (folder / f"{version}.snapshot.json").write_bytes(snapshot.to_bytes())
    (folder / "timestamp.json").write_bytes(timestamp.to_bytes())


def _put(repository: SmallRepository, name: str, data: bytes) -> TargetFile:
    target = TargetFile.from_data(name, data, ["sha256"])
    place = repository.folder / "targets" / target_path(name, target.hashes["sha256"])
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    return target


def _root_name(repository: SmallRepository) -> str:
    return ReleaseName(version=V1).of(manifest_of(repository.folder, "stable")).images.root


def test_a_stolen_dev_key_changes_nothing_that_stable_delivers(
    repository: SmallRepository, tmp_path: Path
) -> None:
    """The thief has dev's key, the online keys and the server, and offers a malicious image as a good one."""
    name = _root_name(repository)
    with repository.served() as url:
        good = _root_image(channel_client(repository, tmp_path / "before", url, "stable"), V1)

    def evil(targets: Targets) -> None:
        targets.targets[name] = _put(repository, name, b"evil")

    _resign(repository, "dev", evil)
    with repository.served() as url:
        fooled = channel_client(repository, tmp_path / "dev", url, "dev")
        assert b"".join(fooled.verified(fooled.target(name))) == b"evil", "or this test could not fail"
        stable = channel_client(repository, tmp_path / "stable", url, "stable")
        assert _root_image(stable, V1) == good
        assert _root_image(channel_client(repository, tmp_path / "before", url, "stable"), V1) == good


def test_what_stable_has_approved_once_is_never_approved_with_other_bytes(
    repository: SmallRepository,
) -> None:
    """1.1.0 left stable's manifest; a thief of dev's key changes it, and an operator promotes it again."""
    _promote(repository, V2, "dev", "stable")
    repository.publish("1.2.0", channel="dev")
    rollout.take(
        repository.folder, rollout.withdrawing(ReleaseName(version=V2)), now=repository.now, channel="stable"
    )
    _promote(repository, Version.parse("1.2.0"), "dev", "stable")
    name = ReleaseName(version=V2).of(manifest_of(repository.folder, "dev")).images.root

    def evil(targets: Targets) -> None:
        targets.targets[name] = _put(repository, name, b"evil")

    _resign(repository, "dev", evil)
    before = tree_digest(repository.folder)
    with pytest.raises(ReleaseError, match="has approved another"):
        _promote(repository, V2, "dev", "stable")
    assert tree_digest(repository.folder) == before


def test_evil_bytes_under_the_approved_digest_are_refused(
    repository: SmallRepository, tmp_path: Path
) -> None:
    name = _root_name(repository)
    (place,) = (repository.folder / "targets").glob(f"*.{name}")
    place.write_bytes(b"!" * place.stat().st_size)
    with repository.served() as url, pytest.raises(DigestError):
        _root_image(channel_client(repository, tmp_path / "stable", url, "stable"), V1)


def test_a_dev_key_cannot_speak_for_the_manifest_of_stable(
    repository: SmallRepository, tmp_path: Path
) -> None:
    evil = json.loads(manifest_of(repository.folder, "dev").to_json())

    def claim(targets: Targets) -> None:
        name = "stable/manifest.json"
        targets.targets[name] = _put(repository, name, json.dumps(evil).encode())

    _resign(repository, "dev", claim)
    with repository.served() as url:
        manifest = channel_client(repository, tmp_path / "stable", url, "stable").manifest()
        python_tuf = Client(tmp_path / "python-tuf", repository.root_json).visit(url)
        same = Manifest.from_json(fetched(python_tuf, "stable/manifest.json"))
    assert [str(update.version) for update in manifest.updates] == ["1.0.0"]
    assert same == manifest


def test_stable_signed_by_the_dev_key_is_refused(repository: SmallRepository, tmp_path: Path) -> None:
    _resign(repository, "stable", _nothing, by="dev")
    with repository.served() as url, pytest.raises(SignatureError, match="stable"):
        channel_client(repository, tmp_path / "stable", url, "stable")
    assert finding_codes(repository) == ["metadata-signature"]


def test_images_that_stable_never_approved_are_not_there_for_its_nodes(
    repository: SmallRepository, tmp_path: Path
) -> None:
    name = ReleaseName(version=V2).of(manifest_of(repository.folder, "dev")).images.root
    with repository.served() as url:
        channel_client(repository, tmp_path / "dev", url, "dev").target(name)
        with pytest.raises(MissingTargetError):
            channel_client(repository, tmp_path / "stable", url, "stable").target(name)


def test_a_channel_lists_nothing_beyond_its_paths(repository: SmallRepository, tmp_path: Path) -> None:
    def claim(targets: Targets) -> None:
        for name in ("manifest.json", "dev/manifest.json", "elsewhere"):
            targets.targets[name] = _put(repository, name, b"x")

    _resign(repository, "stable", claim)
    with repository.served() as url:
        node = channel_client(repository, tmp_path / "stable", url, "stable")
        for name in ("manifest.json", "dev/manifest.json", "elsewhere"):
            with pytest.raises(MissingTargetError):
                node.target(name)


# Signatures by several holders


@pytest.fixture
def guarded(repository: SmallRepository) -> SmallRepository:
    """A channel ``lts`` that two of three holders sign; the first one's key is here."""
    done = add_channel(repository, "lts", available=(True, False, False), threshold=2)
    assert done.pending is not None
    sign_pending(repository, done.pending, "lts-2")
    finish(repository.folder, [pending_changes.load(done.pending)], now=repository.now)
    return repository


def _waiting(repository: SmallRepository) -> Path:
    asked = Promotion(which=ReleaseName(version=V2), source="dev", target="lts", waves="none")
    done = promote.promote(repository.folder, asked, now=repository.now)[1]
    assert done is not None
    assert done.pending is not None
    return done.pending


def test_a_new_channel_waits_for_its_holders(repository: SmallRepository) -> None:
    before = tree_digest(repository.folder / "metadata")
    done = add_channel(repository, "lts", available=(True, False), threshold=2)
    assert done.pending is not None
    assert tree_digest(repository.folder / "metadata") == before
    sign_pending(repository, done.pending, "lts-2")
    assert run_on(repository, "channel", "finish", str(done.pending)) == 0
    assert not done.pending.exists()
    assert list(walk(FolderSource(repository.folder)).channels) == ["lts", "stable", "beta", "dev"]
    assert finding_codes(repository) == []


def test_a_promotion_waits_for_the_second_signature_and_readers_see_nothing_of_it(
    guarded: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(guarded.folder / "metadata")
    assert (
        run_on(guarded, "promote", "1.1.0", "--from", "dev", "--to", "lts", "--waves", "none", "--json") == 3
    )
    said = json.loads(capsys.readouterr().out)
    assert said["metadata"] == {}
    assert tree_digest(guarded.folder / "metadata") == before
    assert finding_codes(guarded) == []
    elsewhere = tmp_path / "letter.json"
    shutil.copy(said["pending"], elsewhere)
    assert run_on(guarded, "channel", "finish", str(elsewhere)) == 3
    told = capsys.readouterr().out
    assert "NOT in force yet: 1 of 2 signatures" in told
    assert "not by:           lts-2 (key " in told
    assert run_on(guarded, "channel", "finish", str(elsewhere), "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["metadata"], document["pending"]) == ({}, said["pending"])
    assert [holder["name"] for holder in document["not_signed_by"]] == ["lts-2", "lts-3"]
    assert tree_digest(guarded.folder / "metadata") == before
    sign_pending(guarded, elsewhere, "lts-3")
    shown = capsys.readouterr().out
    assert "promote from dev 1.1.0" in shown
    assert "1.1.0-root.erofs.zst" in shown
    assert "signed by enough" in shown
    assert run_on(guarded, "channel", "finish", str(elsewhere)) == 0
    assert _offers(guarded, "lts") == ["1.1.0"]
    with guarded.served() as url:
        assert _root_image(channel_client(guarded, tmp_path / "node", url, "lts"), V2)
    assert finding_codes(guarded) == []


def test_publishing_into_a_guarded_channel_waits_too(guarded: SmallRepository) -> None:
    outcome = guarded.publish("1.3.0", channel="lts")
    pending = outcome.committed.pending
    assert pending is not None
    assert {finding.code for finding in check(FolderSource(guarded.folder), now=guarded.now).findings} == {
        "target-orphan"
    }
    sign_pending(guarded, pending, "lts-2")
    finish(guarded.folder, [pending_changes.load(pending)], now=guarded.now)
    assert _offers(guarded, "lts") == ["1.3.0"]
    assert finding_codes(guarded) == []


def test_what_was_made_from_an_older_state_is_refused(guarded: SmallRepository) -> None:
    first, _ = _waiting(guarded), guarded.publish("1.3.0", channel="dev")
    asked = Promotion(which=ReleaseName(version=V1), source="dev", target="lts", waves="none")
    done = promote.promote(guarded.folder, asked, now=guarded.now)[1]
    assert done is not None
    stale = first.read_bytes()
    assert done.pending is not None
    sign_pending(guarded, done.pending, "lts-2")
    finish(guarded.folder, [pending_changes.load(done.pending)], now=guarded.now)
    before = tree_digest(guarded.folder)
    with pytest.raises(ChannelProposalError, match="now at version 2; this proposal starts from 1"):
        finish(guarded.folder, [ChannelProposal.from_bytes(stale)], now=guarded.now)
    assert tree_digest(guarded.folder) == before


def _with(file: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(file.read_bytes())
    change(document)
    return json.dumps(document).encode()


def _another_manifest(document: dict[str, Any]) -> None:
    document["files"]["lts/manifest.json"] = Manifest.empty().to_json().decode()


def _another_digest(document: dict[str, Any]) -> None:
    targets = document["metadata"]["signed"]["targets"]
    name = next(name for name in targets if name.endswith("root.erofs.zst"))
    targets[name]["hashes"]["sha256"] = "0" * 64


def _no_digest(document: dict[str, Any]) -> None:
    targets = document["metadata"]["signed"]["targets"]
    name = next(name for name in targets if name.endswith("root.erofs.zst"))
    targets[name]["hashes"] = {"sha512": "0" * 128}


def _path_as_digest(document: dict[str, Any]) -> None:
    targets = document["metadata"]["signed"]["targets"]
    name = next(name for name in targets if name.endswith("root.erofs.zst"))
    targets[name]["hashes"]["sha256"] = "../../../x"


def _less_log(document: dict[str, Any]) -> None:
    del document["files"]["lts/changes.json"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_another_manifest, "not the one that is signed"),
        (_another_digest, "is not valid: it or the content was changed"),
        (_no_digest, "is signed without a SHA-256"),
        (_path_as_digest, "64 lower-case hexadecimal digits"),
        (_less_log, "is missing in it"),
        (lambda document: document.update(format="7"), "format '7' is unknown"),
        (lambda document: document.pop("metadata"), "not a channel proposal"),
    ],
)
def test_a_file_that_was_changed_on_its_way_is_refused(
    guarded: SmallRepository, change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    with pytest.raises(ChannelProposalError, match=fault):
        ChannelProposal.from_bytes(_with(_waiting(guarded), change))


def test_keys_that_the_file_brings_with_it_do_not_count(guarded: SmallRepository) -> None:
    """A file that states that its own key is a holder's, with a threshold of one."""
    file = _waiting(guarded)
    stranger = make_key(guarded.folder, "stranger")

    def lie(document: dict[str, Any]) -> None:
        document["keys"][stranger.key.keyid] = stranger.key.to_dict()
        document["role"]["keyids"].append(stranger.key.keyid)

    file.write_bytes(_with(file, lie))
    sign_pending(guarded, file, "stranger")
    before = tree_digest(guarded.folder)
    with pytest.raises(ChannelProposalError, match="keys, threshold or paths are not those of"):
        finish(guarded.folder, [pending_changes.load(file)], now=guarded.now)
    assert tree_digest(guarded.folder) == before


def test_signing_with_a_key_of_nobody_or_twice_changes_nothing(
    guarded: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _waiting(guarded)
    make_key(guarded.folder, "stranger")
    before = file.read_bytes()
    key = f"file2:{guarded.folder}/keys/stranger.pem"
    assert run(cli, ["channel", "sign", str(file), "--key", key]) == 2
    assert "none of the available keys is a key of lts" in capsys.readouterr().err
    key = f"file2:{guarded.folder}/keys/lts-1.pem"
    assert run(cli, ["channel", "sign", str(file), "--key", key]) == 3
    assert file.read_bytes() == before


def test_a_channel_without_any_key_available_publishes_and_leaves_nothing(
    repository: SmallRepository,
) -> None:
    path = repository.folder / config.FILE
    lines = [line for line in path.read_text().splitlines(keepends=True) if "stable-1" not in line]
    path.write_text("".join(lines))
    before = tree_digest(repository.folder)
    with pytest.raises(ThresholdError, match="stable"):
        _promote(repository, V2, "dev", "stable")
    assert tree_digest(repository.folder) == before


# Maintenance


def test_channels_are_listed_and_shown(guarded: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_on(guarded, "channel", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["channel", "lts", "stable", "beta", "dev"]
    assert "2 of 3" in lines[1]
    assert run_on(guarded, "channel", "show", "dev") == 0
    assert "signs for dev/* and os-*" in capsys.readouterr().out
    assert run_on(guarded, "channel", "show", "dev", "--json") == 0
    assert json.loads(capsys.readouterr().out)["offers"] == ["1.0.0", "1.1.0"]


def test_refresh_signs_channels_whose_keys_are_available_and_tells_the_others(
    guarded: SmallRepository,
) -> None:
    late = guarded.now + timedelta(days=89)
    rows = {row.role for row in expirations(walk(FolderSource(guarded.folder)), now=late)}
    assert {"dev", "beta", "stable", "lts"} < rows
    done = refresh.refresh(guarded.folder, within=timedelta(days=3), now=late)
    assert set(done.versions) == {"targets", "dev", "beta", "stable", "snapshot", "timestamp"}
    assert done.unsigned == {"lts": "1 of the 2 required keys are available"}


def test_a_mirror_has_the_channels(repository: SmallRepository, tmp_path: Path) -> None:
    _promote(repository, V2, "dev", "stable")
    source = FolderSource(repository.folder)
    verified = clone.verify_source(
        source, tmp_path / "copy", trusted_root=repository.root_json, now=repository.now
    )
    clone.copy(verified, tmp_path / "copy", published_targets(verified.chain))
    report = check(FolderSource(tmp_path / "copy"), now=repository.now)
    assert report.findings == ()
    assert report.updates == 5


def test_validate_looks_into_channels(repository: SmallRepository) -> None:
    listed = walk(FolderSource(repository.folder)).channels["stable"].signed.targets
    name = "stable/manifest.json"
    (repository.folder / "targets" / target_path(name, listed[name].hashes["sha256"])).unlink()
    assert finding_codes(repository) == ["target-missing"]


def _around_renames(steps: list[tuple[str, str]]) -> list[int]:
    """Return the steps after which readers may see a difference."""
    return [number + 1 for number, (name, _) in enumerate(steps) if name == "rename"]


@pytest.mark.parametrize(("command", "left"), [("promote", set()), ("add", {"snapshot-shrunk"})])
def test_killed_around_every_rename_readers_see_old_or_new(
    made: SmallRepository, tmp_path: Path, command: str, left: set[str]
) -> None:
    """What is ``left``: a snapshot that no timestamp named, and that lists a role more than the next one."""

    def change(repository: SmallRepository, medium: KillingMedium) -> None:
        if command == "promote":
            asked = Promotion(which=ReleaseName(version=V2), source="dev", target="stable", waves="none")
            promote.promote(repository.folder, asked, now=made.now, medium=medium)
            return
        wanted = channel_files.NewChannel(name="lts", signers=[key])
        channel_files.add(repository.folder, wanted, now=made.now, medium=medium)

    def copy(name: str) -> SmallRepository:
        return made.copied(tmp_path / name)

    recorded, recorder = copy("recorded"), KillingMedium()
    key = make_key(recorded.folder, "lts-1")
    key = replace(key, uri=f"file2:{recorded.folder}/keys/lts-1.pem")
    change(recorded, recorder)
    for number in _around_renames(recorder.steps):
        repository = copy(f"at-{number}")
        node = tmp_path / f"node-{number}"
        with repository.served() as url:
            assert _root_image(channel_client(repository, node, url, "stable"), V1)
            with pytest.raises(KilledError):
                change(repository, KillingMedium(number))
            assert _root_image(channel_client(repository, node, url, "stable"), V1)
            rollout.take(
                repository.folder, rollout.holding(ReleaseName(version=V1)), now=made.now, channel="stable"
            )
            assert channel_client(repository, node, url, "stable").manifest().updates[-1].hold
        report = check(FolderSource(repository.folder), now=made.now, options=CheckOptions(deep=False))
        step = recorder.steps[number - 1]
        codes = {finding.code for finding in report.findings}
        assert codes == (left if step[1].endswith(".snapshot.json") else set()), step
        refresh.refresh(repository.folder, within=timedelta(days=400), now=made.now)


def test_the_kinds_of_name_a_channel_may_have() -> None:
    assert [channels.require_name(name) for name in ("dev", "beta-2", "x_1")] == ["dev", "beta-2", "x_1"]
    for name in ("", "Dev", "a/b", "targets", "2nd", "a" * 33, "a.b"):
        with pytest.raises(ChannelError):
            channels.require_name(name)


def test_a_key_that_two_channels_share_is_a_finding(repository: SmallRepository) -> None:
    """Its holder could promote alone."""
    words = ["channel", "add", "lts", "--signer", "file2:keys/stable-1.pem"]
    assert run_on(repository, *words) == 0
    report = check(FolderSource(repository.folder), now=repository.now)
    assert [finding.code for finding in report.findings] == ["key-shared"]
    assert "lts and stable share" in report.findings[0].message


def test_a_signer_is_named_as_repo_toml_names_it_wherever_the_command_is_run(
    repository: SmallRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = make_key(repository.folder, "lts-1").key
    monkeypatch.chdir(tmp_path)
    words = ["--repo", repository.folder.name, "channel", "add", "lts", "--signer", "file2:keys/lts-1.pem"]
    assert run(cli, [*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["signer_lines"] == [f'{key.keyid} = "file2:keys/lts-1.pem"']


# Messages that name what is meant


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["waves", "withdraw", "1.0.0"], "`repo-tools withdraw`"),
        (["hold", "1.0.0"], "`repo-tools brake hold` or `repo-tools waves hold`"),
        (["finish", "x.json"], "`repo-tools channel finish`"),
        (["channel", "finsh", "x.json"], "`repo-tools channel finish`"),
        (["publsh"], "`repo-tools publish`"),
        (["root", "key-add"], ""),
        (["xyzzy"], ""),
    ],
)
def test_a_command_in_the_wrong_place_is_named_where_it_is(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    assert run_on(repository, *words) == 2
    said = capsys.readouterr().err
    assert "No such command '" in said
    assert meant in said
    assert bool(meant) is ("Did you mean" in said)


@pytest.mark.parametrize(
    "words",
    [
        ["disk", "create", "node.img", "--version", "1.0.0"],
        ["waves", "show", "1.0.0"],
        ["waves", "hold", "1.0.0"],
        ["waves", "open", "1.0.0", "--dry-run"],
        ["withdraw", "1.0.0"],
        ["waves", "hold", "1.0.0", "--all"],
        ["withdraw", "1.0.0", "--all", "--dry-run"],
    ],
)
def test_a_release_that_only_channels_have_is_named_with_them(
    repository: SmallRepository,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    monkeypatch.chdir(repository.folder.parent)
    before = tree_digest(repository.folder)
    assert run_on(repository, *words) == 2
    said = capsys.readouterr().err
    assert "1.0.0 is not published in the channel that was asked for, but in stable, beta, dev" in said
    assert "Pass --channel stable or --channel beta or --channel dev." in said
    assert run_on(repository, *words[:1], *[word.replace("1.0.0", "1.1.0") for word in words[1:]]) == 2
    assert "but in dev" in capsys.readouterr().err
    assert tree_digest(repository.folder) == before


def test_two_releases_with_the_same_file_names_are_both_named(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    repository.publish("1.0.0", variant="a-b", arch="c")
    before = tree_digest(repository.folder)
    with pytest.raises(
        ReleaseError, match=r"1\.0\.0 for a on b-c and 1\.0\.0 for a-b on c, which is published"
    ):
        repository.publish("1.0.0", variant="a", arch="b-c")
    assert tree_digest(repository.folder) == before
