"""Charts, as PNG or SVG files or as SVG for a page: by Matplotlib, without a display and without its state.

The same values give the same bytes: no date, no random names inside.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from repo_tools.errors import ChartError
from repo_tools.render.text import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from matplotlib.axes import Axes

    from repo_tools.fleet.simulate import Rollout

ENDINGS = (".png", ".svg")
_FACTS = {"png": ("Software",), "svg": ("Creator", "Date", "Format", "Type")}
_STYLE = {"svg.hashsalt": "repo-tools", "svg.fonttype": "none", "font.family": "sans-serif"}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, for all eyes


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of a chart: a name, moments, and a value at each. ``steps``: it holds until the next one."""

    name: str
    moments: Sequence[datetime]
    values: Sequence[float]
    dashed: bool = False
    steps: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Curves over one axis.

    Attributes:
        title: what the axis counts. share: whether it is a share of the fleet, else bytes.
        marks: moments to point out, each with a word.
    """

    title: str
    curves: Sequence[Curve]
    share: bool = True
    marks: Sequence[tuple[datetime, str]] = ()


def write_chart(path: Path, panels: Sequence[Panel]) -> None:
    """Write a chart; the file's ending says which kind. Raises ChartError."""
    if path.suffix not in ENDINGS:
        raise ChartError(f"{path} ends in neither {' nor '.join(ENDINGS)}")
    try:
        path.write_bytes(_drawn(panels, path.suffix[1:]))
    except OSError as error:
        raise ChartError(f"cannot write {path}: {error.strerror}") from error


def svg_of(panels: Sequence[Panel]) -> str:
    """Return a chart as an ``<svg>`` element."""
    text = _drawn(panels, "svg").decode()
    return text[text.index("<svg") :]


def rollout_panels(rollout: Rollout) -> list[Panel]:
    """Return what a simulated roll-out looks like: shares of the fleet, and bytes an hour."""
    moments, plan = rollout.moments, rollout.plan
    shares = [Curve(name="updated", moments=moments, values=rollout.updated.tolist())]
    if plan.bad_rate:
        shares.append(Curve(name="harmed", moments=moments, values=rollout.harmed.tolist()))
    if plan.waves.starts:
        opened = [float(plan.waves.share_open(moment)) for moment in moments]
        shares.append(Curve(name="open to", moments=moments, values=opened, dashed=True))
    traffic = [Curve(name="nodes fetch", moments=moments, values=rollout.cdn.tolist(), steps=True)]
    if plan.traffic.edges:
        traffic.append(
            Curve(name="the origin serves", moments=moments, values=rollout.origin.tolist(), steps=True)
        )
    marks = [(rollout.held, "held")] if rollout.held else []
    return [
        Panel(title="share of the fleet", curves=shares, marks=marks),
        Panel(title="bytes an hour", curves=traffic, share=False, marks=marks),
    ]


def _drawn(panels: Sequence[Panel], kind: str) -> bytes:
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(9, 0.6 + 2.7 * len(panels)), layout="constrained")
        for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            _draw(axes, panel)
        out = io.BytesIO()
        facts: dict[str, Any] = dict.fromkeys(_FACTS[kind])  # none of them: no date, nobody's address
        figure.savefig(out, format=kind, dpi=120, metadata=facts)
    return out.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        axes.plot(
            list(curve.moments),  # type: ignore[arg-type]
            list(curve.values),
            label=_plain(curve.name),
            color=_COLOURS[number % len(_COLOURS)],
            linestyle="--" if curve.dashed else "-",
            drawstyle="steps-pre" if curve.steps else "default",
        )
    for moment, word in panel.marks:
        axes.axvline(moment, color="black", linewidth=0.8)  # type: ignore[arg-type]
        axes.annotate(word, (moment, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                      textcoords="offset points")  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(
        PercentFormatter(xmax=1) if panel.share else FuncFormatter(lambda value, _: size_text(int(value)))
    )
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.grid(visible=True, alpha=0.3)
    if panel.curves:
        axes.legend(loc="best", frameon=False)


def _plain(name: str) -> str:
    """Return a name that Matplotlib takes as it is: no formula, no underscore first (it hides)."""
    return f" {name}".replace("$", r"\$")
