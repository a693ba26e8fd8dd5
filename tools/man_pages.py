r"""Manual pages in man(7)'s language, from what the reference is made from: commands and keys.

Rules: one page for a program, with all its commands, as an operator without a network searches it; the text
of the help is taken as it is, where `` `words` `` become bold and what click calls unwrapped (``\b``) stays
line by line; the same tree and date give the same bytes.

usage: man_pages.py FOLDER
"""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "repo-tools")]

import click

from repo_tools.cli import cli as repo_tools
from signpost.cli import program as signpost
from signpost.console import commands_of
from tools.annotated_configuration import sentence
from tools.generate_reference import MEANINGS
from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.cli import program as updog
from updog.config import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS: dict[str, click.Group] = {"updog": updog, "signpost": signpost, "repo-tools": repo_tools}
_SEE_ALSO = {
    "updog": "signpost(1), updog.toml(5), systemctl(1), journalctl(1)",
    "signpost": "updog(1)",
    "repo-tools": "updog(1), signpost(1)",
    "updog.toml": "updog(1)",
}
_FILES = {
    "updog": (
        ("/etc/updog.toml", "Configuration of the node; see updog.toml(5)."),
        ("/etc/updog/health.d/required/", "Executables that decide whether a boot is good."),
        ("/etc/updog/health.d/wanted/", "Executables whose failure is only a warning."),
        ("/var/lib/updog/", "State that both slots share."),
    )
}
_VERBATIM = "\b\n"


def pages(date: datetime) -> dict[str, str]:
    """Return every page by its file name, such as ``updog.1``; ``date`` is that of the release."""
    made = {f"{name}.1": _program(name, group, date) for name, group in _PROGRAMS.items()}
    return {**made, "updog.toml.5": _configuration(date)}


def _head(title: str, section: int, what: str, date: datetime) -> Iterator[str]:
    name = title if section != 1 else title.split(maxsplit=1)[0]
    yield f'.TH {_plain(name).upper()} {section} "{date:%Y-%m-%d}" "updog {version("updog-ab")}"'
    yield ".nh"  # a command is copied from the page: no word is divided
    yield ".SH NAME"
    yield f"{_plain(name)} \\- {_text(what)}"


def _program(name: str, group: click.Group, date: datetime) -> str:
    """Return the page of a program."""
    context = click.Context(group, info_name=name)
    what, *description = _paragraphs(group, name)
    lines = [
        *_head(name, 1, what[0].lower() + what[1:].rstrip("."), date),
        ".SH SYNOPSIS",
        _usage(group, context),
        ".SH DESCRIPTION",
        *_body(description),
        ".SH OPTIONS",
        *_options(group, context),
        ".SH COMMANDS",
        *_commands(group, name, context),
        ".SH EXIT STATUS",
        *(f".TP\n{int(status)}\n{_text(sentence(meaning))}" for status, meaning in MEANINGS.items()),
    ]
    if name in _FILES:
        lines += [".SH FILES", *(f".TP\n.I {_plain(path)}\n{_text(what)}" for path, what in _FILES[name])]
    return "\n".join([*lines, ".SH SEE ALSO", _plain(_SEE_ALSO[name]), ""])


def _commands(group: click.Group, path: str, parent: click.Context) -> Iterator[str]:
    """Yield a section for every command below a group."""
    for name, command in commands_of(group):
        if command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=parent)
        full = f"{path} {name}"
        if isinstance(command, click.Group) and not command.invoke_without_command:
            yield from _commands(command, full, context)
            continue
        yield f".SS {_plain(full)}"
        yield _usage(command, context)
        yield from _body(_paragraphs(command, path.split(maxsplit=1)[0]))
        yield from _options(command, context)
        if isinstance(command, click.Group):
            yield from _commands(command, full, context)


def _usage(command: click.Command, context: click.Context) -> str:
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece]
    return f".B {_plain(context.command_path)}\n{_plain(' '.join(pieces))}"


def _paragraphs(command: click.Command, program: str) -> list[str]:
    """Return the paragraphs of a command's help, with the program's own name."""
    text = (command.help or "").replace("{program}", program)
    return [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _body(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        if paragraph.startswith(_VERBATIM):
            first, *lines = paragraph.removeprefix(_VERBATIM).splitlines()
            yield f".PP\n{_text(first)}\n.RS\n.nf"
            yield from (_line(line.removeprefix("  ")) for line in lines)
            yield ".fi\n.RE"
        else:
            yield f".PP\n{_text(' '.join(paragraph.split()))}"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        names, what = parameter.get_help_record(context) or ("", "")
        if what and (parameter.name != "help" or context.parent is None):  # every command has --help
            yield f".TP\n.B {_plain(names)}\n{_text(' '.join(what.split()))}"


def _configuration(date: datetime) -> str:
    """Return the page of the configuration file."""
    lines = [
        *_head("updog.toml", 5, "configuration of updog", date),
        ".SH SYNOPSIS",
        ".I /etc/updog.toml",
        ".SH DESCRIPTION",
        _text(
            "A file in TOML. Unknown keys are errors. Relative paths start at the file's folder. "
            "`updog config --effective` shows the values that count, and where each comes from."
        ),
    ]
    for table, keys in groupby((*KEYS, *AUTO_KEYS, *API_KEYS), lambda key: key.name.rpartition(".")[0]):
        lines.append(f".SH {'TABLE ' + _plain(table) if table else 'KEYS'}")
        for key in keys:
            default = "Required." if key.required else key.default_text and f"Default: {key.default_text}."
            facts = " ".join(filter(None, (sentence(key.meaning), f"Takes {key.takes}.", default)))
            lines.append(f".TP\n.B {_plain(key.name.rpartition('.')[2])}\n{_text(facts)}")
    return "\n".join([*lines, ".SH SEE ALSO", _plain(_SEE_ALSO["updog.toml"]), ""])


# -- characters


def _plain(text: str) -> str:
    """Return text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    escaped = escaped.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in escaped)


def _line(text: str) -> str:
    """Return a line that does not begin with a request of roff."""
    escaped = _plain(text)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) or not escaped else escaped


def _text(text: str) -> str:
    """Return a paragraph, with the words between backquotes in bold."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return _line(text)
    marked = "".join(
        f"\\fB{_plain(part)}\\fP" if number % 2 else _plain(part) for number, part in enumerate(parts)
    )
    return f"\\&{marked}" if marked.startswith((".", "\\(aq")) else marked


def main() -> int:
    """Write the pages into the folder that the first argument names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for name, text in pages(datetime.fromtimestamp(seconds, UTC)).items():
        (folder / name).write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
