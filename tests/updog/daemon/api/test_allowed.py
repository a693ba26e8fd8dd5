"""Which job is allowed, as the node stands: the whole table, and what the command lines take."""

from __future__ import annotations

import pytest

from updog.daemon.api.allowed import REFUSALS, refusal
from updog.daemon.api.documents import Do
from updog.standing import Standing

STANDINGS = {
    "none": Standing.NONE,
    "confirmed": Standing.CONFIRMED,
    "staged": Standing.STAGED,
    "waiting": Standing.WAITING,
    "trial": Standing.TRIAL,
    "fell-back": Standing.FELL_BACK,
    "rolled-back": Standing.ROLLED_BACK,
}

TABLE = """
          none               confirmed          staged             waiting          trial              fell-back          rolled-back
refresh   yes                yes                yes                yes              yes                yes                yes
plan      yes                yes                yes                yes              yes                yes                yes
verify    yes                yes                yes                yes              yes                yes                yes
prepare   yes                yes                yes                yes              yes                yes                yes
install   yes                yes                yes                revert-first     unconfirmed        yes                yes
update    yes                yes                yes                revert-first     unconfirmed        yes                yes
apply     nothing-staged     nothing-staged     yes                already-applied  unconfirmed        nothing-staged     nothing-staged
revert    nothing-applied    nothing-applied    nothing-applied    yes              nothing-applied    nothing-applied    nothing-applied
confirm   already-confirmed  already-confirmed  already-confirmed  already-confirmed  yes              already-confirmed  already-confirmed
rollback  yes                yes                staged             revert-first     yes                left-already       left-already
reboot    yes                yes                yes                yes              yes                yes                yes
"""  # noqa: E501 - a table is read by its columns


def _rows() -> list[tuple[Do, Standing, str]]:
    head, *lines = TABLE.strip().splitlines()
    rows = [(line.split()[0], dict(zip(head.split(), line.split()[1:], strict=True))) for line in lines]
    return [(Do(do), STANDINGS[name], cell) for do, cells in rows for name, cell in cells.items()]


ROWS = _rows()


@pytest.mark.parametrize(
    ("do", "standing", "expected"), ROWS, ids=[f"{do}-{standing.value}" for do, standing, _ in ROWS]
)
def test_a_job_is_allowed_or_refused_as_the_table_says(do: Do, standing: Standing, expected: str) -> None:
    is_confirmed = standing is not Standing.TRIAL
    found = refusal(do, standing, is_confirmed=is_confirmed)
    assert (found.code if found else "yes") == expected
    if found is not None:
        assert found.message
        assert found.next_step.endswith(".")


def test_the_table_has_a_row_for_every_job_in_every_standing() -> None:
    assert {(do, standing) for do, standing, _ in ROWS} == {(do, one) for do in Do for one in Standing}
    assert len(ROWS) == len(Do) * len(Standing)


@pytest.mark.parametrize("standing", Standing, ids=lambda standing: standing.value)
def test_a_system_that_is_not_confirmed_can_be_whatever_the_update_is(standing: Standing) -> None:
    assert refusal(Do.CONFIRM, standing, is_confirmed=False) is None


@pytest.mark.parametrize("do", [Do.REFRESH, Do.PLAN, Do.VERIFY, Do.PREPARE, Do.REBOOT])
def test_what_changes_nothing_is_never_refused(do: Do) -> None:
    assert do not in REFUSALS
