"""The tutorial does what it says: every block of it is run, in an empty folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.http_server import unused_port
from tests.support.pages import run_page

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-release.md"
PORT = "8743"


def test_the_tutorial_shows_what_happens(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"--port {PORT}" in text
    copy = tmp_path / PAGE.name
    # A fixed port reads best, but may be in use on a machine that runs these tests twice.
    copy.write_text(text.replace(PORT, str(unused_port())), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert len(run_page(copy, folder)) > 40
