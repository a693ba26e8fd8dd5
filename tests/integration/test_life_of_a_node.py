"""The life of a node through its command line: every command, every way an update can end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from signpost.cli import program as signpost_program
from signpost.console import run as run_console
from signpost.gptprio import Flags
from signpost.sets import Slot
from tests.support.nodes import NEWER, NEWEST, RUNNING, Node, make_node, now
from updog.drill import Stage

if TYPE_CHECKING:
    from pathlib import Path

DONE, FAILED, USAGE, NOTHING, REFUSED, UNREACHABLE, BUSY = 0, 1, 2, 3, 4, 5, 75


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node that runs 1.0.0 from slot A, confirmed; 1.1.0 is available."""
    return make_node(tmp_path)


def _updated(node: Node) -> Node:
    """Bring the node to 1.1.0, confirmed."""
    assert node.updog("update").status == DONE
    assert node.boot().status == DONE
    assert node.updog("confirm").status == DONE
    return node


def _status(node: Node) -> dict[str, Any]:
    said = node.updog("status", "--json")
    assert said.status == DONE
    document: dict[str, Any] = said.document
    return document


# -- queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check-update", "whats"])
def test_an_update_is_announced_as_upstream_does(node: Node, command: str) -> None:
    said = node.updog(command)
    assert (said.status, said.out) == (DONE, "synthetic 1.1.0\n")
    said = node.updog(command, "--json")
    assert said.status == DONE
    assert said.document["version"] == NEWER
    assert set(said.document["images"]) == {"boot", "root", "hash"}


def test_no_update_is_status_3_with_the_reason_on_stderr(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[])
    said = node.updog("check-update")
    assert (said.status, said.out) == (NOTHING, "")
    assert "nothing newer is published" in said.err
    assert node.updog("check-update", "--json").document["update"] is None
    for command in ("update", "update-image", "prepare"):
        said = node.updog(command)
        assert said.status == NOTHING
        assert "updog why" in said.err


def test_every_release_is_listed_with_its_verdict(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[NEWER, NEWEST])
    verdicts = {each["version"]: each["verdict"] for each in node.updog("whats", "--all", "--json").document}
    assert verdicts == {NEWEST: "chosen", NEWER: "superseded", RUNNING: "running"}
    assert len(node.updog("check-update", "--all").out.splitlines()) == 3


def test_why_tells_the_wave_and_when_it_opens(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[], seed=2000)
    node.publish(NEWER, waves="default", start_at=now() + timedelta(days=1))
    said = node.updog("why")
    assert said.status == NOTHING
    assert "opens for this node (seed 2000, wave" in said.out
    document = node.updog("why", "--json").document
    assert document["chosen"] is None
    assert document["releases"][0]["verdict"] == "waiting"
    assert document["releases"][0]["ready_at"]
    assert node.updog("update").status == NOTHING
    assert node.updog("check-update", "--now").status == DONE
    assert node.updog("update", "--ignore-waves").status == DONE


def test_a_version_can_be_asked_for_by_hand(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[NEWER, NEWEST])
    assert node.updog("why", "--image", NEWER).out.startswith("1.1.0 is chosen: it is the requested version.")
    assert node.updog("update", "-i", f"v{NEWER}").status == DONE
    assert node.boot().document["version"] == NEWER


@pytest.mark.parametrize(("words", "status"), [(("-i", "9.9.9"), NOTHING), (("-i", "nine"), USAGE)])
def test_a_version_that_is_not_there_is_not_taken(node: Node, words: tuple[str, ...], status: int) -> None:
    before = node.disk_digest()
    assert node.updog("update", *words).status == status
    assert node.disk_digest() == before


def test_a_locked_node_takes_exactly_its_version_and_goes_down_to_it(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[NEWER, NEWEST], version_lock=NEWER)
    _updated(node)
    assert node.updog("check-update").status == NOTHING
    node.configure(version_lock=RUNNING)
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == RUNNING


