"""What a series of drills came to: a table for people, JUnit XML for CI. PURE: results to text."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from updog.drill.series import Verdict
from updog.render import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from updog.drill.series import Result

_HEAD = ("drill", "boots", "seconds", "result", "cause")
_CAUSE_WIDTH = 96  # a line of a CI log; the whole sentence is in the JUnit report


def results_table(results: Sequence[Result]) -> str:
    """Return the closing table."""
    rows = [(r.drill, str(r.boots), f"{r.seconds:.1f}", r.verdict.value, _short(r.cause)) for r in results]
    counts = {verdict: sum(r.verdict is verdict for r in results) for verdict in Verdict}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    boots, seconds = sum(r.boots for r in results), sum(r.seconds for r in results)
    return "\n".join([*table([_HEAD, *rows]), "", f"{said}; {boots} boots, {seconds:.0f} seconds of drills"])


def _short(cause: str) -> str:
    return cause if len(cause) <= _CAUSE_WIDTH else f"{cause[: _CAUSE_WIDTH - 1]}…"


def junit(results: Sequence[Result], *, machine: str) -> bytes:
    """Return the results as a JUnit XML report; each drill is a test case of the class ``drill.MACHINE``."""
    suite = Element(
        "testsuite",
        name=f"updog drills ({machine})",
        tests=str(len(results)),
        failures=str(sum(r.verdict is Verdict.FAILED for r in results)),
        errors="0",
        skipped=str(sum(r.verdict is Verdict.SKIPPED for r in results)),
        time=f"{sum(r.seconds for r in results):.3f}",
    )
    for result in results:
        _add_case(suite, result, machine)
    root = Element("testsuites")
    root.append(suite)
    indent(root)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add_case(suite: Element, result: Result, machine: str) -> None:
    """Add a test case."""
    case = SubElement(
        suite, "testcase", classname=f"drill.{machine}", name=result.drill, time=f"{result.seconds:.3f}"
    )
    cause = _printable(result.cause)
    if result.verdict is Verdict.FAILED:
        SubElement(case, "failure", message=cause).text = cause
    elif result.verdict is Verdict.SKIPPED:
        SubElement(case, "skipped", message=cause)
    said = [f"boots: {result.boots}"]
    said += [f"last rollback: {cause}"] if cause and result.verdict is Verdict.PASSED else []
    said += [f"console: {result.console}"] if result.console else []
    SubElement(case, "system-out").text = "\n".join(said)


def _printable(text: str) -> str:
    """Return a text without the characters that XML 1.0 cannot hold."""
    return "".join(char if char in "\t\n" or char >= " " else "\N{REPLACEMENT CHARACTER}" for char in text)
