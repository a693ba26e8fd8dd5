"""The error boundary and the printing that the three command lines share."""

from __future__ import annotations

import json
import logging
from typing import NoReturn

import click
import pytest

from signpost import console
from signpost.errors import DiskBusyError, ExitStatus, ToolError, UsageError


@click.group("tool")
@console.log_level_option
def tool(log_level: str) -> None:
    """Do things."""
    console.start_logging(log_level)


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
    }
    raise kinds[kind] if kind in kinds else KeyboardInterrupt(as_json)


tool.add_command(console.completion)


class TestRun:
    def test_success_is_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good"]) == 0
        assert capsys.readouterr() == ("forty-two\n", "")

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

    def test_wrong_words_are_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good", "--nonsense"]) == 2
        assert "No such option" in capsys.readouterr().err

    def test_help_is_0_and_shows_the_example_line_by_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert console.run(tool, ["good", "--help"]) == 0
        assert (
            "\n  In two paragraphs.\n\n  Example:\n    tool good\n    tool good --json\n"
            in capsys.readouterr().out
        )

    def test_words_come_from_the_command_line_unless_given(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["tool", "good"])
        assert console.run(tool) == 0
        assert capsys.readouterr().out == "forty-two\n"


def test_nothing_to_say_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({}, "", as_json=False)
    assert capsys.readouterr().out == ""


def test_completion_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(tool, ["completion", "bash"]) == 0
    assert "_TOOL_COMPLETE" in capsys.readouterr().out


def test_logging_goes_to_stderr_at_the_level_asked_for() -> None:
    handlers = logging.root.handlers[:]
    console.start_logging("warning")
    console.start_logging("info")
    assert logging.root.handlers[: len(handlers)] == handlers


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
