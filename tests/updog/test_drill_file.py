"""What a drill's file may contain, and what is reported about a wrong one."""

from __future__ import annotations

from dataclasses import fields

import pytest

from signpost.sets import Slot
from updog.drill.catalog import choose, shipped
from updog.drill.drill_file import FAULTS, KEYS, Action, Expectation, Kind, Moment, Until, parse
from updog.drill.runner import _ACTIONS, Observation, differences
from updog.drill.snapshots import shared_openings
from updog.errors import DrillFileError
from updog.update_metadata.version import Version

GOOD = """
title = "Something"
tries = 3
scenarios = ["D97"]
steps = [
    { do = "update", to = "good", cut = "download" },
    { do = "start", until = "up", then = { running = ["first", "good"], slot = "A" } },
]
[end]
running = "first"
denied = []
"""


def test_a_drill_is_read_as_it_is_written() -> None:
    drill = parse("some", GOOD)
    assert (drill.name, drill.tries, drill.scenarios) == ("some", 3, ("D97",))
    update, start = drill.steps
    assert (update.do, update.to, update.cut) == (Action.UPDATE, Kind.GOOD, Moment.DOWNLOAD)
    assert (start.until, start.then) == (
        Until.UP,
        Expectation(running=(Kind.FIRST, Kind.GOOD), slot=Slot.A),
    )
    assert drill.end == Expectation(running=(Kind.FIRST,), denied=())
    assert drill.kinds == {Kind.FIRST, Kind.GOOD}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('title = "Something"', "", "title, steps and end are needed"),
        ("[end]", "[ending]", "ending is unknown"),
        ("tries = 3", 'tries = "3"', "tries = '3' is not a valid value"),
        ("tries = 3", "rotation = 5", "rotation is unknown"),
        ('do = "update"', 'do = "upgrade"', "steps[1].do = 'upgrade' is not a valid value"),
        ('do = "update", ', "", "steps[1].do is needed"),
        (', to = "good"', "", "steps[1].to is needed"),
        ('to = "good"', 'to = "best"', "steps[1].to = 'best' is not a valid value"),
        ('cut = "download"', 'until = "up"', "steps[1].until is not a key of update"),
        ('slot = "A"', 'slots = "A"', "steps[2].then.slots is unknown"),
        ('["first", "good"]', "[1]", "steps[2].then.running = [1] is not a valid value"),
        ("denied = []", "denied = {}", "end.denied = {} is not a valid value"),
        ("[end]", "[end", "not TOML"),
        (GOOD, 'title = "x"\nsteps = 3\n', "steps is not a list"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_its_place(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    with pytest.raises(DrillFileError) as caught:
        parse("some", GOOD.replace(old, new))
    assert fault in caught.value.message


def test_all_faults_of_a_file_are_reported_at_once() -> None:
    with pytest.raises(DrillFileError) as caught:
        parse("some", GOOD.replace("tries = 3", "retries = 3").replace('"good", cut', '"best", cut'))
    assert "retries" in caught.value.message
    assert "best" in caught.value.message


def test_the_shipped_drills_use_every_action_kind_and_moment() -> None:
    steps = [step for drill in shipped() for step in drill.steps]
    assert {step.do for step in steps} == set(Action)
    assert {kind for drill in shipped() for kind in drill.kinds} == set(Kind)
    assert {step.cut for step in steps} - {None} == set(Moment)


def test_every_action_has_its_keys_and_somebody_who_does_it() -> None:
    assert KEYS.keys() == set(Action) == _ACTIONS.keys()
    assert FAULTS.keys() == set(Kind) - {Kind.FIRST, Kind.GOOD}


def test_drills_are_chosen_by_name_or_by_path(tmp_path: object) -> None:
    assert [drill.name for drill in choose(["kernel-panic", "good-update"])] == [
        "kernel-panic",
        "good-update",
    ]
    assert choose([]) == shipped()
    with pytest.raises(DrillFileError, match="did you mean 'kernel-panic'"):
        choose(["kernel-panick"])
    with pytest.raises(DrillFileError, match="cannot read"):
        choose([f"{tmp_path}/none.toml"])


def test_drills_that_begin_with_the_same_command_begin_alike() -> None:
    plain, tries, cut, other, expecting = (
        parse(name, text)
        for name, text in {
            "plain": GOOD.replace("tries = 3\n", "").replace(', cut = "download"', ""),
            "tries": GOOD.replace(', cut = "download"', ""),
            "cut": GOOD,
            "other": GOOD.replace("tries = 3\n", "").replace('"good", cut = "download"', '"panic"'),
            "expecting": GOOD.replace("tries = 3\n", "").replace(
                'cut = "download"', 'exit = 4, then = { slot = "A" }'
            ),
        }.items()
    )
    assert cut.opening is None, "its cut is left to chance"
    assert plain.opening == expecting.opening, "what is expected does not change what is done"
    assert shared_openings([plain, tries, cut, cut, other]) == frozenset()
    assert shared_openings([plain, tries, cut, other, expecting]) == {plain.opening}


SEEN = Observation(
    running=Version.parse("1.0.0"),
    slot=Slot.A,
    confirmed=True,
    standing="none",
    last_rollback="boot-failed",
    denied=frozenset({Version.parse("1.1.0")}),
    dead=False,
    console="slot A, 1.0.0: up",
    changed=frozenset({Slot.B}),
)
RELEASES = {Kind.FIRST: Version.parse("1.0.0"), Kind.GOOD: Version.parse("1.1.0")}


def test_a_node_that_is_as_expected_has_no_differences() -> None:
    expected = Expectation(
        running=(Kind.GOOD, Kind.FIRST),
        slot=Slot.A,
        confirmed=True,
        standing="none",
        last_rollback="boot-failed",
        denied=(Kind.GOOD,),
        dead=False,
        console="1.0.0: up",
        untouched=(Slot.A,),
    )
    assert None not in {getattr(expected, each.name) for each in fields(Expectation)}
    assert list(differences(expected, SEEN, RELEASES)) == []
    assert list(differences(Expectation(), SEEN, RELEASES)) == []


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (Expectation(running=(Kind.GOOD,)), "1.0.0 runs, not 1.1.0 (good)"),
        (Expectation(slot=Slot.B), "slot is A, not B"),
        (Expectation(confirmed=False), "confirmed is True, not False"),
        (Expectation(standing="staged"), "standing is none, not staged"),
        (Expectation(last_rollback="health"), "last_rollback is boot-failed, not health"),
        (Expectation(denied=()), "denied is 1.1.0, not nothing"),
        (Expectation(dead=True), "dead is False, not True"),
        (Expectation(console="no slot"), "'no slot' is not on the console"),
        (Expectation(untouched=(Slot.A, Slot.B)), "slot B was changed"),
    ],
)
def test_every_difference_is_reported(expected: Expectation, said: str) -> None:
    assert list(differences(expected, SEEN, RELEASES)) == [said]
