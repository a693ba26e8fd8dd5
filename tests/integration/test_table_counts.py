"""Confirm, revert and rollback need only the partition table, whatever state can be kept (ADR 0004)."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from signpost.sets import Slot
from tests.support.nodes import NEWER, RUNNING, Node, make_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Trouble = Callable[[Node], AbstractContextManager[None]]

DONE, FAILED, NOTHING, REFUSED = 0, 1, 3, 4

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextmanager
def read_only(node: Node) -> Iterator[None]:
    """Mount the state folder read-only over itself."""
    folder = str(node.folder / "state")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def full(node: Node) -> Iterator[None]:
    """Put the state on a file system without a free byte."""
    folder = node.folder / "state"
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True)
    try:
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def a_folder_instead(node: Node) -> Iterator[None]:
    """Replace the state file by a folder."""
    aside = node.state_file.with_suffix(".aside")
    node.state_file.rename(aside)
    node.state_file.mkdir()
    yield
    node.state_file.rmdir()
    aside.rename(node.state_file)


@contextmanager
def a_newer_format(node: Node) -> Iterator[None]:
    """Make the state one that a newer updog has written."""
    before = node.state_file.read_bytes()
    newer = json.dumps({**json.loads(before), "format": 99}).encode()
    node.state_file.write_bytes(newer)
    yield
    assert node.state_file.read_bytes() == newer
    node.state_file.write_bytes(before)


TROUBLES = [
    pytest.param(read_only, id="read-only", marks=needs_root),
    pytest.param(full, id="full", marks=needs_root),
    pytest.param(a_folder_instead, id="folder"),
    pytest.param(a_newer_format, id="newer-format"),
]


def ran(node: Node, *words: str) -> tuple[int, str]:
    """Run updog as a process of its own; return its exit status and its standard output."""
    with node.updog_process(*words) as process:
        out, _ = process.communicate(timeout=60)
        return process.returncode, out


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node on trial, whose reboot command leaves a file as evidence."""
    node = make_node(tmp_path)
    node.configure(reboot_command=["touch", str(node.folder / "restarted")])
    assert node.updog("update").status == DONE
    assert node.boot().document["version"] == NEWER
    return node


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_healthy_release_is_confirmed(node: Node, trouble: Trouble) -> None:
    with trouble(node):
        assert node.updog("confirm").status == DONE
        assert node.flags(Slot.B).successful
    assert node.updog("check-update").status == NOTHING
    assert node.codes()[-1] == "confirmed"
    assert NEWER not in node.updog("deny-list").out


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_unhealthy_release_is_left_and_the_node_restarted(node: Node, trouble: Trouble) -> None:
    node.configure(health_deadline=1)
    node.health_check("20-web", "exit 1")
    with trouble(node):
        assert ran(node, "confirm")[0] == REFUSED
        assert node.flags(Slot.B).priority < node.flags(Slot.A).priority
        assert (node.folder / "restarted").exists()
    assert node.boot().document["version"] == RUNNING


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_update_and_an_apply_are_refused_and_change_nothing(tmp_path: Path, trouble: Trouble) -> None:
    node = make_node(tmp_path)
    assert node.updog("check-update").status == DONE
    before = node.disk_digest()
    with trouble(node):
        assert node.updog("update").status in {FAILED, REFUSED}
        assert node.updog("update-apply").status in {FAILED, NOTHING, REFUSED}
        assert node.disk_digest() == before
    assert node.updog("update").status == DONE


def test_a_confirmed_version_is_rolled_back_by_hand_and_not_taken_again(node: Node) -> None:
    assert node.updog("confirm").status == DONE
    status, said = ran(node, "rollback", "--reboot")
    assert (status, "Slot A boots next" in said) == (DONE, True)
    assert (node.folder / "restarted").exists()
    assert "slot A (1.0.0) boots next, without an update" in node.updog("status").out
    assert "slot A (1.0.0) boots next" in node.updog("motd").out
    assert node.updog("rollback").status == NOTHING
    assert node.boot().document["version"] == RUNNING
    assert node.codes()[-1] == "rolled-back-by-hand"
    assert NEWER in node.updog("deny-list").out
    assert node.updog("update").status == NOTHING


def test_a_rollback_to_a_slot_that_cannot_boot_is_refused(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    before = node.disk_digest()
    assert node.updog("rollback").status not in {DONE, NOTHING}
    assert node.disk_digest() == before
    assert "rolled-back-by-hand" not in node.codes()