# -- updates that succeed ----------------------------------------------------------------------------


def test_an_update_is_installed_applied_started_and_confirmed(node: Node) -> None:
    assert node.updog("update").out == "Update applied: synthetic 1.1.0; it runs after a restart.\n"
    assert node.holds(Slot.B, NEWER)
    assert node.holds(Slot.A, RUNNING)
    assert _status(node)["standing"] == "waiting for a restart"
    assert node.boot().document == {"slot": "B", "version": NEWER, "down_at": None, "standing": "on trial"}
    assert "NOT confirmed" in node.updog("status").out
    assert node.updog("confirm").out == "This boot is confirmed.\n"
    status = _status(node)
    assert status["running"] == {"variant": "synthetic", "version": NEWER, "slot": "B", "confirmed": True}
    assert (status["pending"], status["last_rollback"], status["denied"]) == (None, None, [])
    assert node.flags(Slot.B) == Flags(priority=2, successful=True)
    assert node.codes() == ["installed", "applied", "confirmed"]
    assert node.view().ever_booted


def test_an_update_in_single_steps_is_installed_applied_started_and_confirmed(node: Node) -> None:
    before = node.disk_digest()
    assert node.updog("prepare").status == DONE
    assert node.disk_digest() == before
    assert node.updog("update-image").status == DONE
    assert (node.flags(Slot.B), node.view().next) == (Flags(tries=1), Slot.A)
    assert _status(node)["standing"] == "staged"
    assert node.updog("update-apply").status == DONE
    assert node.view().next is Slot.B
    assert node.updog("update-revert").status == DONE
    assert (node.flags(Slot.B), node.view().next) == (Flags(tries=1), Slot.A)
    assert node.updog("update-apply").status == DONE
    node.boot()
    assert node.updog("confirm").status == DONE
    assert node.codes() == ["installed", "applied", "reverted", "applied", "confirmed"]


def test_updates_alternate_between_the_slots(tmp_path: Path) -> None:
    node = _updated(make_node(tmp_path))
    node.publish(NEWEST)
    _updated(node)
    assert _status(node)["running"]["version"] == NEWEST
    assert (node.holds(Slot.A, NEWEST), node.holds(Slot.B, NEWER)) == (True, True)
    assert node.flags(Slot.B) == Flags(priority=1, successful=True)


def test_lz4_images_as_upstream_makes_them_are_installed(tmp_path: Path) -> None:
    from repo_tools.images.packing import Packing

    node = make_node(tmp_path, published=[])
    node.publish(NEWER, packing=Packing(compression="lz4", level=1))
    _updated(node)
    assert node.holds(Slot.B, NEWER)


def test_without_a_spool_the_images_stream_into_the_slot(tmp_path: Path) -> None:
    node = make_node(tmp_path, spool=False)
    said = node.updog("update")
    assert said.status == DONE
    assert "streaming into the slot" in said.err
    assert not list(
        (node.folder / "state").glob("spool/*")
    )  # only the small indexes were there, for a short time
    assert node.holds(Slot.B, NEWER)


def test_what_was_prepared_is_installed_without_the_targets(node: Node) -> None:
    assert node.updog("prepare").status == DONE
    for image in (node.repository.folder / "targets").glob("*-1.1.0-*"):
        image.unlink()
    assert node.updog("update").status == DONE
    assert not list((node.folder / "state" / "spool").iterdir())


def test_a_second_update_to_the_same_version_says_that_it_waits(node: Node) -> None:
    assert node.updog("update").status == DONE
    before = node.disk_digest()
    said = node.updog("update")
    assert said.status == NOTHING
    assert "already boots next" in said.err
    assert node.updog("update-apply").status == NOTHING
    assert node.updog("update-image").status == DONE
    assert node.disk_digest() == before


