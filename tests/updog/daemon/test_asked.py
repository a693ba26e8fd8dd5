"""What operators ask: what becomes of the requests, who asked, and that it is kept without a daemon."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from signpost.errors import UsageError
from updog.auto.gates import Wishes
from updog.daemon import asked, wishes
from updog.daemon.asked import Wish
from updog.daemon.caller import caller, described
from updog.daemon.wishes import Requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BY = "uid 1000 (anna), pid 4711, curl"
NOTHING = Requests()


def codes(requests: Requests) -> list[str]:
    return [event.code.value for event in requests.events]


def test_each_thing_asked_is_an_event_with_who_asked() -> None:
    requests = asked.permit(NOTHING, NOW + HOUR, now=NOW, by=BY)
    requests = asked.postpone(requests, NOW + HOUR, now=NOW, by=BY)
    requests = asked.hold(requests, "racks", now=NOW, by=BY)
    requests = asked.resume(requests, now=NOW, by=BY)
    requests = asked.release_lock(requests, now=NOW, by=BY)
    requests = asked.check(requests, now=NOW, by=BY)
    assert codes(requests) == [
        "permitted",
        "postponed",
        "held-by-hand",
        "resumed",
        "lock-release-asked",
        "check-asked",
    ]
    assert {event.by for event in requests.events} == {BY}
    assert {event.time for event in requests.events} == {NOW}
    assert (requests.check_at, requests.release_lock_at) == (NOW, NOW)


def test_a_permit_ends_a_postponement_and_says_how_far_it_goes() -> None:
    postponed = asked.postpone(NOTHING, NOW + HOUR, now=NOW, by=BY)
    requests = asked.permit(postponed, NOW + HOUR, even_frozen=True, without_lock=True, now=NOW, by=BY)
    assert requests.wishes == Wishes(permit=NOW + HOUR, even_frozen=True, without_lock=True)
    assert requests.events[-1].sentence == (
        "Updates may install and restart until 2026-12-01 13:00 UTC, also during a freeze, without the fleet "
        "lock."
    )


def test_a_postponement_ends_a_permit_and_keeps_a_hold() -> None:
    held = asked.hold(NOTHING, "racks", now=NOW, by=BY)
    permitted = asked.permit(held, NOW + HOUR, even_frozen=True, without_lock=True, now=NOW, by=BY)
    requests = asked.postpone(permitted, NOW + HOUR, now=NOW, by=BY)
    assert requests.wishes == Wishes(postpone=NOW + HOUR, hold="racks", held_since=NOW)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: asked.permit(NOTHING, NOW, now=NOW, by=BY), "2026-12-01 12:00 UTC is in the past"),
        (lambda: asked.postpone(NOTHING, NOW - HOUR, now=NOW, by=BY), "is in the past"),
        (
            lambda: asked.postpone(NOTHING, NOW + timedelta(days=7, seconds=1), now=NOW, by=BY),
            "more than 7 days from now",
        ),
        (lambda: asked.hold(NOTHING, " \n", now=NOW, by=BY), "the reason is empty"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(ask: Callable[[], Requests], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask()


def test_a_postponement_of_just_seven_days_is_taken() -> None:
    until = NOW + timedelta(days=7)
    assert asked.postpone(NOTHING, until, now=NOW, by=BY).wishes.postpone == until


@pytest.mark.parametrize(
    ("wish", "left"),
    [
        (Wish.PERMIT, Wishes(hold="racks", held_since=NOW)),
        (Wish.HOLD, Wishes(permit=NOW + HOUR, even_frozen=True)),
        (Wish.POSTPONE, Wishes(permit=NOW + HOUR, even_frozen=True, hold="racks", held_since=NOW)),
    ],
)
def test_one_wish_is_taken_back_and_the_others_stay(wish: Wish, left: Wishes) -> None:
    before = asked.permit(
        asked.hold(NOTHING, "racks", now=NOW, by=BY), NOW + HOUR, even_frozen=True, now=NOW, by=BY
    )
    after = asked.resume(before, wishes=(wish,), now=NOW, by=BY)
    assert after.wishes == left
    assert (after == before) == (wish is Wish.POSTPONE)


def test_resume_names_what_it_takes_back_and_nothing_is_no_event() -> None:
    requests = asked.resume(asked.hold(NOTHING, "racks", now=NOW, by=BY), now=NOW, by=BY)
    assert requests.events[-1].sentence == "Taken back: hold."
    assert asked.resume(requests, now=NOW, by=BY) == requests


def test_foreign_text_is_one_short_printable_line() -> None:
    requests = asked.hold(NOTHING, "\x1b[2J" + "racks\n" * 1000, now=NOW, by="\x1b]0;\n" + "x" * 1000)
    event = requests.events[0]
    assert "\x1b" not in f"{requests.wishes.hold}{event.sentence}{event.by}"
    assert len(requests.wishes.hold or "") <= 401
    assert len(event.by or "") <= 201


def test_the_history_is_bounded_and_checks_in_a_row_do_not_fill_it() -> None:
    requests = asked.hold(NOTHING, "racks", now=NOW, by=BY)
    for number in range(200):
        requests = asked.check(requests, now=NOW + number * HOUR, by=BY)
    assert codes(requests) == ["held-by-hand", "check-asked"]
    assert requests.events[-1].time == NOW + 199 * HOUR
    for number in range(200):
        requests = asked.hold(requests, str(number), now=NOW, by=BY)
    assert len(requests.events) == asked.MAX_EVENTS


def test_what_was_asked_is_read_as_it_was_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    def ask(before: Requests) -> Requests:
        return asked.check(asked.hold(before, "racks", now=NOW, by=BY), now=NOW, by=BY)

    assert wishes.change(tmp_path, ask) == wishes.read(tmp_path)
    assert wishes.read(tmp_path).events[0].by == BY


def test_who_asks_is_a_user_a_process_and_its_command(tmp_path: Path) -> None:
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711/comm").write_bytes(b"a\x1b[2Jb\n")
    assert described(0, 4711, proc=tmp_path) == r"uid 0 (root), pid 4711, a\x1b[2Jb"
    assert described(4_000_000, 1, proc=tmp_path) == "uid 4000000, pid 1"


def test_who_logged_in_is_named_rather_than_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    (tmp_path / "self").mkdir()
    login = tmp_path / "self/loginuid"
    login.write_text("4000001")
    assert caller(proc=tmp_path).startswith("uid 4000001, pid ")
    login.write_text("4294967295")
    assert caller(proc=tmp_path).startswith(f"uid {os.getuid()}")


@pytest.mark.skipif(os.getuid() != 0, reason="sudo's variable counts only for root")
def test_without_a_login_id_who_used_sudo_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "4000002")
    assert caller(proc=tmp_path).startswith("uid 4000002, pid ")
