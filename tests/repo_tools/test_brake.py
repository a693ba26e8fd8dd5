"""A brake: one key that stops a release of a channel at once, and can do nothing else."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.copies.bundle import Nodes, export
from repo_tools.copies.clone import copy, verify_source
from repo_tools.errors import ChannelError, ReleaseError, RolloutUnchangedError, ThresholdError
from repo_tools.releases import brake, promote, rollout
from repo_tools.releases.finish import finish
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.pending_changes import load
from repo_tools.repository.published import holds_of, manifest_of, published_targets
from repo_tools.repository.session import target_files, writing
from repo_tools.trust.chain import walk
from repo_tools.trust.expirations import expirations
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import refresh
from repo_tools.upkeep.check import check
from signpost.console import run
from signpost.medium import OsMedium
from tests.support.channels import add_channel, channel_client, make_key
from tests.support.nodes import make_node
from tests.support.repositories import (
    ARCH,
    VARIANT,
    SmallRepository,
    finding_codes,
    later,
    make_repository,
    run_on,
    tree_digest,
)
from updog.errors import DigestError, TrustError, UnreachableError
from updog.select import Node, VerdictCode, decide
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.holds import MAX_HOLDS, Holds, holds_name
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

V0, V1, V2 = (Version.parse(text) for text in ("0.9.0", "1.0.0", "1.1.0"))
WHICH = ReleaseName(version=V2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """``dev``; ``stable``, signed by two holders, one of whom is here, and a brake. 1.1.0 is in both."""
    repository = make_repository(tmp_path_factory.mktemp("brake") / "repo", versions=[])
    add_channel(repository, "dev")
    done = add_channel(repository, "stable", available=(True, False), threshold=2)
    assert done.pending is not None
    _finish(repository, done.pending)
    _add_brake(repository, "stable")
    repository.publish("1.1.0", channel="dev")
    asked = Promotion(which=WHICH, source="dev", target="stable", waves="none")
    change = promote.promote(repository.folder, asked, now=repository.now)[1]
    assert change is not None
    assert change.pending is not None
    _finish(repository, change.pending)
    return repository


def _finish(repository: SmallRepository, file: Path) -> None:
    key = f"file2:{repository.folder}/keys/stable-2.pem"
    assert run(cli, ["channel", "sign", str(file), "--key", key]) == 0
    finish(repository.folder, [load(file)], now=repository.now)


def _add_brake(repository: SmallRepository, channel: str | None, name: str = "duty") -> None:
    key = make_key(repository.folder, f"brake-{channel}-{name}")
    wanted = brake.NewBrake(channel=channel, signers=[key], public_keys=[], names={key.key.keyid: name})
    brake.add(repository.folder, wanted, now=repository.now)
    with (repository.folder / config.FILE).open("a", encoding="utf-8") as file:
        file.write(f"{config.signer_line(key.key.keyid, key.uri)}\n")


@pytest.fixture
def repository(made: SmallRepository, tmp_path: Path) -> SmallRepository:
    return made.copied(tmp_path / "repo")


def _hold(repository: SmallRepository, channel: str | None = "stable", now: datetime | None = None) -> None:
    brake.hold(repository.folder, WHICH, channel=channel, now=now or repository.now, reason="boot loop")


def _verdict(
    repository: SmallRepository, folder: Path, channel: str | None = "stable", now: datetime | None = None
) -> VerdictCode:
    """Return what a node of the channel that runs 1.0.0 reports about 1.1.0."""
    with repository.served() as url:
        manifest = channel_client(repository, folder, url, channel, now).manifest()
    node = Node(variant=VARIANT, arch=ARCH, running=V1, seed=1, ignore_waves=True)
    return decide(manifest, node, now or repository.now).verdicts[0].code


# What it does


def test_one_key_stops_a_channel_that_two_must_sign(repository: SmallRepository, tmp_path: Path) -> None:
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN
    done = rollout.hold(repository.folder, WHICH, now=repository.now, channel="stable")[1]
    assert done.pending is not None, "or nobody would need a brake"
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN
    _hold(repository)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD
    assert _verdict(repository, tmp_path / "new") is VerdictCode.HELD
    assert _verdict(repository, tmp_path / "dev", "dev") is VerdictCode.CHOSEN
    assert finding_codes(repository) == []
    brake.release(repository.folder, WHICH, channel="stable", now=repository.now)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN
    assert finding_codes(repository) == []


def test_a_brake_of_the_top_level_releases(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=["1.1.0"])
    _add_brake(repository, None)
    assert _verdict(repository, tmp_path / "node", None) is VerdictCode.CHOSEN
    _hold(repository, None)
    assert _verdict(repository, tmp_path / "node", None) is VerdictCode.HELD
    assert finding_codes(repository) == []


def test_a_real_node_takes_back_what_the_brake_holds_and_takes_it_again(tmp_path: Path) -> None:
    node = make_node(tmp_path / "site")
    _add_brake(node.repository, None)
    assert node.updog("update").status == 0
    _hold(node.repository, None)
    assert node.updog("check-update").status == 3
    assert "held by its publisher" in node.updog("why").out
    pending = node.state().pending
    assert pending is not None
    assert "boot loop" in pending.recalled
    brake.release(node.repository.folder, WHICH, channel=None, now=node.repository.now)
    assert node.updog("update").status == 0
    assert node.boot().status == 0


def test_holds_of_the_channel_stay_when_the_brake_is_released(
    repository: SmallRepository, tmp_path: Path
) -> None:
    _hold(repository)
    done = rollout.hold(repository.folder, WHICH, now=repository.now, channel="stable")[1]
    assert done.pending is not None
    _finish(repository, done.pending)
    step, _ = brake.release(repository.folder, WHICH, channel="stable", now=repository.now)
    assert step.effects == ("its channel's own keys still hold it",)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD


def test_a_release_that_the_channel_does_not_have_is_ignored(
    repository: SmallRepository, tmp_path: Path
) -> None:
    def more(holds: Holds) -> Holds:
        other = replace(holds.releases[0], version=Version.parse("7.0.0"))
        return Holds(releases=(other,))

    _hold(repository)
    _write(repository, more(holds_of(repository.folder, "stable")).to_json())
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN


def test_what_the_brake_holds_is_shown_and_not_promoted(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _add_brake(repository, "dev")
    _hold(repository, "dev")
    add_channel(repository, "beta")
    with pytest.raises(ReleaseError, match="is held in dev"):
        promote.promote(
            repository.folder,
            Promotion(which=WHICH, source="dev", target="beta", waves="none"),
            now=repository.now,
        )
    assert run_on(repository, "waves", "show", "--channel", "dev") == 0
    assert "held since" in capsys.readouterr().out
    assert run_on(repository, "brake", "show") == 0
    said = capsys.readouterr().out
    assert "holds 1.1.0 for synthetic on x86_64 since" in said
    assert "duty (key" in said
    assert "holds nothing" in said, "the brake of stable"


# What it cannot do


def _write(
    repository: SmallRepository,
    data: bytes,
    change: Callable[[Targets], None] = lambda _: None,
    *,
    by: str = "brake-stable",
) -> None:
    """Publish any content as the brake's file, as a thief of its key and of the online keys can."""
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        files = {holds_name("stable"): data}
        draft = session.next_targets("brake-stable", repository.now, target_files(files))
        change(draft)
        metadata: Metadata[Targets] = Metadata(draft)
        for signer in session.signers.of(session.keys_of(by)):
            metadata.sign(signer, append=True)
        signed = {"brake-stable": (draft.version, metadata.to_bytes())}
        session.publish_signed(signed, files, [], repository.now)


