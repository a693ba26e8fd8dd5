"""The report as one HTML file: no server, no script, nothing fetched; and what comes from a log is escaped.

A log is written by strangers. Its texts reach the page only through the template's escaping and Matplotlib's;
should one slip through, the page's own Content-Security-Policy forbids scripts and requests.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from repo_tools.errors import ChartError
from repo_tools.fleet.chart import Curve, Panel, svg_of
from repo_tools.render.text import share_text
from updog.update_metadata.times import spoken_duration

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.fleet.evidence import Evidence


def page_of(evidence: Evidence, *, patience: timedelta) -> str:
    """Return the page that shows what the logs say about a release."""
    environment = Environment(
        loader=PackageLoader("repo_tools.fleet", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "moment": lambda moment: f"{moment:%Y-%m-%d %H:%M}",
        "percent": share_text,
        "share_of": share_of,
        "after": after,
    }
    return environment.get_template("report.html.j2").render(
        evidence=evidence,
        patience=spoken_duration(patience),
        planned=evidence.planned.shares[-1],
        start=start_of(evidence),
        progress_svg=_svg(progress_panel(evidence)),
        spread_svg=_svg(spread_panel(evidence)),
    )


def share_of(part: int, whole: int) -> str:
    """Return a part of a whole in per cent; n/a of nothing."""
    return share_text(part / whole) if whole else "n/a"


def after(moment: datetime | None, start: datetime | None) -> str:
    """Return how long after the start something happened; ``not yet`` if it did not."""
    if moment is None or start is None:
        return "not yet"
    return spoken_duration(max(moment - start, timedelta()))


def start_of(evidence: Evidence) -> datetime | None:
    """Return when the roll-out began: its first wave, or the beginning of the logs where it has none."""
    return min((start.at for start in evidence.update.waves.starts), default=evidence.first)


def progress_panel(evidence: Evidence) -> Panel:
    """Return the share that runs the release, over time, against the plan."""
    moments = evidence.moments
    curves = [
        Curve(name=evidence.running.name, moments=moments, values=evidence.running.shares),
        Curve(name="open to, by plan", moments=moments, values=evidence.planned.shares, dashed=True),
    ]
    return Panel(title="share of the fleet", curves=curves)


def spread_panel(evidence: Evidence) -> Panel:
    """Return the versions that nodes ran, over time."""
    curves = [
        Curve(name=curve.name, moments=evidence.moments, values=curve.shares) for curve in evidence.spread
    ]
    return Panel(title="share of the nodes, by what each said last", curves=curves)


def _svg(panel: Panel) -> Markup:
    """Return a chart for the template. Matplotlib writes well-formed XML: it escapes the names of curves."""
    return Markup(svg_of([panel]))  # noqa: S704 - see above


def write_page(path: Path, text: str) -> None:
    """Write a page. Raises ChartError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChartError(f"cannot write {path}: {error.strerror}") from error
