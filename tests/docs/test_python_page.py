"""docs/reference/python.md: its examples run, print what they say, and use only what is supported."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tools.python_api import EXAMPLES, GROUPS, page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.python_api import Group

SUPPORTED = [module for group in GROUPS for module in group.modules]
PACKAGES = ("signpost", "updog", "repo_tools")
FILES = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("example", FILES, ids=[file.stem for file in FILES])
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stderr == ""
    said = re.findall(r"^# → (.*)$", example.read_text(encoding="utf-8"), re.MULTILINE)
    assert said
    assert done.stdout.splitlines() == said


def test_every_example_is_on_the_page_whole() -> None:
    assert sorted(group.example for group in GROUPS) == [file.name for file in FILES]
    for file in FILES:
        assert f"```python\n{file.read_text(encoding='utf-8')}```" in page()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.example)
def test_an_example_imports_only_what_is_supported(group: Group) -> None:
    used = set(_imports((EXAMPLES / group.example).read_text(encoding="utf-8")))
    assert {module for module, _ in used} & set(group.modules)
    unsupported = [
        (module, name)
        for module, name in used
        if module not in SUPPORTED or (name and name not in importlib.import_module(module).__all__)
    ]
    assert unsupported == []


def _imports(script: str) -> Iterator[tuple[str, str]]:
    """Yield module and name (empty for the module itself) of what a script imports from this project."""
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield (module, "") if module in SUPPORTED else (str(node.module), alias.name)


@pytest.mark.parametrize("name", SUPPORTED)
def test_what_is_supported_is_there_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    section = page().partition(f"### `{name}`\n")[2].partition("\n### ")[0]
    for each in module.__all__:
        value = getattr(module, each)
        assert not callable(value) or value.__doc__
        assert re.search(rf"^(?:class |def )?{each}\b", section, re.MULTILINE), each
