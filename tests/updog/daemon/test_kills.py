"""SIGKILL at every moment of an update: the child ends its work, the next status is true, and it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signpost.sets import Slot
from tests.support.nodes import NEWER, Node, make_node
from tests.support.patience import eventually
from updog.daemon.children import Children

MOMENTS = """
agent saves idle
agent saved idle
agent saves checking
agent saved checking
agent starts why
why renames state.json
agent saves ready
agent saved ready
agent saves installing
agent saved installing
agent starts update-image
update-image renames state.json
agent saves staged
agent saved staged
agent saves cleared
agent saved cleared
agent saves leaving
agent saved leaving
agent starts update-apply
update-apply writes disk.img
agent starts update-revert
update-revert writes disk.img
agent saves gone
agent saved gone
agent starts agent restart
agent restart runs touch
"""
"""In the order of an update; each is reached after a kill at the one before (tests/support/kill_at)."""

AFTER_THE_RESTART = """
agent saves trial
agent saved trial
agent saves start
agent starts agent post-confirm
agent saved idle
"""

AUTO = """
[auto]
mode = "restart"
warn = "0m"
[auto.hooks]
dir = "hooks"
[api]
socket = ""
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "support/kill_at"))
    node = make_node(tmp_path, reboot_command=["touch", str(tmp_path / "rebooted")], health_checks=[])
    node.config.write_text(node.config.read_text(encoding="utf-8") + AUTO, encoding="utf-8")
    hook = node.folder / "hooks/post-confirm.d/10-register"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\necho registered\n", encoding="utf-8")
    hook.chmod(0o755)
    return node


def kill_at(node: Node, moment: str) -> None:
    """Run the agent until it is killed at a moment, and wait until its child has ended its work."""
    run = Path(os.environ["RUNTIME_DIRECTORY"])
    words = [sys.executable, "-m", "updog", "--config", str(node.config), "agent"]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "KILL_AT": moment}
    ) as process:
        try:
            assert eventually(lambda: process.poll() is not None), f"it never came to: {moment}"
        finally:
            process.kill()
    assert process.returncode == -9, moment
    children = Children.of(node.config, run)
    assert eventually(lambda: not children.has_orphans(("job", "look"))), moment


def assert_status_is_true(node: Node, moment: str) -> None:
    """Status, history, partition table and slots say the same."""
    document = node.updog("status", "--json").document
    boots_next = node.flags(Slot.B).priority > node.flags(Slot.A).priority
    assert (document["next"] == "B") == boots_next, moment
    assert (document["standing"] == "waiting for a restart") == boots_next, moment
    is_installed = "installed" in node.codes()
    assert (document["pending"] is not None) == is_installed == node.holds(Slot.B, NEWER), moment
    assert document["slots"]["B"]["version"] == (NEWER if is_installed else None), moment


def test_killed_at_every_moment_of_an_update_it_leaves_a_true_status_and_goes_on(node: Node) -> None:
    moments = MOMENTS.strip().splitlines()
    for moment in moments:
        if moments.index(moment) <= moments.index("agent saves ready"):
            assert node.updog("agent", "check").status == 0
        kill_at(node, moment)
        assert_status_is_true(node, moment)
    assert (node.folder.parent / "rebooted").exists()
    assert node.codes().count("installed") == 1
    node.boot()
    for moment in AFTER_THE_RESTART.strip().splitlines():
        kill_at(node, moment)
        if moment == "agent saved trial":
            assert node.updog("confirm").status == 0
        assert node.updog("status", "--json").document["running"]["version"] == NEWER
    assert node.codes()[-2:] == ["confirmed", "hook-passed"]
