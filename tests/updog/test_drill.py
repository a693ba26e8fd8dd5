"""The node of a drill: created by its command, started by the bootloader's own rule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from signpost.sets import Slot
from tests.support.nodes import (
    RUNNING,
    TWO_SLOTS,
    Node,
    command_line,
    disk_bytes,
    images_of,
    make_node,
    urls,
)
from updog.drill import Stage

if TYPE_CHECKING:
    from pathlib import Path


def _words(folder: Path, node: Node, **more: str) -> list[str]:
    """Return the arguments that make a node in ``folder`` on another node's repository."""
    base = urls(node.repository)
    options = {
        "metadata-url": base["metadata_base_url"],
        "targets-url": base["targets_base_url"],
        "trusted-root": str(node.folder / "root.json"),
        "variant": "synthetic",
        "version": RUNNING,
    } | more
    return [
        "drill",
        "new",
        str(folder),
        *(word for key, value in options.items() for word in (f"--{key}", value)),
    ]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node whose repository others use."""
    return make_node(tmp_path / "first")


@pytest.fixture
def folder(tmp_path: Path, node: Node) -> Path:
    """Return a folder with a disk that holds 1.0.0, and nothing else."""
    path = tmp_path / "second"
    path.mkdir()
    (path / "disk.img").write_bytes(disk_bytes(images_of(node.repository, RUNNING), flags=TWO_SLOTS))
    return path


def test_a_node_is_made_of_a_disk_and_a_repository(folder: Path, node: Node) -> None:
    said = command_line([*_words(folder, node, seed="9"), "--json"])
    assert said.status == 0
    assert said.document == {"folder": str(folder), "config": str(folder / "updog.toml")}
    made = Node(folder=folder, repository=node.repository)
    status = made.updog("status", "--json").document
    assert status["running"] == {"variant": "synthetic", "version": RUNNING, "slot": "A", "confirmed": True}
    assert status["slots"]["A"]["version"] == RUNNING
    assert "seed = 9" in (folder / "updog.toml").read_text()


def test_a_nodes_folder_can_be_moved(folder: Path, node: Node) -> None:
    assert command_line(_words(folder, node)).status == 0
    moved = folder.rename(folder.with_name("moved"))
    assert Node(folder=moved, repository=node.repository).updog("verify").status == 0


def test_a_node_is_not_made_over_another(folder: Path, node: Node) -> None:
    assert command_line(_words(folder, node)).status == 0
    said = command_line([*_words(folder, node), "--json"])
    assert said.status == 2
    assert "there is already a node in" in said.document["error"]["message"]


def test_a_node_is_not_made_without_a_disk(folder: Path, node: Node) -> None:
    (folder / "disk.img").unlink()
    said = command_line(_words(folder, node))
    assert said.status == 2
    assert "repo-tools disk create" in said.err


def test_a_node_whose_disk_is_not_what_was_signed_is_refused(folder: Path, node: Node) -> None:
    Node(folder=folder, repository=node.repository).damage(Slot.A, "root")
    said = command_line(_words(folder, node))
    assert said.status == 4
    assert "is damaged: root" in said.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("seed", "4000", "seed"), ("metadata-url", "nowhere", "metadata_base_url"), ("version", "one", "one")],
)
def test_settings_that_are_faulty_are_named(
    folder: Path, node: Node, option: str, value: str, message: str
) -> None:
    said = command_line(_words(folder, node, **{option: value}))
    assert said.status == 2
    assert message in said.err


def test_the_console_log_shows_every_start(node: Node) -> None:
    node.updog("update")
    node.boot(Stage.VERITY)
    node.boot()
    lines = [line.partition(" ")[2] for line in (node.folder / "console.log").read_text().splitlines()]
    assert lines == [
        "slot A, 1.0.0: up",
        "slot B, 1.1.0: failed at stage verity",
        "slot A, 1.0.0: up",
    ]


def test_every_start_is_another_boot(node: Node) -> None:
    seen = set()
    for _ in range(3):
        node.boot()
        seen.add(json.loads((node.folder / "run" / "boot.json").read_text())["boot_id"])
    assert len(seen) == 3


def test_a_failing_health_check_of_one_start_does_not_fail_the_next(node: Node) -> None:
    node.updog("update")
    node.boot(Stage.HEALTH)
    assert node.updog("confirm").status == 4
    node.boot()
    assert node.updog("confirm").status == 0


def test_a_slot_whose_content_was_not_recorded_is_not_started(node: Node) -> None:
    node.state_file.unlink()
    said = node.boot()
    assert said.status == 2
    assert "was not recorded" in said.err


def test_a_start_is_reported_in_words_too(node: Node) -> None:
    assert command_line(["drill", "boot", str(node.folder)]).out == ("slot A (1.0.0) is up; standing: none\n")
    said = command_line(["drill", "boot", str(node.folder), "--fail", "init"])
    assert (said.status, said.out) == (1, "slot A (1.0.0) failed at stage init\n")
