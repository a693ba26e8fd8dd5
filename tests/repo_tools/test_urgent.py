"""Urgent releases and the time of publication: from `publish` on, through every change, into every copy."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from repo_tools.releases import promote, rollout
from repo_tools.releases.promote import Promotion
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.published import log_of, manifest_of
from tests.support.channels import add_channel
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
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.releases.rollout import Decide
    from updog.update_metadata.manifest import Update

WHY = "fixes CVE-2026-1234, which is exploited"
NEWER = ReleaseName(version=Version.parse("1.1.0"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """1.0.0, and 1.1.0, which is urgent, in the default waves."""
    repository = make_repository(tmp_path_factory.mktemp("urgent") / "repo", versions=["1.0.0"])
    repository.publish("1.1.0", waves="default", urgent=WHY)
    return repository


@pytest.fixture
def repository(made: SmallRepository, tmp_path: Path) -> SmallRepository:
    return made.copied(tmp_path / "repo")


def _update(place: Path, version: str = "1.1.0", channel: str | None = None) -> Update:
    update = manifest_of(place, channel).find(VARIANT, ARCH, Version.parse(version))
    assert update is not None
    return update


def _take(repository: SmallRepository, step: Decide, **after: float) -> None:
    rollout.take(repository.folder, step, now=later(repository.now, **after))


def _publish(repository: SmallRepository, version: str, *words: str) -> int:
    images = repository.synthesize(version)
    files = ["--boot", str(images.boot), "--root", str(images.root), "--hash", str(images.hash)]
    family = ["--variant", VARIANT, "--arch", ARCH, "--version", version, "--level", "1"]
    return run_on(repository, "publish", *family, *files, *words)


# -- publishing


def test_publish_says_when_it_was_and_why_it_is_urgent(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _publish(repository, "1.2.0", "--urgent", WHY) == 0
    assert (
        f"it is urgent: nodes pass the gates that their auto.urgent names. {WHY}" in capsys.readouterr().out
    )
    update = _update(repository.folder, "1.2.0")
    assert update.urgent == WHY
    assert update.published is not None
    assert timedelta() <= update.published - repository.now.replace(microsecond=0) < timedelta(hours=1)
    assert any(WHY in effect for effect in log_of(repository.folder)[-1].change.effects)
    assert finding_codes(repository) == []


def test_a_dry_run_of_publish_says_that_it_would_be_urgent(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(repository.folder)
    assert _publish(repository, "1.2.0", "--urgent", WHY, "--dry-run") == 0
    assert WHY in capsys.readouterr().out
    assert _publish(repository, "1.2.0", "--urgent", WHY, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["urgent"] == WHY
    assert tree_digest(repository.folder) == before


def test_a_release_is_not_urgent_unless_it_is_said(repository: SmallRepository) -> None:
    update = _update(repository.folder, "1.0.0")
    assert (update.urgent, update.published) == ("", repository.now.replace(microsecond=0))
    document = json.loads(manifest_of(repository.folder).to_json())
    assert [entry.get("urgent") for entry in document["updates"]] == [None, WHY]


@pytest.mark.parametrize("urgent", ["", " ", "two\nlines", "x" * 201])
def test_a_sentence_that_nodes_refuse_is_not_published(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str], urgent: str
) -> None:
    before = tree_digest(repository.folder)
    assert _publish(repository, "1.2.0", "--urgent", urgent) == 2
    assert "--urgent: " in capsys.readouterr().err
    assert tree_digest(repository.folder) == before


def test_nor_by_the_function_behind_the_command(repository: SmallRepository) -> None:
    before = tree_digest(repository.folder)
    with pytest.raises(ManifestError, match=r"updates\[2\]\.urgent: expected printable text"):
        repository.publish("1.2.0", urgent="two\nlines")
    assert tree_digest(repository.folder) == before


# -- afterwards


def test_a_release_is_marked_and_unmarked_after_it_was_published(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _update(repository.folder, "1.0.0")
    assert run_on(repository, "waves", "mark", "1.0.0", "--urgent", WHY, "--reason", "ticket 7") == 0
    assert f"mark urgent 1.0.0 for {VARIANT}" in capsys.readouterr().out
    marked = _update(repository.folder, "1.0.0")
    assert marked.urgent == WHY
    assert (marked.waves, marked.published) == (before.waves, before.published)
    assert run_on(repository, "waves", "mark", "1.0.0", "--urgent", "and another reason") == 0
    assert _update(repository.folder, "1.0.0").urgent == "and another reason"
    assert run_on(repository, "waves", "mark", "1.0.0", "--not-urgent") == 0
    assert _update(repository.folder, "1.0.0") == before
    actions = [(entry.change.action, entry.change.reason) for entry in log_of(repository.folder)[-3:]]
    assert actions == [("mark urgent", "ticket 7"), ("mark urgent", ""), ("mark not-urgent", "")]
    assert finding_codes(repository) == []


def test_all_variants_of_a_version_are_marked_by_one_change(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.publish("1.1.0", variant="metal")
    count = len(log_of(repository.folder))
    assert run_on(repository, "waves", "mark", "1.1.0", "--urgent", WHY, "--all", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert [(item["variant"], item["urgent"]) for item in done["releases"]] == [("metal", WHY)]
    assert len(done["unchanged"]) == 1
    assert {update.urgent for update in manifest_of(repository.folder).updates[1:]} == {WHY}
    assert len(log_of(repository.folder)) == count + 1


def test_the_lists_show_what_is_urgent_and_since_when_it_is_published(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_on(repository, "waves", "show") == 0
    plain, urgent = capsys.readouterr().out.splitlines()[1:]
    assert urgent.endswith(f" urgent: {WHY}")
    assert "urgent" not in plain
    assert run_on(repository, "waves", "show", "1.1.0") == 0
    assert capsys.readouterr().out.splitlines()[1] == f"urgent: {WHY}"
    assert run_on(repository, "waves", "show", "1.0.0") == 0
    assert f"\npublished {repository.now:%Y-%m-%d %H:%M}" in capsys.readouterr().out
    assert run_on(repository, "waves", "show", "1.1.0", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["urgent"] == WHY
    assert document["published"].startswith(f"{repository.now:%Y-%m-%dT%H:%M:%S}")


STEPS: dict[str, Decide] = {
    "hold": rollout.holding(NEWER, reason="smoke"),
    "open": rollout.opening(NEWER),
    "withdraw": rollout.withdrawing(NEWER),
}


@pytest.mark.parametrize("step", STEPS)
def test_no_other_step_loses_it(repository: SmallRepository, step: str) -> None:
    before = _update(repository.folder)
    _take(repository, STEPS[step])
    after = _update(repository.folder)
    assert after != before
    assert (after.urgent, after.published) == (WHY, before.published)


def test_a_hold_and_its_end_and_the_next_release_do_not_lose_it(repository: SmallRepository) -> None:
    before = _update(repository.folder)
    _take(repository, rollout.holding(NEWER), hours=30)
    _take(repository, rollout.resuming(NEWER), hours=40)
    repository.publish("1.2.0", now=later(repository.now, hours=50))
    after = _update(repository.folder)
    assert (after.urgent, after.published) == (WHY, before.published)


@pytest.mark.parametrize(
    ("start", "opened", "published"),
    [
        pytest.param(-120, 0, 0, id="waves that began before it was published"),
        pytest.param(120, 200, 121, id="waves that began later"),  # the policy begins after an hour
        pytest.param(120, 50, 50, id="opened before its waves began"),
    ],
)
def test_a_release_that_is_opened_to_all_is_as_old_as_its_first_wave(
    repository: SmallRepository, start: int, opened: int, published: int
) -> None:
    """Nodes with a min_age count from its first wave, and without waves from its publication."""
    now = repository.now.replace(microsecond=0)
    repository.publish("1.2.0", waves="default", start_at=later(now, hours=start))
    which = ReleaseName(version=Version.parse("1.2.0"))
    _take(repository, rollout.opening(which), hours=opened)
    update = _update(repository.folder, "1.2.0")
    assert not update.waves.starts
    assert update.published == later(now, hours=published)


# -- copies


def test_a_promotion_keeps_it(repository: SmallRepository) -> None:
    for name in ("dev", "stable"):
        add_channel(repository, name)
    repository.publish("2.0.0", channel="dev", urgent=WHY)
    asked = Promotion(
        which=ReleaseName(version=Version.parse("2.0.0")), source="dev", target="stable", waves="default"
    )
    moment = later(repository.now, hours=5)
    promoted = promote.promote(repository.folder, asked, now=moment)[0]
    assert promoted.to_json()["urgent"] == WHY
    assert any(WHY in effect for effect in promoted.effects)
    update = _update(repository.folder, "2.0.0", "stable")
    assert (update.urgent, update.published) == (WHY, repository.now.replace(microsecond=0))


def test_mirrors_and_bundles_keep_it(repository: SmallRepository, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(repository.root_json)
    trusted = ("--trusted-root", str(root))
    for words in (
        ("mirror", str(repository.folder), str(tmp_path / "mirror"), *trusted),
        ("bundle", "export", str(tmp_path / "b.tar"), "--from", "1.0.0"),
        ("bundle", "import", str(tmp_path / "b.tar"), str(tmp_path / "site"), *trusted),
    ):
        assert run_on(repository, *words) == 0, words
    for place in ("mirror", "site"):
        assert manifest_of(tmp_path / place) == manifest_of(repository.folder)
        assert _update(tmp_path / place).urgent == WHY
