"""Changes of a channel that wait for signatures: listed, never lost, and checked again at the end."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.cli import cli
from repo_tools.errors import (
    ChannelProposalError,
    ElapsedWavesError,
    ReleaseError,
    ThresholdError,
)
from repo_tools.releases import promote, rollout
from repo_tools.releases.finish import finish, waiting
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.log_signers import signers_of_changes
from repo_tools.repository.pending_changes import load
from repo_tools.repository.published import log_of, manifest_of
from repo_tools.upkeep.prune import PruneRequest, prune
from signpost.console import run
from tests.support.channels import add_channel, sign_pending
from tests.support.repositories import SmallRepository, later, make_repository, run_on, tree_digest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

V1, V2 = Version.parse("1.0.0"), Version.parse("1.1.0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """``dev`` with 1.0.0 and 1.1.0; ``lts``, signed by two of three holders, with 1.0.0. One key is here."""
    repository = make_repository(tmp_path_factory.mktemp("pending") / "repo", versions=[])
    add_channel(repository, "dev")
    done = add_channel(repository, "lts", available=(True, False, False), threshold=2)
    assert done.pending is not None
    sign_pending(repository, done.pending, "lts-2")
    finish(repository.folder, [load(done.pending)], now=repository.now)
    repository.publish("1.0.0", channel="dev")
    repository.publish("1.1.0", channel="dev")
    file = _promotion(repository, V1)
    sign_pending(repository, file, "lts-2")
    finish(repository.folder, [load(file)], now=repository.now)
    return repository


@pytest.fixture
def repository(made: SmallRepository, tmp_path: Path) -> SmallRepository:
    return made.copied(tmp_path / "repo")


def _promotion(repository: SmallRepository, version: Version, waves: str = "none", **facts: Any) -> Path:
    asked = Promotion(which=ReleaseName(version=version), source="dev", target="lts", waves=waves, **facts)
    done = promote.promote(repository.folder, asked, now=repository.now)[1]
    assert done is not None
    assert done.pending is not None
    return done.pending


def _offers(repository: SmallRepository) -> list[str]:
    return [str(update.version) for update in manifest_of(repository.folder, "lts").updates]


def _finish(repository: SmallRepository, file: Path, now: datetime | None = None, **facts: Any) -> None:
    finish(repository.folder, [load(file)], now=now or repository.now, **facts)


# Not in force yet


def test_what_is_not_in_force_says_so_and_ends_in_3(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--channel", "lts")
    release = repository.images["1.0.0"]
    images = ["--boot", str(release.boot), "--root", str(release.root), "--hash", str(release.hash)]
    for words in (
        ("promote", "1.1.0", "--from", "dev", "--to", "lts"),
        ("waves", "hold", "1.0.0", "--reason", "smoke", *where),
        ("waves", "set", "1.0.0", "--waves", "ohno", *where),
        ("waves", "mark", "1.0.0", "--urgent", "CVE-1 is exploited", *where),
        ("withdraw", "1.0.0", *where),
        ("publish", "--variant", "x", "--arch", "a", "--version", "9.0.0", *images, "--level", "1", *where),
    ):
        before = tree_digest(repository.folder / "metadata")
        assert run_on(repository, *words) == 3, words
        said = capsys.readouterr().out
        assert "NOT in force yet: 1 of 2 signatures" in said
        assert "signed by:        lts-1 (key" in said
        assert "not by:" in said
        assert tree_digest(repository.folder / "metadata") == before
    assert run_on(repository, "waves", "open", "1.0.0", *where, "--json") == 3


def test_a_new_channel_that_waits_ends_in_3(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = repository.folder / "keys"
    words = ["channel", "add", "x", "--signer", "zoë=file2:keys/dev-1.pem", "--threshold", "2"]
    shutil.copy(keys / "lts-3.pem", keys / "boris.pem")
    run(cli, ["--repo", str(repository.folder), "root", "public-key", "file2:keys/boris.pem"])
    (keys / "boris.pub.pem").write_text(capsys.readouterr().out)
    assert run_on(repository, *words, "--public-key", str(keys / "boris.pub.pem")) == 3
    said = capsys.readouterr().out
    assert "signed by:        zoë (key" in said
    assert "not by:           boris (key" in said


# The list


def test_pending_lists_what_waits_who_signed_and_who_has_not(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on(repository, "channel", "pending") == 0
    assert capsys.readouterr().out == "no change is waiting for signatures\n"
    file = _promotion(repository, V2, reason="a calm week")
    assert run_on(repository, "channel", "pending") == 0
    said = capsys.readouterr().out
    assert "lts version 3, 1 of 2 signatures: NOT in force yet" in said
    assert "promote from dev 1.1.0" in said
    assert "because: a calm week" in said
    assert "signed by lts-1 (key" in said
    assert "not by lts-2 (key" in said
    sign_pending(repository, file, "lts-2")
    capsys.readouterr()
    assert run_on(repository, "channel", "pending", "lts", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["pending"]
    assert (row["missing"], row["standing"], len(row["signed_by"])) == (0, None, 2)
    assert run_on(repository, "channel", "pending", "nightly") == 2


def test_a_file_that_cannot_be_read_is_listed_and_left(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _promotion(repository, V2)
    (file.parent / "broken.json").write_bytes(b"\xff{")
    (file.parent / "folder.json").mkdir()
    before = tree_digest(file.parent)
    (file.parent / "gone.json").symlink_to("nowhere")
    assert run_on(repository, "channel", "pending") == 0
    said = capsys.readouterr().out
    assert said.count("CANNOT BE READ") == 3
    assert "lts version 3" in said
    (file.parent / "gone.json").unlink()
    assert tree_digest(file.parent) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.json", "there is no file"),
        ("folder", "is not a regular file"),
        ("huge.json", "has more than"),
        ("text.json", "is not a channel proposal"),
    ],
)
def test_what_is_not_a_proposal_is_named_as_what_it_is(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge.json").open("wb") as stream:
        stream.truncate(1 << 30)
    (tmp_path / "text.json").write_text("hello")
    before = tree_digest(repository.folder)
    for word in ("finish", "sign"):
        assert run_on(repository, "channel", word, str(tmp_path / name)) == 2
        said = capsys.readouterr().err
        assert message in said
        assert name in said
    assert tree_digest(repository.folder) == before


# Never overwritten


def test_a_hold_does_not_replace_a_promotion_that_waits(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _promotion(repository, V2)
    content = first.read_bytes()
    assert run_on(repository, "waves", "hold", "1.0.0", "--channel", "lts", "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["other_pending"] == [str(first)]
    assert said["pending"] != str(first)
    assert first.read_bytes() == content
    hold = first.parent / "lts-3.2.json"
    assert said["pending"] == str(hold)
    sign_pending(repository, hold, "lts-3")
    capsys.readouterr()
    assert run_on(repository, "channel", "finish", str(hold)) == 0
    assert f"outdated now: {first}" in capsys.readouterr().out
    assert not hold.exists()
    assert first.read_bytes() == content
    assert run_on(repository, "channel", "pending") == 0
    assert "outdated: it starts from version 2; lts is at version 3" in capsys.readouterr().out


def test_a_guard_that_holds_again_and_again_makes_one_file(repository: SmallRepository) -> None:
    which = ReleaseName(version=V1)
    files = set()
    for minutes in (0, 5, 10):
        now = later(repository.now, minutes=minutes)
        done = rollout.hold(repository.folder, which, now=now, reason=f"{minutes}", channel="lts")[1]
        assert len(done.signed_by) == 1
        files.add(done.pending)
    assert len(files) == 1
    (file,) = files
    assert file is not None
    assert load(file).log.entries[-1].change.reason == "0"


def test_signatures_of_copies_in_different_hands_are_joined(
    repository: SmallRepository, tmp_path: Path
) -> None:
    file = _promotion(repository, V2)
    lone = json.loads(file.read_bytes())
    lone["metadata"]["signatures"] = []
    copies = [tmp_path / "at-boris.json", tmp_path / "at-clara.json"]
    for copy, name in zip(copies, ("lts-2", "lts-3"), strict=True):
        copy.write_text(json.dumps(lone))
        sign_pending(repository, copy, name)
    assert run_on(repository, "channel", "finish", *map(str, copies)) == 0
    assert _offers(repository) == ["1.0.0", "1.1.0"]
    assert not file.exists()
    assert {len(holders) for holders in _signers(repository).values()} == {3, 2}


def test_a_copy_without_enough_signatures_takes_none_away(
    repository: SmallRepository, tmp_path: Path
) -> None:
    file = _promotion(repository, V2)
    document = json.loads(file.read_bytes())
    document["metadata"]["signatures"] = []
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(document))
    before = file.read_bytes()
    assert run_on(repository, "channel", "finish", str(bare)) == 3
    assert file.read_bytes() == before


def test_two_different_changes_are_not_joined(repository: SmallRepository) -> None:
    files = [_promotion(repository, V2), _promotion(repository, V2, reason="again")]
    before = tree_digest(repository.folder)
    with pytest.raises(ChannelProposalError, match="different changes"):
        finish(repository.folder, [load(file) for file in files], now=repository.now)
    assert tree_digest(repository.folder) == before


def test_prune_leaves_the_images_of_a_change_that_waits(repository: SmallRepository) -> None:
    file = _promotion(repository, V2)
    repository.publish("1.2.0", channel="dev")
    request = PruneRequest(keep=1, grace=timedelta(), channel="dev")
    prune(repository.folder, request, now=later(repository.now, minutes=10))
    names = [name for name in load(file).metadata.signed.targets if "1.1.0" in name]
    assert names
    for name in names:
        assert list((repository.folder / "targets").glob(f"*.{name}"))


# Checked again


def test_waves_that_started_while_the_change_waited_are_refused(repository: SmallRepository) -> None:
    file = _promotion(repository, V2, waves="slow-roll")
    sign_pending(repository, file, "lts-2")
    before = tree_digest(repository.folder)
    with pytest.raises(ElapsedWavesError, match=r"1\.1\.0 .* would be open to .* while it waited"):
        _finish(repository, file, later(repository.now, hours=5))
    assert tree_digest(repository.folder) == before
    _finish(repository, file, later(repository.now, minutes=59))
    assert _offers(repository) == ["1.0.0", "1.1.0"]
    assert "--accept-elapsed" in ElapsedWavesError("").next_step


def test_a_promotion_says_when_it_must_be_finished(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["promote", "1.1.0", "--from", "dev", "--to", "lts", "--start-at", "in 2 hours"]
    assert run_on(repository, *words, "--waves", "ohno", "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["finish_before"] == min(said["waves"].values())
    assert run_on(repository, *words, "--waves", "ohno") == 3
    assert "not later than:" in capsys.readouterr().out
    assert run_on(repository, *words, "--waves", "none", "--json") == 3
    assert run_on(repository, "waves", "hold", "1.0.0", "--channel", "lts") == 3
    assert "not later than:" not in capsys.readouterr().out


def test_an_operator_can_accept_waves_that_have_started(repository: SmallRepository) -> None:
    file = _promotion(repository, V2, waves="ohno")
    sign_pending(repository, file, "lts-2")
    _finish(repository, file, later(repository.now, hours=5), accept_elapsed=True)
    assert _offers(repository) == ["1.0.0", "1.1.0"]


def test_waves_that_start_later_leave_time_for_signatures(repository: SmallRepository) -> None:
    file = _promotion(repository, V2, waves="ohno", start_at=later(repository.now, hours=12))
    sign_pending(repository, file, "lts-2")
    _finish(repository, file, later(repository.now, hours=11))
    assert _offers(repository) == ["1.0.0", "1.1.0"]


def test_a_hold_and_a_withdrawal_are_never_too_late(repository: SmallRepository) -> None:
    file = _promotion(repository, V2, waves="ohno")
    sign_pending(repository, file, "lts-2")
    _finish(repository, file)
    done = rollout.hold(repository.folder, ReleaseName(version=V2), now=repository.now, channel="lts")[1]
    assert done.pending is not None
    sign_pending(repository, done.pending, "lts-2")
    _finish(repository, done.pending, later(repository.now, hours=5))
    held = manifest_of(repository.folder, "lts").find("synthetic", "x86_64", V2)
    assert held is not None
    assert held.hold is not None


def test_a_resume_that_waited_is_refused_if_more_nodes_take_it_at_once(repository: SmallRepository) -> None:
    which = ReleaseName(version=V2)
    file = _promotion(repository, V2, waves="ohno", start_at=later(repository.now, hours=12))
    sign_pending(repository, file, "lts-2")
    _finish(repository, file)
    middle = later(repository.now, hours=13, minutes=20)
    for decide, then in ((rollout.holding(which), middle), (rollout.resuming(which), later(middle, hours=1))):
        done = rollout.take(repository.folder, decide, now=then, channel="lts")[1]
        assert done.pending is not None
        file = done.pending
        sign_pending(repository, file, "lts-2")
        if then is middle:
            _finish(repository, file, later(middle, minutes=1))
    with pytest.raises(ElapsedWavesError):
        _finish(repository, file, later(middle, hours=2))
    _finish(repository, file, later(middle, hours=1, seconds=20))


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        ([rollout.holding], "is held in dev"),
        ([rollout.withdrawing], "is withdrawn in dev"),
    ],
)
def test_a_promotion_of_what_was_taken_back_meanwhile_is_refused(
    repository: SmallRepository, meanwhile: list[Any], message: str
) -> None:
    file = _promotion(repository, V2)
    sign_pending(repository, file, "lts-2")
    for decide in meanwhile:
        rollout.take(repository.folder, decide(ReleaseName(version=V2)), now=repository.now, channel="dev")
    before = tree_digest(repository.folder)
    with pytest.raises(ReleaseError, match=message):
        _finish(repository, file, accept_elapsed=True)
    assert tree_digest(repository.folder) == before


def test_a_promotion_of_what_left_the_channel_is_refused(repository: SmallRepository) -> None:
    """Withdrawn in dev, then removed from its manifest by the next release there."""
    file = _promotion(repository, V2)
    sign_pending(repository, file, "lts-2")
    rollout.take(
        repository.folder, rollout.withdrawing(ReleaseName(version=V2)), now=repository.now, channel="dev"
    )
    repository.publish("1.2.0", channel="dev")
    with pytest.raises(ReleaseError, match="is no longer in dev"):
        _finish(repository, file)
    assert [item.standing for item in waiting(repository.folder, "lts", now=repository.now)] == [""]


# Who signed


def _signers(repository: SmallRepository) -> dict[int, list[str]]:
    entries = log_of(repository.folder, "lts")
    found = signers_of_changes(repository.folder, "lts", entries)
    return {number: [str(holder) for holder in holders] for number, holders in found.items()}


def test_the_log_names_everybody_who_signed_each_change(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {number: len(names) for number, names in _signers(repository).items()} == {1: 2, 2: 2}
    file = _promotion(repository, V2)
    sign_pending(repository, file, "lts-3")
    _finish(repository, file)
    capsys.readouterr()
    assert run_on(repository, "log", "--channel", "lts", "--json") == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [len(change["signed_by"]) for change in changes] == [2, 2, 2]
    assert changes[1]["signed_by"] != changes[2]["signed_by"]
    assert len(changes[2]["keys"]) == 1, "the entry itself is signed: it cannot name those who sign it later"


def test_re_signing_does_not_change_who_made_a_change(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = repository.folder / "repo.toml"
    before = _signers(repository)
    others = load(_promotion(repository, V2)).keys[2].keyid
    keys.write_text(f'{keys.read_text()}\n{others} = "file2:keys/lts-3.pem"\n')
    assert run_on(repository, "refresh", "--within", "1000d") == 0
    assert _signers(repository) == before
    assert run_on(repository, "log", "--channel", "lts", "--last", "1") == 0
    assert "signed by lts-1 (key" in capsys.readouterr().out


def test_a_channel_without_keys_here_says_which_keys_it_has(
    repository: SmallRepository,
) -> None:
    keys = repository.folder / "repo.toml"
    text = keys.read_text()
    keys.write_text("".join(line for line in text.splitlines(keepends=True) if "lts-1" not in line))
    before = tree_digest(repository.folder)
    with pytest.raises(ThresholdError, match=r"its keys: .*lts-1 \(key") as caught:
        _promotion(repository, V2)
    assert "`repo-tools channel show lts`" in caught.value.next_step
    assert tree_digest(repository.folder) == before
