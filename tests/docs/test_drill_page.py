"""docs/how-to/drill.md: its unit is the one in the node's image, its words are those of the command line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.support.nodes import command_line
from updog.drill.catalog import shipped
from updog.drill.drill_file import KEYS, Action, Kind, Moment, parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/drill.md").read_text(encoding="utf-8")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_unit_is_the_one_in_the_nodes_image() -> None:
    unit = ROOT / "fixtures/node/overlay/etc/systemd/system/drill-shell.service"
    assert _blocks("ini") == [unit.read_text(encoding="utf-8")]


def test_the_example_of_a_drill_is_one() -> None:
    (text,) = _blocks("toml")
    assert tomllib.loads(text)
    assert len(parse("example", text).steps) == 3


def test_every_kind_action_and_moment_is_explained() -> None:
    words = set(re.findall(r"`(?:cut = )?\"?([a-z-]+)\"?`", PAGE))
    assert {str(word) for each in (Kind, Action, Moment) for word in each} - words == set()
    assert set(KEYS) == set(Action)


def test_every_option_is_one_of_the_command() -> None:
    known = set(re.findall(r"--[a-z-]+", command_line(["drill", "run", "--help"]).out))
    recipes = "".join(block for kind in ("sh", "yaml") for block in _blocks(kind))
    calls = re.findall(r"updog drill run((?:\\\n|\n +--|[^\n])*)", recipes)
    used = {word for call in calls for word in re.findall(r"(?:^| )(--[a-z-]+)", call)}
    assert used - known == set()
    assert {"--qemu", "--junit", "--release"} <= used


def test_as_many_drills_as_it_says_need_only_two_releases() -> None:
    few = [drill for drill in shipped() if drill.kinds <= {Kind.FIRST, Kind.GOOD}]
    assert f"{len(few)} of {len(shipped())} can be run" in PAGE.replace("\n", " ")
