"""The command line: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest

from signpost import console, sets
from signpost.cli import program
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from tests.signpost.test_blockdev import rooted
from tests.support import disks

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    "cancel-upgrade",
    "clear-inactive",
    "completion",
    "grow",
    "has-boot-ever-succeeded",
    "mark-inactive-valid",
    "mark-successful-boot",
    "next",
    "repair",
    "rescue",
    "rewrite-table",
    "rollback-to-inactive",
    "status",
    "upgrade-to-inactive",
}


class Line:
    """Runs commands on a disk in a file and keeps their output."""

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capture = capture
        self.out = self.err = ""

    def put(self, disk: bytes) -> None:
        """Put a disk in the file."""
        self.path.write_bytes(disk)

    def run(self, *words: str, disk: bool = True) -> int:
        """Run a command line and return its exit status."""
        status = console.run(program, [*(["--disk", str(self.path)] if disk else []), *words])
        self.out, self.err = self._capture.readouterr()
        return status

    def json(self, *words: str) -> Any:
        """Run a command line with --json, which must succeed, and return the document."""
        assert self.run(*words, "--json") == 0
        assert self.err == ""
        return json.loads(self.out)

    @property
    def flags(self) -> list[Flags]:
        """The flags on the disk."""
        return disks.boot_flags(disks.trusted(self.path.read_bytes()))


@pytest.fixture
def line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    """A disk whose slot A runs and whose slot B is empty."""
    made = Line(tmp_path / "disk.img", capsys)
    made.put(disks.make_disk())
    return made


class TestStatus:
    def test_it_shows_each_slots_own_partitions_and_flags(self, line: Line) -> None:
        line.put(disks.make_disk((disks.RUNNING, Flags(priority=2, tries=3))))
        assert line.run("--active", "A", "status") == 0
        assert line.err == ""
        assert line.out == (
            f"disk    {line.path} (512-byte sectors, GUID {disks.guid(999)})\n"
            "active  A\n"
            "next    B\n"
            "\n"
            "slot  boot  root  hash  priority  tries  successful\n"
            "A     #1    #2    #3    1         0      yes         active\n"
            "B     #4    #5    #6    2         3      no          next\n"
        )

    def test_one_slot_can_be_active_and_next(self, line: Line) -> None:
        line.run("--active", "A", "status")
        assert line.out.splitlines()[-2].endswith("yes         active, next")

    def test_faults_are_shown_with_the_next_step(self, line: Line) -> None:
        line.put(disks.put(disks.make_disk(), -512, bytes(512)))
        assert line.run("status", "--active", "B") == 0
        assert line.out.endswith(
            "\nfaults of the partition table:\n  - backup: no GPT signature\n  next: run `signpost repair`\n"
        )

    def test_a_disk_that_cannot_boot_reports_it(self, line: Line) -> None:
        """D35."""
        line.put(disks.make_disk((Flags(), Flags())))
        line.run("--active", "A", "status")
        assert "next    nothing: no slot can boot" in line.out

    def test_a_third_boot_partition_is_refused(self, line: Line) -> None:
        """D28."""
        third = Flags(priority=3, tries=1)
        line.put(disks.make_disk((disks.RUNNING, Flags(), third), types=(*disks.TWO_SLOTS, sets.BOOT)))
        assert line.run("--active", "A", "status") == 1
        assert "3 BOOT partitions (3 BOOT, 2 ROOT, 2 HASH)" in line.err

    def test_without_a_running_root_on_the_disk_no_slot_is_active(self, line: Line) -> None:
        assert line.run("status") == 0
        assert "active  not known" in line.out
        assert line.json("status")["active"] is None

    def test_json_has_the_same_facts(self, line: Line) -> None:
        found = line.json("status", "--active", "A")
        assert found["active"] == found["next"] == "A"
        assert found["slots"]["B"]["boot"] == {
            "number": 4,
            "offset": disks.trusted(disks.make_disk()).extent(3).offset,
            "size": 4096,
            "label": "partition 4",
            "guid": disks.guid(3),
            "device": None,
        }
        assert (found["slots"]["A"]["priority"], found["slots"]["A"]["successful"]) == (1, True)
        assert (found["faults"], found["single"], found["ever_booted"]) == ([], False, False)

    def test_reading_commands_never_write(self, line: Line) -> None:
        bad = disks.put(disks.make_disk(), -512, bytes(512))
        line.put(bad)
        line.run("status")
        line.run("next")
        line.run("has-boot-ever-succeeded")
        assert line.path.read_bytes() == bad

    def test_the_running_slot_is_found_through_sysfs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = Line(tmp_path / "disk.img", capsys)
        tree = rooted(tmp_path, 5, root="/")
        assert line.run("--sysfs", str(tree.root), "status", disk=False) == 0
        assert "active  B\n" in line.out
        assert line.run("--sysfs", str(tree.root), "mark-successful-boot", disk=False) == 0
        assert line.flags[1] == Flags(successful=True)


class TestTransitions:
    def test_an_updates_commands_set_the_flags_step_by_step(self, line: Line) -> None:
        steps = {
            "clear-inactive": Flags(),
            "mark-inactive-valid": Flags(tries=1),
            "upgrade-to-inactive": Flags(priority=2, tries=1),
            "cancel-upgrade": Flags(tries=1),
        }
        for command, expected in steps.items():
            assert line.run(command, "--active", "A") == 0
            assert line.flags[1] == expected
        assert line.flags[0] == Flags(priority=2, successful=True)

    def test_the_flags_afterwards_are_printed(self, line: Line) -> None:
        line.run("--active", "A", "mark-inactive-valid", "--tries", "3")
        assert line.out == (
            "A: priority 1, tries 0, successful (active, next)\nB: priority 0, tries 3, not successful\n"
        )

    def test_json_prints_the_status_afterwards(self, line: Line) -> None:
        line.put(disks.make_disk((disks.RUNNING, Flags(priority=2))))
        found = line.json("--active", "B", "mark-successful-boot")
        assert found["ever_booted"] is True
        assert found["slots"]["B"]["successful"] is True
        assert line.run("has-boot-ever-succeeded") == 0
        assert line.out == "true\n"

    def test_rollback_swaps_the_priorities(self, line: Line) -> None:
        line.put(disks.make_disk((disks.RUNNING, Flags(priority=2, successful=True))))
        assert line.run("--active", "B", "rollback-to-inactive") == 0
        assert line.flags == [Flags(priority=2, successful=True), Flags(priority=1, successful=True)]

    def test_a_rescue_needs_no_running_slot(self, line: Line) -> None:
        line.put(disks.make_disk((Flags(), Flags())))
        assert line.run("next") == 4
        assert line.run("rescue", "B", "--tries", "2") == 0
        assert "B: priority 2, tries 2, not successful (next)" in line.out
        assert line.run("next") == 0
        assert line.out == "B\n"
        assert line.json("rescue", "A")["next"] == "A"
        assert line.run("rescue", "C") == 2

    def test_a_refusal_is_status_4_with_the_reason_and_the_next_step(self, line: Line) -> None:
        before = line.path.read_bytes()
        assert line.run("--active", "A", "upgrade-to-inactive") == 4
        assert line.out == ""
        assert line.err == (
            "signpost: upgrade-to-inactive refused: the inactive slot has not been marked valid for upgrade "
            "(priority 0, tries 0, not successful)\n"
            "  next: Write an image to it, then run `signpost mark-inactive-valid`.\n"
        )
        assert line.path.read_bytes() == before

    def test_a_refusal_with_json_is_a_document(self, line: Line) -> None:
        assert line.run("--active", "A", "rollback-to-inactive", "--json") == 4
        error = json.loads(line.out)["error"]
        assert (error["code"], error["status"]) == ("transition-refused", 4)

    def test_a_busy_disk_is_status_75(self, line: Line) -> None:
        other = OsMedium()
        descriptor = other.open(str(line.path), write=False)
        other.lock(descriptor)
        assert line.run("rewrite-table") == 75
        assert "is locked by another program" in line.err
        other.close(descriptor)
        assert line.run("rewrite-table") == 0

    @pytest.mark.parametrize("tries", ["0", "16", "many"])
    def test_tries_out_of_range_are_status_2(self, line: Line, tries: str) -> None:
        assert line.run("--active", "A", "mark-inactive-valid", "--tries", tries) == 2

    def test_a_running_slot_that_is_not_known_is_status_2(self, line: Line) -> None:
        assert line.run("clear-inactive") == 2
        assert "--active" in line.err

    def test_a_slot_without_a_disk_is_status_2(self, line: Line) -> None:
        assert line.run("status", "--active", "A", disk=False) == 2
        assert "--active needs --disk" in line.err


class TestNext:
    def test_next_without_write_counts_no_try(self, line: Line) -> None:
        line.put(disks.make_disk((disks.RUNNING, Flags(priority=2, tries=2))))
        assert [line.run("next"), line.out] == [0, "B\n"]
        assert line.flags[1].tries == 2

    def test_next_with_write_counts_a_try(self, line: Line) -> None:
        line.put(disks.make_disk((disks.RUNNING, Flags(priority=2, tries=2))))
        assert [line.run("next", "--write") or line.out for _ in range(3)] == ["B\n", "B\n", "A\n"]
        assert line.flags == [disks.RUNNING, Flags(priority=2)]

    def test_json_has_the_slots_partitions(self, line: Line) -> None:
        found = line.json("next", "--write")
        assert (found["slot"], found["taken"], found["root"]["number"]) == ("A", True, 2)

    @pytest.mark.parametrize("words", [["next"], ["next", "--write"]])
    def test_nothing_to_boot_is_status_4(self, line: Line, words: list[str]) -> None:
        """D35."""
        line.put(disks.make_disk((Flags(), Flags(priority=3))))
        assert line.run(*words) == 4
        assert "no slot can boot" in line.err


class TestTable:
    def test_repair_prints_the_faults_and_then_finds_nothing_to_repair(self, line: Line) -> None:
        sound = line.path.read_bytes()
        line.put(disks.put(sound, 512, bytes(512)))
        assert line.run("repair") == 0
        assert line.out == f"{line.path}: repaired:\n  - primary: no GPT signature\n"
        assert line.path.read_bytes() == sound
        line.run("repair")
        assert line.out == f"{line.path}: nothing to repair\n"
        assert line.json("repair") == {"disk": str(line.path), "repaired": []}

    def test_rewrite_table_leaves_the_disk_as_it_is(self, line: Line) -> None:
        assert line.json("rewrite-table") == {"rewritten": str(line.path)}
        assert line.path.read_bytes() == disks.make_disk()

    def test_has_boot_ever_succeeded_prints_nothing_for_no(self, line: Line) -> None:
        assert line.run("has-boot-ever-succeeded") == 0
        assert line.out == ""
        assert line.json("has-boot-ever-succeeded") == {"ever_booted": False}

    @pytest.mark.parametrize("command", [*sorted(COMMANDS - {"completion", "rescue"}), "rescue A"])
    def test_two_bad_copies_are_status_1_and_the_file_stays_bit_for_bit(
        self, line: Line, command: str
    ) -> None:
        """D23, every command."""
        bad = disks.put(disks.flip(disks.make_disk(), 530), -512, bytes(512))
        line.put(bad)
        assert line.run(*command.split(), "--active", "A") == 1
        assert "both copies of the partition table are invalid" in line.err
        assert line.path.read_bytes() == bad

    def test_a_disk_without_slots_is_status_1(self, line: Line) -> None:
        """D29."""
        line.put(disks.make_disk((), types=[sets.EFI_SYSTEM]))
        assert line.run("--active", "A", "status") == 1
        assert "no BOOT-A" in line.err

    def test_a_disk_that_is_not_there_is_status_1(self, line: Line) -> None:
        line.path.unlink()
        assert line.run("--active", "A", "status") == 1
        assert f"cannot open {line.path}: No such file or directory" in line.err


class TestHelp:
    def test_the_program_has_exactly_the_documented_commands(self) -> None:
        assert set(program.commands) == COMMANDS

    @pytest.mark.parametrize("command", sorted(COMMANDS))
    def test_every_command_has_an_example_and_no_marks_of_its_source(self, line: Line, command: str) -> None:
        assert line.run(command, "--help", disk=False) == 0
        assert "\n  Example:\n    " in line.out
        assert "\\b" not in line.out
        if command != "completion":
            assert "Exit status: 0" in line.out
            assert {"--disk", "--active", "--json"} <= set(line.out.split())

    def test_the_group_lists_the_exit_statuses(self, line: Line) -> None:
        line.run("--help", disk=False)
        for status in ("0  ", "1  ", "2  ", "4  ", "75 "):
            assert f"\n    {status}" in line.out

    def test_an_unknown_command_is_status_2(self, line: Line) -> None:
        assert line.run("upgrade") == 2

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_prints_a_script_for_each_shell(self, line: Line, shell: str) -> None:
        assert line.run("completion", shell, disk=False) == 0
        assert "_SIGNPOST_COMPLETE" in line.out


HEAVY = {
    "json",
    "logging",
    "pathlib",
    "rich",
    "subprocess",
    "socket",
    "tuf",
    "requests",
    "asyncio",
    "unittest",
}


class TestProcess:
    """The program as installed, in a process of its own."""

    @staticmethod
    def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python code with command-line arguments."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env=plain,
        )

    def test_main_exits_with_the_commands_status(self, line: Line) -> None:
        code = "from signpost.cli import main; main()"
        done = self.run(code, "--disk", str(line.path), "next")
        assert (done.returncode, done.stdout, done.stderr) == (0, "A\n", "")
        assert (
            self.run(code, "--disk", str(line.path), "--active", "A", "upgrade-to-inactive").returncode == 4
        )

    def test_status_starts_without_the_heavy_modules(self, line: Line) -> None:
        code = (
            "import sys; from signpost import cli, console\n"
            "console.run(cli.program, sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
        )
        done = self.run(code, "--disk", str(line.path), "--active", "A", "status")
        assert done.returncode == 0
        assert not HEAVY & set(done.stderr.split())


def test_the_version_of_click_in_use_has_what_the_console_needs() -> None:
    assert isinstance(program, click.Group)