def test_a_thief_of_the_brakes_key_can_only_hold(repository: SmallRepository, tmp_path: Path) -> None:
    before = manifest_of(repository.folder, "stable")

    def evil(targets: Targets) -> None:
        for name in ("stable/manifest.json", before.updates[0].images.root):
            targets.targets[name] = TargetFile.from_data(name, b"evil", ["sha256"])

    _write(repository, Holds().to_json(), evil)
    with repository.served() as url:
        node = channel_client(repository, tmp_path / "node", url, "stable")
        assert node.manifest() == before
        listed = node.target(before.updates[0].images.root)
    assert listed.length != len(b"evil")


@pytest.mark.parametrize("key", ["dev", "targets"])
def test_a_brake_signed_by_another_key_is_refused(
    repository: SmallRepository, tmp_path: Path, key: str
) -> None:
    _write(repository, Holds().to_json(), by=key)
    with repository.served() as url, pytest.raises(TrustError):
        channel_client(repository, tmp_path / "node", url, "stable")
    assert "metadata-signature" in finding_codes(repository)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not JSON"),
        (b"[]", "object"),
        (b"{}", "holds"),
        (b'{"holds": [{"variant": "v", "arch": "a", "version": "one", "since": "x"}]}', "version"),
        (json.dumps({"holds": [{}] * (MAX_HOLDS + 1)}).encode(), "holds"),
    ],
)
def test_a_brake_that_cannot_be_read_stops_its_channel_and_is_a_finding(
    repository: SmallRepository, tmp_path: Path, data: bytes, fault: str
) -> None:
    _write(repository, data)
    with repository.served() as url, pytest.raises(ManifestError, match=fault):
        channel_client(repository, tmp_path / "node", url, "stable").manifest()
    assert set(finding_codes(repository)) == {"brake-invalid"}
    assert _verdict(repository, tmp_path / "dev", "dev") is VerdictCode.CHOSEN


