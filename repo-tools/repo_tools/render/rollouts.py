"""A simulated roll-out, as text: `simulate`. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.render.plot import mark, share_plot
from repo_tools.text import share_text
from signpost.text import table, traffic_text
from updog.update_metadata.times import format_time, readable_duration, readable_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_tools.fleet.simulate import Rollout, Runs

_ROWS = 12
"""Rows of the table: they fit a screen together with the plot."""


def rollout_document(rollout: Rollout) -> dict[str, Any]:
    """Return a roll-out as ``--json`` prints it."""
    plan = rollout.plan
    return {
        "nodes": plan.nodes,
        "seed": plan.seed,
        "start": format_time(plan.start),
        "waves": plan.waves.to_json(),
        "held": format_time(rollout.held) if rollout.held else None,
        "updated": round(float(rollout.updated[-1]), 6),
        "harmed": round(float(rollout.harmed[-1]), 6),
        "reached": {
            str(percent): format_time(moment) if moment else None
            for percent, moment in rollout.reached.items()
        },
        "bytes": {
            "cdn_total": int(rollout.cdn.sum() * _hours(rollout)),
            "origin_total": int(rollout.origin.sum() * _hours(rollout)),
            "busiest_minute": int(rollout.busiest_minute),
        },
        "step_seconds": int(rollout.step.total_seconds()),
        "series": [
            {
                "until": format_time(moment),
                "updated": round(float(updated), 6),
                "harmed": round(float(harmed), 6),
                "cdn_bytes_per_hour": int(cdn),
                "origin_bytes_per_hour": int(origin),
            }
            for moment, updated, harmed, cdn, origin in _points(rollout)
        ],
    }


def rollout_text(rollout: Rollout) -> str:
    """Return a roll-out as a plot, a table and the figures that matter."""
    plan, span = rollout.plan, rollout.step * len(rollout.updated)
    plot = share_plot(rollout.updated_at, plan.start, span)
    held = mark(rollout.held, "held", plan.start, span) if rollout.held else []
    heads = ("until", "updated", "harmed", "nodes fetch, at most", "origin serves")
    rows = table([heads, *_rows(rollout)])
    return "\n".join([f"updated, of {plan.nodes} nodes", *plot, *held, "", rows, "", *_facts(rollout)])


def _rows(rollout: Rollout) -> list[tuple[str, ...]]:
    """Return the roll-out in a few periods, each with the traffic of its busiest hour."""
    points = _points(rollout)
    stride = -(-len(points) // _ROWS)
    periods = [points[first : first + stride] for first in range(0, len(points), stride)]
    return [
        (
            readable_time(period[-1][0]),
            share_text(period[-1][1]),
            share_text(period[-1][2]),
            f"{traffic_text(max(point[3] for point in period))}/h",
            f"{traffic_text(max(point[4] for point in period))}/h",
        )
        for period in periods
    ]


def runs_document(runs: Runs) -> dict[str, Any]:
    """Return what several roll-outs have in common, as ``--json`` prints it."""
    return {
        "runs": len(runs.harmed),
        "held": runs.held,
        "harmed_share": {"mean": runs.mean_harmed, "worst": runs.worst_harmed},
        "updated_share_mean": runs.mean_updated,
    }


def runs_text(runs: Runs) -> str:
    """Return what several roll-outs of one plan have in common."""
    mean, worst, updated = map(share_text, (runs.mean_harmed, runs.worst_harmed, runs.mean_updated))
    return (
        f"{len(runs.harmed)} roll-outs: {runs.held} held; harmed {mean} of the fleet on average, {worst} at"
        f" worst; updated {updated} on average"
    )


def _facts(rollout: Rollout) -> list[str]:
    plan = rollout.plan
    times = [
        f"{percent} % after {readable_duration(moment - plan.start)}" if moment else f"{percent} % never"
        for percent, moment in rollout.reached.items()
    ]
    lines = ["reached    " + ", ".join(times)]
    if plan.bad_rate:
        harmed, updated = float(rollout.harmed[-1]), float(rollout.updated[-1])
        nodes = round(harmed * plan.nodes)
        lines.append(f"harmed     {nodes} nodes, {share_text(harmed)}; {share_text(updated)} had taken it")
        lines.append(f"held       {readable_time(rollout.held) if rollout.held else 'never'}")
    hours = _hours(rollout)
    lines.append(
        f"traffic    {traffic_text(rollout.cdn.sum() * hours)} to nodes,"
        f" {traffic_text(rollout.origin.sum() * hours)} from the origin;"
        f" busiest minute {traffic_text(rollout.busiest_minute)}"
    )
    return lines


def _points(rollout: Rollout) -> Sequence[tuple[Any, ...]]:
    return list(
        zip(rollout.moments, rollout.updated, rollout.harmed, rollout.cdn, rollout.origin, strict=True)
    )


def _hours(rollout: Rollout) -> float:
    return rollout.step.total_seconds() / 3600
