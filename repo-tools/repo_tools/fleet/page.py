"""The report as one HTML file: no server, no script, no requests; texts from a log are escaped.

A log is untrusted input. Its texts reach the page only through the escaping of the template and of
Matplotlib; in addition, the page's Content-Security-Policy forbids scripts and requests.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from repo_tools.errors import ChartError
from repo_tools.fleet.chart import COLOURS, PLAN, Curve, Panel, page_svg
from repo_tools.text import share_text
from updog.update_metadata.times import readable_duration

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
        patience=readable_duration(patience),
        planned=evidence.planned.shares[-1],
        start=start_of(evidence),
        progress=_charts(progress_panel(evidence)),
        spread=_charts(spread_panel(evidence)),
        colours=colours_of(evidence),
        palette=list(enumerate(COLOURS)),
    )


def colours_of(evidence: Evidence) -> dict[str, int]:
    """Return the number of the colour of each version that is drawn: the release has the first one."""
    release = str(evidence.update.version)
    others = [curve.name for curve in evidence.spread if curve.name != release]
    return {version: number for number, version in enumerate([release, *others])}


def share_of(part: int, whole: int) -> str:
    """Return a part of a whole in per cent; ``n/a`` if the whole is 0."""
    return share_text(part / whole) if whole else "n/a"


def after(moment: datetime | None, start: datetime | None) -> str:
    """Return how long after the start something happened; ``not yet`` if it has not."""
    if moment is None or start is None:
        return "not yet"
    return readable_duration(max(moment - start, timedelta()))


def start_of(evidence: Evidence) -> datetime | None:
    """Return when the rollout began: its first wave, or the first request of the logs without waves."""
    return min((start.at for start in evidence.update.waves.starts), default=evidence.first)


def progress_panel(evidence: Evidence) -> Panel:
    """Return the share of the fleet that runs the release over time, beside the plan."""
    moments = evidence.moments
    curves = [
        Curve(name=evidence.running.name, moments=moments, values=evidence.running.shares, colour=0),
        Curve(
            name="open to, by plan", moments=moments, values=evidence.planned.shares, dashed=True, colour=PLAN
        ),
    ]
    return Panel(title="share of the fleet", curves=curves)


def spread_panel(evidence: Evidence) -> Panel:
    """Return the versions that nodes ran over time."""
    colours = colours_of(evidence)
    curves = [
        Curve(name=curve.name, moments=evidence.moments, values=curve.shares, colour=colours[curve.name])
        for curve in evidence.spread
    ]
    return Panel(title="share of nodes by version", curves=curves)


def _charts(panel: Panel) -> list[Markup]:
    """Return a chart for wide and one for narrow windows; Matplotlib escapes the names of curves."""
    return [Markup(page_svg(panel, narrow=narrow)) for narrow in (False, True)]  # noqa: S704 - see above


def write_page(path: Path, text: str) -> None:
    """Write a page. Raises ChartError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChartError(f"cannot write {path}: {error.strerror}") from error
