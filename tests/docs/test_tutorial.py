"""The tutorial does what it says: every block of it is run, in an empty folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.pages import run_page

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-release.md"


def test_the_tutorial_says_what_happens(tmp_path: Path) -> None:
    assert len(run_page(PAGE, tmp_path)) > 40
