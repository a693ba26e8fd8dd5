"""``guard``: hold a release that fails too often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.words import (
    PATH,
    SHARE,
    SPAN,
    TIME,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    existing,
    family_options,
    which_release,
)
from signpost.console import emit, example, json_option
from signpost.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta
    from pathlib import Path

    from repo_tools.session import Committed
    from repo_tools.steer import Step
    from updog.update_metadata.manifest import Update


@click.command()
@click.argument("logs", type=PATH, nargs=-1, required=True)
@click.option("--version", type=VERSION, help="Judge this release only.  [default: all that are on offer]")
@click.option("--budget", type=SHARE, default="1%", show_default=True, help="Nodes that may fail.")
@click.option("--silence", type=SHARE, default="10%", show_default=True, help="Nodes that may fall silent.")
@click.option("--alpha", type=SHARE, default="5%", show_default=True, help="Healthy releases held wrongly.")
@click.option(
    "--hold-on",
    type=click.Choice(["proof", "doubt"]),
    default="proof",
    show_default=True,
    help="Hold when more than the budget is proven, or already while less is not proven.",
)
@click.option("--patience", type=SPAN, default="6h", show_default=True, help="Until silence counts.")
@click.option("--since", type=TIME, help="Judge only what happened from then on, as after a resume.")
@click.option("--only-seen", is_flag=True, help="Only outcomes of nodes that LOGS show taking the release.")
@click.option("--dry-run", is_flag=True, help="Judge, and change nothing.")
@channel_option
@family_options
@json_option
@click.pass_obj
@example("repo-tools guard /var/log/nginx/access.log* --budget 1%")
def guard(
    repo: Path,
    /,
    *,
    logs: tuple[Path, ...],
    patience: timedelta,
    since: datetime | None,
    only_seen: bool,
    channel: str | None,
    dry_run: bool,
    as_json: bool,
    **words: Any,
) -> int:
    """Hold releases that fail on more nodes than the budget allows; made to be run every few minutes.

    LOGS are what `report` reads. Failures are judged over the whole release and for each wave, with
    bounds that stay right however often this runs; the hold is signed, and logged with its reason.
    Outcome lines are not signed: see docs/how-to/watch-a-rollout.md on forged ones.

    Exit status: 0 all may go on, 1 failed, or a hold waits for other holders' signatures, 2 wrong usage,
    unreadable logs, or the extra [fleet] is missing, 3 no release is on offer that is not held, 4 a release
    was held (--dry-run: would be), 75 busy.
    """
    from repo_tools.extras import extra

    with extra("fleet"):
        from repo_tools.fleet.evidence import Terms, tally_of
        from repo_tools.fleet.logs import Logs
    from repo_tools.fleet.verdict import HoldOn, Rules, judge
    from repo_tools.render.watching import guard_document, guard_text, reason_text

    rules = Rules(
        budget=words["budget"],
        silence=words["silence"],
        alpha=words["alpha"],
        hold_on=HoldOn(words["hold_on"]),
    )
    updates = _on_offer(repo, channel, words)
    terms = Terms(patience=patience, only_seen=only_seen, since=since, channel=channel)
    with Logs(logs) as read:
        verdicts = [(update, judge(tally_of(read, update, terms), rules)) for update in updates]
    held = {
        update.key: _hold(repo, channel, update, reason_text(verdict, rules), dry_run=dry_run)
        for update, verdict in verdicts
        if verdict.hold
    }
    judged = [(update, verdict, held.get(update.key)) for update, verdict in verdicts]
    emit(guard_document(judged, rules, dry_run=dry_run), guard_text(judged), as_json=as_json)
    return int(_status(held.values()))


def _on_offer(repo: Path, channel: str | None, words: dict[str, Any]) -> list[Update]:
    """Return the releases to judge. Raises NothingToSteerError, ReleaseError."""
    from repo_tools.errors import NothingToSteerError
    from repo_tools.release import manifest_of

    manifest = manifest_of(existing(repo), channel)
    version, variant, arch = words["version"], words["variant"], words["arch"]
    named = [which_release(version, variant, arch).of(manifest)] if version else manifest.updates
    offered = [
        update
        for update in named
        if update.version <= update.max_version
        and not update.hold
        and variant in {None, update.variant}
        and arch in {None, update.arch}
    ]
    if not offered:
        raise NothingToSteerError("there is no release to judge: none is on offer, or it is held already")
    return offered


def _hold(
    repo: Path, channel: str | None, update: Update, reason: str, *, dry_run: bool
) -> tuple[Step, Committed | None]:
    """Hold a release; return the step, and what came of it: None with ``dry_run``, which changes nothing."""
    from repo_tools.release import manifest_of
    from repo_tools.steer import holding, take

    decide = holding(which_release(update.version, update.variant, update.arch), reason=reason)
    now = current_time()
    if dry_run:
        return decide(manifest_of(repo, channel), now), None
    return take(repo, decide, now=now, channel=channel, secrets=ask_secrets())


def _status(held: Iterable[tuple[Step, Committed | None]]) -> ExitStatus:
    """Return how the command ends: a hold that waits for other holders' signatures has failed so far."""
    outcomes = [done for _, done in held]
    if any(done and done.pending for done in outcomes):
        return ExitStatus.FAILED
    return ExitStatus.REFUSED if outcomes else ExitStatus.DONE
