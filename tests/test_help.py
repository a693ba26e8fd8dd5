"""What people see when they ask for help, for every command of the three programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from repo_tools.cli import cli as repo_tools
from signpost.cli import program as signpost
from signpost.console import commands_of
from updog.cli import program as updog

if TYPE_CHECKING:
    from collections.abc import Iterator


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, below in commands_of(command):
        yield from _commands(below, f"{path} {name}")


PROGRAMS = ("signpost", "updog", "repo-tools")
COMMANDS = [
    found
    for name, program in (("signpost", signpost), ("updog", updog), ("repo-tools", repo_tools))
    for found in _commands(program, name)
]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_shows_an_example_line_by_line(path: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=path, terminal_width=100))
    assert "\\b" not in text
    lines = [line.strip() for line in text.splitlines()]
    example = lines[lines.index("Example:") + 1]
    assert any(program in example for program in PROGRAMS)
    assert len([line for line in lines if line]) > 3


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_option_is_explained(path: str, command: click.Command) -> None:
    unexplained = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not option.hidden
    ]
    assert unexplained == [], path