def test_too_large_a_file_is_not_fetched(repository: SmallRepository, tmp_path: Path) -> None:
    _write(repository, b" " * (1 << 20))
    with repository.served() as url, pytest.raises(TrustError, match="too many for a brake"):
        channel_client(repository, tmp_path / "node", url, "stable").manifest()


# A brake that is withheld, expired or gone


@pytest.mark.parametrize(
    ("what", "error"), [("metadata", UnreachableError), ("holds", UnreachableError), ("old", DigestError)]
)
def test_who_withholds_a_brake_gains_no_more_than_by_freezing(
    repository: SmallRepository, tmp_path: Path, what: str, error: type[Exception]
) -> None:
    metadata = repository.folder / "metadata"
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN
    old = max(
        metadata.glob("*.brake-stable.json"), key=lambda path: int(path.name.split(".")[0])
    ).read_bytes()
    _hold(repository)
    newest = max(metadata.glob("*.brake-stable.json"), key=lambda path: int(path.name.split(".")[0]))
    if what == "metadata":
        newest.unlink()
    elif what == "old":
        newest.write_bytes(old)
    else:
        shutil.rmtree(repository.folder / "targets" / "brake-stable")
    for node in ("node", "new"):
        with repository.served() as url, pytest.raises(error):
            channel_client(repository, tmp_path / node, url, "stable").manifest()


def test_an_expired_brake_holds_nothing_and_is_reported(
    repository: SmallRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def soon(targets: Targets) -> None:
        targets.expires = repository.now.replace(microsecond=0) + timedelta(days=2)

    _hold(repository)
    _write(repository, holds_of(repository.folder, "stable").to_json(), soon)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD
    assert "expires-soon" in finding_codes(repository)
    late = later(repository.now, days=3)
    with caplog.at_level(logging.WARNING):
        for node in ("node", "new"):
            assert _verdict(repository, tmp_path / node, now=late) is VerdictCode.CHOSEN
    assert "the brake brake-stable is ignored" in caplog.text
    report = check(FolderSource(repository.folder), now=late)
    assert "metadata-expired" in {finding.code for finding in report.findings}


@pytest.mark.parametrize(("damage", "code"), [("other bytes", "target-digest"), ("gone", "target-missing")])
def test_what_a_brake_lists_is_read_like_any_target(
    repository: SmallRepository, damage: str, code: str
) -> None:
    _hold(repository)
    files = (repository.folder / "targets" / "brake-stable").glob("*.holds.json")
    (path,) = (file for file in files if b"1.1.0" in file.read_bytes())  # the other one held nothing
    assert finding_codes(repository) == []
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().swapcase())
    assert finding_codes(repository) == [code]


