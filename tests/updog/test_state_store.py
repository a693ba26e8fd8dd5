"""The state folder: one writer, readers always, and a damaged file put aside."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus, MediumError
from signpost.medium import OsMedium
from tests.support.nodes import FailingMedium
from tests.support.repositories import KilledError, KillingMedium, kill_points
from updog.errors import BusyError, StateFormatError
from updog.state import Code, Event, NodeState
from updog.state_store import StateStore
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from pathlib import Path

    from signpost.medium import Medium

MOMENT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
V2 = Version.parse("1.1.0")
EVENT = Event(time=MOMENT, code=Code.BOOT_FAILED, version=V2, sentence="It went down.")
KNOWN = NodeState(disk_guid="guid", denied={V2: EVENT}, history=(EVENT,))


def _memory(folder: Path, medium: Medium | None = None) -> StateStore:
    return StateStore(folder, medium=medium or OsMedium(), clock=lambda: MOMENT)


def test_a_node_that_knows_nothing_starts_with_nothing(tmp_path: Path) -> None:
    assert _memory(tmp_path / "absent").load() == NodeState()


def test_what_was_saved_is_loaded_by_the_next_run(tmp_path: Path) -> None:
    _memory(tmp_path).save(KNOWN)
    assert _memory(tmp_path).load() == KNOWN


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 4096, b'{"format": "9"}'])
def test_a_damaged_file_costs_the_memory_but_nothing_else(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """D76."""
    (tmp_path / "state.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        state = _memory(tmp_path).load()
    assert [event.code for event in state.history] == [Code.STATE_LOST]
    assert state.history[0].time == MOMENT
    assert "are empty again" in state.history[0].sentence
    assert str(tmp_path / "state.json") in caplog.text
    assert (tmp_path / "state.json").read_bytes() == content  # reading changes nothing


def test_a_damaged_file_is_put_aside_when_the_next_one_is_written(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b"damaged")
    memory = _memory(tmp_path)
    memory.save(memory.load().with_event(EVENT))
    assert (tmp_path / "state.json.damaged").read_bytes() == b"damaged"
    assert [event.code for event in _memory(tmp_path).load().history] == [Code.STATE_LOST, Code.BOOT_FAILED]


def test_the_file_written_after_a_damaged_one_is_not_put_aside_in_its_turn(tmp_path: Path) -> None:
    """Otherwise every save while `state-lost` is the newest event leaves a moment without any state."""
    (tmp_path / "state.json").write_bytes(b"damaged")
    memory = _memory(tmp_path)
    memory.save(memory.load())
    for _ in range(3):
        again = _memory(tmp_path)
        again.save(again.load())
    memory.save(memory.load())
    assert (tmp_path / "state.json.damaged").read_bytes() == b"damaged"


@pytest.mark.parametrize("content", [b"damaged", None], ids=["damaged", "good"])
def test_a_kill_at_any_call_of_a_save_leaves_a_state_that_says_what_happened(
    tmp_path: Path, content: bytes | None
) -> None:
    """D14, D76: the old state, the new one, or a report that it was lost; the damaged bytes are kept."""

    def prepared(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if content is None:
            _memory(folder).save(KNOWN)
        else:
            (folder / "state.json").write_bytes(content)
        return folder

    def save(folder: Path, medium: KillingMedium) -> None:
        memory = _memory(folder, medium)
        memory.save(memory.load().with_event(EVENT))

    recorded = KillingMedium()
    save(prepared("recorded"), recorded)
    for number, (at, torn) in enumerate(kill_points(recorded.steps)):
        folder = prepared(str(number))
        with pytest.raises(KilledError):
            save(folder, KillingMedium(at, torn=torn))
        codes = [event.code for event in _memory(folder).load().history]
        if content is None:
            assert codes in ([Code.BOOT_FAILED], [Code.BOOT_FAILED, Code.BOOT_FAILED])
        else:
            assert codes[:1] == [Code.STATE_LOST]
            kept = {path.read_bytes() for path in folder.glob("state.json*")}
            assert content in kept


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    memory = _memory(tmp_path / "state")
    with pytest.raises(ValueError), memory.locked():
        raise ValueError
    with memory.locked():
        assert (tmp_path / "state" / "lock").exists()


def test_a_second_updog_is_told_so_at_once_and_reading_goes_on(tmp_path: Path) -> None:
    """D75: the other one is a process of its own."""
    _memory(tmp_path).save(KNOWN)
    script = (
        "import fcntl, sys\n"
        f"file = open({str(tmp_path / 'lock')!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BusyError) as caught, _memory(tmp_path).locked():
            pytest.fail("two at once")
        assert caught.value.status is ExitStatus.BUSY
        assert _memory(tmp_path).load() == KNOWN
        other.communicate()
    with _memory(tmp_path).locked():
        pass


def test_a_state_folder_that_cannot_be_made_is_named_with_the_next_step(tmp_path: Path) -> None:
    """D80."""
    (tmp_path / "file").write_bytes(b"")
    memory = _memory(tmp_path / "file" / "state")
    with pytest.raises(MediumError, match="cannot write the state folder") as caught, memory.locked():
        pytest.fail("there is no such folder")
    assert "state_dir" in caught.value.next_step
    assert _memory(tmp_path / "file" / "state").load() == NodeState()


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_read_error_ends_the_command_and_what_is_there_is_never_replaced(
    tmp_path: Path, error: int
) -> None:
    """D71: a sound file that could not be read once is not damaged."""
    _memory(tmp_path).save(KNOWN)
    before = (tmp_path / "state.json").read_bytes()
    store = _memory(tmp_path, FailingMedium(at=0, only=["read"], errno=error))
    with pytest.raises(MediumError):
        store.load()
    with pytest.raises(MediumError, match="is not replaced"):
        store.save(NodeState())
    assert (tmp_path / "state.json").read_bytes() == before
    assert not (tmp_path / "state.json.damaged").exists()


def test_a_state_of_a_newer_updog_ends_the_command_and_is_never_replaced(tmp_path: Path) -> None:
    text = b'{"format": 2, "later": true}'
    (tmp_path / "state.json").write_bytes(text)
    store = _memory(tmp_path)
    with pytest.raises(StateFormatError) as caught:
        store.load()
    assert caught.value.status is ExitStatus.REFUSED
    with pytest.raises(MediumError):
        store.save(NodeState())
    assert (tmp_path / "state.json").read_bytes() == text


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "dangling link", "socket"])
def test_what_is_not_a_file_is_an_error_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.symlink_to(tmp_path / ("real" if kind == "link" else "gone"))
        (tmp_path / "real").write_text("{}")
    with pytest.raises(MediumError, match="is not a regular file"):
        _memory(tmp_path).load()


# -- the folder is private to the node ---------------------------------------------------------------------


def test_a_state_folder_that_others_can_write_is_neither_used_nor_changed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    _memory(folder).save(KNOWN)
    folder.chmod(0o777)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    memory = _memory(folder)
    with pytest.raises(MediumError, match="can be written by everyone"), memory.locked():
        pass
    with pytest.raises(MediumError, match="can be written by everyone"):
        memory.load()
    with pytest.raises(MediumError, match="could not be read"):
        memory.save(NodeState())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_the_lock_is_never_a_link(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (tmp_path / "victim").write_bytes(b"of somebody else")
    (folder / "lock").symlink_to(tmp_path / target)
    with pytest.raises(MediumError, match="lock is not a regular file"), _memory(folder).locked():
        pass
    assert (tmp_path / "victim").read_bytes() == b"of somebody else"
    assert not (tmp_path / "nowhere").exists()


def test_a_state_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    _memory(tmp_path).save(KNOWN)
    (tmp_path / "state.json").rename(tmp_path / "elsewhere")
    (tmp_path / "state.json").symlink_to("elsewhere")
    with pytest.raises(MediumError, match=r"state\.json is not a regular file"):
        _memory(tmp_path).load()
