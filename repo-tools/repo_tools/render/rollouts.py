"""PURE: a roll-out on paper, in words: `simulate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.render.plot import mark, share_plot
from repo_tools.render.text import share_text, size_text, table_text
from updog.update_metadata.times import format_time, spoken_duration, spoken_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repo_tools.fleet.simulate import Rollout, Runs

_ROWS = 12
"""Rows of the table: a screen takes them with the plot."""


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
        "reached": {str(percent): _time(moment) for percent, moment in rollout.reached.items()},
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
    table = table_text(
        ("until", "updated", "harmed", "nodes fetch, at most", "origin serves"), _rows(rollout)
    )
    return "\n".join([f"updated, of {plan.nodes} nodes", *plot, *held, "", table, "", *_facts(rollout)])


def _rows(rollout: Rollout) -> list[tuple[str, ...]]:
    """Return stretches of the roll-out, in each the busiest hour's bytes."""
    points = _points(rollout)
    stride = -(-len(points) // _ROWS)
    stretches = [points[first : first + stride] for first in range(0, len(points), stride)]
    return [
        (
            spoken_time(stretch[-1][0]),
            share_text(stretch[-1][1]),
            share_text(stretch[-1][2]),
            _rate(max(point[3] for point in stretch)),
            _rate(max(point[4] for point in stretch)),
        )
        for stretch in stretches
    ]


def runs_document(runs: Runs) -> dict[str, Any]:
    """Return many roll-outs as ``--json`` prints them."""
    return {
        "runs": len(runs.harmed),
        "held": runs.held,
        "harmed_share": {"mean": runs.mean_harmed, "worst": runs.worst_harmed},
        "updated_share_mean": runs.mean_updated,
    }


def runs_text(runs: Runs) -> str:
    """Return what many roll-outs of one plan have in common."""
    mean, worst, updated = map(share_text, (runs.mean_harmed, runs.worst_harmed, runs.mean_updated))
    return (
        f"{len(runs.harmed)} roll-outs: {runs.held} held; harmed {mean} of the fleet on average, {worst} at"
        f" worst; updated {updated} on average"
    )


def _facts(rollout: Rollout) -> list[str]:
    plan = rollout.plan
    times = [
        f"{percent} % after {spoken_duration(moment - plan.start)}" if moment else f"{percent} % never"
        for percent, moment in rollout.reached.items()
    ]
    lines = ["reached    " + ", ".join(times)]
    if plan.bad_rate:
        harmed, updated = float(rollout.harmed[-1]), float(rollout.updated[-1])
        nodes = round(harmed * plan.nodes)
        lines.append(f"harmed     {nodes} nodes, {share_text(harmed)}; {share_text(updated)} had taken it")
        lines.append(f"held       {spoken_time(rollout.held) if rollout.held else 'never'}")
    hours = _hours(rollout)
    lines.append(
        f"bytes      {_size(rollout.cdn.sum() * hours)} to nodes, {_size(rollout.origin.sum() * hours)}"
        f" from the origin; busiest minute {_size(rollout.busiest_minute)}"
    )
    return lines


def _points(rollout: Rollout) -> Sequence[tuple[Any, ...]]:
    return list(
        zip(rollout.moments, rollout.updated, rollout.harmed, rollout.cdn, rollout.origin, strict=True)
    )


def _hours(rollout: Rollout) -> float:
    return rollout.step.total_seconds() / 3600


def _time(moment: Any) -> str | None:
    return format_time(moment) if moment else None


def _size(count: float) -> str:
    return size_text(int(count))


def _rate(count: float) -> str:
    return f"{_size(count)}/h"
