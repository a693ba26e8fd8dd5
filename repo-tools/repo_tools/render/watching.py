"""What logs say about a release, and what the guard decides from it, as text. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.fleet.verdict import GuardAnswer, VerdictAnswer
from repo_tools.render.channels import committed_text
from repo_tools.render.plot import share_plot
from repo_tools.render.releases import step_text
from repo_tools.text import share_text
from signpost.text import table
from updog.update_metadata.times import format_time, readable_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from repo_tools.fleet.evidence import Evidence
    from repo_tools.fleet.logs import Lines
    from repo_tools.fleet.verdict import GuardFinding, GuardVerdict, Rules, Sight
    from repo_tools.releases.rollout import RolloutStep
    from repo_tools.repository.session import Committed
    from updog.update_metadata.manifest import Update

_STUCK_SHOWN = 10
"""Lines on a terminal; the page and ``--json`` have more."""


def evidence_document(evidence: Evidence) -> dict[str, Any]:
    """Return what the logs say as ``--json`` prints it."""
    update = evidence.update
    return {
        "variant": update.variant,
        "arch": update.arch,
        "version": str(update.version),
        "from": _time(evidence.first),
        "to": _time(evidence.last),
        "lines": {"read": evidence.lines.read, "not_understood": evidence.lines.not_understood},
        "nodes": evidence.nodes,
        "nodes_without_pseudonym": evidence.unnamed,
        "took": evidence.took,
        "runs": evidence.runs,
        "versions": evidence.versions,
        "reached": {str(percent): _time(moment) for percent, moment in evidence.reached.items()},
        "waves": [
            {
                "wave": wave.number,
                "start": _time(wave.start),
                "open": round(wave.open, 4),
                "nodes": wave.nodes,
                "took": wave.took,
                "runs": wave.runs,
                "confirmed": wave.good,
                "failed": wave.bad,
            }
            for wave in evidence.waves
        ],
        "failures": [
            {"code": failure.code, "cause": failure.cause or None, "nodes": failure.nodes}
            for failure in evidence.failures
        ],
        "not_counted": evidence.not_counted,
        "quiet": {"nodes": evidence.quiet.failed, "of": evidence.quiet.total},
        "stuck": [
            {
                "node": node.node,
                "seed": node.seed,
                "runs": node.runs or None,
                "took": _time(node.took),
                "seen": _time(node.seen),
                "quiet": node.quiet,
                "code": node.code or None,
            }
            for node in evidence.stuck
        ],
        "stuck_count": evidence.stuck_count,
    }


def evidence_text(evidence: Evidence) -> str:
    """Return what the logs say: a plot, the waves, failures and stuck nodes."""
    head = f"{evidence.update}: {evidence.runs} of {evidence.nodes} nodes run it"
    if evidence.first is None:
        return f"{head}\nthe logs contain no request that is understood\n{_lines_text(evidence.lines)}"
    plot = share_plot(_running_at(evidence), evidence.first, evidence.step * len(evidence.running.shares))
    waves = [
        (
            str(wave.number),
            readable_time(wave.start) if wave.start else "at once",
            share_text(wave.open),
            *(str(count) for count in (wave.nodes, wave.took, wave.runs, wave.good, wave.bad)),
        )
        for wave in evidence.waves
    ]
    heads = ("wave", "starts", "open", "nodes", "took it", "run it", "confirmed", "failed")
    return "\n".join([head, *plot, "", table([heads, *waves]), "", *_facts(evidence)])


def _facts(evidence: Evidence) -> list[str]:
    failures = [
        f"failed   {failure.nodes} nodes: {failure.code}, {failure.cause or 'cause unknown'}"
        for failure in evidence.failures
    ]
    reached = ", ".join(
        f"{percent} % {readable_time(moment.replace(second=0, microsecond=0)) if moment else 'not yet'}"
        for percent, moment in evidence.reached.items()
    )
    quiet = evidence.quiet
    stuck = [
        f"         {node.node}: took it {readable_time(node.took)}, "
        + ("not seen since" if node.quiet else f"runs {node.runs or 'an unknown version'}")
        for node in evidence.stuck[:_STUCK_SHOWN]
    ]
    return [
        f"reached  {reached}",
        *(failures or ["failed   none reported"]),
        f"quiet    {quiet.failed} of {quiet.total} nodes that took it long enough ago",
        f"stuck    {evidence.stuck_count} nodes",
        *stuck,
        _lines_text(evidence.lines),
    ]


def _running_at(evidence: Evidence) -> Any:
    first, shares = evidence.first, evidence.running.shares

    def share(moment: datetime) -> float:
        index = (moment - first) // evidence.step if first else 0
        return shares[min(max(index, 0), len(shares) - 1)]

    return share


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A release and the verdict on it.

    Attributes:
        sight: what the logs show of it.
        held: if the verdict is a hold, the step and its result (None: a dry run).
    """

    update: Update
    verdict: GuardVerdict
    sight: Sight
    held: tuple[RolloutStep, Committed | None] | None


