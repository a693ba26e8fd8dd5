"""Severities for the journal, on a real descriptor that is declared to be the journal's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NOTE = "from signpost.console import note, Severity; note('one\\ntwo', Severity.ERROR); note('three')"
LOG = "from signpost.journal import start_logging; start_logging('warning'); import logging; "
LOG += "logging.getLogger('part').warning('w'); logging.getLogger('part').error('e'); "
REPORT = (
    "import signpost.console as c, click; from signpost.errors import *; raising = (_ for _ in ()).throw; "
)
REPORT += "c.run(click.Group('tool', commands=[click.Command('x', callback=lambda: raising(E))]), ['x'])"


def _stderr(tmp_path: Path, script: str, *, stream: str | None = None) -> list[str]:
    """Run a script whose stderr is a file; ``stream`` declares what the journal is, by default this file."""
    path = tmp_path / "stderr"
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        own = f"{found.st_dev}:{found.st_ino}" if stream is None else stream
        environment = {**os.environ, "JOURNAL_STREAM": own}
        subprocess.run([sys.executable, "-c", script], stderr=file, env=environment, check=False)
    return path.read_text(encoding="utf-8").splitlines()


def test_every_line_has_its_severity(tmp_path: Path) -> None:
    assert _stderr(tmp_path, NOTE) == ["<3>one", "<3>two", "<6>three"]


def test_log_records_have_theirs(tmp_path: Path) -> None:
    assert _stderr(tmp_path, LOG) == ["<4>part: w", "<3>part: e"]


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense", "é:1", ":"])
def test_what_is_not_the_journal_gets_plain_lines(tmp_path: Path, stream: str) -> None:
    assert _stderr(tmp_path, NOTE, stream=stream) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("error", "severity"),
    [("ToolError", 3), ("UsageError", 3), ("TableChangedError", 5), ("NothingBootableError", 3)],
)
def test_an_error_has_the_severity_of_its_exit_status(tmp_path: Path, error: str, severity: int) -> None:
    lines = _stderr(tmp_path, REPORT.replace("E)", f"{error}('what'))"))
    assert [line[:3] for line in lines] == [f"<{severity}>"] * 2


def test_a_defect_and_wrong_usage_are_errors(tmp_path: Path) -> None:
    assert _stderr(tmp_path, REPORT.replace("E)", "KeyError('x'))"))[0].startswith("<3>tool: internal error")
    assert _stderr(tmp_path, REPORT.replace("['x']", "['y']")) == ["<3>tool: No such command 'y'."]


def test_nothing_is_marked_without_stderr() -> None:
    script = f"import os, sys; os.close(2); sys.stderr = sys.stdout; {NOTE}"
    environment = {**os.environ, "JOURNAL_STREAM": "1:2"}
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, check=True)
    assert done.stdout == b"one\ntwo\nthree\n"
