"""What one command knows of its node: what waits in the other slot, who leaves, and what must be saved."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from signpost.app import Signpost
from signpost.errors import MediumError
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from tests.support.nodes import FailingMedium, Node, make_node, now
from updog.config import load
from updog.host import Host
from updog.session import Session
from updog.standing import Standing
from updog.state import Code, Event
from updog.state_store import StateStore
from updog.update_metadata.manifest import Contents
from updog.update_metadata.version import Version
from updog.views import UpdateRequest

if TYPE_CHECKING:
    from pathlib import Path

    from updog.durable import Medium
    from updog.update_metadata.manifest import Update


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Return a node with an update in its other slot, not applied. Tests leave it as it is."""
    made = make_node(tmp_path_factory.mktemp("node"))
    made.agent().update_image(UpdateRequest())
    return made


@pytest.fixture(scope="module")
def update(node: Node) -> Update:
    """Return the update that is in the slot."""
    found = node.agent().check(UpdateRequest()).update
    assert found
    return found


def _session(node: Node, folder: Path, medium: Medium | None = None) -> Session:
    """Return a session of a node, whose state is kept in another folder."""
    signpost = Signpost(OsMedium(), str(node.disk), Slot.A)
    return Session(
        running=Host(load(node.config)).running(),
        signpost=signpost,
        view=signpost.view(),
        standing=Standing.STAGED,
        store=StateStore(folder, medium=medium or OsMedium(), clock=now),
        state=node.state(),
        loaded=node.state(),
    )


def test_the_slot_holds_the_update_whose_every_image_was_read_back(
    node: Node, update: Update, tmp_path: Path
) -> None:
    session = _session(node, tmp_path)
    assert session.holds(update)
    session.standing = Standing.WAITING
    assert session.holds(update)


@pytest.mark.parametrize("kind", ImageKind)
def test_an_update_with_one_other_image_is_not_in_the_slot(
    node: Node, update: Update, tmp_path: Path, kind: ImageKind
) -> None:
    contents = update.contents
    assert contents
    other = Contents.made(
        lambda each: replace(contents.of(each), sha256="0" * 64) if each is kind else contents.of(each)
    )
    assert not _session(node, tmp_path).holds(replace(update, contents=other))


def test_what_is_not_known_to_be_the_update_is_not(node: Node, update: Update, tmp_path: Path) -> None:
    """Another version, contents that are not signed, a slot without a record, no pending update."""
    session = _session(node, tmp_path)
    assert not session.holds(replace(update, version=Version.parse("9.9.9")))
    assert not session.holds(replace(update, contents=None))
    known = session.state
    session.state = replace(known, slots={})
    assert not session.holds(update)
    session.state = replace(known, pending=None)
    assert not session.holds(update)


def test_an_update_that_is_on_trial_runs_and_is_not_in_the_other_slot(
    node: Node, update: Update, tmp_path: Path
) -> None:
    session = _session(node, tmp_path)
    session.standing = Standing.TRIAL
    assert not session.holds(update)


def test_a_version_leaves_if_it_is_denied_and_the_other_slot_boots_next(node: Node, tmp_path: Path) -> None:
    session = _session(node, tmp_path)
    stays = session.view
    assert stays.next is Slot.A
    leaves = stays._replace(next=Slot.B)
    event = Event(time=now(), code=Code.HEALTH_FAILED, version=session.running.version, sentence="it failed.")
    denied = replace(session.state, denied={session.running.version: event})
    for view, state, leaving in (
        (stays, session.state, False),
        (leaves, session.state, False),
        (stays, denied, False),
        (leaves, denied, True),
    ):
        assert replace(session, view=view, state=state).is_leaving is leaving


def test_a_state_that_has_not_changed_is_not_written(node: Node, tmp_path: Path) -> None:
    medium = FailingMedium()
    session = _session(node, tmp_path, medium)
    session.save(replace(session.state))
    assert not medium.steps
    changed = replace(session.state, failed_units=frozenset({"x.service"}))
    session.save(changed)
    assert session.state == changed
    assert StateStore(tmp_path, medium=OsMedium(), clock=now).load() == changed


def test_a_state_that_cannot_be_saved_ends_the_command_unless_the_table_counts_alone(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = _session(node, tmp_path, FailingMedium(0, once=False))
    before = session.state
    changed = replace(before, failed_units=frozenset({"x.service"}))
    with pytest.raises(MediumError):
        session.save(changed)
    assert session.state == before
    lenient = replace(session, must_save=False)
    with caplog.at_level(logging.WARNING):
        lenient.save(changed)
    assert "not recorded: " in caplog.text
    assert lenient.state == changed
