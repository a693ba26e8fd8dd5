"""The manual pages of the Debian packages: roff reads them without a warning, and nothing is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli as repo_tools
from signpost.cli import program as signpost
from signpost.console import commands_of
from tools.man_pages import pages
from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.cli import program as updog
from updog.config import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

PAGES = pages(datetime(2026, 11, 28, tzinfo=UTC))
PROGRAMS = {"updog": updog, "signpost": signpost, "repo-tools": repo_tools}

pytestmark = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")


def shown(page: str) -> str:
    """Return a page as a terminal shows it, with all blanks as one."""
    options = ["-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n"]
    done = subprocess.run(["groff", *options], input=PAGES[page], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in commands_of(group):
        if not command.hidden:
            yield f"{path} {name}", command
            if hasattr(command, "commands"):
                yield from commands(command, f"{path} {name}")  # type: ignore[arg-type]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_s_page_has_all_its_commands_options_and_examples(program: str) -> None:
    text = shown(f"{program}.1")
    found = dict(commands(PROGRAMS[program], program))
    assert len(found) > 5
    for path, command in found.items():
        if hasattr(command, "commands") and not getattr(command, "invoke_without_command", False):
            continue
        assert f"{path} {path} " in text, path  # the heading, and the usage below it
        for parameter in command.params:
            if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
                assert parameter.opts[-1] in text, path
        example = re.search(r"Example:\n +(.+)", (command.help or "").replace("{program}", program))
        assert example, path
        assert " ".join(example[1].rstrip("\\ ").split()) in text, path


def test_the_configuration_s_page_explains_every_key() -> None:
    text = shown("updog.toml.5")
    for key in (*KEYS, *AUTO_KEYS, *API_KEYS):
        assert f"{key.name.rpartition('.')[2]} " in text
        assert " ".join(key.meaning.replace("`", "").split())[1:] in text


def test_the_date_is_the_release_s() -> None:
    assert '"2026-11-28"' in PAGES["updog.1"].splitlines()[0]
    assert pages(datetime(2026, 11, 28, tzinfo=UTC)) == PAGES
