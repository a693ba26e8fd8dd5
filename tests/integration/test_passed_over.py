"""A slot that the boot stage could not start is in the history of the slot that runs instead."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from signpost.bootrecord import Passed
from signpost.medium import OsMedium
from signpost.progress import SilentReporter
from signpost.sets import Slot
from tests.support.nodes import NEWER, Node, make_node, now
from updog.agent import Agent
from updog.config import load
from updog.drill import Stage
from updog.host import Attempt, Host, RunningSlot
from updog.state import Code

if TYPE_CHECKING:
    from pathlib import Path

    from updog.state import Event


class PassingHost(Host):
    """A machine whose boot stage passed slots over."""

    passed: tuple[Passed, ...] = ()

    def running(self) -> RunningSlot:
        failed = tuple(Attempt(slot=it.slot, stage=it.reason) for it in self.passed if it.failed)
        return replace(super().running(), passed=self.passed, attempts=failed)


def settled(node: Node, *passed: Passed) -> list[Event]:
    """Record how the start went; return the new events of the history."""
    before = len(node.state().history)
    config = load(node.config)
    host = PassingHost(config)
    host.passed = passed
    Agent(config, host, clock=now, reporter=SilentReporter(), medium=OsMedium()).record_boot()
    return list(node.state().history[before:])


def test_a_damaged_slot_is_recorded_once_with_its_cause_however_many_starts_it_takes(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    rotted = Passed(Slot.B, "boot-unreadable")
    (event,) = settled(node, rotted)
    assert (event.code, event.cause, event.version) == (Code.PASSED_OVER, "boot-unreadable", None)
    assert event.sentence == "Slot B was skipped by the boot stage: its BOOT partition could not be mounted."
    assert settled(node, rotted) == []


def test_a_slot_without_tries_is_not_recorded(tmp_path: Path) -> None:
    assert settled(make_node(tmp_path), Passed(Slot.B, "spent")) == []


def test_an_update_whose_kernel_could_not_be_loaded_fell_back_for_that_reason(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    assert node.updog("update").status == 0
    node.start(Stage.KERNEL)
    node.start()
    (event,) = settled(node, Passed(Slot.B, "kernel"))
    assert (event.code, event.cause) == (Code.BOOT_FAILED, "kernel-not-started")
    assert f"{NEWER} in slot B failed at stage kernel" in event.sentence
    assert settled(node, Passed(Slot.B, "kernel")) == [], "the fallback says it already"
