"""What the agent remembers, after a power cut during any of its writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from signpost.medium import OsMedium
from tests.support.media import Call, RecordingMedium, folder_crash_states
from updog.auto.table import Lock, Phase
from updog.daemon.memory import Memory, MemoryStore
from updog.state import Code, Event
from updog.update_metadata.version import Version

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
OLD = Memory.new(NOON).with_event(Event(time=NOON, code=Code.HELD_BY_HAND, version=None, sentence="held"))
NEW = replace(
    OLD, state=replace(OLD.state, phase=Phase.CLEARED, lock=Lock.HELD, version=Version.parse("1.2.0"))
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    place.mkdir(mode=0o755)
    return place


def calls_of_save(folder: Path) -> list[Call]:
    """Save OLD, then NEW; return the calls of the second time."""
    MemoryStore(folder).save(OLD)
    medium = RecordingMedium(OsMedium())
    MemoryStore(folder, medium=medium).save(NEW)
    return medium.calls


def loaded(folder: Path, files: dict[str, bytes]) -> Memory:
    """Return what is remembered when the folder has just these files."""
    for each in folder.iterdir():
        each.unlink()
    for name, content in files.items():
        Path(name).write_bytes(content)
    return MemoryStore(folder).load(NOON)


def test_after_a_power_cut_it_remembers_what_was_before_or_what_was_saved(folder: Path) -> None:
    calls = calls_of_save(folder)
    MemoryStore(folder).save(OLD)
    old = {str(path): path.read_bytes() for path in folder.iterdir()}
    states = list(folder_crash_states(old, calls))
    found = [loaded(folder, files) for files in states]
    assert {memory.state.phase for memory in found} == {OLD.state.phase, NEW.state.phase}
    assert all(memory in (OLD, NEW) for memory in found)
    assert loaded(folder, states[-1]) == NEW  # once `save` has returned


def test_what_a_power_cut_left_is_in_nobodys_way(folder: Path) -> None:
    calls = calls_of_save(folder)
    MemoryStore(folder).save(OLD)
    old = {str(path): path.read_bytes() for path in folder.iterdir()}
    for files in folder_crash_states(old, calls):
        loaded(folder, files)
        MemoryStore(folder).save(NEW)
        assert MemoryStore(folder).load(NOON) == NEW


def test_without_its_flush_a_power_cut_would_lose_both(folder: Path) -> None:
    """So the two tests above can fail."""
    calls = [call for call in calls_of_save(folder) if call.name != "flush"]
    MemoryStore(folder).save(OLD)
    old = {str(path): path.read_bytes() for path in folder.iterdir()}
    assert any(loaded(folder, files) not in (OLD, NEW) for files in folder_crash_states(old, calls))