def test_a_staged_update_is_not_fetched_again(node: Node) -> None:
    assert node.updog("update-image").status == DONE
    node.repository.folder.joinpath("targets").rename(node.folder / "gone")
    said = node.updog("update")
    assert "is already in slot B" in said.err
    assert said.status == DONE
    assert node.view().next is Slot.B


def test_a_newer_version_takes_the_place_of_one_that_waits_for_a_restart(node: Node) -> None:
    """It is applied as the previous one was, not only staged."""
    assert node.updog("update").status == DONE
    node.publish(NEWEST)
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWEST
    assert node.updog("confirm").status == DONE


@pytest.mark.parametrize("words", [("update-image",), ("update",)])
def test_a_slot_cleared_by_hand_is_written_again(node: Node, words: tuple[str, ...]) -> None:
    assert node.updog(*words).status == DONE
    disk = str(node.disk)
    assert (
        run_console(signpost_program, ["--disk", disk, "--active", "A", "clear-inactive", "--json"]) == DONE
    )
    assert node.updog("update-apply").status == NOTHING
    assert _status(node)["standing"] == "none"
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWER


# -- without the network -----------------------------------------------------------------------------


def test_apply_revert_status_confirm_need_no_repository(node: Node) -> None:
    """D55: an expired repository does not matter either, because it is not used."""
    assert node.updog("update-image").status == DONE
    node.lose_repository()
    for command in ("update-apply", "update-revert", "update-apply", "status", "history", "deny-list"):
        assert node.updog(command).status == DONE
    assert node.boot().status == DONE
    for command in ("boot-record", "confirm", "status"):
        assert node.updog(command).status == DONE
    assert node.updog("verify", "--slot", "B").status == DONE
    assert _status(node)["running"]["version"] == NEWER


@pytest.mark.parametrize("command", ["check-update", "whats", "why", "prepare", "update", "update-image"])
def test_a_repository_that_is_gone_is_status_5_and_touches_nothing(node: Node, command: str) -> None:
    node.lose_repository()
    before = node.disk_digest()
    said = node.updog(command, "--json")
    assert said.status == UNREACHABLE
    assert said.document["error"]["status"] == UNREACHABLE
    assert node.disk_digest() == before


def test_targets_that_are_gone_are_found_out_before_the_slot_is_given_up(tmp_path: Path) -> None:
    for name, spool in (("spooled", True), ("streamed", False)):
        node = make_node(tmp_path / name, spool=spool)
        for image in (node.repository.folder / "targets").glob("*-1.1.0-boot.*"):
            image.unlink()
        before = node.disk_digest()
        assert node.updog("update").status == UNREACHABLE
        assert node.disk_digest() == before


def test_an_image_that_is_not_what_was_signed_is_refused_before_the_slot_is_given_up(node: Node) -> None:
    """D51; and the wrong data is not kept."""
    root = "*-1.1.0-root.erofs.zst"
    images = {
        image: image.read_bytes()
        for pattern in (root, f"{root}.delta-1.0.0")
        for image in (node.repository.folder / "targets").glob(pattern)
    }
    for image, data in images.items():
        image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = node.disk_digest()
    assert node.updog("update").status == REFUSED
    assert node.disk_digest() == before
    for image, data in images.items():
        image.write_bytes(data)
    assert node.updog("update").status == DONE


def test_a_streamed_image_that_is_not_what_was_signed_never_counts_as_valid(tmp_path: Path) -> None:
    node = make_node(tmp_path, spool=False)
    boot = "*-1.1.0-boot.ext4.zst"
    for pattern in (boot, f"{boot}.delta-1.0.0"):
        for image in (node.repository.folder / "targets").glob(pattern):
            data = image.read_bytes()
            image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert node.updog("update").status == REFUSED
    assert node.flags(Slot.B) == Flags()
    assert node.view().next is Slot.A
    assert node.updog("update-apply").status == NOTHING
    assert node.boot().document["version"] == RUNNING


