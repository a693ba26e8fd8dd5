"""The running system, read from trees of plain files: version, slot, boot, restart."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from signpost.bootrecord import Passed
from signpost.errors import ExitStatus, ToolError
from signpost.medium import OsMedium
from signpost.sets import Slot
from tests.support.media import RecordingMedium
from updog.config import Config, parse
from updog.errors import HostError
from updog.host import Attempt, Host
from updog.os_release import parse_os_release
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URLS = 'metadata_base_url = "file:///m/"\ntargets_base_url = "file:///t/"\n'
RELEASE = 'NAME="A system"\nVERSION_ID=1.2.3\nVARIANT_ID="aws-k8s"\n'
UP = {"slot": "B", "boot_id": "a boot", "attempts": [{"slot": "A", "stage": "kernel"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with what a system that came up leaves."""
    (tmp_path / "os-release").write_text(RELEASE)
    (tmp_path / "boot.json").write_text(json.dumps(UP))
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("the kernel's own\n")
    return tmp_path


def _config(folder: Path, more: str = "") -> Config:
    text = f'{URLS}os_release = "os-release"\nboot_record = "boot.json"\ndisk = "disk.img"\n{more}'
    return parse(text, folder)


def _host(folder: Path, more: str = "") -> Host:
    return Host(_config(folder, more), proc=str(folder / "proc"), sysfs=str(folder / "sys"))


def test_what_a_boot_stage_left_says_what_runs(folder: Path) -> None:
    running = _host(folder).running()
    assert (running.variant, running.version) == ("aws-k8s", Version.parse("1.2.3"))
    assert (running.slot, running.boot_id) == (Slot.B, "a boot")
    assert running.disk == str(folder / "disk.img")
    assert running.attempts == (Attempt(slot=Slot.A, stage="kernel"),)


def test_what_the_command_line_says_overrides_it(folder: Path) -> None:
    host = Host(_config(folder), disk="/dev/other", active=Slot.A)
    assert (host.running().disk, host.running().slot) == ("/dev/other", Slot.A)


def test_without_an_identifier_of_its_own_the_boot_is_the_kernels(folder: Path) -> None:
    (folder / "boot.json").write_text('{"slot": "A"}')
    running = _host(folder).running()
    assert (running.boot_id, running.attempts) == ("the kernel's own", ())
    (folder / "proc/sys/kernel/random/boot_id").unlink()
    with pytest.raises(HostError, match="cannot identify this boot"):
        _host(folder).running()


def test_a_configured_variant_needs_none_in_os_release(folder: Path) -> None:
    (folder / "os-release").write_text("VERSION_ID=v1.2.3\n")
    assert _host(folder, 'variant = "mine"').running().variant == "mine"
    with pytest.raises(HostError, match="has no VARIANT_ID"):
        _host(folder).running()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "has no VARIANT_ID and no VERSION_ID"),
        (b"VARIANT_ID=x\nVERSION_ID=\n", "has no VERSION_ID"),
        (b'VARIANT_ID="x\nVERSION_ID=1.0.0\n', "cannot read"),
        (b"\xff\xfe", "has no VARIANT_ID and no VERSION_ID"),
        (b"VARIANT_ID=x\nVERSION_ID=40\n", "40"),
    ],
    ids=["absent", "empty", "empty value", "open quote", "not UTF-8", "no semantic version"],
)
def test_an_os_release_that_does_not_say_is_an_error_an_operator_can_act_on(
    folder: Path, content: bytes | None, message: str
) -> None:
    if content is None:
        (folder / "os-release").unlink()
    else:
        (folder / "os-release").write_bytes(content)
    with pytest.raises(ToolError, match=message):
        _host(folder).running()


def test_other_fields_of_os_release_may_have_any_bytes(folder: Path) -> None:
    (folder / "os-release").write_bytes(b"NAME='f\xfcr'\nVARIANT_ID=x\nVERSION_ID=1.2.3\n")
    assert str(_host(folder).running().version) == "1.2.3"


@pytest.mark.parametrize("name", ["os-release", "boot.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_regular_file_is_an_error_and_not_waited_for(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(HostError, match=rf"cannot read .*{name}.*not a regular file"):
        _host(folder).running()


@pytest.mark.parametrize("text", ['"12"', "22.04", "1.0.0 # ours", "rolling"])
def test_a_distribution_s_version_is_reported_with_file_and_field(folder: Path, text: str) -> None:
    (folder / "os-release").write_text(f"VARIANT_ID=x\nVERSION_ID={text}\n")
    with pytest.raises(HostError, match=rf"^VERSION_ID in {folder}/os-release: ") as caught:
        _host(folder).running()
    assert text.strip('"') in caught.value.message
    assert "os_release" in caught.value.next_step


def test_a_missing_variant_is_reported_with_the_key_that_replaces_it(folder: Path) -> None:
    (folder / "os-release").write_text("VERSION_ID=1.0.0\n")
    with pytest.raises(HostError, match="has no VARIANT_ID") as caught:
        _host(folder).running()
    assert "`variant`" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("A=1\nB=two\n", {"A": "1", "B": "two"}),
        ('A=\'single quoted\'\nB="double $ \\" quoted"\n', {"A": "single quoted", "B": 'double $ " quoted'}),
        ("# comment\n\n  A=1  \nnot a field\n#B=2\n", {"A": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=\n", {"A": ""}),
        ("URL=https://x/?a=b\n", {"URL": "https://x/?a=b"}),
        ("A=1\r\n", {"A": "1"}),
    ],
)
def test_os_release_is_read_as_shell_assignments(text: str, fields: dict[str, str]) -> None:
    assert parse_os_release(text) == fields


def test_a_node_that_is_down_has_no_boot_record(folder: Path) -> None:
    (folder / "boot.json").unlink()
    with pytest.raises(HostError, match="this node is not running") as caught:
        _host(folder).running()
    assert "drill boot" in caught.value.next_step


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"slot": "C"}',
        '{"slot": ["A"]}',
        '{"slot": "A", "attempts": [{"slot": "C", "stage": "kernel"}]}',
        '{"slot": "A", "attempts": [{}]}',
        '{"slot": "A", "attempts": 3}',
        "[" * 100_000,
    ],
)
def test_a_boot_record_that_says_something_else_is_an_error_and_no_crash(folder: Path, record: str) -> None:
    (folder / "boot.json").write_text(record)
    with pytest.raises(HostError, match="boot record"):
        _host(folder).running()


