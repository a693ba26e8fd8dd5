"""``guard``: hold a release that fails too often."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from repo_tools.cli.options import (
    PATH,
    SHARE,
    SPAN,
    TIME,
    VERSION,
    ask_secrets,
    channel_option,
    current_time,
    family_options,
    require_repository,
    which_release,
)
from signpost.console import QuickCommand, emit, example, json_option
from signpost.errors import ExitStatus
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from repo_tools.fleet.verdict import Sight, VerdictAnswer
    from repo_tools.releases.rollout import RolloutStep
    from repo_tools.repository.change_log import LogEntry
    from repo_tools.repository.session import Committed
    from updog.update_metadata.manifest import Manifest, Update


@click.command(cls=QuickCommand)
@click.argument("logs", type=PATH, nargs=-1, required=True)
@click.option("--version", type=VERSION, help="Check only this release.  [default: all on offer]")
@click.option("--budget", type=SHARE, default="1%", show_default=True, help="Nodes that may fail.")
@click.option("--silence", type=SHARE, default="10%", show_default=True, help="Nodes that may fall silent.")
@click.option(
    "--alpha", type=SHARE, default="5%", show_default=True, help="Probability of holding a good release."
)
@click.option(
    "--hold-on",
    type=click.Choice(["proof", "doubt"]),
    default="proof",
    show_default=True,
    help="Hold if a rate above the budget is proven, or already if a rate within it is not proven.",
)
@click.option("--patience", type=SPAN, default="6h", show_default=True, help="Time until silence counts.")
@click.option("--since", type=TIME, help="Count only what happened from then on.  [default: last resume]")
@click.option(
    "--max-age", type=SPAN, default="2d", show_default=True, help="Age of LOGS to judge by at most."
)
@click.option("--only-seen", is_flag=True, help="Count only outcomes of nodes that took the release in LOGS.")
@click.option("--dry-run", is_flag=True, help="Only show the verdict; change nothing.")
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
    max_age: timedelta,
    only_seen: bool,
    channel: str | None,
    dry_run: bool,
    as_json: bool,
    **words: Any,
) -> int:
    """Hold releases that fail on too many nodes.

    Run it every few minutes. LOGS are the same as for `report`. Failures are compared with the budget for the
    whole release and for each wave, with bounds that stay valid however often this runs; the hold is signed,
    and logged with its reason. After a resume, only what happened since then counts. If LOGS are empty, too
    old, mostly not understood or contain no outcome, the guard reports that it cannot judge. Outcome lines
    are not signed: whoever can reach the server can forge them, and so make the guard hold a release or hide
    that it fails. Each node has one vote; with --only-seen, only nodes that took the release in these logs.

    Exit status: 0 all can continue, 1 failed, or a hold waits for other holders' signatures, 2 wrong usage,
    unreadable logs, or the extra [fleet] is missing, 3 there is nothing to judge, 4 a release was held
    (--dry-run: would be), 6 cannot judge a release, 75 busy.
    """
    from repo_tools.extras import extra

    with extra("fleet"):
        from repo_tools.fleet.evidence import EvidenceOptions, sight_of
        from repo_tools.fleet.logs import Logs
    from repo_tools.fleet.verdict import HoldOn, Rules, blind_spots, judge
    from repo_tools.render.watching import Judged, guard_document, guard_text, reason_text
    from repo_tools.repository.published import log_of, offered_of

    rules = Rules(
        budget=words["budget"],
        silence=words["silence"],
        alpha=words["alpha"],
        hold_on=HoldOn(words["hold_on"]),
    )
    manifest = offered_of(require_repository(repo), channel)
    updates, entries, now = _on_offer(manifest, words), log_of(repo, channel), current_time()
    verdicts = []
    with Logs(logs) as read:
        for update in updates:
            start = max(filter(None, (since, resumed_at(entries, update))), default=None)
            options = EvidenceOptions(
                patience=patience,
                only_seen=only_seen,
                since=start,
                channel=channel,
                siblings=manifest.updates,
            )
            tally, sight = sight_of(read, update, options)
            idle = idle_reason(update, manifest, sight, now=now)
            blind = blind_spots(sight, now=now, max_age=max_age, since=start, idle=bool(idle))
            verdict = replace(judge(tally, rules), blind=blind, idle=idle)
            verdicts.append((update, verdict, sight))
        lines = read.lines
    held = {
        update.key: _hold(repo, channel, update, reason_text(verdict, rules), dry_run=dry_run)
        for update, verdict, _ in verdicts
        if verdict.hold
    }
    judged = [
        Judged(update=update, verdict=verdict, sight=sight, held=held.get(update.key))
        for update, verdict, sight in verdicts
    ]
    emit(guard_document(judged, rules, lines, dry_run=dry_run), guard_text(judged, lines), as_json=as_json)
    return int(_status(held.values(), [verdict.answer for _, verdict, _ in verdicts]))


def _on_offer(manifest: Manifest, words: dict[str, Any]) -> list[Update]:
    """Return the releases to judge. Raises RolloutUnchangedError, ReleaseError."""
    from repo_tools.errors import RolloutUnchangedError

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
        raise RolloutUnchangedError("there is no release to check: none is on offer, or it is already held")
    return offered


def _hold(
    repo: Path, channel: str | None, update: Update, reason: str, *, dry_run: bool
) -> tuple[RolloutStep, Committed | None]:
    """Hold a release; return the step and its result: None with ``dry_run``, which changes nothing."""
    from repo_tools.releases import brake
    from repo_tools.releases.rollout import holding, take
    from repo_tools.repository.published import manifest_of

    which, now = which_release(update.version, update.variant, update.arch), current_time()
    if brake.can_hold(repo, channel):  # a hold of the channel would wait for its other holders
        if dry_run:
            return brake.holding(which, reason=reason)(manifest_of(repo, channel), now), None
        return brake.hold(repo, which, channel=channel, reason=reason, now=now, secrets=ask_secrets())
    decide = holding(which, reason=reason)
    if dry_run:
        return decide(manifest_of(repo, channel), now), None
    return take(repo, decide, now=now, channel=channel, secrets=ask_secrets())


def resumed_at(entries: Iterable[LogEntry], update: Update) -> datetime | None:
    """Return when an operator last resumed a release, by the log of changes; None if that never happened."""
    moments = (
        entry.at
        for entry in entries
        if entry.change.action == "resume" and entry.change.subject == str(update)
    )
    return max(moments, default=None)


def idle_reason(update: Update, manifest: Manifest, sight: Sight, *, now: datetime) -> str:
    """Return why no evidence about a release is to be expected; empty if there is to be some."""
    if sight.took or sight.outcomes:
        return ""
    if sight.quiescent:
        return "every node that was seen runs this version or a later one"
    later = max(
        (
            other.version
            for other in manifest.updates_of(update.variant, update.arch)
            if update.version < other.version <= other.max_version and not other.hold
        ),
        default=None,
    )
    if later:
        return f"no node takes it any more: {later} is on offer"
    first = min((start.at for start in update.waves.starts), default=now)
    return f"its first wave starts on {readable_time(first)}" if first > now else ""


def _status(
    held: Iterable[tuple[RolloutStep, Committed | None]], answers: Sequence[VerdictAnswer]
) -> ExitStatus:
    """Return how the command ends: a hold that waits for other holders' signatures has failed so far."""
    from repo_tools.fleet.verdict import VerdictAnswer

    outcomes = [done for _, done in held]
    if any(done and done.pending for done in outcomes):
        return ExitStatus.FAILED
    if outcomes:
        return ExitStatus.REFUSED
    if VerdictAnswer.CANNOT_JUDGE in answers:
        return ExitStatus.CANNOT_JUDGE
    return ExitStatus.DONE if VerdictAnswer.MAY_GO_ON in answers else ExitStatus.NOTHING_TO_DO
