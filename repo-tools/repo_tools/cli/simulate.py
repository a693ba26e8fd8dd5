"""``simulate``: a roll-out on paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.words import (
    PATH,
    SHARE,
    SIZE,
    SPAN,
    TIME,
    VERSION,
    channel_option,
    current_time,
    existing,
    family_options,
    which_release,
)
from signpost.console import emit, example, json_option
from signpost.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from repo_tools.release import Which
    from updog.update_metadata.waves import Waves

_TRAFFIC = ("full", "delta", "delta_share", "edges", "cache")


@click.command()
@click.argument("version", type=VERSION, required=False)
@click.option("--waves", "policy", help="default, accelerated, slow-roll, ohno, FILE.toml or none.")
@click.option("--start-at", type=TIME, help="When the roll-out begins.  [default: now, or the first wave]")
@click.option("--nodes", type=int, default=10_000, show_default=True, help="Nodes of the fleet.")
@click.option("--interval", type=SPAN, default="1h", show_default=True, help="Between checks of a node.")
@click.option("--jitter", type=SPAN, default="30m", show_default=True, help="A check is at most this late.")
@click.option("--aligned", is_flag=True, help="All nodes check at one tick, as OnCalendar= timers do.")
@click.option("--bad-rate", type=SHARE, default="0%", show_default=True, help="Nodes that it fails on.")
@click.option("--report-after", type=SPAN, default="10m", show_default=True, help="From taking to report.")
@click.option("--detection", type=SPAN, help="From the first failure reported to the hold.")
@click.option("--guard", type=SHARE, metavar="BUDGET", help="Held by `repo-tools guard --budget BUDGET`.")
@click.option("--guard-every", type=SPAN, default="15m", show_default=True, help="How often the guard runs.")
@click.option("--image-size", "full", type=SIZE, help="Images of a node.  [default: VERSION's, or 200MiB]")
@click.option("--delta-size", "delta", type=SIZE, default="50MiB", show_default=True, help="By difference.")
@click.option("--delta-share", type=SHARE, default="0%", show_default=True, help="Nodes that use deltas.")
@click.option("--edges", type=int, default=0, show_default=True, help="Servers of the CDN; 0: none.")
@click.option("--cache", type=SPAN, default="1m", show_default=True, help="An edge keeps timestamp.json.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the random numbers.")
@click.option("--runs", type=click.IntRange(min=1), help="Play so many seeds; say mean and worst.")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the curves into a .png or .svg file.")
@channel_option
@family_options
@json_option
@click.pass_obj
@example(
    "repo-tools simulate --waves default --nodes 1000000 --plot rollout.svg",
    "repo-tools simulate 1.1.0 --bad-rate 5% --guard 1% --runs 100",
)
def simulate(repo: Path, /, *, plot: Path | None, runs: int | None, as_json: bool, **words: Any) -> None:
    """Play a roll-out on paper: who is updated when, what servers carry, whom a bad release harms.

    VERSION takes waves and sizes from a published release; without it, --waves says which, and no
    repository is needed. The same --seed plays the same roll-out.

    Exit status: 0 done, 2 wrong usage, no such release or policy, or the extra [fleet] is missing.
    """
    from repo_tools.extras import extra

    with extra("fleet"):
        from repo_tools.fleet import chart
        from repo_tools.fleet import simulate as paper
    from repo_tools.render import rollouts

    detector = _detector(words.pop("guard"), words.pop("guard_every"), words["detection"])
    plan = paper.Plan(
        **_release(repo, words),
        traffic=paper.Traffic(**{name: words.pop(name) for name in _TRAFFIC}),
        **words,
    )
    if runs:
        many = paper.over_seeds(plan, runs, detector)
        emit(rollouts.runs_document(many), rollouts.runs_text(many), as_json=as_json)
        return
    rollout = paper.simulate(plan, detector)
    if plot:
        chart.write_chart(plot, chart.rollout_panels(rollout))
    emit(rollouts.rollout_document(rollout), rollouts.rollout_text(rollout), as_json=as_json)


def _detector(budget: float | None, every: timedelta, detection: timedelta | None) -> Any:
    """Return what holds the release: the guard, a delay, or nobody. Raises UsageError."""
    from repo_tools.fleet.simulate import by_delay, by_guard
    from repo_tools.fleet.verdict import Rules

    if budget is None:
        return by_delay
    if detection is not None:
        raise UsageError("--guard and --detection exclude each other", next_step="Pass one of them.")
    return by_guard(Rules(budget=budget), every)


def _release(repo: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Take the words that name a release or a policy; return the plan's waves and start.

    Where a release is named, its size becomes the word ``full`` unless one was typed.
    """
    version, policy, start = words.pop("version"), words.pop("policy"), words.pop("start_at")
    variant, arch, channel = words.pop("variant"), words.pop("arch"), words.pop("channel")
    if version is None:
        words["full"] = words["full"] or 200 << 20
        return _planned(policy or "default", start or current_time())
    waves, size = _published(repo, which_release(version, variant, arch), channel)
    words["full"] = words["full"] or size
    if policy is not None:
        return _planned(policy, start or current_time())
    first = min((wave.at for wave in waves.starts), default=current_time())
    return {"waves": waves, "start": start or first}


def _planned(policy: str, start: datetime) -> dict[str, Any]:
    from repo_tools.release import policy_named, waves_of

    start = start.replace(second=0, microsecond=0)
    return {"waves": waves_of(policy_named(policy), start), "start": start}


def _published(repo: Path, which: Which, channel: str | None) -> tuple[Waves, int]:
    """Return the waves of a release and the bytes of its images."""
    from repo_tools.release import manifest_of

    update = which.of(manifest_of(existing(repo), channel))
    names = (update.images.boot, update.images.root, update.images.hash)
    files = (next((repo / "targets").glob(f"*.{name}"), None) for name in names)
    return update.waves, sum(file.stat().st_size for file in files if file)
