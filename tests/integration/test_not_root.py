"""A user who may not read something is told what, with exit status 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import Node, make_node
from updog.state import Code

if TYPE_CHECKING:
    from pathlib import Path

# Root without these capabilities may read what its files' modes allow, like everyone else.
_LIKE_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
QUERIES = ("status", "history", "motd", "deny-list", "why")


def _updog(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from updog.cli import main; main()",
        "--config",
        str(node.config),
        *words,
    ]
    return subprocess.run([*_LIKE_OTHERS, *command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    node = make_node(tmp_path_factory.mktemp("not-root"))
    assert node.updog("check-update").status == 0
    return node


def _unreadable(node: Node, command: str) -> list[Path]:
    places = {"history": [node.state_file.parent], "why": [node.state_file.parent]}
    return [node.config, *places.get(command, [node.disk, node.state_file.parent])]


@pytest.mark.parametrize("command", QUERIES)
def test_a_query_says_what_it_may_not_read(node: Node, command: str) -> None:
    for place in _unreadable(node, command):
        mode = place.stat().st_mode
        place.chmod(0)
        try:
            said = _updog(node, command)
        finally:
            place.chmod(mode)
        assert said.returncode == 1, said
        assert said.stdout == ""
        assert f"{place}" in said.stderr
        assert "Permission denied\n  next: Run it as root" in said.stderr


def test_the_document_of_such_an_error_has_the_same_facts(node: Node) -> None:
    node.disk.chmod(0)
    try:
        said = _updog(node, "status", "--json")
    finally:
        node.disk.chmod(0o600)
    error = json.loads(said.stdout)["error"]
    assert (error["code"], error["status"]) == ("io-error", 1)
    assert str(node.disk) in error["message"]


def test_what_others_keep_in_pstore_does_not_hide_the_cause(node: Node) -> None:
    """A folder that can be listed, but whose entries may not even be examined."""
    folder = node.folder / "pstore"
    (folder / "123").mkdir(parents=True)
    node.configure(pstore_dirs=[str(folder)])
    assert node.updog("update").status == 0
    folder.chmod(0o400)
    try:
        assert _updog(node, "boot-record").returncode == 0
        node.boot()
        node.boot()
        assert _updog(node, "boot-record").returncode == 0
    finally:
        folder.chmod(0o700)
    fallback = node.state().history[-1]
    assert (fallback.code, fallback.cause) == (Code.BOOT_FAILED, "not-confirmed"), fallback
