"""A power cut after any write of any command: a slot boots, what boots was signed, the next run recovers.

Every command runs once on a medium that records what is written and flushed. Then, for each prefix of that
record, a node is made as a cut at this point leaves it: once with everything that was written so far, once
with only what had been flushed (D01 to D15). What did not go through the medium is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from signpost.app import Signpost
from signpost.sets import Slot
from signpost.state import Command
from tests.support.nodes import (
    NEWER,
    NEWEST,
    RUNNING,
    FailingMedium,
    Node,
    make_node,
    replayed,
)
from updog.drill import Stage
from updog.errors import HealthError, NothingToDoError
from updog.standing import Standing
from updog.state import Code
from updog.views import UpdateRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from updog.agent import Agent
    from updog.drill.node import Boot

WISHES = UpdateRequest()
CHANGES = {"create", "write", "rename", "remove"}


def _cuts(node: Node, folder: Path, run: Callable[[Agent], object]) -> Iterator[tuple[str, Node]]:
    """Run once on a copy, then yield a node for every different state that a cut can leave."""
    played = node.copy(folder / "played" / "node")
    medium = FailingMedium(only=["create", "write", "flush", "rename", "remove", "flush folder"])
    run(played.agent(medium))
    steps = medium.steps
    assert steps, "a run that writes nothing cannot be cut"
    number = 0
    for count in range(len(steps) + 1):
        for keep in (True, False):
            changed = count and steps[count - 1].name in CHANGES
            if count and changed != keep:
                continue  # a write changes the first state, a flush the second
            number += 1
            after = replayed(steps[:count], node, folder / f"cut-{number}" / "node", keep_unflushed=keep)
            yield f"{'all' if keep else 'flushed'} of {count} of {len(steps)} steps", after
            _drop(after)


def _drop(node: Node) -> None:
    """Delete the disk: one for every state would fill the temporary folder."""
    node.disk.unlink()


def _assert_sound(node: Node, active: Slot, versions: dict[Slot, str]) -> None:
    """Assert what always holds: the running slot is intact, and only signed images can boot."""
    view = node.view()
    assert view.next is not None
    assert view.slots[active].flags.successful
    assert view.slots[active].flags.priority in {1, 2}
    assert node.holds(active, versions[active])
    other = view.slots[active.other].flags
    if other.bootable or other.tries:
        assert node.holds(active.other, versions[active.other]) or other.successful
    state = node.state()
    assert Code.STATE_LOST not in {event.code for event in state.history}
    assert not state.denied


def _start(node: Node) -> Boot:
    """Start the node and let updog record how the start went."""
    boot = node.start()
    node.agent().record_boot()
    return boot


def _finish(node: Node, version: str) -> None:
    """Update as a timer would, start and confirm; assert that ``version`` runs, confirmed, without faults."""
    running = node.agent().status().running
    if str(running.version) != version:
        try:
            node.agent().update(WISHES)
        except NothingToDoError:
            assert node.agent().status().standing is Standing.WAITING
        _start(node)
    node.agent().confirm()
    status = node.agent().status()
    assert str(status.running.version) == version
    assert status.standing is Standing.NONE
    assert status.view.slots[status.view.active].flags.successful
    assert not status.view.faults
    assert not status.state.denied
    assert status.state.last_rollback is None


def _assert_failure_is_told(node: Node, version: str) -> None:
    """Let the next start fail unless it is of ``version``; assert that the node falls back and knows why."""
    first = node.start(Stage.INIT)
    if str(first.version) == version:
        return
    assert str(_start(node).version) == version
    state = node.state()
    assert first.version in state.denied
    assert state.last_rollback is not None
    assert "failed at stage init" in state.last_rollback.sentence


def _applied(node: Node) -> Node:
    node.agent().update(WISHES)
    return node


def _then_newest(node: Node) -> Node:
    node.publish(NEWEST)
    return node


def _second_round(node: Node) -> Node:
    node.agent().update(WISHES)
    _start(node)
    node.agent().confirm()
    return _then_newest(node)


def _staged(node: Node) -> Node:
    node.agent().update_image(WISHES)
    return node


STARTS: dict[str, tuple[Callable[[Node], Node], str, Slot]] = {
    "fresh": (lambda node: node, NEWER, Slot.A),
    "staged": (_staged, NEWER, Slot.A),
    "an older one is staged": (lambda node: _then_newest(_staged(node)), NEWEST, Slot.A),
    "an older one waits for a restart": (lambda node: _then_newest(_applied(node)), NEWEST, Slot.A),
    "the other slot is a good old one": (_second_round, NEWEST, Slot.B),
}


@pytest.mark.parametrize("start", STARTS)
def test_after_a_cut_anywhere_in_an_update_the_node_boots_and_the_next_run_completes(
    tmp_path: Path, start: str
) -> None:
    prepare, version, active = STARTS[start]
    node = prepare(make_node(tmp_path))
    node.configure(spool=False)
    old = str(node.agent().status().running.version)
    between = NEWER if version == NEWEST and active is Slot.A else None
    states = 0
    for where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.update(WISHES)):
        states += 1
        view = after.view()
        other = NEWER if between and after.holds(active.other, NEWER) else version
        if view.slots[active.other].flags.successful:
            other = RUNNING
        _assert_sound(after, active, {active: old, active.other: other})
        boot = _start(after)
        assert boot.down_at is None, where
        assert str(boot.version) in {old, version, between}, where
        if str(boot.version) == between:
            after.agent().confirm()
        _finish(after, version)
    assert states > 20


@pytest.mark.parametrize("start", [start for start in STARTS if "staged" not in start])
def test_after_a_cut_anywhere_in_an_update_a_start_that_fails_is_reported_and_denied(
    tmp_path: Path, start: str
) -> None:
    """This includes the version that waited for the restart before the cut."""
    prepare, _version, _active = STARTS[start]
    node = prepare(make_node(tmp_path))
    node.configure(spool=False)
    old = str(node.agent().status().running.version)
    for _where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.update(WISHES)):
        _assert_failure_is_told(after, old)


def test_after_a_cut_in_an_update_through_the_spool_the_next_run_completes(tmp_path: Path) -> None:
    """Every third cut: the writes to the disk are the same as without a spool."""
    node = make_node(tmp_path)
    for number, (_where, after) in enumerate(
        _cuts(node, tmp_path / "cuts", lambda agent: agent.update(WISHES))
    ):
        if number % 3:
            continue
        _assert_sound(after, Slot.A, {Slot.A: RUNNING, Slot.B: NEWER})
        _finish(after, NEWER)


def test_after_a_cut_anywhere_in_apply_the_old_or_the_new_one_boots(tmp_path: Path) -> None:
    node = _staged(make_node(tmp_path))
    versions = set()
    for _where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.apply()):
        _assert_sound(after, Slot.A, {Slot.A: RUNNING, Slot.B: NEWER})
        standing = after.agent().status().standing
        assert standing is (Standing.WAITING if after.view().next is Slot.B else Standing.STAGED)
        boot = _start(after)
        versions.add(str(boot.version))
        if str(boot.version) == RUNNING:
            after.agent().apply()
            _start(after)
        _finish(after, NEWER)
    assert versions == {RUNNING, NEWER}


def test_after_a_cut_anywhere_in_revert_the_old_or_the_new_one_boots(tmp_path: Path) -> None:
    """D12."""
    node = _applied(make_node(tmp_path))
    versions = set()
    for _where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.revert()):
        _assert_sound(after, Slot.A, {Slot.A: RUNNING, Slot.B: NEWER})
        boot = _start(after)
        versions.add(str(boot.version))
        _finish(after, NEWER)
    assert versions == {RUNNING, NEWER}


@pytest.mark.parametrize("tries", [1, 3])
def test_after_a_cut_anywhere_in_confirm_it_is_confirmed_or_falls_back_with_its_cause(
    tmp_path: Path, tries: int
) -> None:
    """D10, D40."""
    node = _applied(make_node(tmp_path, tries=tries))
    _start(node)
    endings = set()
    for _where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.confirm()):
        killed = after.copy(tmp_path / "killed" / "node")  # only the process is killed: the machine stays up
        _finish(killed, NEWER)
        assert killed.codes()[-1] == "confirmed"
        assert killed.codes().count("confirmed") == 1
        for _ in range(tries):
            _start(after)
        status = after.agent().status()
        endings.add(str(status.running.version))
        if str(status.running.version) == RUNNING:
            assert after.codes()[-1] == "boot-failed"
            assert [str(version) for version in after.state().denied] == [NEWER]
        else:
            assert after.codes()[-1] == "confirmed"
        _drop(killed)
        _remove(killed.folder.parent)
    assert endings == {RUNNING, NEWER}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def test_after_a_cut_anywhere_in_a_fall_back_the_old_one_boots_in_the_end_and_the_cause_is_known(
    tmp_path: Path,
) -> None:
    """D11."""
    node = _applied(make_node(tmp_path, tries=3))
    _start(node)
    node.health_check("20-web", "echo no answer; exit 1")

    def confirm(agent: Agent) -> None:
        with pytest.raises(HealthError):
            agent.confirm()

    for where, after in _cuts(node, tmp_path / "cuts", confirm):
        view = after.view()
        assert view.slots[Slot.A].flags.successful
        assert not view.slots[Slot.B].flags.successful
        for _ in range(4):
            if str(_start(after).version) == RUNNING:
                break
            confirm(after.agent())
        assert str(after.agent().status().running.version) == RUNNING, where
        state = after.state()
        assert [str(version) for version in state.denied] == [NEWER]
        assert state.last_rollback is not None
        assert "20-web: exited with status 1: no answer" in state.last_rollback.sentence


def test_after_a_cut_while_a_fall_back_is_recorded_it_is_recorded_by_the_next_run(tmp_path: Path) -> None:
    node = _applied(make_node(tmp_path))
    node.start(Stage.KERNEL)
    node.start()
    for _where, after in _cuts(node, tmp_path / "cuts", lambda agent: agent.record_boot()):
        after.agent().record_boot()
        assert [str(version) for version in after.state().denied] == [NEWER]
        assert after.codes().count("boot-failed") == 1


def test_a_second_cut_during_the_recovery_from_the_first_is_recovered_from_too(tmp_path: Path) -> None:
    """D15: every 13th cut of an update, and every 11th of the update after it."""
    node = make_node(tmp_path)
    node.configure(spool=False)
    states = 0
    first = _cuts(node, tmp_path / "cuts", lambda agent: agent.update(WISHES))
    for number, (_where, after) in enumerate(first):
        if number % 13 or after.view().next is Slot.B:
            continue
        second = _cuts(after, tmp_path / f"again-{number}", lambda agent: agent.update(WISHES))
        for again, (_there, node_again) in enumerate(second):
            if again % 11:
                continue
            states += 1
            _assert_sound(node_again, Slot.A, {Slot.A: RUNNING, Slot.B: NEWER})
            _start(node_again)
            _finish(node_again, NEWER)
    assert states > 10


def test_the_bootloaders_own_write_cut_leaves_a_table_it_can_start_from(tmp_path: Path) -> None:
    """D13: the try is counted or not; the table is never lost."""
    node = _applied(make_node(tmp_path, tries=2))
    medium = FailingMedium(only=["write", "flush"])
    played = node.copy(tmp_path / "played" / "node")
    Signpost(medium, str(played.disk), Slot.A).take_next()
    assert len(medium.steps) >= 6
    for count in range(len(medium.steps) + 1):
        for keep in (True, False):
            folder = tmp_path / f"cut-{count}-{keep}" / "node"
            after = replayed(medium.steps[:count], node, folder, keep_unflushed=keep)
            assert after.flags(Slot.B).tries in {1, 2}
            assert str(after.start().version) == NEWER
            after.agent().confirm()
            assert after.flags(Slot.B).successful


def test_every_command_of_signpost_is_covered_by_a_cut_above() -> None:
    """So that a new command is noticed. Rollback is in the fall back, the others in update and confirm."""
    assert set(Command) == {
        Command.CLEAR_INACTIVE,
        Command.MARK_INACTIVE_VALID,
        Command.UPGRADE_TO_INACTIVE,
        Command.CANCEL_UPGRADE,
        Command.ROLLBACK_TO_INACTIVE,
        Command.MARK_SUCCESSFUL_BOOT,
    }