# -- updates that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.KERNEL, Stage.VERITY, Stage.INIT])
def test_a_start_that_fails_falls_back_says_where_and_is_not_tried_again(node: Node, stage: Stage) -> None:
    """D43."""
    assert node.updog("update").status == DONE
    down = node.boot(stage)
    assert down.status == FAILED
    assert down.document["down_at"] == stage
    assert node.updog("status").status == FAILED  # there is no repository
    up = node.boot()
    assert up.document == {"slot": "A", "version": RUNNING, "down_at": None, "standing": "fell back"}
    status = _status(node)
    assert status["last_rollback"]["code"] == "boot-failed"
    assert f"failed at stage {stage}" in str(status["last_rollback"]["sentence"])
    assert [each["version"] for each in status["denied"]] == [NEWER]
    assert f"stage {stage}" in node.updog("history").out
    assert f"stage {stage}" in node.updog("deny-list").out
    before = node.disk_digest()
    assert node.updog("check-update").status == NOTHING
    assert node.updog("update").status == NOTHING
    refused = node.updog("update")
    assert f"failed at stage {stage}" in refused.err
    assert f"`updog deny-list --clear {NEWER}`" in refused.err
    forced = node.updog("update", "--image", NEWER)
    assert forced.status == REFUSED
    assert f"failed at stage {stage}" in forced.err
    assert f"`updog deny-list --clear {NEWER}`" in forced.err
    assert node.disk_digest() == before


def test_a_higher_version_is_taken_and_once_confirmed_clears_the_denial(node: Node) -> None:
    """D43."""
    node.updog("update")
    node.boot(Stage.INIT)
    node.boot()
    node.publish(NEWEST)
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWEST
    assert node.updog("deny-list", "--json").document != []
    assert _status(node)["last_rollback"]["version"] == NEWER
    assert node.updog("confirm").status == DONE
    assert node.updog("deny-list", "--json").document == []
    assert _status(node)["last_rollback"] is None  # over; the history still has it
    assert "boot-failed" in node.codes()


def test_a_denial_can_be_cleared_by_hand_and_is_then_taken_again(node: Node) -> None:
    node.updog("update")
    node.boot(Stage.KERNEL)
    node.boot()
    assert node.updog("deny-list", "--clear", NEWEST).status == NOTHING
    assert node.updog("deny-list", "--clear", NEWER).status == DONE
    assert node.codes()[-1] == "denial-cleared"
    _updated(node)
    assert _status(node)["running"]["version"] == NEWER


def test_a_boot_that_is_not_healthy_falls_back(node: Node) -> None:
    node.updog("update")
    node.boot(Stage.HEALTH)
    said = node.updog("confirm", "--json")
    assert said.status == REFUSED
    assert said.document["error"]["code"] == "unhealthy"
    assert "the service did not answer (drill)" in said.document["error"]["message"]
    assert "No reboot_command is configured" in said.err
    assert node.view().next is Slot.A
    assert node.boot().document["version"] == RUNNING
    status = _status(node)
    assert status["last_rollback"]["code"] == "health-check-failed"
    assert "10-drill: exited with status 1" in str(status["last_rollback"]["sentence"])
    assert node.updog("check-update").status == NOTHING


def test_the_reboot_after_an_unhealthy_boot_is_the_nodes_own(node: Node) -> None:
    node.updog("update")
    node.boot(Stage.HEALTH)
    node.configure(reboot_command=["touch", str(node.folder / "rebooted")])
    process = node.updog_process("confirm")
    _, err = process.communicate()
    assert process.returncode == REFUSED
    assert "failed its health check" in err
    assert (node.folder / "rebooted").exists()


def test_a_wanted_check_that_fails_is_a_warning(node: Node) -> None:
    """D39."""
    node.updog("update")
    node.boot()
    node.health_check("50-cache", "echo cold; exit 1", kind="wanted")
    said = node.updog("confirm", "--json")
    assert said.status == DONE
    assert said.document == {"confirmed": True, "warnings": ["50-cache: exited with status 1: cold"]}
    assert "warning: 50-cache" in said.err