def test_a_removed_brake_holds_nothing_and_can_be_added_again(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _hold(repository)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD
    assert run_on(repository, "brake", "remove", "--channel", "stable") == 0
    assert "removed the brake of stable" in capsys.readouterr().out
    assert _verdict(repository, tmp_path / "node") is VerdictCode.CHOSEN
    assert finding_codes(repository) == []
    assert run_on(repository, "brake", "hold", "1.1.0", "--channel", "stable") == 2
    assert "stable has no brake" in capsys.readouterr().err
    _add_brake(repository, "stable", "again")
    _hold(repository)
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD


# Maintenance


def test_refresh_signs_the_brake_and_a_mirror_has_it(repository: SmallRepository, tmp_path: Path) -> None:
    _hold(repository)
    rows = {row.role: row for row in expirations(walk(FolderSource(repository.folder)), now=repository.now)}
    assert rows["brake-stable"].left > timedelta(days=360)
    done = refresh.refresh(repository.folder, within=timedelta(days=365), now=repository.now)
    assert "brake-stable" in done.versions
    assert _verdict(repository, tmp_path / "node") is VerdictCode.HELD
    verified = verify_source(
        FolderSource(repository.folder),
        tmp_path / "mirror",
        trusted_root=repository.root_json,
        now=repository.now,
    )
    copy(verified, tmp_path / "mirror", published_targets(verified.chain))
    mirror = replace(repository, folder=tmp_path / "mirror")
    assert _verdict(mirror, tmp_path / "of-the-mirror") is VerdictCode.HELD
    assert finding_codes(mirror) == []


def test_a_hold_needs_the_brake_where_it_has_a_key_and_the_channel_has_not(
    repository: SmallRepository,
) -> None:
    assert brake.can_hold(repository.folder, "stable")
    assert not brake.can_hold(repository.folder, "dev"), "its own key is here"
    lines = (repository.folder / "repo.toml").read_text().splitlines(keepends=True)
    (repository.folder / "repo.toml").write_text("".join(line for line in lines if "brake" not in line))
    assert not brake.can_hold(repository.folder, "stable")


def test_a_hold_of_the_top_level_needs_its_brake_where_the_targets_key_is_not(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "top", versions=["1.1.0"])
    assert not brake.can_hold(repository.folder, None), "it has no brake"
    _add_brake(repository, None)
    assert not brake.can_hold(repository.folder, None), "its own key is here"
    lines = (repository.folder / "repo.toml").read_text().splitlines(keepends=True)
    (repository.folder / "repo.toml").write_text(
        "".join(line for line in lines if "keys/targets.pem" not in line)
    )
    assert brake.can_hold(repository.folder, None)
    _hold(repository, None)
    assert _verdict(repository, tmp_path / "node", None) is VerdictCode.HELD


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["brake", "hold", "9.0.0", "--channel", "stable"], 2, "9.0.0 is not published"),
        (["brake", "hold", "1.1.0", "--channel", "nightly"], 2, "no channel 'nightly'"),
        (["brake", "hold", "1.1.0"], 2, "targets has no brake"),
        (["brake", "hold", "1.1.0", "--channel", "brake-stable"], 2, "is a brake, not a channel"),
        (["brake", "release", "1.1.0", "--channel", "stable"], 3, "the brake does not hold"),
        (
            ["brake", "add", "--channel", "stable", "--signer", "file2:keys/dev-1.pem"],
            2,
            "already has a brake",
        ),
        (["brake", "add", "--channel", "dev", "--signer", "file2:keys/absent.pem"], 2, "absent.pem"),
        (["brake", "add", "--channel", "dev"], 2, "Missing option"),
        *(
            (
                ["brake", "add", "--channel", "dev", "--signer", f"{name}=file2:keys/dev-1.pem"],
                2,
                "cannot be the name of a key's holder",
            )
            for name in ("a\x1b[2Jb", "x" * 65, " anna", "-x")
        ),
        (["brake", "remove"], 2, "targets has no brake"),
        (
            ["channel", "add", "brake-x", "--signer", "file2:keys/dev-1.pem"],
            2,
            "cannot be the name of a channel",
        ),
        (["waves", "hold", "1.1.0", "--channel", "brake-stable"], 2, "is a brake, not a channel"),
        (["waves", "show", "--channel", "brake-stable"], 2, "is a brake, not a channel"),
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


