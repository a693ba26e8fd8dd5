r"""Run the pages of the documentation: every ``console`` block of a Markdown page, typed into one shell.

Rules for pages:

* only blocks marked ``console`` are run, in order, all in one shell, so that folders and variables are kept;
* a line that starts with ``$ `` is typed; it continues after a ``\`` at its end, and up to the end mark of a
  ``<<'EOF'``. The lines up to the next ``$ `` are the expected output (stdout and stderr together);
* if no output is shown, it does not matter. Otherwise it must be equal line by line, except for the number of
  blanks; ``…`` stands for any text in a line, a line that is only ``…`` for any number of lines;
* a command must succeed, unless ``$ echo $?`` follows: then that shows the expected exit status;
* processes started with ``&`` end with the page.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ANYTHING = "…"
_PROMPT = "$ "
_SHOW_STATUS = "echo $?"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Typed:
    """One command of a page.

    Attributes:
        line: number of its first line in the page.
        command: as typed.
        shown: the expected output.
        may_fail: whether the next command prints its exit status.
    """

    line: int
    command: str
    shown: tuple[str, ...]
    may_fail: bool = False


class PageError(AssertionError):
    """A page does not show what really happens."""


def typed(text: str) -> list[Typed]:
    """Return the commands of a page, in order. Raises PageError on output without a command."""
    found = [item for block in _BLOCK.finditer(text) for item in _typed_in(block, text)]
    last = Typed(line=0, command="", shown=())
    return [
        Typed(line=one.line, command=one.command, shown=one.shown, may_fail=after.command == _SHOW_STATUS)
        for one, after in itertools.pairwise([*found, last])
    ]


def _typed_in(block: re.Match[str], text: str) -> Iterator[Typed]:
    first = text.count("\n", 0, block.start(1)) + 1
    lines = block[1].splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].startswith(_PROMPT):
            raise PageError(f"line {first + at}: a console block starts with a command: {lines[at]}")
        end = _end_of_command(lines, at)
        until = next((n for n in range(end, len(lines)) if lines[n].startswith(_PROMPT)), len(lines))
        command = "\n".join([lines[at].removeprefix(_PROMPT), *lines[at + 1 : end]])
        yield Typed(line=first + at, command=command, shown=tuple(lines[end:until]))
        at = until


def _end_of_command(lines: Sequence[str], at: int) -> int:
    """Return the index after the last line of the command that begins at ``at``."""
    mark = _HERE_DOCUMENT.search(lines[at])
    if mark:
        return lines.index(mark[1], at) + 1
    while lines[at].endswith("\\"):
        at += 1
    return at + 1


def pattern(shown: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern that matches exactly the output that is shown."""
    return re.compile("".join(_line_pattern(_tidy(line)) for line in shown))


def _line_pattern(line: str) -> str:
    if line.strip() == ANYTHING:
        return r"(?:.*\n)*?"
    return re.escape(line).replace(ANYTHING, ".*") + r"\n"


def _tidy(line: str) -> str:
    """Return a line without trailing blanks, and with one blank instead of several: table columns move."""
    return re.sub(" +", " ", line.rstrip())


def run_page(page: Path, folder: Path, variables: Mapping[str, str] | None = None) -> list[str]:
    """Type a page's commands in ``folder``; return the output of each.

    Args:
        page: the Markdown file.
        folder: the shell's working and home folder.
        variables: environment variables, in addition to a minimal environment with this project's commands.

    Raises:
        PageError: a command failed, or its output differs; the message names the line of the page.
    """
    with _Shell(folder, variables or {}) as shell:
        return [_check(page, item, *shell.type(item.command)) for item in typed(page.read_text("utf-8"))]


def _check(page: Path, item: Typed, printed: str, status: int) -> str:
    where = f"{page.name}, line {item.line}: {item.command}"
    if status and not item.may_fail:
        raise PageError(f"{where}\nended with exit status {status}:\n{printed}")
    tidy = "".join(f"{_tidy(line)}\n" for line in printed.splitlines())
    if item.shown and not pattern(item.shown).fullmatch(tidy):
        shown = "\n".join(item.shown)
        raise PageError(f"{where}\nprinted\n{tidy}\nand the page shows\n{shown}")
    return tidy


class _Shell:
    """One bash for a whole page. A line that nothing else prints marks the end of each command."""

    _END = "--- end of a command of the page, status "

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            **variables,
        }
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # so that its background processes can be ended with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def type(self, command: str) -> tuple[str, int]:
        """Return the output and the exit status of a command."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # The status is restored for a following `echo $?`; stdin is empty, so that no command reads the next.
        stdin.write(f"{{ {command}\n}} </dev/null\n")
        stdin.write(f"__status=$?; printf '\\n{self._END}%d\\n' $__status; (exit $__status)\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line.startswith(self._END):
                return "".join(lines).removesuffix("\n"), int(line.removeprefix(self._END))
            lines.append(line)
        raise PageError(f"the shell ended at: {command}")