def test_a_boot_record_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "boot.json").unlink()
    (folder / "boot.json").mkdir()
    with pytest.raises(HostError, match="cannot read the boot record"):
        _host(folder).running()


def test_the_slot_is_never_guessed(folder: Path) -> None:
    """Without a record sysfs is asked; if it has no answer, that is an error, whatever the flags are."""
    (folder / "sys/dev/block").mkdir(parents=True)
    config = parse(f'{URLS}os_release = "os-release"\n', folder)
    for host in (
        Host(config, sysfs=str(folder / "sys")),
        Host(config, disk="/dev/null", sysfs=str(folder / "sys")),
    ):
        with pytest.raises(ToolError) as caught:
            host.running()
        assert caught.value.status in {ExitStatus.FAILED, ExitStatus.USAGE}


def test_the_reboot_is_the_command_that_was_configured(folder: Path) -> None:
    host = _host(folder, f'reboot_command = ["touch", "{folder}/rebooted"]')
    assert host.reboot()
    assert (folder / "rebooted").exists()


def test_no_reboot_command_is_no_reboot(folder: Path) -> None:
    assert not _host(folder, "reboot_command = []").reboot()


@pytest.mark.parametrize("command", ['["false"]', '["/no/such/command"]'])
def test_a_reboot_that_fails_is_reported_with_the_next_step(folder: Path, command: str) -> None:
    with pytest.raises(HostError, match="cannot reboot") as caught:
        _host(folder, f"reboot_command = {command}").reboot()
    assert "manually" in caught.value.next_step


def _started_with(folder: Path, words: str) -> Host:
    """Return a host without a record file, whose kernel was started with these parameters."""
    (folder / "proc/cmdline").write_text(f"ro quiet {words}\n")
    return Host(parse(f'{URLS}os_release = "os-release"\n', folder), proc=str(folder / "proc"))


@pytest.mark.parametrize(
    ("words", "passed", "attempts"),
    [
        pytest.param("slot=A signpost.tries=0", (), (), id="none passed over"),
        pytest.param(
            "slot=A signpost.tries=0 signpost.passed=B:kernel",
            (Passed(Slot.B, "kernel"),),
            (Attempt(slot=Slot.B, stage="kernel"),),
            id="one failed",
        ),
        pytest.param(
            "slot=A signpost.tries=0 signpost.passed=B:spent", (Passed(Slot.B, "spent"),), (), id="one spent"
        ),
        pytest.param("root=/dev/sda1", (), (), id="another boot loader"),
    ],
)
def test_what_was_passed_over_is_read_from_the_kernels_command_line(
    folder: Path, words: str, passed: tuple[Passed, ...], attempts: tuple[Attempt, ...]
) -> None:
    host = _started_with(folder, words)
    host._disk, host._active = "disk.img", Slot.A
    running = host.running()
    assert (running.passed, running.attempts) == (passed, attempts)


def test_a_drills_node_does_not_read_the_command_line_of_the_machine_it_lies_on(folder: Path) -> None:
    (folder / "proc/cmdline").write_text("slot=A signpost.tries=0 signpost.passed=B:kernel\n")
    assert _host(folder).running().passed == ()


# -- the machine-id

OWN, OTHER = "0123456789abcdef0123456789abcdef", "f" * 32


def machine_id_after(folder: Path, content: bytes | None, *, system: str = f"{OTHER}\n") -> bytes | None:
    """Return what the node's file has after a start whose own machine-id is ``system``."""
    kept, of_this_start = folder / "kept", folder / "machine-id"
    of_this_start.write_text(system, encoding="ascii")
    if content is not None:
        kept.write_bytes(content)
    medium = RecordingMedium(OsMedium())
    _host(folder, 'machine_id = "kept"\n').keep_machine_id(medium, system=of_this_start)
    if kept.exists():
        assert medium.names[-1] == "flush_folder"
        assert "flush" in medium.names
    return kept.read_bytes() if kept.exists() else None


@pytest.mark.parametrize("lost", [None, b"", b"\n", bytes(33)])
def test_a_machine_id_that_a_power_cut_took_is_written_again(folder: Path, lost: bytes | None) -> None:
    assert machine_id_after(folder, lost) == f"{OTHER}\n".encode()


def test_a_machine_id_that_is_kept_stays_and_is_flushed(folder: Path) -> None:
    assert machine_id_after(folder, f"{OWN}\n".encode()) == f"{OWN}\n".encode()


@pytest.mark.parametrize("system", ["", "uninitialized\n", "0" * 31])
def test_no_machine_id_is_kept_where_this_start_has_none(folder: Path, system: str) -> None:
    assert machine_id_after(folder, None, system=system) is None


def test_the_systems_own_file_is_not_written(folder: Path) -> None:
    file = folder / "machine-id"
    file.write_bytes(b"")
    medium = RecordingMedium(OsMedium())
    _host(folder, 'machine_id = "machine-id"\n').keep_machine_id(medium, system=file)
    assert medium.calls == []
