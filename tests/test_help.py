"""What users see when they ask for help, for every command of the three programs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import repo_tools as repo_tools_package
import signpost as signpost_package
import updog as updog_package
from repo_tools.cli import cli as repo_tools
from signpost.cli import program as signpost
from signpost.console import commands_of
from updog.cli import program as updog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, below in commands_of(command):
            yield from _commands(below, f"{path} {name}")


PROGRAMS = ("signpost", "updog", "repo-tools")
EVERY = [
    found
    for name, program in (("signpost", signpost), ("updog", updog), ("repo-tools", repo_tools))
    for found in _commands(program, name)
]
COMMANDS = [(path, command) for path, command in EVERY if not isinstance(command, click.Group)]
TERMINAL = 80
_MARGIN = 2  # columns that click leaves free on the right


def _help(path: str, command: click.Command, *, width: int) -> str:
    """Return a command's help as its program shows it."""
    program, _, rest = path.partition(" ")
    root = click.Context(click.Group(program), info_name=program) if rest else None
    return command.get_help(
        click.Context(command, info_name=rest or program, parent=root, terminal_width=width)
    )


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_every_command_shows_an_example_line_by_line(path: str, command: click.Command) -> None:
    text = _help(path, command, width=100)
    assert "\\b" not in text
    lines = [line.strip() for line in text.splitlines()]
    example = lines[lines.index("Example:") + 1]
    assert any(program in example for program in PROGRAMS)
    assert len([line for line in lines if line]) > 3


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_help_fits_a_terminal_and_cuts_no_summary(path: str, command: click.Command) -> None:
    text = _help(path, command, width=TERMINAL - _MARGIN)
    assert [line for line in text.splitlines() if len(line) > TERMINAL] == []
    summaries = text.partition("\nCommands:\n")[2].splitlines()
    assert [line for line in summaries if line.endswith("...")] == []
    assert bool(summaries) == isinstance(command, click.Group)


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_every_command_takes_both_names_of_help(path: str, command: click.Command) -> None:
    assert "\n  -h, --help" in _help(path, command, width=100)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_option_is_explained(path: str, command: click.Command) -> None:
    unexplained = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not option.hidden
    ]
    assert unexplained == [], path


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_no_help_points_to_a_page_that_an_installed_package_lacks(path: str, command: click.Command) -> None:
    text = _help(path, command, width=100)
    assert "docs/" not in text
    assert ".md" not in text


@pytest.mark.parametrize("package", [signpost_package, updog_package, repo_tools_package])
def test_no_message_points_to_a_page_that_an_installed_package_lacks(package: ModuleType) -> None:
    modules = [path for folder in package.__path__ for path in Path(folder).rglob("*.py")]
    assert len(modules) > 10
    assert [found for path in modules for found in _texts_with_pages(path)] == []


def _texts_with_pages(path: Path) -> Iterator[str]:
    """Yield the texts of a module that name a page of the documentation; docstrings are not printed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings and "docs/" in str(node.value):
            yield f"{path.name}:{node.lineno}: {node.value!r}"
