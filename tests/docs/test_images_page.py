"""docs/how-to/images.md: its codes, choices and places are the product's."""

from __future__ import annotations

import re
from pathlib import Path

from repo_tools.cli import cli
from repo_tools.image_build.checks import CODES
from repo_tools.image_build.prepare import FACTORY
from repo_tools.image_build.request import COMPRESSIONS, Etc

PAGE = (Path(__file__).parents[2] / "docs/how-to/images.md").read_text(encoding="utf-8")


def test_every_code_is_explained_once_and_no_other() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = [code for row in rows for code in re.findall(r"`([a-z][a-z-]+)`", row)]
    codes = [code for code in named if code not in set(Etc)]
    assert sorted(codes) == sorted(CODES)


def test_every_option_that_is_named_is_one() -> None:
    group = cli.get_command(None, "images")  # type: ignore[arg-type]
    command = group.get_command(None, "build")  # type: ignore[union-attr]
    ours = {word for option in command.params for word in option.opts}
    foreign = {"--repo", "--arch", "--boot", "--root", "--hash", "--format"}  # of publish and of mkosi
    assert set(re.findall(r"--[a-z][a-z-]*", PAGE)) <= ours | foreign


def test_choices_and_places_are_those_of_the_build() -> None:
    assert all(f"`{etc}`" in PAGE for etc in Etc)
    assert all(f"`{name}`" in PAGE or f"compression {name}" in PAGE for name in COMPRESSIONS)
    assert f"/{FACTORY}" in PAGE
