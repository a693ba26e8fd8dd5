"""Waves, withdrawal, refresh, expirations, root show, help: what they do, print and refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import pytest
from icalendar import Calendar

from repo_tools.cli import cli
from repo_tools.errors import BrokenRepositoryError, NothingToRefreshError, ReleaseError, ThresholdError
from repo_tools.render.calendar import calendar_text
from repo_tools.render.check import refreshed_text
from repo_tools.render.releases import published_text, waves_document, waves_text
from repo_tools.render.root import root_document, root_text
from repo_tools.repository.published import manifest_of
from repo_tools.trust.chain import walk
from repo_tools.trust.expirations import Expiration, RenewalWindow, expirations
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import refresh
from repo_tools.upkeep.check import check
from signpost.console import run
from tests.repo_tools.clients import Client
from tests.support.repositories import ARCH, VARIANT, SmallRepository, later, make_repository, tree_digest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from updog.update_metadata.manifest import Update


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"], waves="default")


def _repo(repository: SmallRepository, *words: str) -> list[str]:
    return ["--repo", str(repository.folder), *words]


def _update(repository: SmallRepository, version: str) -> Update:
    update = manifest_of(repository.folder).find(VARIANT, ARCH, Version.parse(version))
    assert update is not None
    return update


def test_waves_show_as_a_table_and_a_plot(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, _repo(repository, "waves", "show", "1.1.0")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1.1.0 for synthetic on x86_64: open to 0.0 % of the fleet")
    assert [line.split()[0] for line in lines[2:9]] == list("1234567")
    assert lines[10].startswith("100 % |")


def test_waves_show_as_json(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, _repo(repository, "waves", "show", "1.1.0", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert [wave["first_seed"] for wave in document["waves"]] == [0, 20, 102, 307, 819, 1228, 1843]
    assert document["waves"][-1]["cumulative_share"] == 1.0
    assert {wave["state"] for wave in document["waves"]} == {"coming"}


def test_the_plot_marks_now(repository: SmallRepository) -> None:
    update = _update(repository, "1.1.0")
    text = waves_text(update, later(repository.now, hours=30))
    assert text.count("^ now") == 1
    assert [line.split()[-1] for line in text.splitlines()[2:9]] == ["passed"] * 2 + ["now"] + ["coming"] * 4
    assert "^ now" not in waves_text(update, later(repository.now, days=30))
    after = waves_document(update, later(repository.now, days=30))
    assert after["share_open"] == 1.0
    assert {wave["state"] for wave in after["waves"]} == {"passed"}


def test_waves_show_lists_all_releases(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, _repo(repository, "waves", "show")) == 0
    out = capsys.readouterr().out
    assert "1.0.0" in out
    assert "1.1.0" in out
    empty = make_repository(repository.folder.with_name("empty"), versions=[])
    assert run(cli, _repo(empty, "waves", "show")) == 0
    assert "nothing is published yet" in capsys.readouterr().out


def test_waves_set_replaces_the_schedule_and_signs_it(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, _repo(repository, "waves", "set", "1.1.0", "--waves", "none", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["metadata"] == {"targets": 4, "snapshot": 4, "timestamp": 4}
    assert _update(repository, "1.1.0").waves.starts == ()
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[[waves]]\nstart_after = "2 hours"\nfleet_percentage = 50\n'
        '[[waves]]\nstart_after = "3 hours"\nfleet_percentage = 100\n'
    )
    words = ["waves", "set", "1.1.0", "--waves", str(policy), "--start-at", "2027-01-01T00:00:00Z"]
    assert run(cli, _repo(repository, *words)) == 0
    assert _update(repository, "1.1.0").waves.to_json() == {
        "0": "2027-01-01T02:00:00Z",
        "1024": "2027-01-01T03:00:00Z",
    }
    assert len(_update(repository, "1.0.0").waves.starts) == 7
    assert (
        run(cli, _repo(repository, "waves", "set", "1.0.0", "--waves", "ohno", "--start-at", "in 2 days"))
        == 0
    )


@pytest.mark.parametrize("words", [["waves", "set"], ["waves", "resume"]], ids=" ".join)
def test_the_former_name_of_waves_still_works_unseen(
    repository: SmallRepository, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, [*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--waves POLICY" in shown
    assert "--policy" not in shown
    if words == ["waves", "resume"]:
        assert run(cli, _repo(repository, "waves", "hold", "1.1.0")) == 0
    for name in ("--policy", "--waves"):
        assert run(cli, _repo(repository, *words, "1.1.0", name, "ohno", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert said.count("would ") == 2


def test_withdraw_sends_nodes_back(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(repository.folder)
    assert run(cli, _repo(repository, "withdraw", "1.1.0", "--dry-run", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["max_version"] == {"before": "1.1.0", "after": "1.0.0"}
    assert plan["nodes_go_to"] == "1.0.0"
    assert tree_digest(repository.folder) == before
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 0
    assert "nodes above 1.0.0 go back to 1.0.0" in capsys.readouterr().out
    with repository.served() as url:
        manifest = Client(tmp_path / "node", repository.root_json).manifest(url)
    assert {str(update.max_version) for update in manifest.updates} == {"1.0.0"}
    assert run(cli, _repo(repository, "waves", "show", "1.1.0")) == 0
    assert "withdrawn" in capsys.readouterr().out


def test_a_withdrawn_release_does_not_come_back(repository: SmallRepository) -> None:
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 0
    outcome = repository.publish("1.2.0")
    assert [str(version) for version in outcome.dropped] == ["1.1.0"]
    assert "removed the withdrawn 1.1.0" in published_text(outcome)
    updates = manifest_of(repository.folder).updates
    assert [(str(update.version), str(update.max_version)) for update in updates] == [
        ("1.0.0", "1.2.0"),
        ("1.2.0", "1.2.0"),
    ]
    assert check(FolderSource(repository.folder), now=repository.now).findings == ()
    before = tree_digest(repository.folder)
    with pytest.raises(ReleaseError, match="published and withdrawn before"):
        repository.publish("1.1.0")
    assert tree_digest(repository.folder) == before


def test_a_release_below_the_withdrawn_one_leaves_it_withdrawn(repository: SmallRepository) -> None:
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 0
    outcome = repository.publish("1.0.1")
    assert outcome.dropped == ()
    assert {str(update.max_version) for update in manifest_of(repository.folder).updates} == {"1.0.1"}


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["withdraw", "1.0.0"], 2, "release"),
        (["withdraw", "9.0.0"], 2, "release"),
        (["waves", "set", "9.0.0", "--waves", "ohno"], 2, "release"),
        (["waves", "set", "1.1.0", "--waves", "ohhno"], 2, "policy-invalid"),
        (["waves", "show", "9.0.0"], 2, "release"),
        (["refresh", "--within", "3 fortnights"], 2, "time-invalid"),
        (["refresh", "--within", "1d"], 3, "nothing-to-do"),
    ],
)
def test_wrong_input_changes_nothing(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str], words: list[str], status: int, code: str
) -> None:
    before = tree_digest(repository.folder)
    assert run(cli, _repo(repository, *words, "--json")) == status
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert tree_digest(repository.folder) == before


def test_withdrawing_twice_is_nothing_to_do(repository: SmallRepository) -> None:
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 0
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 3


def test_a_version_of_two_variants_needs_a_variant(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.publish("1.1.0", variant="other")
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 2
    assert "published 2 times" in capsys.readouterr().err
    assert run(cli, _repo(repository, "withdraw", "1.1.0", "--variant", "other", "--arch", ARCH)) == 0
    assert str(_update(repository, "1.1.0").max_version) == "1.1.0"


def test_expirations_lists_the_roles_and_fails_if_one_is_near(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, _repo(repository, "expirations")) == 0
    assert "timestamp" in capsys.readouterr().out
    assert run(cli, _repo(repository, "expirations", "--within", "8d", "--json")) == 1
    rows = json.loads(capsys.readouterr().out)["expirations"]
    assert {row["role"]: row["near"] for row in rows} == {
        "root": False,
        "targets": False,
        "snapshot": False,
        "timestamp": True,
    }


def test_refresh_signs_what_is_near(repository: SmallRepository, tmp_path: Path) -> None:
    client = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        client.visit(url)
        done = refresh.refresh(repository.folder, within=timedelta(days=8), now=repository.now)
        assert done.versions == {"timestamp": 4}
        done = refresh.refresh(repository.folder, within=timedelta(days=31), now=repository.now)
        assert done.versions == {"snapshot": 4, "timestamp": 5}
        done = refresh.refresh(repository.folder, within=timedelta(days=400), now=repository.now)
        assert done.versions == {"root": 2, "targets": 4, "snapshot": 5, "timestamp": 6}
        client.visit(url)
    assert check(FolderSource(repository.folder), now=repository.now).findings == ()


def test_refresh_repairs_what_has_expired_and_reports_it(repository: SmallRepository) -> None:
    late = later(repository.now, days=40)
    done = refresh.refresh(repository.folder, within=timedelta(days=1), now=late)
    assert done.had_expired == ("snapshot", "timestamp")
    assert "had already expired: snapshot, timestamp" in refreshed_text(done)
    assert check(FolderSource(repository.folder), now=late).findings == ()
    with pytest.raises(NothingToRefreshError):
        refresh.refresh(repository.folder, within=timedelta(days=1), now=late)


def _spoil_target(repository: SmallRepository) -> None:
    next((repository.folder / "targets").glob("*-boot.ext4.zst")).unlink()


def _spoil_timestamp(repository: SmallRepository) -> None:
    path = repository.folder / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"00'))


def _spoil_manifest(repository: SmallRepository) -> None:
    for path in (repository.folder / "targets").glob("*.manifest.json"):
        path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("spoil", [_spoil_target, _spoil_timestamp, _spoil_manifest])
def test_refresh_signs_over_no_fault(repository: SmallRepository, spoil: object) -> None:
    assert callable(spoil)
    spoil(repository)
    before = tree_digest(repository.folder)
    with pytest.raises(BrokenRepositoryError):
        refresh.refresh(repository.folder, within=timedelta(days=400), now=repository.now)
    assert tree_digest(repository.folder) == before


def _without_keys(repository: SmallRepository, *names: str) -> None:
    path = repository.folder / "repo.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not any(f"keys/{name}.pem" in line for name in names)))


def test_a_root_without_its_keys_is_reported_and_the_rest_is_signed(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_keys(repository, "root-1", "root-2")
    assert run(cli, _repo(repository, "refresh", "--within", "400d")) == 0
    said = capsys.readouterr()
    assert "warning: root expires soon and is NOT signed: 1 of the 2 required keys" in said.err
    assert "signed targets 4, snapshot 4, timestamp 4" in said.out


def test_a_role_that_only_others_can_sign_is_nothing_to_do_here_and_a_warning(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_keys(repository, "root-1", "root-2")
    words = _repo(repository, "refresh", "--within", "1d", "--root-within", "60w")
    before = tree_digest(repository.folder)
    assert run(cli, words) == 3
    assert "root expires soon and is NOT signed" in capsys.readouterr().err
    assert run(cli, [*words, "--json"]) == 3
    assert "start a ceremony" in json.loads(capsys.readouterr().out)["unsigned"]["root"]
    assert tree_digest(repository.folder) == before


@pytest.mark.parametrize("kept", ["nothing", "manifest and log"])
def test_metadata_are_enough_to_refresh(repository: SmallRepository, kept: str) -> None:
    """As in a checkout of a repository whose images are not under version control."""
    for path in (repository.folder / "targets").iterdir():
        if kept == "nothing" or path.suffix != ".json":
            path.unlink()
    done = refresh.refresh(repository.folder, within=timedelta(days=8), now=repository.now)
    assert set(done.versions) == {"timestamp"}


def test_two_of_three_root_keys_are_enough(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_keys(repository, "root-2")
    assert run(cli, _repo(repository, "refresh", "--within", "400d", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["root"] == 2


@pytest.mark.parametrize("name", ["targets", "snapshot", "timestamp"])
def test_a_missing_online_key_publishes_nothing(repository: SmallRepository, name: str) -> None:
    _without_keys(repository, name)
    repository.synthesize("1.2.0")
    before = tree_digest(repository.folder)
    with pytest.raises(ThresholdError):
        repository.publish("1.2.0")
    assert tree_digest(repository.folder) == before


def test_a_key_file_that_is_gone(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    (repository.folder / "keys" / "snapshot.pem").unlink()
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 2
    assert "snapshot.pem" in capsys.readouterr().err
    (repository.folder / "keys" / "snapshot.pem").write_text("not a key")
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 2


def test_a_key_uri_with_an_unknown_scheme_is_refused(repository: SmallRepository) -> None:
    path = repository.folder / "repo.toml"
    path.write_text(path.read_text().replace("file2:keys/snapshot.pem", "carrier-pigeon:7"))
    assert run(cli, _repo(repository, "withdraw", "1.1.0")) == 2


def test_root_show_lists_thresholds_and_missing_keys(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_keys(repository, "root-3")
    assert run(cli, _repo(repository, "root", "show")) == 0
    out = capsys.readouterr().out
    assert "root version 1, expires in " in out
    assert "2 of 3" in out
    assert "not available" in out
    assert run(cli, _repo(repository, "root", "show", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["roles"]["root"]["threshold"] == 2
    newest = walk(FolderSource(repository.folder)).root
    assert newest is not None
    text = root_text(root_document(newest, {}), timedelta(seconds=-1))
    assert "has EXPIRED" in text


def test_commands_without_a_repository_are_wrong_usage(tmp_path: Path) -> None:
    for words in (
        ["waves", "show"],
        ["refresh"],
        ["expirations"],
        ["root", "show"],
        ["serve"],
        ["withdraw", "1.0.0"],
    ):
        assert run(cli, ["--repo", str(tmp_path), *words]) == 2


def _commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        for name, member in command.commands.items():
            yield from _commands(member, *names, name)


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*pair, id=" ".join(pair[0])) for pair in _commands(cli)]
)
def test_every_help_has_an_example(
    words: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, [*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    has_both = "Exit status:" in out and "--json" in out
    assert has_both or isinstance(command, click.Group) or words == ("completion",)


def test_an_expired_row_says_how_long_ago() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    row = Expiration(role="root", name="1.root.json", version=1, expires=now, left=-timedelta(days=2))
    assert row.left_text() == "expired 2 days ago"


def test_expirations_as_a_calendar(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, _repo(repository, "expirations", "--ical")) == 0
    text = capsys.readouterr().out
    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    events: dict[str, Any] = {str(event["UID"]): event for event in Calendar.from_ical(text).walk("VEVENT")}
    chain = walk(FolderSource(repository.folder))
    rows = {row.role: row for row in expirations(chain, now=repository.now)}
    assert set(events) == {f"{role}@os.repo-tools" for role in rows}
    for role, row in rows.items():
        event = events[f"{role}@os.repo-tools"]
        assert (event["DTSTART"].dt, int(event["SEQUENCE"])) == (row.expires, row.version)
        (alarm,) = event.walk("VALARM")
        assert alarm["TRIGGER"].dt == -timedelta(days=30 if role == "root" else 3)
    assert run(cli, _repo(repository, "expirations", "--ical", "--within", "8d")) == 1
    assert run(cli, _repo(repository, "expirations", "--ical", "--json")) == 2


def test_long_lines_of_a_calendar_are_folded_between_characters() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    row = Expiration(role="ä" * 90, name="a,b;c\\d", version=1, expires=now, left=timedelta(days=2))
    text = calendar_text([row], RenewalWindow(), name="os", now=now)
    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    event: Any = Calendar.from_ical(text).walk("VEVENT")[0]
    assert str(event["UID"]) == f"{row.role}@os.repo-tools"
    assert str(event["DESCRIPTION"]).startswith("a,b;c\\d. ")


def test_root_is_due_earlier(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    _without_keys(repository, "root-1", "root-2")
    soon = later(repository.now, days=340)
    done = refresh.refresh(repository.folder, within=timedelta(days=3), now=soon)
    assert set(done.unsigned) == {"root"}
    again = refresh.refresh(repository.folder, within=timedelta(days=3), now=soon)
    assert (again.versions, set(again.unsigned)) == ({}, {"root"})
    assert "start a ceremony with" in again.unsigned["root"]
    with pytest.raises(NothingToRefreshError):
        refresh.refresh(repository.folder, within=timedelta(days=3), root_within=timedelta(days=3), now=soon)
    assert run(cli, _repo(repository, "expirations", "--root-within", "60w")) == 1
    assert "near" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [_spoil_target, _spoil_timestamp, _spoil_manifest])
def test_refresh_tells_of_a_fault_also_when_nothing_is_near(
    repository: SmallRepository, spoil: Callable[[SmallRepository], None]
) -> None:
    spoil(repository)
    before = tree_digest(repository.folder)
    assert run(cli, _repo(repository, "refresh", "--within", "1d")) == 1
    assert tree_digest(repository.folder) == before
