"""The boot record: written by the boot stage, read by the system it starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signpost.bootrecord import MEANINGS, BootRecord, Passed, Reason
from signpost.sets import Slot

RECORDS = st.builds(
    BootRecord,
    slot=st.sampled_from(Slot),
    tries=st.integers(0, 15),
    passed=st.lists(st.builds(Passed, st.sampled_from(Slot), st.sampled_from(Reason)), max_size=3).map(tuple),
)


@given(RECORDS)
def test_a_record_survives_a_round_trip(record: BootRecord) -> None:
    assert BootRecord.from_words(["ro", *record.to_words(), "quiet"]) == record


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("ro quiet", id="another boot loader"),
        pytest.param("ro slot=A", id="no tries"),
        pytest.param("slot=C signpost.tries=0", id="no slot"),
        pytest.param("slot=A signpost.tries=16", id="too many tries"),
        pytest.param("slot=A signpost.tries=-1", id="negative tries"),
    ],
)
def test_a_command_line_without_a_valid_record_gives_none(line: str) -> None:
    assert BootRecord.from_words(line.split()) is None


def test_the_boot_stages_parameters_count_and_not_those_of_a_boot_entry() -> None:
    words = ["slot=B", "signpost.tries=9", "signpost.passed=A:kernel", "slot=A", "signpost.tries=1"]
    assert BootRecord.from_words([*words, "signpost.passed=B:spent"]) == BootRecord(
        slot=Slot.A, tries=1, passed=(Passed(Slot.B, "spent"),)
    )


def test_a_reason_of_a_newer_boot_stage_is_kept_and_what_is_malformed_is_left_out() -> None:
    words = ["slot=A", "signpost.tries=0", "signpost.passed=B:cosmic-rays,C:kernel,,B,B:" + "x" * 33]
    record = BootRecord.from_words(words)
    assert record == BootRecord(slot=Slot.A, passed=(Passed(Slot.B, "cosmic-rays"),))
    assert record.passed[0].meaning == "cosmic-rays"


def test_without_a_slot_that_was_passed_over_the_parameter_is_left_out() -> None:
    assert BootRecord(slot=Slot.B, tries=2).to_words() == ("slot=B", "signpost.tries=2")


def test_every_reason_has_a_meaning_and_all_but_spent_are_failures() -> None:
    assert set(MEANINGS) == set(Reason)
    assert [Passed(Slot.A, reason).meaning for reason in Reason] == [MEANINGS[reason] for reason in Reason]
    assert [reason for reason in Reason if not Passed(Slot.A, reason).failed] == [Reason.SPENT]
