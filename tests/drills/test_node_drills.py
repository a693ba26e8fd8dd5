"""Drills in QEMU on a node as in production: three of those of `make drill`, and one for snapshots."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fixtures.node.drill_inputs import make_drill_inputs
from fixtures.os.command import missing_tools
from fixtures.os.errors import ArchiveError
from tests.drills.emulator import one_at_a_time
from tests.support.nodes import command_line
from updog.drill.qemu import Hardware, require
from updog.errors import DrillSkippedError

if TYPE_CHECKING:
    from fixtures.node.drill_inputs import DrillInputs

pytestmark = pytest.mark.qemu

KINDS = ("first", "good", "panic", "unhealthy")


@pytest.fixture(scope="module")
def inputs() -> DrillInputs:
    """Return a repository with the node's releases, a disk and a boot stage."""
    if lacking := missing_tools():
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    try:
        require(Hardware(stage=Path()))
        return make_drill_inputs(logging.getLogger(__name__).info, kinds=KINDS)
    except (ArchiveError, DrillSkippedError) as error:
        pytest.skip(str(error))


BEGINS_LIKE_GOOD_UPDATE = """
title = "An update is taken back; good-update begins with the same one"
steps = [
    { do = "update", to = "good", then = { running = "first", standing = "waiting for a restart" } },
    { do = "revert", then = { standing = "staged" } },
]
[end]
running = "first"
untouched = ["A"]
"""


def test_a_good_update_stays_and_bad_ones_are_fallen_back_from(inputs: DrillInputs, tmp_path: Path) -> None:
    (tmp_path / "taken-back.toml").write_text(BEGINS_LIKE_GOOD_UPDATE)
    drills = ("good-update", "kernel-panic", "health-failing", "taken-back")
    words = ["drill", "run", "--qemu", *inputs.options(KINDS), "--results", str(tmp_path / "results")]
    with one_at_a_time():
        said = command_line([*words, "--jobs", "2", "--json", *drills[:3], str(tmp_path / "taken-back.toml")])
    assert said.status == 0, said.out
    *_, result = said.events
    assert {row["drill"]: row["result"] for row in result["drills"]} == dict.fromkeys(drills, "passed")
    assert result["drills"][-1]["boots"] == 0, "it began where the update ended, and never restarted"
    good, panic, unhealthy, _ = (Path(row["console"]).read_text(errors="replace") for row in result["drills"])
    assert "taking slot B" in good
    assert "Kernel panic" in panic
    assert "taking slot A" in panic
    assert "the service does not answer" in unhealthy