def test_what_is_held_already_is_not_held_twice(repository: SmallRepository) -> None:
    _hold(repository)
    before = tree_digest(repository.folder)
    with pytest.raises(RolloutUnchangedError, match="is held already"):
        _hold(repository)
    assert tree_digest(repository.folder) == before


def test_without_a_key_of_the_brake_nothing_is_held(repository: SmallRepository) -> None:
    lines = (repository.folder / "repo.toml").read_text().splitlines(keepends=True)
    (repository.folder / "repo.toml").write_text("".join(line for line in lines if "brake" not in line))
    before = tree_digest(repository.folder)
    with pytest.raises(
        ThresholdError, match=r"brake-stable version 2 has 0 of the 1 .* not in repo\.toml: duty"
    ):
        _hold(repository)
    assert tree_digest(repository.folder) == before


def test_a_brake_needs_a_channel_and_a_key(repository: SmallRepository) -> None:
    before = tree_digest(repository.folder)
    for channel in ("nightly", "dev"):
        wanted = brake.NewBrake(channel=channel, signers=[], public_keys=[], names={})
        with pytest.raises(ChannelError):
            brake.add(repository.folder, wanted, now=repository.now)
    assert tree_digest(repository.folder) == before


def test_the_command_line_adds_holds_and_releases(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    key = make_key(repository.folder, "night").key
    words = ["brake", "add", "--channel", "dev", "--signer", "night watch=file2:keys/night.pem"]
    assert run_on(repository, *words, "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)["signer_lines"]
    assert line == f'{key.keyid} = "file2:keys/night.pem"'
    with (repository.folder / "repo.toml").open("a") as file:
        file.write(f"{line}\n")
    assert (
        run_on(repository, "brake", "hold", "1.1.0", "--channel", "dev", "--reason", "smoke", "--json") == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert (said["action"], said["reason"]) == ("brake hold", "smoke")
    assert set(said["metadata"]) == {"brake-dev", "snapshot", "timestamp"}
    assert run_on(repository, "brake", "release", "1.1.0", "--channel", "dev") == 0
    assert "open to the whole fleet now" in capsys.readouterr().out
    assert run_on(repository, "brake", "show", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["brakes"]
    assert {row["channel"]: row["keys"][0]["holder"] for row in rows} == {
        "dev": "night watch",
        "stable": "duty",
    }


def test_a_bundle_has_what_the_brake_holds(repository: SmallRepository, tmp_path: Path) -> None:
    _hold(repository)
    nodes = Nodes(starts=[V1], channel="stable")
    export(repository.folder, tmp_path / "bundle", nodes, now=repository.now)
    bundle = replace(repository, folder=tmp_path / "bundle")
    assert _verdict(bundle, tmp_path / "node") is VerdictCode.HELD
    assert list((tmp_path / "bundle" / "targets").glob("*.zst")) == [], "no node takes what is held"


def test_a_change_of_waves_says_that_the_brake_still_holds(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _add_brake(repository, "dev")
    _hold(repository, "dev")
    assert run_on(repository, "waves", "set", "1.1.0", "--waves", "ohno", "--channel", "dev") == 0
    assert "the brake still holds it" in capsys.readouterr().out
    brake.release(repository.folder, WHICH, channel="dev", now=repository.now)
    assert (
        run_on(repository, "waves", "set", "1.1.0", "--waves", "slow-roll", "--channel", "dev", "--json") == 0
    )
    assert json.loads(capsys.readouterr().out).get("held_by_brake") is None


def test_a_damaged_brake_does_not_hide_that_a_change_was_made(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _add_brake(repository, "dev")
    _hold(repository, "dev")
    for holds in (repository.folder / "targets" / "brake-dev").glob("*.holds.json"):
        holds.write_bytes(b"{}")
    assert run_on(repository, "waves", "set", "1.1.0", "--waves", "ohno", "--channel", "dev") == 0
    said = capsys.readouterr()
    assert "1.1.0" in said.out.splitlines()[0]
    assert "it is not known whether the brake still holds it" in said.err
