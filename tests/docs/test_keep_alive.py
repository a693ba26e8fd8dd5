"""The jobs that docs/how-to/keep-alive.md shows: they parse, and call what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from repo_tools.cli import cli
from tests.support.pages import run_page

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keep-alive.md"
TEXT = PAGE.read_text("utf-8")
UNITS = dict(re.findall(r"`/etc/systemd/system/([\w.-]+)`.*?```ini\n(.*?)```", TEXT, re.DOTALL))
WORKFLOW: dict[str, Any] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])  # type: ignore[index]


def test_the_page_says_what_happens(tmp_path: Path) -> None:
    assert len(run_page(PAGE, tmp_path)) > 8


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 3
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("repo-tools", "tell-somebody"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for name, text in UNITS.items():
        here = text.replace("=repo-tools", f"={programs}/repo-tools").replace("/usr/local/bin", str(programs))
        (tmp_path / name).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:/lib/systemd/system", "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in done.stderr.splitlines() if "repo-" in line]
    assert ours == []
    calendar = re.search(r"OnCalendar=(.*)", UNITS["repo-refresh.timer"])
    assert calendar
    subprocess.run(["systemd-analyze", "calendar", calendar[1]], check=True, capture_output=True)


def _commands() -> Iterator[list[str]]:
    steps = WORKFLOW["jobs"]["refresh"]["steps"]
    for text in [*UNITS.values(), *(step.get("run", "") for step in steps)]:
        for line in re.findall(r"\brepo-tools ((?:refresh|push|expirations|validate)[^|'\n]*)", text):
            yield shlex.split(line)


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_the_jobs_call_what_there_is(words: list[str]) -> None:
    command = cli.commands[words[0]]
    assert isinstance(command, click.Command)
    command.make_context(words[0], words[1:])


def test_the_workflow_uses_each_secret_that_it_is_given() -> None:
    job = WORKFLOW["jobs"]["refresh"]
    assert [name for name, value in job["env"].items() if f"secrets.{name} " not in value] == []
    assert len(list(_commands())) == 6
