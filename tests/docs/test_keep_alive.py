"""The jobs that docs/how-to/keep-alive.md shows: they parse, and call only what exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from repo_tools.cli import cli
from signpost.console import commands_of
from tests.support.pages import run_page
from tests.support.patience import stretched

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keep-alive.md"
TEXT = PAGE.read_text("utf-8")
UNITS = dict(re.findall(r"`/etc/systemd/system/([\w.-]+)`.*?```ini\n(.*?)```", TEXT, re.DOTALL))
WORKFLOW: dict[str, Any] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])  # type: ignore[index]


def test_the_page_shows_what_happens(tmp_path: Path) -> None:
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
    command = dict(commands_of(cli))[words[0]]
    command.make_context(words[0], words[1:])


def test_the_workflow_uses_each_secret_that_it_is_given() -> None:
    job = WORKFLOW["jobs"]["refresh"]
    assert [name for name, value in job["env"].items() if f"secrets.{name} " not in value] == []
    assert len(list(_commands())) == 6


# -- the jobs, run as their runners run them ---------------------------------------------------------------

DAYS = 340  # of a root's year: its end is near, and the timestamp has expired


@pytest.fixture
def late(tmp_path: Path) -> Path:
    """Return a folder with the checkout ``repo`` of a repository, without its root keys and its targets."""
    _call(tmp_path, "repo-tools new repo")
    _call(tmp_path, "repo-tools --repo repo push www")
    config = tmp_path / "repo" / "repo.toml"
    for key in (tmp_path / "repo" / "keys").glob("root-*"):
        key.unlink()
    lines = config.read_text("utf-8").splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "root-" not in line), "utf-8")
    shutil.rmtree(tmp_path / "repo" / "targets")
    return tmp_path


def _call(folder: Path, command: str, *, days: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's runner does: ``bash -e`` on a file, some days later."""
    script = folder / "step.sh"
    script.write_text(command.replace("s3://updates-example-com", str(folder.parent / "www")), "utf-8")
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    if days:
        words = ["faketime", "-f", f"+{days}d", *words]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "REPO_TOOLS_PASSPHRASE": ""}
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=stretched(120),
    )


@pytest.mark.skipif(shutil.which("faketime") is None, reason="Debian package faketime")
def test_a_root_that_is_near_keeps_no_signature_from_the_readers(late: Path) -> None:
    """The job's steps in order: readers get a fresh timestamp, and the last step reports root."""
    steps = [step for step in WORKFLOW["jobs"]["refresh"]["steps"] if "repo-tools" in step.get("run", "")]
    ended = [_call(late / step["working-directory"], step["run"], days=DAYS) for step in steps]
    assert [step.returncode for step in ended] == [0, 0, 1], [step.stderr for step in ended]
    assert "root expires soon and is NOT signed" in ended[0].stderr
    fresh = (late / "repo" / "metadata" / "timestamp.json").read_bytes()
    assert (late / "www" / "metadata" / "timestamp.json").read_bytes() == fresh
    again = _call(late / "repo", steps[0]["run"], days=DAYS)
    assert again.returncode == 0, "status 3 of refresh: only root, which others sign, is near"


@pytest.mark.skipif(shutil.which("faketime") is None, reason="Debian package faketime")
def test_the_unit_s_commands_run_to_the_alarm(late: Path) -> None:
    """Systemd goes on to the next ExecStart= after a status of SuccessExitStatus=, and stops at any other."""
    unit = UNITS["repo-refresh.service"]
    accepted = {0, *map(int, re.findall(r"SuccessExitStatus=(.*)", unit)[0].split())}
    commands = [line.replace("$$", "$") for line in re.findall(r"ExecStart=(.*)", unit)]
    commands[0] = re.sub(r"REPO_TOOLS_PASSPHRASE=\$\(.*?\) exec ", "", commands[0])
    statuses = []
    for command in commands:
        statuses.append(_call(late / "repo", command, days=DAYS).returncode)
        if statuses[-1] not in accepted:
            break
    assert statuses == [0, 0, 1]
