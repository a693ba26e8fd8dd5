"""The how-tos do what they say: every block of each is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import run_page

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize("name", ["root-ceremony", "lost-root-key", "leaked-online-key", "air-gap"])
def test_the_page_shows_what_happens(name: str, tmp_path: Path) -> None:
    assert len(run_page(HOW_TO / f"{name}.md", tmp_path)) > 10
