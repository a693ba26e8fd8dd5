"""The error boundary and the printing that the three command lines share."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import NoReturn

import click
import pytest

from signpost import console
from signpost.errors import DiskBusyError, ExitStatus, ToolError, UsageError
from signpost.journal import start_logging


@click.group("tool")
@console.log_level_option
def tool(log_level: str) -> None:
    """Do things."""
    start_logging(log_level)


@tool.command()
@console.json_option
@console.example("tool good", "tool good --json")
def good(*, as_json: bool) -> None:
    """Succeed.

    In two paragraphs.
    """
    console.emit({"answer": 42}, "forty-two", as_json=as_json)


@tool.command()
@console.json_option
@click.argument("kind")
def bad(kind: str, *, as_json: bool) -> NoReturn:
    """Fail."""
    kinds: dict[str, Exception] = {
        "tool": ToolError("the disk is gone", next_step="Look for it."),
        "usage": UsageError("no such slot"),
        "busy": DiskBusyError("disk is locked"),
        "defect": ZeroDivisionError("oops"),
        "interrupt": click.Abort(),
        "no descriptor": OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/run/x"),
        "no space": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        "no memory": MemoryError(),
        "no file": FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/run/x"),
    }
    raise kinds[kind] if kind in kinds else KeyboardInterrupt(as_json)


tool.add_command(console.completion)


class TestRun:
    def test_success_is_status_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good"]) == 0
        assert capsys.readouterr() == ("forty-two\n", "")

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("no descriptor", "tool: /run/x: Too many open files\n  next: This process has too many open"),
            ("no space", "tool: No space left on device\n  next: Its file system is full"),
            ("no memory", "tool: out of memory\n  next: There is no free memory"),
            ("no file", "tool: internal error: FileNotFoundError: [Errno 2] No such file or directory"),
        ],
    )
    def test_what_the_machine_does_to_any_step_is_no_defect(
        self, capsys: pytest.CaptureFixture[str], kind: str, said: str
    ) -> None:
        assert console.run(tool, ["bad", kind]) == ExitStatus.FAILED
        assert capsys.readouterr().err.startswith(said)

    def test_the_traceback_of_what_the_machine_did_makes_it_no_defect(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert console.run(tool, ["--log-level", "debug", "bad", "no space"]) == ExitStatus.FAILED
        said = capsys.readouterr().err
        assert "Traceback" in said
        assert said.rpartition("tool: ")[2].startswith(
            "No space left on device\n  next: Its file system is full"
        )

    def test_json_is_one_document(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"answer": 42}

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("tool", 1), ("usage", 2), ("busy", 75), ("defect", 1), ("interrupt", 130), ("ctrl-c", 130)],
    )
    def test_each_failure_has_its_status(self, kind: str, status: int) -> None:
        assert console.run(tool, ["bad", kind]) == status

    def test_an_expected_failure_says_what_and_what_next_on_stderr(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console.run(tool, ["bad", "tool"])
        assert capsys.readouterr() == ("", "tool: the disk is gone\n  next: Look for it.\n")

    def test_with_json_also_as_a_document_on_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        console.run(tool, ["bad", "busy", "--json"])
        out, err = capsys.readouterr()
        assert json.loads(out)["error"] == {
            "code": "disk-busy",
            "message": "disk is locked",
            "next_step": DiskBusyError.default_next_step,
            "status": 75,
        }
        assert err.startswith("tool: disk is locked")

    def test_a_defect_shows_its_traceback_only_when_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        console.run(tool, ["bad", "defect"])
        assert "Traceback" not in capsys.readouterr().err
        console.run(tool, ["--log-level", "debug", "bad", "defect"])
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert "internal error: ZeroDivisionError: oops" in err

    def test_wrong_usage_is_status_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good", "--nonsense"]) == 2
        assert "No such option" in capsys.readouterr().err

    def test_an_option_without_its_value_shows_whose_option_it_is(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        group = console.QuickGroup("tool")
        group.add_command(
            console.QuickCommand(
                "clear", params=[click.Option(["--version"])], callback=lambda version: version
            )
        )
        assert console.run(group, ["clear", "--version"]) == 2
        err = capsys.readouterr().err
        assert "Usage: tool clear" in err
        assert "Option '--version' requires an argument" in err

    def test_an_option_of_the_program_after_the_command_is_told_its_place(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        group = console.QuickGroup("tool", params=[click.Option(["--place"])])
        group.add_command(console.QuickCommand("show"))
        assert console.run(group, ["show", "--place", "x"]) == 2
        assert "--place goes before the command: `tool --place … show`." in capsys.readouterr().err
        assert console.run(group, ["show", "--other", "x"]) == 2
        assert "No such option '--other'" in capsys.readouterr().err

    def test_help_is_status_0_and_shows_the_example_line_by_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert console.run(tool, ["good", "--help"]) == 0
        assert (
            "\n  In two paragraphs.\n\n  Example:\n    tool good\n    tool good --json\n"
            in capsys.readouterr().out
        )

    def test_arguments_come_from_sys_argv_unless_given(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["tool", "good"])
        assert console.run(tool) == 0
        assert capsys.readouterr().out == "forty-two\n"


def test_an_empty_text_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({}, "", as_json=False)
    assert capsys.readouterr().out == ""


def test_completion_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(tool, ["completion", "bash"]) == 0
    assert "_TOOL_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["debug", "info", "warning"]), ("info", ["info", "warning"]), ("warning", ["warning"])],
)
def test_logging_goes_to_stderr_at_the_level_asked_for(level: str, shown: list[str]) -> None:
    script = (
        f"from signpost.journal import start_logging; start_logging({level!r}); import logging; "
        "log = logging.getLogger('part'); log.debug('x'); log.info('x'); log.warning('x')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [f"{name.upper()} part: x" for name in shown]


def test_every_error_has_a_code_a_status_and_a_next_step() -> None:
    todo, codes = [ToolError], []
    while todo:
        kind = todo.pop()
        if kind.__module__ == "signpost.errors":
            codes.append(kind.code)
            assert kind.status in ExitStatus
            assert kind.default_next_step.endswith(".")
            assert str(kind("what happened")) == "what happened"
        todo += kind.__subclasses__()
    assert len(codes) == len(set(codes)) >= 9
