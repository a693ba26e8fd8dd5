"""Write the Debian package's ``/etc/updog.toml``: every key explained, all but what must be set a comment.

It is made from the tables that :mod:`updog.config` reads the file by, as the reference page is.

usage: annotated_configuration.py
"""

from __future__ import annotations

import sys
import textwrap
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "repo-tools")]

from updog.api_keys import API_KEYS
from updog.auto_keys import AUTO_KEYS
from updog.config import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from updog.config_key import Key

WIDTH = 100
_HEAD = """\
How this node updates itself. See updog(1) and updog.toml(5).

The two URLs must be set. A line that begins with # and a key shows the default, or nothing where a key is \
unset by default; take the # away to set it. A key of a table counts only if the line of the table, such as \
[auto], has no # either.

Check it with `updog config`."""
_TABLES = {
    "auto": "Automatic updates by updog-agent.service, which is off unless enabled.",
    "auto.window": "When the agent may restart this node; the table may stand here several times.",
    "auto.freeze": "Days without updates; the table may stand here several times.",
    "api": "The API of the agent on a Unix socket.",
}
"""What is said above a table."""

_REPEATED = ("auto.window", "auto.freeze")
_OF_THE_MACHINE = ("arch",)  # its default is read when updog starts


def annotated() -> str:
    """Return the text of the file."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield from _comment(_HEAD)
    for table, keys in groupby((*KEYS, *AUTO_KEYS, *API_KEYS), lambda key: key.name.rpartition(".")[0]):
        if table:
            yield from ("", "")
            yield from _comment(_TABLES.get(table, ""))
            yield f"#[[{table}]]" if table in _REPEATED else f"#[{table}]"
        for key in keys:
            yield ""
            yield from _comment(f"{sentence(key.meaning)} Takes {key.takes}.")
            yield _setting(key)


def _comment(text: str) -> Iterator[str]:
    """Yield the lines of a comment."""
    for paragraph in text.splitlines():
        yield from textwrap.wrap(
            paragraph, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        ) or ["#"]


def sentence(text: str) -> str:
    """Return a meaning as a sentence; its first word stays as it is where it is a name or a value."""
    word = text.split(maxsplit=1)[0]
    begun = text if set(word) & set(":_.") else text[0].upper() + text[1:]
    return begun if begun.endswith(("…", ".")) else f"{begun}."


def _setting(key: Key) -> str:
    name = key.name.rpartition(".")[2]
    if key.required and "." not in key.name:
        return f'{name} = ""'
    default = "" if key.name in _OF_THE_MACHINE else key.default_text
    return f"#{name} = {default}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(annotated())