def test_confirming_twice_is_no_fault_and_asks_no_check(node: Node) -> None:
    _updated(node)
    node.health_check("20-never", "exit 1")
    before = node.disk_digest()
    assert node.updog("confirm").status == DONE
    assert node.disk_digest() == before
    assert node.codes().count("confirmed") == 1


def test_an_update_is_refused_while_the_running_slot_is_not_confirmed(node: Node) -> None:
    """D44."""
    node.updog("update")
    node.boot()
    node.publish(NEWEST)
    before = node.disk_digest()
    for words in (("update",), ("update-image",), ("prepare",)):
        said = node.updog(*words)
        assert said.status == REFUSED
        assert "not confirmed" in said.err
        assert "updog confirm" in said.err
    assert node.disk_digest() == before


@pytest.mark.parametrize(
    ("role", "stage"), [("boot", Stage.KERNEL), ("root", Stage.VERITY), ("hash", Stage.VERITY)]
)
def test_a_slot_that_was_damaged_after_installation_never_starts(node: Node, role: str, stage: Stage) -> None:
    node.updog("update")
    node.damage(Slot.B, role, position=100)
    assert node.updog("verify", "--slot", "B").status == REFUSED
    assert node.boot().document["down_at"] == stage
    assert node.boot().document["version"] == RUNNING
    assert _status(node)["last_rollback"]["code"] == "boot-failed"


def test_with_both_slots_bad_the_node_reports_it_and_does_not_boot(node: Node) -> None:
    """D45."""
    node.updog("update")
    node.damage(Slot.B, "boot")
    assert node.boot().status == FAILED
    for slot in Slot:
        run_console(
            signpost_program, ["--disk", str(node.disk), "--active", slot, "clear-inactive", "--json"]
        )
    before = node.disk_digest()
    said = node.boot()
    assert said.status == REFUSED
    assert said.document["error"]["code"] == "nothing-bootable"
    assert "rescue" in said.document["error"]["next_step"]
    assert node.disk_digest() == before
    assert "no slot can be started" in (node.folder / "console.log").read_text()


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_quick_power_cycles_before_the_confirm_use_tries_and_no_more(tmp_path: Path, cycles: int) -> None:
    """D36: three tries."""
    node = make_node(tmp_path, tries=3)
    node.updog("update")
    for left in reversed(range(3 - cycles, 3)):
        assert node.boot().document["slot"] == "B"
        assert node.flags(Slot.B).tries == left
    assert node.updog("confirm").status == DONE
    assert node.flags(Slot.B) == Flags(priority=2, successful=True)
    for _ in range(5):
        assert node.boot().document["slot"] == "B"


def test_one_power_cycle_too_many_before_the_confirm_falls_back(tmp_path: Path) -> None:
    """D36."""
    node = make_node(tmp_path, tries=3)
    node.updog("update")
    for _ in range(3):
        node.boot()
    assert node.boot().document["standing"] == "fell back"
    assert "started, but was interrupted before it was confirmed" in str(
        _status(node)["last_rollback"]["sentence"]
    )


def test_all_failed_starts_are_reported(tmp_path: Path) -> None:
    node = make_node(tmp_path, tries=2)
    node.updog("update")
    node.boot(Stage.KERNEL)
    node.boot(Stage.INIT)
    node.boot()
    assert "failed at stage kernel, init" in str(_status(node)["last_rollback"]["sentence"])


def test_with_one_try_a_power_cycle_before_the_confirm_falls_back(node: Node) -> None:
    node.updog("update")
    assert node.boot().document["slot"] == "B"
    assert node.boot().document == {
        "slot": "A",
        "version": RUNNING,
        "down_at": None,
        "standing": "fell back",
    }


