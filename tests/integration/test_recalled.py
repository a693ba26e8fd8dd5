"""A release that its publisher withdrew or held after it was installed is not started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from signpost.sets import Slot
from tests.integration.test_table_counts import ran
from tests.support.nodes import NEWER, RUNNING, Node, make_node, now
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

DONE, NOTHING, REFUSED = 0, 3, 4
NAME = ReleaseName(version=Version.parse(NEWER))
DECISIONS = {"withdraw": rollout.withdrawing, "hold": rollout.holding}


def take_back(node: Node, how: str) -> None:
    """Withdraw or hold the newer release."""
    rollout.take(node.repository.folder, DECISIONS[how](NAME, reason="eats data"), now=now())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path)


@pytest.mark.parametrize("how", DECISIONS)
@pytest.mark.parametrize("command", ["check-update", "why", "update", "update-image", "prepare", "plan"])
def test_the_next_look_takes_back_what_waits_for_a_restart(node: Node, how: str, command: str) -> None:
    assert node.updog("update").status == DONE
    take_back(node, how)
    assert node.updog(command).status == NOTHING
    assert node.view().next is Slot.A
    assert node.codes()[-1] == "recalled"
    assert "does not boot" in node.updog("status").out
    assert node.boot().document["version"] == RUNNING


@pytest.mark.parametrize("how", DECISIONS)
def test_apply_refuses_what_was_taken_back_also_without_the_network(node: Node, how: str) -> None:
    assert node.updog("update-image").status == DONE
    take_back(node, how)
    assert node.updog("check-update").status == NOTHING
    node.lose_repository()
    before = node.disk_digest()
    said = node.updog("update-apply", "--reboot")
    assert said.status == REFUSED
    assert {"withdraw": "is withdrawn", "hold": "been held by its publisher"}[how] in said.err
    assert node.disk_digest() == before
    assert node.codes().count("recalled") == 1


def test_a_look_records_it_once_however_often_it_looks(node: Node) -> None:
    assert node.updog("update").status == DONE
    take_back(node, "hold")
    for _ in range(3):
        assert node.updog("check-update").status == NOTHING
    assert node.codes().count("recalled") == 1


def test_a_hold_that_is_lifted_lets_the_installed_update_boot_without_another_download(node: Node) -> None:
    assert node.updog("update").status == DONE
    take_back(node, "hold")
    assert node.updog("update").status == NOTHING
    rollout.take(node.repository.folder, rollout.resuming(NAME), now=now())
    said = node.updog("update")
    assert said.status == DONE
    assert "is already in slot B" in said.err
    assert node.boot().document["version"] == NEWER


def test_one_that_waits_goes_on_waiting_while_the_repository_cannot_be_reached(node: Node) -> None:
    assert node.updog("update").status == DONE
    node.lose_repository()
    assert node.updog("check-update").status not in {DONE, NOTHING}
    assert node.view().next is Slot.B


def test_one_that_runs_on_trial_is_judged_by_its_health(node: Node) -> None:
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWER
    take_back(node, "hold")
    assert node.updog("check-update").status == NOTHING
    assert node.updog("confirm").status == DONE
    assert "recalled" not in node.codes()


class TestReboot:
    """``--reboot`` restarts into an update that is already waiting."""

    @pytest.fixture
    def node(self, tmp_path: Path) -> Node:
        node = make_node(tmp_path)
        node.configure(reboot_command=["touch", str(node.folder / "restarted")])
        return node

    @pytest.mark.parametrize("command", ["update", "update-apply"])
    def test_after_an_update_by_hand(self, node: Node, command: str) -> None:
        assert node.updog("update").status == DONE
        assert node.updog(command).status == NOTHING
        assert not (node.folder / "restarted").exists()
        status, said = ran(node, command, "--reboot")
        assert (status, "already boots next; restarting" in said) == (DONE, True)
        assert (node.folder / "restarted").exists()

    @pytest.mark.parametrize("command", ["update", "update-apply"])
    def test_after_a_reboot_command_that_failed(self, node: Node, command: str) -> None:
        node.configure(reboot_command=["false"])
        assert ran(node, "update", "--reboot")[0] not in {DONE, NOTHING}
        node.configure(reboot_command=["touch", str(node.folder / "restarted")])
        assert ran(node, command, "--reboot")[0] == DONE
        assert (node.folder / "restarted").exists()

    @pytest.mark.parametrize("command", ["update", "update-apply"])
    def test_not_into_what_was_taken_back(self, node: Node, command: str) -> None:
        assert node.updog("update").status == DONE
        take_back(node, "withdraw")
        assert node.updog("check-update").status == NOTHING
        assert node.updog(command, "--reboot").status in {NOTHING, REFUSED}
        assert not (node.folder / "restarted").exists()

    def test_not_where_nothing_waits(self, node: Node) -> None:
        assert node.updog("update-apply", "--reboot").status == NOTHING
        assert not (node.folder / "restarted").exists()
