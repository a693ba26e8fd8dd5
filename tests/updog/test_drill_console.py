"""A node in a machine, over restarts and with a port that loses bytes; the machine is a program like QEMU."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import updog
from signpost.app import UnbootedDisk
from signpost.errors import NothingBootableError
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.support import fake_qemu
from tests.support.fake_qemu import GOING_DOWN, TAKING_A, TAKING_B, confirmed
from tests.support.nodes import disk_bytes, make_node
from tests.support.patience import eventually
from updog import config as configuration
from updog.auto.policy import Mode
from updog.drill.console import CONFIRMED, NOTHING_LEFT, NodeConsole, status_of, wait_until_judged
from updog.drill.drill_file import Kind, Until, parse
from updog.drill.emulated import EmulatedMachine, configure
from updog.drill.machine import DrillReleases
from updog.drill.qemu import Hardware
from updog.drill.shell import GoneError
from updog.drill.snapshots import Emulation
from updog.errors import DrillFailedError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = Path(updog.__file__).parent / "systemd"
SILENCE = 1.0
DRILL = parse("own", 'title = "Own"\nsteps = [{ do = "restart" }]\n[end]\nrunning = "first"\n')


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a node, see tests.support.fake_qemu."""
    monkeypatch.setenv("PATH", f"{fake_qemu.install(tmp_path)}:{os.environ['PATH']}")
    return tmp_path / "node"


@pytest.fixture
def console(node: Path, tmp_path: Path) -> Iterator[NodeConsole]:
    """Return its console, switched off."""
    console = NodeConsole(Hardware(stage=tmp_path), tmp_path / "disk.img", node / "console.log")
    yield console
    console.close()


def test_a_boot_is_judged_by_the_answers(node: Path, console: NodeConsole) -> None:
    console.switch_on()
    assert console.wait_until_up()
    assert wait_until_judged(console) == {"running": {"slot": "A", "confirmed": True}}
    asked = (node / "asked").read_text().splitlines()
    starters = {path.name for path in UNITS.iterdir() if path.suffix in {".socket", ".timer"}}
    assert starters | {"updog-agent.service"} < set(asked[0].split())
    assert asked[1:] == ["list-jobs --no-legend --no-pager --plain"]


@pytest.mark.parametrize("lose", [0, 3, 30, 40, 75, 110, 200])
def test_a_restart_after_which_the_port_loses_bytes_is_judged_all_the_same(
    node: Path, console: NodeConsole, lose: int
) -> None:
    """How `good-update` once failed: "neither confirmed nor left", while its console said confirmed."""
    (node / "starts").write_text(f"{TAKING_A}\n{TAKING_B}\n")
    console.switch_on()
    assert console.wait_until_up()
    (node / "lose").write_text(str(lose))
    with suppress(GoneError):  # it may be down before it has answered
        console.ask("systemctl reboot")
    assert eventually(console.is_gone)
    assert console.wait_until_up()
    assert wait_until_judged(console) is not None
    assert console.boots() == 2
    assert GOING_DOWN in console.emulator.said()


def test_a_node_that_restarts_while_it_is_judged_is_judged_by_its_last_start(
    node: Path, console: NodeConsole
) -> None:
    (node / "starts").write_text(f"{TAKING_B}\n{TAKING_A}\n")
    (node / "status").write_text(confirmed(yes=False))
    (node / "next-status").write_text(confirmed())
    console.switch_on()
    assert console.wait_until_up()
    falling_back = threading.Timer(1.0, (node / "reboot").touch)
    falling_back.start()
    status = wait_until_judged(console)
    falling_back.join()
    assert status is not None
    assert status["running"]["confirmed"]
    assert console.boots() == 2


@pytest.mark.parametrize("said", ["no slot can boot", "no slot can be started"])
def test_nothing_left_to_start_is_not_a_silence(node: Path, console: NodeConsole, said: str) -> None:
    (node / "starts").write_text(f"{TAKING_A}\nsignpost: /dev/vda: {said}\n")
    (node / "status").write_text(confirmed(yes=False))
    console.switch_on()
    assert console.wait_until_up()
    (node / "reboot").touch()
    assert wait_until_judged(console) is None


def test_a_shell_that_is_restarted_is_greeted_again(node: Path, console: NodeConsole) -> None:
    console.switch_on()
    assert console.wait_until_up()
    (node / "restart-shell").touch()
    assert eventually(lambda: not (node / "restart-shell").exists())
    assert wait_until_judged(console) is not None
    assert console.boots() == 1


