"""Properties of a node's state: it is read back as it was written; anything else is one error."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from signpost.gptprio import Flags
from signpost.sets import Slot
from updog.errors import ConfigError, StateFormatError
from updog.host import BootId, RunningSlot
from updog.pending_update import diagnose
from updog.standing import Standing
from updog.state import MAX_HISTORY, CheckRecord, Code, Event, NodeState, PendingUpdate, SlotRecord
from updog.update_metadata.content import Content
from updog.update_metadata.version import Version

texts = st.text(max_size=20)
numbers = st.integers(0, 1000)
versions = st.builds(
    lambda major, minor, patch, rest: Version.parse(f"{major}.{minor}.{patch}{rest}"),
    numbers,
    numbers,
    numbers,
    st.sampled_from(["", "-rc.1", "-0", "+build", "-rc.1+build.7"]),
)
moments = st.datetimes(timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)  # events are stored with a resolution of one second
contents = st.builds(
    Content, size=st.integers(0, 2**53 - 1), sha256=st.text("0123456789abcdef", min_size=64, max_size=64)
)
records = st.builds(
    SlotRecord,
    variant=texts,
    arch=texts,
    version=versions,
    images=st.dictionaries(st.sampled_from(["boot", "root", "hash"]), contents),
)
slots = st.sampled_from(Slot)
pendings = st.builds(
    PendingUpdate, version=versions, slot=slots, previous=versions, boot_id=st.none() | texts
)
events = st.builds(
    Event,
    time=moments,
    code=st.sampled_from(Code),
    version=st.none() | versions,
    sentence=texts,
    by=st.none() | texts,
)
denials = st.lists(events.filter(lambda event: event.version is not None), max_size=4).map(
    lambda found: {event.version: event for event in found}
)
checks = st.builds(
    CheckRecord,
    time=moments,
    result=texts,
    message=texts,
    available=st.none() | versions,
    failed=numbers,
    failing_since=st.none() | moments,
)
states = st.builds(
    NodeState,
    disk_guid=st.none() | texts,
    slots=st.dictionaries(slots, records),
    pending=st.none() | pendings,
    denied=denials,
    history=st.lists(events, max_size=6).map(tuple),
    last_check=st.none() | moments,
    signed_time=st.none() | moments,
    retried=st.frozensets(versions, max_size=3),
    failed_units=st.frozensets(texts, max_size=3),
    check=st.none() | checks,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(states)
def test_json_gives_back_every_state(state: NodeState) -> None:
    assert NodeState.from_json(json.dumps(state.to_json()).encode()) == state


@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_one_error(data: bytes) -> None:
    """D76, D93."""
    with contextlib.suppress(ConfigError):
        read = NodeState.from_json(data)
        assert NodeState.from_json(json.dumps(read.to_json()).encode()) == read


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside a document."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inner = list(document.items())
    elif isinstance(document, list):
        inner = list(enumerate(document))
    return [found for key, value in inner for found in [(*path, key), *_places(value, (*path, key))]]


@settings(max_examples=300)
@given(states, st.randoms(use_true_random=False), values)
def test_a_state_with_one_value_changed_is_a_state_or_one_error(
    state: NodeState, random: Any, value: Any
) -> None:
    """D76: what is read always has the types that the agent's comparisons need."""
    document = state.to_json()
    *way, last = random.choice(_places(document))
    place: Any = document
    for step in way:
        place = place[step]
    place[last] = value
    try:
        found = NodeState.from_json(json.dumps(document).encode())
    except (ConfigError, StateFormatError):
        return
    assert all(time is None or time.tzinfo is not None for time in (found.last_check, found.signed_time))
    assert all(event.time.tzinfo is not None for event in found.history)


@given(states, st.lists(events, max_size=10))
def test_the_history_never_grows_beyond_its_bound_and_keeps_the_newest(
    state: NodeState, more: list[Event]
) -> None:
    full = NodeState(history=(state.history * MAX_HISTORY)[:MAX_HISTORY])
    for event in more:
        full = full.with_event(event)
    assert len(full.history) <= MAX_HISTORY
    assert not more or full.history[-len(more) :] == tuple(more)


@given(states, versions)
def test_confirming_clears_no_denial_of_a_newer_version(state: NodeState, version: Version) -> None:
    """D43."""
    after = state.with_confirmed(version)
    assert after.pending is None
    assert all((denied in after.denied) == (denied > version) for denied in state.denied)


@given(states, events)
def test_a_version_that_was_left_is_denied_until_it_is_cleared(state: NodeState, event: Event) -> None:
    left = state.with_left(event)
    assert left.pending is None
    assert event.version is None or left.denied[event.version] == event
    assert event.version is None or event.version not in left.without_denial(event.version).denied


flags = st.builds(Flags, priority=st.integers(0, 15), tries=st.integers(0, 15), successful=st.booleans())
boots = st.none() | st.sampled_from(["one", "two"])


@given(pendings, boots, slots, st.sampled_from(["one", "two"]), flags, flags)
def test_an_update_whose_slot_does_not_run_is_never_on_trial_nor_confirmed(
    pending: PendingUpdate, boot: str | None, slot: Slot, now: str, new: Flags, old: Flags
) -> None:
    plan = PendingUpdate(version=pending.version, slot=pending.slot, previous=pending.previous, boot_id=boot)
    running = RunningSlot(variant="v", version=pending.version, boot_id=BootId(now), slot=slot, disk="d")
    stands = diagnose(plan, running, new, old)
    assert (stands in {Standing.TRIAL, Standing.CONFIRMED}) == (slot is plan.slot)
    if stands is Standing.FELL_BACK:
        assert boot != now
