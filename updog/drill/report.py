"""Results of a series of drills: a table for people, JUnit XML for CI. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from signpost.text import table
from updog.drill.series import DrillVerdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from updog.drill.series import Result

_HEAD = ("drill", "boots", "seconds", "result", "cause")
_CAUSE_WIDTH = 96  # fits a line of a CI log; the JUnit report has the whole sentence


def results_table(results: Sequence[Result]) -> str:
    """Return the table that ends the series."""
    rows = [(r.drill, str(r.boots), f"{r.seconds:.1f}", r.verdict.value, _short(r.cause)) for r in results]
    counts = {verdict: sum(r.verdict is verdict for r in results) for verdict in DrillVerdict}
    totals = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    boots, seconds = sum(r.boots for r in results), sum(r.seconds for r in results)
    return "\n".join([table([_HEAD, *rows]), "", f"{totals}; {boots} boots, {seconds:.0f} seconds of drills"])


def _short(cause: str) -> str:
    return cause if len(cause) <= _CAUSE_WIDTH else f"{cause[: _CAUSE_WIDTH - 1]}…"


def junit(results: Sequence[Result], *, machine: str) -> bytes:
    """Return the results as a JUnit XML report; each drill is a test case of the class ``drill.MACHINE``."""
    suite = Element(
        "testsuite",
        name=f"updog drills ({machine})",
        tests=str(len(results)),
        failures=str(sum(r.verdict is DrillVerdict.FAILED for r in results)),
        errors="0",
        skipped=str(sum(r.verdict is DrillVerdict.SKIPPED for r in results)),
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
    case = SubElement(
        suite, "testcase", classname=f"drill.{machine}", name=result.drill, time=f"{result.seconds:.3f}"
    )
    cause = _printable(result.cause)
    if result.verdict is DrillVerdict.FAILED:
        SubElement(case, "failure", message=cause).text = cause
    elif result.verdict is DrillVerdict.SKIPPED:
        SubElement(case, "skipped", message=cause)
    lines = [f"boots: {result.boots}"]
    lines += [f"last rollback: {cause}"] if cause and result.verdict is DrillVerdict.PASSED else []
    lines += [f"console: {result.console}"] if result.console else []
    SubElement(case, "system-out").text = "\n".join(lines)


def _printable(text: str) -> str:
    """Return a text without the characters that XML 1.0 cannot hold."""
    return "".join(char if char in "\t\n" or char >= " " else "\N{REPLACEMENT CHARACTER}" for char in text)
