"""State files that survive: after a cut at any call there is the old content or the new one (D14)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.support.nodes import FailingMedium
from tests.support.repositories import KilledError, KillingMedium, kill_points
from updog.durable import read_bytes, write_bytes, write_json

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = b"old content", b"new content, longer"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_bytes(OsMedium(), path, OLD)
    write_bytes(OsMedium(), path, NEW)
    assert read_bytes(OsMedium(), path) == NEW
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_an_empty_file_is_a_content_too(tmp_path: Path) -> None:
    write_bytes(OsMedium(), tmp_path / "state", OLD)
    write_bytes(OsMedium(), tmp_path / "state", b"")
    assert read_bytes(OsMedium(), tmp_path / "state") == b""


def test_json_is_written_for_people_to_read(tmp_path: Path) -> None:
    write_json(OsMedium(), tmp_path / "state", {"a": [1]})
    assert (tmp_path / "state").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert json.loads(read_bytes(OsMedium(), tmp_path / "state")) == {"a": [1]}


def test_the_mode_is_the_one_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(OsMedium(), tmp_path / "check", b"#!/bin/sh\n", mode=0o755)
        assert (tmp_path / "check").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_what_a_kill_left_behind_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "state.tmp").write_bytes(b"half of someth")
    write_bytes(OsMedium(), tmp_path / "state", NEW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_the_order_is_write_flush_rename_flush_the_folder(tmp_path: Path) -> None:
    medium = KillingMedium()
    write_bytes(medium, tmp_path / "state", NEW)
    assert [name for name, _ in medium.steps] == [
        "remove",
        "create",
        "write",
        "flush",
        "rename",
        "flush folder",
    ]


@pytest.mark.parametrize("exists", [False, True], ids=["first time", "replacing"])
def test_a_kill_at_any_call_leaves_the_old_content_or_the_new_and_the_next_try_works(
    tmp_path: Path,
    exists: bool,  # noqa: FBT001 - parametrized
) -> None:
    recorded = KillingMedium()
    write_bytes(recorded, tmp_path / "first", NEW)
    for number, (at, torn) in enumerate(kill_points(recorded.steps)):
        path = tmp_path / str(number) / "state"
        path.parent.mkdir()
        if exists:
            path.write_bytes(OLD)
        with pytest.raises(KilledError):
            write_bytes(KillingMedium(at, torn=torn), path, NEW)
        found = path.read_bytes() if path.exists() else None
        assert found in {NEW, OLD if exists else None}
        write_bytes(OsMedium(), path, NEW)
        assert read_bytes(OsMedium(), path) == NEW


@pytest.mark.parametrize("number", range(5))
def test_a_failure_of_any_call_leaves_the_old_content(tmp_path: Path, number: int) -> None:
    """D71: remove, create, write, flush, rename; after the rename the new content counts."""
    path = tmp_path / "state"
    path.write_bytes(OLD)
    with pytest.raises(MediumError):
        write_bytes(FailingMedium(at=number), path, NEW)
    assert path.read_bytes() == OLD


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="No such file"):
        read_bytes(OsMedium(), tmp_path / "absent")