def test_a_job_that_never_ends_is_named_with_what_the_node_says_of_itself(
    node: Path, console: NodeConsole
) -> None:
    (node / "jobs").write_text("41 drill.service start running\n7 multi-user.target start waiting\n")
    console.switch_on()
    assert console.wait_until_up()
    with pytest.raises(DrillFailedError) as caught:
        wait_until_judged(console, SILENCE)
    message = caught.value.message
    assert "neither confirmed nor left in" in message
    assert "though its console says that it is confirmed" in message
    jobs = "jobs that have not ended: drill.service start running, multi-user.target start waiting"
    assert f"the last answers were: confirmed, {jobs}; the console (" in message
    assert message.endswith("This boot is confirmed.")


def test_what_is_looked_for_on_the_console_is_what_the_programs_say(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(
        disk_bytes(dict.fromkeys(("boot", "root", "hash"), b""), flags={slot: Flags() for slot in Slot})
    )
    with pytest.raises(NothingBootableError) as caught:
        UnbootedDisk(OsMedium(), str(tmp_path / "disk.img")).predict()
    assert NOTHING_LEFT.search(caught.value.message)
    assert CONFIRMED in make_node(tmp_path / "node").updog("confirm").out


def test_what_the_console_says_is_not_an_answer(node: Path, console: NodeConsole) -> None:
    (node / "status").write_text(confirmed(yes=False))
    console.switch_on()
    assert console.wait_until_up()
    with pytest.raises(DrillFailedError, match="the last answers were: not confirmed, no job is left"):
        wait_until_judged(console, SILENCE)


@pytest.mark.parametrize("said", ["Traceback\n", '{"error": {"code": "busy"}}\n', '{"running": {}} {\n'])
def test_a_status_that_is_none_is_shown(node: Path, console: NodeConsole, said: str) -> None:
    (node / "status").write_text(said)
    console.switch_on()
    assert console.wait_until_up()
    with pytest.raises(DrillFailedError, match="`updog status` ended in status 0 and said"):
        status_of(console)
    with pytest.raises(DrillFailedError, match="the last answers were: `updog status` ended in status 0"):
        wait_until_judged(console, SILENCE)


def test_a_system_without_a_shell_has_not_come_up(node: Path, console: NodeConsole) -> None:
    (node / "starts").write_text("Linux version 6.1\n")
    console.switch_on()
    with pytest.raises(DrillFailedError, match=r"no system answered in [0-9]+ s; the console \(") as caught:
        console.wait_until_up(SILENCE)
    assert caught.value.message.endswith("Linux version 6.1")


def test_a_machine_that_does_not_start_says_why(node: Path, console: NodeConsole) -> None:
    (node / "broken").touch()
    with pytest.raises(DrillFailedError, match=r"QEMU ended as it started(.|\n)*something is wrong"):
        console.switch_on()


def test_a_node_under_drill_keeps_its_own_settings_but_for_the_repository_and_the_tries(
    tmp_path: Path,
) -> None:
    own, new = tmp_path / "updog.toml", tmp_path / "drill.toml"
    own.write_text(
        'metadata_base_url = "https://updates.example.com/metadata/"\n'
        'targets_base_url = "https://updates.example.com/targets/"\n'
        'seed = 7\n[auto]\nmode = "restart"\n[auto.fleet_lock]\nbase_url = "https://lock.example.com/"\n'
    )
    command = configure("http://10.0.2.2:8000", 3, own=str(own), new=str(new))
    subprocess.run(["sh", "-c", command], check=True)
    config = configuration.load(new)
    assert (str(config.metadata_base_url), config.tries) == ("http://10.0.2.2:8000/metadata/", 3)
    assert (config.seed, config.auto.mode) == (7, Mode.RESTART)
    assert config.auto.fleet_lock is not None


def test_a_machine_goes_on_from_a_saved_state_and_restarts(node: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    releases = DrillReleases(
        disk=tmp_path / "disk.img",
        metadata_url="file:///nowhere/",
        targets_url="file:///nowhere/",
        root=b"",
        variant="node",
        arch="x86_64",
        versions={Kind.FIRST: Version.parse("1.0.0")},
    )
    emulation = Emulation(hardware=Hardware(stage=tmp_path), folder=tmp_path / "prepared")
    machine = EmulatedMachine(tmp_path / "machine", releases, DRILL, emulation, random.Random(0))
    try:
        assert machine.start(Until.JUDGED)
        assert machine.boots == 0
        assert machine.status()["running"]["confirmed"]
        (node / "lose").write_text("40")
        assert machine.restart(Until.JUDGED)
        assert (machine.boots, machine.is_on) == (1, True)
    finally:
        machine.close()
        emulation.close()
