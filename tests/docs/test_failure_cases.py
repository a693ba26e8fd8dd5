"""The page of failure cases: it has every case that code or tests cite, and no case that nothing cites."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "failure-cases.md"
CODE = ("signpost", "updog", "repo-tools", "tests")
_CASE = re.compile(r"\bD[0-9]{2}\b")
_SPAN = re.compile(r"\bD([0-9]{2})(?: to |-)D([0-9]{2})\b")


def cited() -> set[str]:
    """Return the cases that code and tests cite, those within spans such as D46 to D52 included."""
    texts = [path.read_text(encoding="utf-8") for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    spans = [range(int(span[1]), int(span[2]) + 1) for text in texts for span in _SPAN.finditer(text)]
    single = {case for text in texts for case in _CASE.findall(text)}
    return single | {f"D{number:02}" for span in spans for number in span}


def test_every_cited_case_is_on_the_page_and_every_case_of_the_page_is_cited() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| D")]
    listed = [case for row in rows for case in _CASE.findall(row.split("|")[1])]
    assert sorted(listed) == sorted(cited())
