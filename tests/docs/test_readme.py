"""What README.md shows works as it is typed, in an empty folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.http_server import unused_port
from tests.support.pages import run_page

README = Path(__file__).parents[2] / "README.md"
PORT = "8744"


def test_the_worked_example_works_as_it_is_typed(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(PORT) == 2
    page = tmp_path / "page.md"  # with a port that is free while these tests run twice
    page.write_text(text.replace(PORT, str(unused_port())), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "1.2.0" in run_page(page, folder)[-1]
