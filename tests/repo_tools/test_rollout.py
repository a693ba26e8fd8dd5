"""Hold, resume, open, set, withdraw: what each does to the fleet, reports first, and writes to the log."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.cli import cli
from repo_tools.errors import BrokenRepositoryError, ReleaseError, RolloutUnchangedError
from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from repo_tools.repository import change_log
from repo_tools.repository.change_log import Change, ChangeLog
from repo_tools.repository.published import log_of, manifest_of
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import refresh
from repo_tools.upkeep.check import check
from signpost.console import run
from signpost.errors import UsageError
from tests.repo_tools.clients import Client, fetched
from tests.support.repositories import (
    ARCH,
    VARIANT,
    SmallRepository,
    later,
    make_repository,
    run_on,
    tree_digest,
)
from updog.select import Node, VerdictCode, decide
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.version import Version
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.releases.rollout import Decide
    from updog.update_metadata.manifest import Manifest, Update

NEWER = ReleaseName(version=Version.parse("1.1.0"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """1.0.0 open to all, 1.1.0 in the default waves from now on."""
    repository = make_repository(tmp_path_factory.mktemp("steer") / "repo", versions=["1.0.0"])
    repository.publish("1.1.0", waves="default")
    return repository


@pytest.fixture
def repository(published: SmallRepository, tmp_path: Path) -> SmallRepository:
    return published.copied(tmp_path / "repo")


def _document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def _update(manifest: Manifest) -> Update:
    return NEWER.of(manifest)


def _take(repository: SmallRepository, step: Decide, **after: float) -> rollout.RolloutStep:
    return rollout.take(repository.folder, step, now=later(repository.now, **after))[0]


def _code(manifest: Manifest, now: datetime, *, seed: int = 0, running: str = "1.0.0") -> str:
    """Return what happens with 1.1.0 on a node."""
    node = Node(variant=VARIANT, arch=ARCH, running=Version.parse(running), seed=seed, ignore_waves=True)
    return decide(manifest, node, now).verdicts[0].code


def test_a_held_release_is_invisible_to_nodes_not_on_it_and_says_why(repository: SmallRepository) -> None:
    now = later(repository.now, days=30)
    assert _code(manifest_of(repository.folder), now) == VerdictCode.CHOSEN
    _take(repository, rollout.holding(NEWER, reason="boots fail on wide NVMe"), days=2)
    manifest = manifest_of(repository.folder)
    assert _code(manifest, now) == VerdictCode.HELD
    assert _code(manifest, now, running="1.1.0") == VerdictCode.RUNNING
    node = Node(variant=VARIANT, arch=ARCH, running=Version.parse("1.0.0"), seed=0)
    assert decide(manifest, node, now).summary.endswith("UTC: boots fail on wide NVMe.")
    assert check(FolderSource(repository.folder), now=later(repository.now, days=2)).findings == ()


def test_another_client_does_not_see_a_held_release_at_all(
    repository: SmallRepository, tmp_path: Path
) -> None:
    _take(repository, rollout.holding(NEWER))
    with repository.served() as url:
        updater = Client(tmp_path / "node", repository.root_json).visit(url)
        document = json.loads(fetched(updater, "manifest.json"))
    assert [entry["version"] for entry in document["updates"]] == ["1.0.0"]


def test_resuming_moves_what_was_left_of_the_waves_by_the_length_of_the_hold(
    repository: SmallRepository,
) -> None:
    before = _update(manifest_of(repository.folder)).waves
    _take(repository, rollout.holding(NEWER), hours=30)  # in the third wave: 1 day to 2 days
    at_hold = before.share_open(later(repository.now, hours=30))
    step = _take(repository, rollout.resuming(NEWER), hours=40)
    after = _update(manifest_of(repository.folder))
    assert after.hold is None
    assert after.waves == step.after.waves
    resumed = after.waves.share_open(later(repository.now, hours=40, seconds=1))
    assert abs(resumed - at_hold) * MAX_SEED <= 1, "the pause itself let nodes in"
    assert after.waves.starts[-1].at - before.starts[-1].at == timedelta(hours=10)
    assert [start for start in before.starts if start.at < later(repository.now, hours=30)] == list(
        after.waves.starts[:3]
    )
    assert step.effects[0] == "it was held for 10 h: its waves move by that"
    assert check(FolderSource(repository.folder), now=repository.now).findings == ()


def test_resuming_with_other_waves_takes_those(repository: SmallRepository) -> None:
    _take(repository, rollout.holding(NEWER), hours=1)
    _take(repository, rollout.resuming(NEWER, waves=Waves()), hours=2)
    assert _update(manifest_of(repository.folder)).waves == Waves()


def test_a_hold_in_the_future_by_another_clock_is_resumed_at_its_own_start(
    repository: SmallRepository,
) -> None:
    before = _update(manifest_of(repository.folder)).waves
    _take(repository, rollout.holding(NEWER), hours=2)
    refresh.refresh_by_this_clock(repository.folder, now=later(repository.now, hours=1))
    _take(repository, rollout.resuming(NEWER), hours=1)
    after = _update(manifest_of(repository.folder)).waves
    assert after.starts[-1] == before.starts[-1]


def test_opening_opens_to_all(repository: SmallRepository) -> None:
    step = _take(repository, rollout.opening(NEWER), hours=2)
    assert step.effects[-1] == "it is open to the whole fleet now"
    assert _update(manifest_of(repository.folder)).waves == Waves()
    with pytest.raises(RolloutUnchangedError, match="open to the whole fleet already"):
        _take(repository, rollout.opening(NEWER), hours=2)


def test_withdrawing_falls_past_what_is_held(repository: SmallRepository) -> None:
    repository.publish("1.2.0")
    _take(repository, rollout.holding(NEWER))
    step = _take(repository, rollout.withdrawing(ReleaseName(version=Version.parse("1.2.0"))))
    assert step.facts == {"max_version": {"before": "1.2.0", "after": "1.1.0"}, "nodes_go_to": "1.0.0"}
    manifest = manifest_of(repository.folder)
    node = Node(variant=VARIANT, arch=ARCH, running=Version.parse("1.2.0"), seed=7)
    chosen = decide(manifest, node, repository.now).update
    assert chosen is not None
    assert str(chosen.version) == "1.0.0"
    assert decide(manifest, replace(node, running=Version.parse("1.1.0")), repository.now).update is None


@pytest.mark.parametrize(
    ("prepare", "words", "status", "message"),
    [
        ([], ["waves", "hold", "9.0.0"], 2, "9.0.0 is not published"),
        ([], ["waves", "hold", "1.1.0+b"], 2, "1.1.0+b is not published, but 1.1.0 is, another build of"),
        (
            [],
            ["waves", "hold", "1.1.0+b", "--all"],
            2,
            "1.1.0+b is not published, but 1.1.0 is",
        ),
        ([], ["withdraw", "1.1.0+b"], 2, "1.1.0+b is not published, but 1.1.0 is, another build of"),
        (["waves", "hold", "1.1.0"], ["waves", "hold", "1.1.0"], 3, "is held already"),
        (["withdraw", "1.1.0"], ["waves", "hold", "1.1.0"], 3, "is withdrawn"),
        ([], ["waves", "resume", "1.1.0"], 3, "is not held"),
        ([], ["waves", "open", "1.0.0"], 3, "open to the whole fleet already"),
        (["waves", "hold", "1.1.0"], ["waves", "open", "1.1.0"], 2, "its waves are paused"),
        (["waves", "hold", "1.1.0"], ["waves", "set", "1.1.0", "--waves", "ohno"], 2, "waves are paused"),
        ([], ["waves", "resume", "1.1.0", "--start-at", "in 2 days"], 2, "--start-at requires --waves"),
        ([], ["waves", "hold", "1.1.0", "--reason", "two\nlines"], 2, "not one printable line"),
        ([], ["withdraw", "1.1.0", "--reason", "\x1b[2J"], 2, "not one printable line"),
        ([], ["waves", "mark", "9.0.0", "--urgent", "why"], 2, "9.0.0 is not published"),
        ([], ["waves", "mark", "1.1.0", "--not-urgent"], 3, "is not urgent"),
        (
            ["waves", "mark", "1.1.0", "--urgent", "why"],
            ["waves", "mark", "1.1.0", "--urgent", "why"],
            3,
            "is marked urgent for this reason already",
        ),
        (["withdraw", "1.1.0"], ["waves", "mark", "1.1.0", "--urgent", "why"], 3, "is withdrawn"),
        ([], ["waves", "mark", "1.1.0"], 2, "either --urgent WHY or --not-urgent"),
        ([], ["waves", "mark", "1.1.0", "--urgent", "why", "--not-urgent"], 2, "either --urgent WHY or"),
        ([], ["waves", "mark", "1.1.0", "--urgent", ""], 2, 'expected printable text, found ""'),
        ([], ["waves", "mark", "1.1.0", "--urgent", "two\nlines"], 2, "expected printable text"),
        ([], ["waves", "mark", "1.1.0", "--urgent", "x" * 201], 2, "201 characters; the limit is 200"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    repository: SmallRepository,
    capsys: pytest.CaptureFixture[str],
    prepare: list[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    assert not prepare or run_on(repository, *prepare) == 0
    before = tree_digest(repository.folder)
    capsys.readouterr()
    assert run_on(repository, *words) == status
    assert message in capsys.readouterr().err
    assert tree_digest(repository.folder) == before


@pytest.mark.parametrize(
    ("prepare", "words", "effect"),
    [
        ([], ["waves", "hold", "1.1.0"], "no other node takes it until it is resumed"),
        (["waves", "hold", "1.1.0"], ["waves", "resume", "1.1.0"], "its waves move by that"),
        ([], ["waves", "open", "1.1.0"], "it is open to the whole fleet now"),
        ([], ["waves", "set", "1.1.0", "--waves", "ohno"], "to all of it on"),
        ([], ["withdraw", "1.1.0"], "nodes above 1.0.0 go back to 1.0.0"),
        ([], ["waves", "mark", "1.1.0", "--urgent", "CVE-1 is exploited"], "names. CVE-1 is exploited"),
        (
            ["waves", "mark", "1.1.0", "--urgent", "CVE-1 is exploited"],
            ["waves", "mark", "1.1.0", "--not-urgent"],
            "it was urgent: CVE-1 is exploited",
        ),
    ],
)
def test_a_dry_run_says_what_the_command_then_does(
    repository: SmallRepository,
    capsys: pytest.CaptureFixture[str],
    prepare: list[str],
    words: list[str],
    effect: str,
) -> None:
    assert not prepare or run_on(repository, *prepare) == 0
    before = tree_digest(repository.folder)
    capsys.readouterr()
    assert run_on(repository, *words, "--dry-run") == 0
    assert effect in (said := capsys.readouterr().out)
    assert said.startswith("would ")
    assert run_on(repository, *words, "--dry-run", "--json") == 0
    plan = _document(capsys)
    assert plan["dry_run"] is True
    assert tree_digest(repository.folder) == before
    assert run_on(repository, *words, "--reason", "because", "--json") == 0
    done = _document(capsys)
    assert set(done) - set(plan) == {"metadata"}
    assert done["reason"] == "because"
    assert len(done["effects"]) == len(plan["effects"])
    assert tree_digest(repository.folder) != before


def test_the_list_shows_what_is_held(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_on(repository, "waves", "hold", "1.1.0", "--reason", "smoke") == 0
    capsys.readouterr()
    assert run_on(repository, "waves", "show") == 0
    assert "held since" in (said := capsys.readouterr().out)
    assert "because: smoke" in said
    assert run_on(repository, "waves", "show", "1.1.0", "--json") == 0
    document = _document(capsys)
    assert (document["share_open"], document["hold_reason"]) == (0.0, "smoke")


# The log


def test_every_change_is_in_the_log_with_who_when_what_and_why(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on(repository, "waves", "hold", "1.1.0", "--reason", "smoke") == 0
    assert run_on(repository, "waves", "resume", "1.1.0") == 0
    assert run_on(repository, "withdraw", "1.1.0", "--reason", "fire") == 0
    repository.publish("1.2.0", reason="the fire is out", floor=Version.parse("1.0.0"))
    capsys.readouterr()
    assert run_on(repository, "log", "--json") == 0
    entries = _document(capsys)["changes"]
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry["action"] for entry in entries] == [
        "publish",
        "publish",
        "hold",
        "resume",
        "withdraw",
        "publish",
    ]
    assert [entry["reason"] for entry in entries] == ["", "", "smoke", "", "fire", "the fire is out"]
    assert entries[2]["subject"] == "1.1.0 for synthetic on x86_64"
    assert entries[5]["effects"] == [
        "it is open to the whole fleet now",
        "nodes below 1.0.0 must pass through it first",
        "removed the withdrawn 1.1.0 from the manifest",
    ]
    targets = json.loads((repository.folder / "metadata" / "2.targets.json").read_bytes())
    assert {tuple(entry["keys"]) for entry in entries} == {(targets["signatures"][0]["keyid"],)}
    assert run_on(repository, "log", "--last", "1") == 0
    said = capsys.readouterr().out
    assert "publish 1.2.0" in said
    assert "because: the fire is out" in said
    assert "withdraw 1.1.0" not in said


def test_an_empty_repository_has_an_empty_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    assert run_on(repository, "log") == 0
    assert capsys.readouterr().out == "there are no changes yet\n"


def test_a_full_log_goes_on_in_a_new_file_and_nothing_is_lost(
    repository: SmallRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "FULL", 3)
    for _ in range(3):
        _take(repository, rollout.holding(NEWER))
        _take(repository, rollout.resuming(NEWER))
    entries = log_of(repository.folder)
    assert [entry.number for entry in entries] == list(range(1, 9))
    names = sorted(path.name.partition(".")[2] for path in (repository.folder / "targets").glob("*.changes*"))
    assert {"changes.json", "changes-3.json", "changes-6.json"} == set(names)
    assert check(FolderSource(repository.folder), now=repository.now).findings == ()


def test_a_log_that_was_changed_on_disk_is_not_built_upon(repository: SmallRepository) -> None:
    for path in (repository.folder / "targets").glob("*.changes.json"):
        path.write_bytes(path.read_bytes().replace(b'"reason": ""', b'"reason": "x"'))
    before = tree_digest(repository.folder)
    with pytest.raises(BrokenRepositoryError, match=r"changes\.json is not what was signed"):
        _take(repository, rollout.holding(NEWER))
    with pytest.raises(BrokenRepositoryError):
        log_of(repository.folder)
    assert tree_digest(repository.folder) == before


def test_a_log_written_and_read_is_itself(repository: SmallRepository) -> None:
    change = Change(action="hold", subject="1.1.0", effects=("one", "two"), reason="r")
    log = ChangeLog().with_change(change, at=repository.now, keys=["ab", "cd"])
    assert ChangeLog.from_json(log.to_json()) == log


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"[]", "expected an object"),
        (b'{"changes": [], "earlier": "changes-3.json"}', "is empty although there is an earlier file"),
        (b'{"changes": [{}]}', r"changes\[0\]\.number: missing"),
    ],
)
def test_a_faulty_log_is_named(data: bytes, fault: str) -> None:
    with pytest.raises(ManifestError, match=fault):
        ChangeLog.from_json(data)


def test_hold_is_a_plain_function_for_other_programs(repository: SmallRepository) -> None:
    step, done = rollout.hold(repository.folder, NEWER, now=repository.now, reason="too many failures")
    assert step.after.hold is not None
    assert step.after.hold.reason == "too many failures"
    assert set(done.versions) == {"targets", "snapshot", "timestamp"}
    with pytest.raises(UsageError):
        rollout.hold(
            repository.folder, ReleaseName(version=Version.parse("1.0.0")), now=repository.now, reason="\n"
        )
    with pytest.raises(ReleaseError):
        rollout.hold(repository.folder, ReleaseName(version=Version.parse("7.0.0")), now=repository.now)


# All variants and architectures of a version.


@pytest.fixture
def family(tmp_path: Path) -> SmallRepository:
    repository = make_repository(tmp_path / "family", versions=["1.0.0"])
    for variant, arch in (("metal", ARCH), ("vm", ARCH), ("vm", "aarch64")):
        repository.publish("1.1.0", waves="default", variant=variant, arch=arch)
    return repository


def _family(repository: SmallRepository, *words: str) -> int:
    return run(cli, ["--repo", str(repository.folder), *words])


def test_a_version_is_held_in_all_variants_by_one_change(
    family: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(log_of(family.folder))
    assert _family(family, "waves", "hold", "1.1.0", "--all", "--reason", "fire") == 0
    assert capsys.readouterr().out.count("hold 1.1.0 for") == 3
    held = [update for update in manifest_of(family.folder).updates if update.hold]
    assert len(held) == 3
    entries = log_of(family.folder)
    assert len(entries) == before + 1
    assert entries[-1].change.subject.count("1.1.0 for") == 3
    assert entries[-1].change.reason == "fire"
    assert _family(family, "waves", "hold", "1.1.0", "--all") == 3


def test_what_is_held_already_stays_and_a_variant_limits_all(
    family: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _family(family, "waves", "hold", "1.1.0", "--variant", "metal") == 0
    capsys.readouterr()
    assert _family(family, "waves", "hold", "1.1.0", "--all", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["variant"] for item in document["releases"]] == ["vm", "vm"]
    assert len(document["unchanged"]) == 1
    assert _family(family, "waves", "open", "1.1.0", "--all", "--dry-run") == 2  # held: done for none


def test_all_is_done_for_all_or_for_none(family: SmallRepository) -> None:
    family.publish("1.2.0", variant="metal")
    before = tree_digest(family.folder)
    assert _family(family, "withdraw", "1.1.0", "--all") == 2  # metal is offered a newer release
    assert tree_digest(family.folder) == before
    assert _family(family, "withdraw", "1.1.0", "--all", "--variant", "vm") == 0
    limits = {str(u.max_version) for u in manifest_of(family.folder).updates if u.variant == "vm"}
    assert limits == {"0.0.0-0"}
    assert _family(family, "withdraw", "9.9.9", "--all") == 2


def test_a_version_is_opened_in_all_variants(family: SmallRepository) -> None:
    assert _family(family, "waves", "open", "1.1.0", "--all") == 0
    assert all(not update.waves.starts for update in manifest_of(family.folder).updates)