def test_going_back_by_hand_is_recorded_as_such(node: Node) -> None:
    node.updog("update")
    node.boot()
    words = ["--disk", str(node.disk), "--active", "B", "rollback-to-inactive", "--json"]
    assert run_console(signpost_program, words) == DONE
    assert node.boot().document["standing"] == "rolled back by hand"
    status = _status(node)
    assert status["last_rollback"]["code"] == "rolled-back-by-hand"
    assert [each["version"] for each in status["denied"]] == [NEWER]


def test_a_boot_confirmed_by_signpost_counts_and_is_in_the_history(node: Node) -> None:
    node.updog("update")
    node.boot()
    words = ["--disk", str(node.disk), "--active", "B", "mark-successful-boot", "--json"]
    assert run_console(signpost_program, words) == DONE
    assert node.updog("boot-record").status == DONE
    assert _status(node)["pending"] is None
    assert node.codes()[-1] == "confirmed"


def test_a_withdrawn_version_is_left_for_the_one_below(tmp_path: Path) -> None:
    from repo_tools.releases.release import ReleaseName
    from repo_tools.releases.rollout import take, withdrawing
    from updog.update_metadata.version import Version

    node = _updated(make_node(tmp_path))
    take(node.repository.folder, withdrawing(ReleaseName(version=Version.parse(NEWER))), now=now())
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == RUNNING
    assert node.updog("confirm").status == DONE


# -- wrong disk, busy, damaged state -----------------------------------------------------------------


def test_a_new_node_has_nothing_to_apply_or_revert(node: Node) -> None:
    before = node.disk_digest()
    for command in ("update-apply", "update-revert"):
        assert node.updog(command).status == NOTHING
    assert node.disk_digest() == before


def test_verify_reads_the_running_slot_and_says_which_image_is_damaged(node: Node) -> None:
    said = node.updog("verify", "--json")
    assert said.status == DONE
    assert said.document["slot"] == "A"
    assert {role: image["good"] for role, image in said.document["images"].items()} == {
        "boot": True,
        "root": True,
        "hash": True,
    }
    assert "Slot A matches what was signed." in node.updog("verify").out
    assert node.updog("verify", "--slot", "B").status == FAILED
    node.damage(Slot.A, "root", 70_000)
    said = node.updog("verify")
    assert said.status == REFUSED
    assert "is damaged: root" in said.err


def test_a_damaged_state_file_costs_the_history_but_no_update(node: Node) -> None:
    """D76."""
    node.updog("update")
    node.boot(Stage.INIT)
    node.boot()
    node.state_file.write_bytes(node.state_file.read_bytes()[:100])
    assert node.updog("status").status == DONE
    assert node.updog("check-update").status == DONE  # the denial is lost, and that is reported
    assert node.codes() == ["state-lost"]
    assert (node.folder / "state" / "state.json.damaged").exists()
    assert "are empty again" in node.updog("history").out
    assert node.updog("verify").status == DONE
    _updated(node)
    assert _status(node)["running"]["version"] == NEWER


def test_a_second_updog_reports_that_one_is_running(node: Node) -> None:
    """D75: a real process holds the lock; commands that only read still work."""
    lock = node.folder / "state" / "lock"
    holder = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo locked; read -r line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        before = node.disk_digest()
        for command in ("check-update", "update", "update-apply", "confirm", "boot-record", "verify"):
            assert node.updog(command).status == BUSY
        for command in ("status", "history", "deny-list"):
            assert node.updog(command).status == DONE
        assert node.disk_digest() == before
        holder.communicate("go\n")
    assert node.updog("update").status == DONE


def test_two_updogs_at_once_leave_one_good_update(node: Node) -> None:
    """D75: four real processes race; those that do not get the lock report that."""
    racers = [node.updog_process("update") for _ in range(4)]
    statuses = []
    for racer in racers:
        racer.communicate()
        statuses.append(racer.returncode)
    assert statuses.count(DONE) == 1
    assert set(statuses) <= {DONE, BUSY, NOTHING}
    assert node.holds(Slot.B, NEWER)
    assert node.view().next is Slot.B