def guard_document(judged: Sequence[Judged], rules: Rules, lines: Lines, *, dry_run: bool) -> dict[str, Any]:
    """Return the guard's verdicts as ``--json`` prints them."""
    return {
        "budget": rules.budget,
        "silence_budget": rules.silence,
        "alpha": rules.alpha,
        "hold_on": rules.hold_on.value,
        "dry_run": dry_run,
        "lines": {"read": lines.read, "not_understood": lines.not_understood},
        "releases": [
            {
                "variant": item.update.variant,
                "arch": item.update.arch,
                "version": str(item.update.version),
                "verdict": item.verdict.answer.value,
                "hold": item.verdict.hold,
                "cannot_judge": list(item.verdict.blind),
                "nothing_to_judge": item.verdict.idle or None,
                "nodes": {"seen": item.sight.nodes, "without_pseudonym": item.sight.unnamed},
                "step": _step_document(*item.held) if item.held else None,
                "findings": [_finding(finding, item.verdict) for finding in item.verdict.findings],
            }
            for item in judged
        ],
    }


def _step_document(step: RolloutStep, done: Committed | None) -> dict[str, Any]:
    return step.to_json() | (done.to_json() if done else {})


def _finding(finding: GuardFinding, verdict: GuardVerdict) -> dict[str, Any]:
    return {
        "group": finding.group,
        "question": finding.question,
        "failed": finding.count.failed,
        "of": finding.count.total,
        "lower": round(finding.lower, 6),
        "upper": round(finding.upper, 6),
        "budget": finding.budget,
        "answer": finding.answer.value,
        "holds": finding in verdict.reasons,
    }


def guard_text(judged: Sequence[Judged], lines: Lines) -> str:
    """Return the guard's verdicts: for each release a table, and what was done about it."""
    releases = [
        "\n".join(
            line for line in (str(item.update), _table(item.verdict), _note(item.sight), _said(item)) if line
        )
        for item in judged
    ]
    return "\n\n".join([*releases, _lines_text(lines)])


def _said(item: Judged) -> str:
    """Return what was done about a release, or why nothing was."""
    verdict = item.verdict
    if item.held:
        return _step_text(*item.held)
    if verdict.answer is VerdictAnswer.CANNOT_JUDGE:
        return f"cannot judge {item.update}: {'; '.join(verdict.blind)}"
    if verdict.answer is VerdictAnswer.NOTHING_TO_JUDGE:
        return f"nothing to judge: {verdict.idle}"
    return f"{item.update} may go on"


def _note(sight: Sight) -> str:
    """Return the limit of the evidence, empty if every node says who it is."""
    if not sight.unnamed:
        return ""
    return (
        f"note: {sight.unnamed} of {sight.nodes} nodes send no pseudonym (an older updog);"
        " they are told apart by address and seed"
    )


def _lines_text(lines: Lines) -> str:
    return f"read     {lines.read} lines, {lines.not_understood} not understood"


def _step_text(step: RolloutStep, done: Committed | None) -> str:
    if done is None:
        return step_text(step, done=False)
    return f"{step_text(step, done=done.pending is None)}\n{committed_text(done)}"


def _table(verdict: GuardVerdict) -> str:
    rows = [
        (
            finding.group,
            finding.question,
            f"{finding.count.failed} of {finding.count.total}",
            f"{share_text(finding.lower)} to {share_text(finding.upper)}",
            share_text(finding.budget),
            _ANSWERS[finding.answer],
        )
        for finding in verdict.findings
    ]
    return table([("nodes", "question", "seen", "true rate", "budget", ""), *rows])


_ANSWERS = {
    GuardAnswer.OVER: "OVER the budget",
    GuardAnswer.WITHIN: "within the budget",
    GuardAnswer.OPEN: "not decided yet",
}


def reason_text(verdict: GuardVerdict, rules: Rules) -> str:
    """Return why a release is held, for the log of changes and for `updog why` on a node."""
    because = "; ".join(_because(finding) for finding in verdict.reasons)
    return f"guard: {because} (a healthy release is held in at most {share_text(rules.alpha)} of cases)"


def _because(finding: GuardFinding) -> str:
    what = "failed" if finding.question == "failures" else "fell silent"
    seen = f"{finding.group}: {finding.count.failed} of {finding.count.total} nodes {what}"
    if finding.lower > finding.budget:
        return f"{seen}, so at least {share_text(finding.lower)} do; {share_text(finding.budget)} may"
    return f"{seen}, so up to {share_text(finding.upper)} may do; {share_text(finding.budget)} is the budget"


def _time(moment: datetime | None) -> str | None:
    return format_time(moment.replace(microsecond=0)) if moment else None
