"""The runner of the pages: it must notice every way in which a page can be wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.pages import PageError, run_page, typed


def _run(folder: Path, *lines: str) -> list[str]:
    page = folder / "page.md"
    page.write_text("\n".join(["# A page", "", "```console", *lines, "```", ""]), encoding="utf-8")
    return run_page(page, folder)


def test_commands_share_one_shell(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ mkdir one && cd one\n$ word=kept\n```\nProse.\n"
        "```sh\nfalse\n```\n```console\n$ echo $word \\\n    in ${PWD##*/}\nkept in one\n```\n",
        encoding="utf-8",
    )
    assert run_page(page, tmp_path) == ["", "", "kept in one\n"]


def test_a_here_document_is_one_command(tmp_path: Path) -> None:
    _run(tmp_path, "$ cat > file <<'EOF'", "not a command", "EOF", "$ cat file", "not a command")


def test_what_differs_each_time_is_left_open(tmp_path: Path) -> None:
    _run(tmp_path, "$ printf 'a 1\\nb\\nc\\nd 2\\n'", "a …", "…", "d 2")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        pytest.param(["$ echo a", "b"], "the page shows", id="other-line"),
        pytest.param(["$ printf 'a\\nb\\n'", "a"], "the page shows", id="a-line-more"),
        pytest.param(["$ echo a", "a", "b"], "the page shows", id="a-line-less"),
        pytest.param(["$ true", "a"], "the page shows", id="nothing-printed"),
        pytest.param(["$ false"], "status 1", id="failed"),
        pytest.param(["$ false", "$ echo $?", "0"], "the page shows", id="other-status"),
        pytest.param(["$ exit 3"], "the shell ended", id="exit"),
        pytest.param(["output first"], "starts with a command", id="no-command"),
    ],
)
def test_a_wrong_page_is_noticed(tmp_path: Path, lines: list[str], fault: str) -> None:
    with pytest.raises(PageError, match=fault):
        _run(tmp_path, *lines)


def test_a_status_that_is_shown_may_be_a_failure(tmp_path: Path) -> None:
    _run(tmp_path, "$ (exit 4)", "$ echo $?", "4")


def test_the_error_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(PageError, match=r"page\.md, line 5: echo b"):
        _run(tmp_path, "$ echo a", "$ echo b", "c")


def test_the_background_ends_with_the_page(tmp_path: Path) -> None:
    printed = _run(tmp_path, "$ sleep 300 &", "$ echo $!")
    assert _ends(Path("/proc", printed[1].strip(), "stat"), within=60)


def _ends(status: Path, *, within: float) -> bool:
    """Tell whether a killed process is gone, or waits for its parent, within so many seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if ") Z " in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_tables_may_shift(tmp_path: Path) -> None:
    _run(tmp_path, "$ printf 'a    b   \\n'", "a  b")
    with pytest.raises(PageError):
        _run(tmp_path, "$ printf 'ab\\n'", "a  b")


def test_stderr_counts(tmp_path: Path) -> None:
    _run(tmp_path, "$ echo fault >&2", "fault")


def test_lines_are_counted_from_the_page(tmp_path: Path) -> None:
    assert [item.line for item in typed("a\n```console\n$ one\n```\n```console\n$ two\n```\n")] == [3, 6]
    assert not list(tmp_path.iterdir())