# -- what goes to stdout -----------------------------------------------------------------------------


DOCUMENTS = [
    ("check-update",),
    ("check-update", "--all"),
    ("whats",),
    ("why",),
    ("status",),
    ("history",),
    ("verify",),
    ("deny-list",),
    ("confirm",),
    ("boot-record",),
]


@pytest.mark.parametrize("words", DOCUMENTS, ids=" ".join)
def test_json_is_one_document_and_nothing_else(node: Node, words: tuple[str, ...]) -> None:
    said = node.updog(*words, "--json", options=["--log-level", "debug"])
    assert said.status == DONE
    assert isinstance(said.document, dict | list)


@pytest.mark.parametrize("command", ["prepare", "update-image", "update"])
def test_long_work_is_one_event_a_line_and_ends_in_its_result(node: Node, command: str) -> None:
    said = node.updog(command, "--json")
    assert said.status == DONE
    events = said.events
    assert {event["event"] for event in events[:-1]} <= {"progress", "step"}
    assert events[-1]["event"] == "result"
    assert (events[-1]["command"], events[-1]["version"]) == (command, NEWER)
    progress = [event for event in events[:-1] if event["event"] == "progress"]
    phases = [event["phase"] for event in progress]
    assert "fetch root" in phases
    assert ("write root" in phases) == (command != "prepare")
    for event in progress:
        assert event["done"] <= event["total"]


@pytest.mark.parametrize("command", ["update-apply", "update-revert", "prepare"])
def test_a_failure_before_any_event_is_one_document(tmp_path: Path, command: str) -> None:
    node = make_node(tmp_path, published=[])
    said = node.updog(command, "--json")
    assert said.status == NOTHING
    assert set(said.document["error"]) == {"code", "message", "next_step", "status"}


def test_a_real_process_keeps_progress_off_stdout(node: Node) -> None:
    process = node.updog_process("update")
    out, err = process.communicate()
    assert process.returncode == DONE
    assert out == "Update applied: synthetic 1.1.0; it runs after a restart.\n"
    assert "\nwrite 3 items: " in f"\n{err}"
    process = node.updog_process("status", "--json")
    out, err = process.communicate()
    assert json.loads(out)["standing"] == "waiting for a restart"
    assert err == ""


# -- killed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Return a node with slots and an update large enough to be killed in the middle of writing."""
    from tests.support.nodes import make_large_node

    return make_large_node(tmp_path_factory.mktemp("large"), root_size=8 << 20)


@pytest.mark.parametrize(
    ("stop", "delay"),
    [
        (signal.SIGKILL, 0.0),
        (signal.SIGKILL, 0.01),
        (signal.SIGKILL, 0.03),
        (signal.SIGTERM, 0.01),
        (signal.SIGINT, 0.01),
    ],
)
def test_killed_while_it_writes_and_run_again_it_completes(
    large: Node, tmp_path: Path, delay: float, stop: signal.Signals
) -> None:
    """D01, D74: real processes, killed at a random moment after the last piece was fetched."""
    node = large.copy(tmp_path / "node")
    process = node.updog_process("update", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("phase") == "fetch boot":
            break
    time.sleep(delay)
    process.send_signal(stop)
    process.communicate()
    view = node.view()
    assert view.slots[Slot.A].flags.successful
    assert not view.slots[Slot.B].flags.successful
    if view.slots[Slot.B].flags.tries:
        assert node.holds(Slot.B, NEWER)
    assert node.updog("status").status == DONE
    again = node.updog_process("update")
    _, err = again.communicate()
    assert again.returncode in {DONE, NOTHING}, err
    assert node.holds(Slot.B, NEWER)
    assert node.boot().document["version"] == NEWER
    assert node.updog("confirm").status == DONE
