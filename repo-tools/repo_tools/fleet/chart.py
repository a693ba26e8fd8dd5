"""Charts as PNG or SVG files, or as SVG for a page, by Matplotlib without a display and without global state.

The same values give the same bytes: the files contain no date and no random names. A chart for a page has the
colours of the page: its text is ``currentColor``, its curves are the variables ``--curve-0`` and so on.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from repo_tools.errors import ChartError
from signpost.text import traffic_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from matplotlib.axes import Axes

    from repo_tools.fleet.simulate import Rollout

ENDINGS = (".png", ".svg")
_METADATA = {"png": ("Software",), "svg": ("Creator", "Date", "Format", "Type")}
_STYLE = {"svg.hashsalt": "repo-tools", "svg.fonttype": "none", "font.family": "sans-serif"}
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#882255",
)  # Okabe and Ito: safe for colour-blind readers


PLAN = -1
"""The colour number of what is not a version: the colour of the text."""

_INK = "#010203"
"""Stands for the colour of the page's text while Matplotlib draws; no curve has it."""

_INK_OF: dict[str, str] = dict.fromkeys(
    (
        *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
        *("xtick.color", "ytick.color", "grid.color"),
    ),
    _INK,
)

_WIDE, _NARROW = (9.0, 3.3), (4.4, 3.3)
"""Width and height (inches) of a chart on a page: for a desktop, and for a phone of 360 pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of a chart: a name, moments, and a value at each.

    Attributes:
        steps: draw the curve in steps.
        colour: number of its colour, the same for the same thing in every chart; None for its place.
    """

    name: str
    moments: Sequence[datetime]
    values: Sequence[float]
    dashed: bool = False
    steps: bool = False
    colour: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Curves over one axis.

    Attributes:
        title: the quantity. share: whether it is a share of the fleet; otherwise it is in bytes.
        marks: moments to mark, each with a label.
    """

    title: str
    curves: Sequence[Curve]
    share: bool = True
    marks: Sequence[tuple[datetime, str]] = ()


def write_chart(path: Path, panels: Sequence[Panel], *, title: str = "") -> None:
    """Write a chart in the format of the file's ending. Raises ChartError."""
    if path.suffix not in ENDINGS:
        raise ChartError(f"{path} does not end in {' or '.join(ENDINGS)}")
    try:
        path.write_bytes(_image(panels, path.suffix[1:], size=(9, 0.9 + 2.7 * len(panels)), title=title))
    except OSError as error:
        raise ChartError(f"cannot write {path}: {error.strerror}") from error


def page_svg(panel: Panel, *, narrow: bool = False) -> str:
    """Return a chart as an ``<svg>`` element in the colours of the page around it."""
    style = {"svg.hashsalt": f"{panel.title} {narrow}", **_INK_OF}  # one page: no name may occur twice
    text = _image([panel], "svg", size=_NARROW if narrow else _WIDE, style=style).decode()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--curve-{number}, {colour})")
    return text


def rollout_panels(rollout: Rollout) -> list[Panel]:
    """Return the panels of a simulated rollout: shares of the fleet, and bytes per hour."""
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
        Panel(title="traffic per hour", curves=traffic, share=False, marks=marks),
    ]


def rollout_title(rollout: Rollout) -> str:
    """Return the title of the chart of a simulated rollout."""
    plan = rollout.plan
    return f"Simulated rollout to {plan.nodes:,} nodes from {plan.start:%Y-%m-%d %H:%M} UTC"


def _image(
    panels: Sequence[Panel],
    kind: str,
    *,
    size: tuple[float, float],
    title: str = "",
    style: Mapping[str, str] | None = None,
) -> bytes:
    with mpl.rc_context(_STYLE | dict(style or {})):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        if title:
            figure.suptitle(_plain(title))
        for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            _draw(axes, panel)
        out = io.BytesIO()
        no_metadata: dict[str, Any] = dict.fromkeys(_METADATA[kind])
        figure.savefig(out, format=kind, dpi=120, metadata=no_metadata, transparent=style is not None)
    return out.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        axes.plot(
            list(curve.moments),  # type: ignore[arg-type]
            list(curve.values),
            label=_plain(curve.name),
            color=_INK
            if curve.colour == PLAN
            else COLOURS[(number if curve.colour is None else curve.colour) % len(COLOURS)],
            linestyle="--" if curve.dashed else "-",
            drawstyle="steps-pre" if curve.steps else "default",
        )
    for moment, label in panel.marks:
        axes.axvline(moment, color="black", linewidth=0.8)  # type: ignore[arg-type]
        axes.annotate(label, (moment, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                      textcoords="offset points")  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.set_ylim(bottom=0)
    if panel.share:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10]))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: traffic_text(value).replace(".0 ", " "))
        )
    axes.set_xlabel("time, UTC")
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.grid(visible=True, alpha=0.3)
    if panel.curves:
        axes.legend(loc="best", frameon=False)


def _plain(name: str) -> str:
    """Return a name that Matplotlib shows unchanged: not as a formula, not hidden by a first underscore."""
    return f" {name}".replace("$", r"\$")
