"""``simulate``: a simulated rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import (
    PATH,
    SHARE,
    SIZE,
    SPAN,
    TIME,
    VERSION,
    channel_option,
    current_time,
    family_options,
    require_repository,
    which_release,
)
from signpost.console import QuickCommand, emit, example, json_option
from signpost.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from repo_tools.releases.release import ReleaseName
    from updog.update_metadata.waves import Waves

_TRAFFIC = ("full", "delta", "delta_share", "edges", "cache")


@click.command(cls=QuickCommand)
@click.argument("version", type=VERSION, required=False)
@click.option(
    "--waves", "policy", metavar="POLICY", help="default, accelerated, slow-roll, ohno, FILE.toml or none."
)
@click.option("--start-at", type=TIME, help="When the rollout begins.  [default: now, or the first wave]")
@click.option("--nodes", type=int, default=10_000, show_default=True, help="Number of nodes.")
@click.option("--interval", type=SPAN, default="1h", show_default=True, help="Time between a node's checks.")
@click.option("--jitter", type=SPAN, default="30m", show_default=True, help="Largest delay of a check.")
@click.option("--aligned", is_flag=True, help="All nodes check at the same time, as OnCalendar= timers do.")
@click.option("--bad-rate", type=SHARE, default="0%", show_default=True, help="Nodes on which it fails.")
@click.option(
    "--report-after", type=SPAN, default="10m", show_default=True, help="Time from update to outcome."
)
@click.option("--detection", type=SPAN, help="Time from the first reported failure to the hold.")
@click.option(
    "--guard", type=SHARE, metavar="BUDGET", help="Hold as `repo-tools guard --budget BUDGET` does."
)
@click.option("--guard-every", type=SPAN, default="15m", show_default=True, help="How often the guard runs.")
@click.option("--image-size", "full", type=SIZE, help="Size of all images.  [default: VERSION's, or 200MiB]")
@click.option("--delta-size", "delta", type=SIZE, default="50MiB", show_default=True, help="Size of a delta.")
@click.option("--delta-share", type=SHARE, default="0%", show_default=True, help="Nodes that use deltas.")
@click.option("--edges", type=int, default=0, show_default=True, help="Number of CDN servers; 0 for none.")
@click.option("--cache", type=SPAN, default="1m", show_default=True, help="Cache time of timestamp.json.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random numbers.")
@click.option("--runs", type=click.IntRange(min=1), help="Simulate this many seeds; show mean and worst.")
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
    """Simulate a rollout over a fleet.

    Shows when nodes are updated, the servers' traffic, and how many nodes a bad release harms. With VERSION,
    waves and sizes are those of the published release; without it, --waves names the policy, and no
    repository is needed. The same --seed gives the same rollout.

    Exit status: 0 done, 2 wrong usage, no such release or policy, or the extra [fleet] is missing.
    """
    from repo_tools.extras import extra

    with extra("fleet"):
        from repo_tools.fleet import chart
        from repo_tools.fleet import simulate as simulation
    from repo_tools.render import rollouts

    detector = _detector(words.pop("guard"), words.pop("guard_every"), words["detection"])
    plan = simulation.RolloutPlan(
        **_release(repo, words),
        traffic=simulation.Traffic(**{name: words.pop(name) for name in _TRAFFIC}),
        **words,
    )
    if runs:
        many = simulation.over_seeds(plan, runs, detector)
        emit(rollouts.runs_document(many), rollouts.runs_text(many), as_json=as_json)
        return
    rollout = simulation.simulate(plan, detector)
    if plot:
        chart.write_chart(plot, chart.rollout_panels(rollout), title=chart.rollout_title(rollout))
    emit(rollouts.rollout_document(rollout), rollouts.rollout_text(rollout), as_json=as_json)


def _detector(budget: float | None, every: timedelta, detection: timedelta | None) -> Any:
    """Return what holds the release: the guard, a delay, or nothing. Raises UsageError."""
    from repo_tools.fleet.simulate import by_delay, by_guard
    from repo_tools.fleet.verdict import Rules

    if budget is None:
        return by_delay
    if detection is not None:
        raise UsageError("--guard and --detection exclude each other", next_step="Pass one of them.")
    return by_guard(Rules(budget=budget), every)


def _release(repo: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Remove the arguments for a release or a policy from ``words``; return the plan's waves and start.

    Sets ``full`` to the size of the named release if it was not given.
    """
    version, policy, start = words.pop("version"), words.pop("policy"), words.pop("start_at")
    variant, arch, channel = words.pop("variant"), words.pop("arch"), words.pop("channel")
    if version is None:
        words["full"] = words["full"] or 200 << 20
        return _from_policy(policy or "default", start or current_time())
    waves, size = _published(repo, which_release(version, variant, arch), channel)
    words["full"] = words["full"] or size
    if policy is not None:
        return _from_policy(policy, start or current_time())
    first = min((wave.at for wave in waves.starts), default=current_time())
    return {"waves": waves, "start": start or first}


def _from_policy(policy: str, start: datetime) -> dict[str, Any]:
    from repo_tools.releases.release import policy_named, waves_of

    start = start.replace(second=0, microsecond=0)
    return {"waves": waves_of(policy_named(policy), start), "start": start}


def _published(repo: Path, which: ReleaseName, channel: str | None) -> tuple[Waves, int]:
    """Return the waves of a published release and the total size of its images in bytes."""
    from repo_tools.repository.published import manifest_of

    update = which.of(manifest_of(require_repository(repo), channel))
    names = (update.images.boot, update.images.root, update.images.hash)
    files = (next((repo / "targets").glob(f"*.{name}"), None) for name in names)
    return update.waves, sum(file.stat().st_size for file in files if file)
