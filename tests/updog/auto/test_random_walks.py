"""tools/random_walks.py: many walks, and whether it would notice a table that is wrong."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.updog.auto import node_model
from tests.updog.auto.walks import problem_of, shortened, walk_of
from tools.random_walks import AT_ONCE, main
from updog.auto import table

WITHOUT = {
    "closed-meanwhile": "it restarts with a closed gate",
    "lock": "it restarts without the lock",
    "unlock": "it keeps the lock",
    "take-back": "a release that is no longer wanted boots next",
    "leave": "no row matches",
}
"""Rows, and what happens without them."""


def test_fifty_walks_break_no_rule_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--walks", "50"]) == 0
    said = capsys.readouterr().out
    events = sum(len(walk_of(seed).events) for seed in range(50))
    assert said.startswith(f"50 walks, {events} events, ")
    assert "walks that broke a rule: 0" in said
    assert re.search(r"^  restart +[1-9]", said, re.MULTILINE)


def test_the_same_seed_takes_the_same_walk_and_processes_share_the_walks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = []
    for jobs in ("1", "2"):
        assert main(["--walks", str(AT_ONCE + 1), "--seed", "7", "--jobs", jobs]) == 0
        said.append(re.sub(r", \d+ s of", "", capsys.readouterr().out))
    assert said[0] == said[1]
    assert walk_of(7) == walk_of(7) != walk_of(8)


@pytest.fixture
def no_traces_of_a_wrong_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests ask which rows were reached."""
    monkeypatch.setattr(node_model, "SEEN", Counter[str]())


@pytest.mark.usefixtures("no_traces_of_a_wrong_table")
@pytest.mark.parametrize("missing", WITHOUT)
def test_a_table_without_a_row_is_found_and_the_seed_that_is_printed_finds_it_again(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table itself is changed; the model and its rules are those of all walks."""
    monkeypatch.setattr(table, "ROWS", tuple(row for row in table.ROWS if row.name != missing))
    seed = next(seed for seed in range(2000) if problem_of(walk_of(seed)))
    assert main(["--walks", "1", "--seed", str(seed)]) == 1
    said = capsys.readouterr().out
    assert "walks that broke a rule: 1" in said
    assert f"seed {seed}, with Policy(" in said
    assert re.search(r"^(AssertionError|updog.auto.table.TableError)", said, re.MULTILINE)


@pytest.mark.usefixtures("no_traces_of_a_wrong_table")
def test_a_walk_with_a_problem_is_shortened_to_the_events_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table, "ROWS", tuple(row for row in table.ROWS if row.name != "lock"))
    walk = next(walk for walk in map(walk_of, range(2000)) if problem_of(walk))
    short = shortened(walk)
    assert problem_of(short)
    assert len(short.events) < len(walk.events)
