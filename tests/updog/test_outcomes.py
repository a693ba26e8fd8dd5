"""Outcome lines: both forms say the same, every bad member is named, no machine-id can be read from one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.update_metadata.errors import SeedError
from updog.update_metadata.outcomes import (
    COUNTS,
    MAX_LINE_BYTES,
    MEMBERS,
    Count,
    NodeName,
    OutcomeError,
    OutcomeLine,
    is_outcome_query,
    pseudonym,
)
from updog.update_metadata.version import Version

ROOT = Path(__file__).resolve().parents[2]
MACHINE_ID = "8f1f0d6c2b7e4a0f9d3c5b6a79880011"
FULL = OutcomeLine(
    time=datetime(2026, 11, 24, 9, 30, tzinfo=UTC),
    node=pseudonym(MACHINE_ID),
    variant="demo",
    arch="x86_64",
    channel="stable",
    seed=1203,
    code="boot-failed",
    cause="kernel-panic",
    before=Version.parse("1.0.0"),
    to=Version.parse("1.1.0+build.1"),
)
_PRINTABLE = st.characters(exclude_categories=["C", "Z"])
_NAMES = st.text(_PRINTABLE, min_size=1, max_size=40)
_VERSIONS = st.builds(
    lambda a, b, c: Version.parse(f"{a}.{b}.{c}"), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)
)
LINES = st.builds(
    OutcomeLine,
    time=st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    node=st.text("0123456789abcdef", min_size=32, max_size=32).map(NodeName),
    variant=_NAMES,
    arch=_NAMES,
    channel=st.none() | _NAMES,
    seed=st.integers(0, 2047),
    code=st.sampled_from(sorted(COUNTS)) | _NAMES,
    cause=st.none() | _NAMES,
    before=st.none() | _VERSIONS,
    to=_VERSIONS,
)


@given(LINES)
def test_what_is_written_is_read_back_from_either_form(line: OutcomeLine) -> None:
    assert OutcomeLine.from_json(line.to_json()) == line
    assert OutcomeLine.from_query(line.to_query()) == line
    assert "\n" not in line.to_json()
    assert is_outcome_query(line.to_query())


def test_both_forms_have_the_members_of_the_table() -> None:
    assert list(FULL.members()) == [member.name for member in MEMBERS]
    assert json.loads(FULL.to_json()) == FULL.members()


@pytest.mark.parametrize("name", [member.name for member in MEMBERS if not member.optional])
def test_a_member_that_is_needed_and_missing_is_named(name: str) -> None:
    members = FULL.members()
    del members[name]
    with pytest.raises(OutcomeError, match=f"{name}: missing"):
        OutcomeLine.from_json(json.dumps(members))


@pytest.mark.parametrize("name", [member.name for member in MEMBERS if member.optional])
def test_a_member_that_may_be_missing_may_be_null_too(name: str) -> None:
    members: dict[str, object] = {**FULL.members(), name: None}
    assert name not in OutcomeLine.from_json(json.dumps(members)).members()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("outcome", 2, "format 2 is not 1"),
        ("outcome", True, "expected a whole number"),
        ("time", "yesterday", "not an RFC 3339 time"),
        ("node", MACHINE_ID.upper(), "expected 32 hexadecimal digits"),
        ("node", f"{MACHINE_ID}\n", "expected 32 hexadecimal digits"),
        ("variant", "", "expected printable text"),
        ("variant", "a\nb", "expected printable text"),
        ("cause", "x" * 129, "129 characters; the limit is 128"),
        ("seed", 2048, "outside 0…2047"),
        ("seed", -1, "outside 0…2047"),
        ("seed", "12", "expected a whole number"),
        ("to", "1.1", "not a semantic version"),
    ],
)
def test_a_bad_member_is_named(name: str, value: object, problem: str) -> None:
    with pytest.raises(OutcomeError, match=f"{name}: .*{problem}"):
        OutcomeLine.from_json(json.dumps({**FULL.members(), name: value}))


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(OutcomeError) as caught:
        OutcomeLine.from_query("outcome=1&seed=%C2%B2&to=1.1.0")
    found = [fault.path for fault in caught.value.faults]
    assert found == ["time", "node", "variant", "arch", "seed", "code"]


@pytest.mark.parametrize(
    "query", ["", "seed=7&version=1.0.0", FULL.to_query() + "&to=9.9.9", "a=1&" * 100, "outcome=%ff"]
)
def test_a_query_that_is_not_an_outcome_line_is_refused(query: str) -> None:
    """Among them a check of the manifest with its counting parameters, and a member smuggled in twice."""
    with pytest.raises(OutcomeError):
        OutcomeLine.from_query(query)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"outcome": NaN}', "x" * (MAX_LINE_BYTES + 1)])
def test_a_text_that_is_not_an_outcome_line_is_refused(text: str) -> None:
    with pytest.raises(OutcomeError):
        OutcomeLine.from_json(text)
    with pytest.raises(OutcomeError):
        OutcomeLine.from_query(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_outcome_line_or_one_error(data: bytes) -> None:
    with pytest.raises(OutcomeError):
        OutcomeLine.from_json(data)
    with pytest.raises(OutcomeError):
        OutcomeLine.from_query(data.decode("latin-1"))


def test_later_members_are_ignored() -> None:
    assert OutcomeLine.from_json(json.dumps({**FULL.members(), "boots": 3})) == FULL
    assert OutcomeLine.from_query(f"{FULL.to_query()}&boots=3") == FULL


def test_a_code_of_a_later_node_counts_neither_way() -> None:
    line = OutcomeLine.from_json(json.dumps({**FULL.members(), "code": "taken-by-aliens"}))
    assert line.count is Count.NEITHER
    assert FULL.count is Count.BAD


def test_a_line_sent_again_has_the_same_identity_and_another_has_not() -> None:
    again = OutcomeLine.from_query(FULL.to_query())
    assert again.identity == FULL.identity
    later = {**FULL.members(), "time": "2026-11-24T09:31:00Z"}
    assert OutcomeLine.from_json(json.dumps(later)).identity != FULL.identity


def test_a_time_of_another_zone_is_written_in_utc() -> None:
    berlin = FULL.time.astimezone(timezone(timedelta(hours=1)))
    assert replace(FULL, time=berlin).members() == FULL.members()


def test_the_name_of_a_node_is_stable_and_is_not_its_machine_id() -> None:
    name = pseudonym(f"{MACHINE_ID}\n")
    assert name == pseudonym(MACHINE_ID) == "6e1a361adf5623b0d2f348684363450d"
    assert name != MACHINE_ID
    assert pseudonym(MACHINE_ID[:-1] + "2") != name


@pytest.mark.parametrize("machine_id", ["", "\n", "uninitialized\n"])
def test_a_machine_without_an_id_has_no_name(machine_id: str) -> None:
    with pytest.raises(SeedError):
        pseudonym(machine_id)


def test_the_reference_page_lists_every_member_and_every_count() -> None:
    page = (ROOT / "docs/reference/outcome-line.md").read_text(encoding="utf-8")
    for member in MEMBERS:
        optional = "may be missing" if member.optional else ""
        assert f"| `{member.name}` | {member.form} | {member.meaning} | {optional} |" in page
    for code, count in COUNTS.items():
        assert f"| `{code}` | {count.value} |" in page
    assert FULL.to_json() in page
    assert FULL.to_query() in page
