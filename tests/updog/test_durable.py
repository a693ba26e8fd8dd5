"""State files that survive: after a cut at any call there is the old content or the new one (D14)."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.support.nodes import FailingMedium
from tests.support.repositories import KilledError, KillingMedium, kill_points
from updog import durable
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


# -- private folders -----------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other users")


def _private(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "state"
    folder.mkdir(parents=True)
    return folder


def test_a_folder_of_ones_own_is_private_also_through_a_link_of_ones_own(tmp_path: Path) -> None:
    folder = _private(tmp_path)
    (tmp_path / "link").symlink_to("above")
    durable.require_private(folder)
    durable.require_private(tmp_path / "link" / "state")


@needs_root
@pytest.mark.parametrize(
    ("place", "mode", "owner", "group", "fault"),
    [
        ("above/state", 0o777, 0, 0, "can be written by everyone"),
        ("above/state", 0o1777, 0, 0, "can be written by everyone"),
        ("above/state", 0o775, 0, 4, "can be written by group 4"),
        ("above/state", 0o755, 1, 0, "belongs to user 1"),
        ("above", 0o777, 0, 0, "can be written by everyone"),
        ("above", 0o755, 1, 0, "belongs to user 1"),
        ("above", 0o1777, 1, 0, "belongs to user 1"),
    ],
)
def test_a_folder_that_others_can_change_is_refused(
    tmp_path: Path, place: str, mode: int, owner: int, group: int, fault: str
) -> None:
    folder = _private(tmp_path)
    os.chown(tmp_path / place, owner, group)
    (tmp_path / place).chmod(mode)
    with pytest.raises(MediumError, match=f"{place} {fault}") as caught:
        durable.require_private(folder)
    assert "chmod go-w" in caught.value.next_step


@needs_root
def test_what_nobody_else_can_use_is_private(tmp_path: Path) -> None:
    """Below /tmp, where the sticky bit protects its files; and writable by the group of root."""
    folder = _private(tmp_path)
    folder.parent.chmod(0o1777)
    folder.chmod(0o775)
    durable.require_private(folder)


@needs_root
def test_a_link_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    folder = _private(tmp_path)
    (tmp_path / "link").symlink_to("above")
    os.chown(tmp_path / "link", 1, 1, follow_symlinks=False)
    with pytest.raises(MediumError, match="link belongs to user 1"):
        durable.require_private(tmp_path / "link" / folder.name)


def test_a_private_folder_that_is_a_file_or_missing_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediumError, match="file is not a folder") as caught:
        durable.require_private(tmp_path / "file")
    assert caught.value.next_step.startswith("Move it away")
    (tmp_path / "dangling").symlink_to("missing")
    for name in ("missing", "dangling"):
        with pytest.raises(MediumError, match="missing: No such file or directory") as caught:
            durable.require_private(tmp_path / name)
        assert "or remove the link" in caught.value.next_step
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MediumError, match="loop"):
        durable.require_private(tmp_path / "loop")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_private_folder_is_made_so_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "above/below"
    before = os.umask(umask)
    try:
        durable.make_private(folder)
    finally:
        os.umask(before)
    durable.require_private(folder)
    durable.make_private(folder)
    assert {stat.S_IMODE(place.stat().st_mode) & 0o022 for place in (folder, folder.parent)} == {0}


def test_a_private_folder_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediumError, match=r"cannot create .*below: Not a directory"):
        durable.make_private(tmp_path / "file/below")


def test_a_pipe_is_an_error_where_a_file_of_the_node_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root.json")
    with pytest.raises(MediumError, match=r"root\.json"):
        durable.read_bytes(OsMedium(), tmp_path / "root.json")


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_not_a_regular_file_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"of somebody else")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim if kind == "link" else "nowhere")
    for write in (False, True):
        with (
            pytest.raises(MediumError, match="file is not a regular file"),
            durable.opened_own(OsMedium(), path, write=write),
        ):
            pass
    with pytest.raises(MediumError, match="file is not a regular file"):
        durable.read_own(OsMedium(), path)
    assert victim.read_bytes() == b"of somebody else"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "victim"]
