"""Releases and their waves, as text: `publish`, `waves`, `withdraw`. PURE."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.releases.release import urgent_sentence
from repo_tools.releases.rollout import RolloutSteps
from repo_tools.render.channels import committed_text
from repo_tools.render.plot import mark, share_plot
from repo_tools.text import share_text
from signpost.text import counted, size_text, table
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_optional, format_time, readable_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from repo_tools.releases.plan import ReleasePlan
    from repo_tools.releases.release import ReleaseChange
    from repo_tools.releases.rollout import RolloutStep
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version
    from updog.update_metadata.waves import Wave


def published_text(outcome: ReleaseChange) -> str:
    """Return what `publish` did."""
    rows = [
        (
            item.name,
            size_text(item.content.size),
            size_text(item.length),
            f"{100 * item.length / item.content.size:.0f} %",
        )
        for item in outcome.targets
        if item.content
    ]
    starts = outcome.update.waves.starts
    lines = [f"published {outcome.update}", table([("image", "raw", "stored", "ratio"), *rows])]
    lines += _delta_lines(outcome)
    lines.append(
        f"{counted(len(starts), 'wave')}, the first at {starts[0].at:%Y-%m-%d %H:%M} UTC"
        if starts
        else "open to all now"
    )
    lines += outcome.cautions
    lines += [urgent_sentence(outcome.update)] if outcome.update.urgent else []
    lines += [f"removed the withdrawn {version} from the manifest" for version in outcome.dropped]
    lines += [f"dm-verity root hash: {outcome.root_hash}"] if outcome.root_hash else []
    lines += outcome.not_inspected
    return "\n".join([*lines, committed_text(outcome.committed)])


def planned_text(plan: ReleasePlan, now: datetime) -> str:
    """Return what `publish` would do."""
    document = plan.to_json(now)
    deltas = ", ".join(document["deltas_from"]) or "no release"
    return "\n".join(
        [
            f"would publish {plan.added.update}",
            *(f"  {effect}" for effect in document["effects"]),
            *(f"  image {name}" for name in document["images"]),
            f"  deltas from {deltas}",
        ]
    )


def _delta_lines(outcome: ReleaseChange) -> Iterator[str]:
    """Yield a line for each release that deltas start from, with the size of these deltas together."""
    if not outcome.update.packs:
        return
    lengths = {item.name: item.length for item in outcome.targets}
    sums: Counter[Version] = Counter()
    for pack in outcome.update.packs.values():
        for base, delta in pack.deltas.items():
            sums[base] += lengths[delta.target]
    for base, length in sums.items():
        yield f"delta from {base}: {size_text(length)}"


def release_row(update: Update, now: datetime) -> dict[str, Any]:
    """Return a release as `waves show` lists it in ``--json``."""
    withdrawn = update.version > update.max_version
    hidden = withdrawn or update.hold is not None
    return {
        "variant": update.variant,
        "arch": update.arch,
        "version": str(update.version),
        "max_version": str(update.max_version),
        "waves": len(_waves_of(update)),
        "share_open": 0.0 if hidden else round(float(update.waves.share_open(now)), 4),
        "withdrawn": withdrawn,
        "held_since": format_time(update.hold.since) if update.hold else None,
        "hold_reason": update.hold.reason if update.hold else None,
        "urgent": update.urgent or None,
        "published": format_optional(update.published),
    }


def releases_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the list of all releases."""
    if not rows:
        return "nothing is published yet"
    cells = [
        (row["variant"], row["arch"], row["version"], row["max_version"], _offer(row), _urgent(row))
        for row in rows
    ]
    head = ("variant", "arch", "version", "max version", "on offer to", "")
    return table([head, *cells])


def _urgent(row: Mapping[str, Any]) -> str:
    return f"urgent: {row['urgent']}" if row["urgent"] else ""


def _offer(row: Mapping[str, Any]) -> str:
    if row["withdrawn"]:
        return "withdrawn"
    if row["held_since"]:
        because = f" because: {row['hold_reason']}" if row["hold_reason"] else ""
        return f"held since {row['held_since']}{because}"
    return f"{share_text(row['share_open'])} of the fleet"


def _waves_of(update: Update) -> list[Wave]:
    seeds = [start.seed for start in update.waves.starts if start.seed < MAX_SEED]
    return [wave for seed in seeds if (wave := update.waves.position(seed))]


def _state(wave: Wave, now: datetime) -> str:
    if now < wave.start:
        return "coming"
    return "passed" if wave.end is None or wave.end <= now else "now"


def waves_document(update: Update, now: datetime) -> dict[str, Any]:
    """Return a release's waves as ``--json`` prints them."""
    return {
        **release_row(update, now),
        "now": format_time(now),
        "waves": [
            {
                "wave": wave.number,
                "start": format_time(wave.start),
                "first_seed": wave.first_seed,
                "end_seed": wave.end_seed,
                "cumulative_share": round(wave.end_seed / MAX_SEED, 4),
                "state": _state(wave, now),
            }
            for wave in _waves_of(update)
        ],
    }


def waves_text(update: Update, now: datetime) -> str:
    """Return a release's waves as a table, and the share of the fleet over time as a plot."""
    row = release_row(update, now)
    hidden = row["withdrawn"] or row["held_since"]
    head = f"{update}: {_offer(row)}" if hidden else f"{update}: open to {_offer(row)} now"
    head += f"\nurgent: {update.urgent}" if update.urgent else ""
    waves = _waves_of(update)
    if not waves:
        return f"{head}\npublished {readable_time(update.published)}" if update.published else head
    stop = update.waves.stop.at if update.waves.stop else None
    cells = [
        (
            str(wave.number),
            "not by itself" if wave.start == stop else readable_time(wave.start),
            f"{wave.first_seed}…{wave.end_seed - 1}",
            share_text(wave.end_seed / MAX_SEED),
            _state(wave, now),
        )
        for wave in waves
    ]
    rows = table([("wave", "starts", "seeds", "reached at its end", ""), *cells])
    return f"{head}\n{rows}\n\n{plot_text(update, now)}"


def plot_text(update: Update, now: datetime) -> str:
    """Return the plot of the share of the fleet that an update is open to, during its roll-out."""
    stop = update.waves.stop
    starts = [wave.start for wave in _waves_of(update) if stop is None or wave.start < stop.at]
    first = min(starts)
    span = max(max(starts) - first, timedelta(minutes=1)) * 21 / 20  # a little past the last wave
    plot = share_plot(lambda moment: float(update.waves.share_open(moment)), first, span)
    return "\n".join([*plot, *mark(now, "now", first, span)])


def step_text(step: RolloutStep | RolloutSteps, *, done: bool) -> str:
    """Return what `waves hold`, `resume`, `open`, `set` or `withdraw` does, or did."""
    if isinstance(step, RolloutSteps):
        texts = [step_text(one, done=done) for one in step.steps]
        return "\n".join([*texts, *(f"unchanged: {sentence}" for sentence in step.unchanged)])
    head = f"{step.action} {step.before}" if done else f"would {step.action} {step.before}"
    because = [f"  because: {step.reason}"] if step.reason else []
    return "\n".join([head, *(f"  {effect}" for effect in step.effects), *because])
