"""PURE: what logs say about a release, and what the guard makes of it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repo_tools.fleet.verdict import Answer
from repo_tools.render.channels import committed_text
from repo_tools.render.plot import share_plot
from repo_tools.render.releases import step_text
from repo_tools.render.text import share_text, table_text
from updog.update_metadata.times import format_time, spoken_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from repo_tools.fleet.evidence import Evidence
    from repo_tools.fleet.verdict import Finding, Rules, Verdict
    from repo_tools.session import Committed
    from repo_tools.steer import Step
    from updog.update_metadata.manifest import Update

_STUCK_SHOWN = 10
"""Lines of a terminal; the page and ``--json`` have more."""


def evidence_document(evidence: Evidence) -> dict[str, Any]:
    """Return what the logs say as ``--json`` prints it."""
    update = evidence.update
    return {
        "variant": update.variant,
        "arch": update.arch,
        "version": str(update.version),
        "from": _time(evidence.first),
        "to": _time(evidence.last),
        "lines": {"read": evidence.lines.read, "not_understood": evidence.lines.strange},
        "nodes": evidence.nodes,
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
        "not_counted": evidence.neither,
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
        return f"{head}\nthe logs hold no request that is understood"
    plot = share_plot(_running_at(evidence), evidence.first, evidence.step * len(evidence.running.shares))
    waves = [
        (
            str(wave.number),
            spoken_time(wave.start) if wave.start else "at once",
            share_text(wave.open),
            *(str(count) for count in (wave.nodes, wave.took, wave.runs, wave.good, wave.bad)),
        )
        for wave in evidence.waves
    ]
    heads = ("wave", "starts", "open", "nodes", "took it", "run it", "confirmed", "failed")
    return "\n".join([head, *plot, "", table_text(heads, waves), "", *_facts(evidence)])


def _facts(evidence: Evidence) -> list[str]:
    failures = [
        f"failed   {failure.nodes} nodes: {failure.code}, {failure.cause or 'cause unknown'}"
        for failure in evidence.failures
    ]
    reached = ", ".join(
        f"{percent} % {spoken_time(moment.replace(second=0, microsecond=0)) if moment else 'not yet'}"
        for percent, moment in evidence.reached.items()
    )
    quiet = evidence.quiet
    stuck = [
        f"         {node.node}: took it {spoken_time(node.took)}, {_state(node.quiet, node.runs)}"
        for node in evidence.stuck[:_STUCK_SHOWN]
    ]
    return [
        f"reached  {reached}",
        *(failures or ["failed   nobody said so"]),
        f"quiet    {quiet.failed} of {quiet.total} nodes that took it long enough ago",
        f"stuck    {evidence.stuck_count} nodes",
        *stuck,
        f"read     {evidence.lines.read} lines, {evidence.lines.strange} not understood",
    ]


def _state(quiet: bool, runs: str) -> str:  # noqa: FBT001 - the two facts of one node
    return "not heard of since" if quiet else f"runs {runs or 'an unknown version'}"


def _running_at(evidence: Evidence) -> Any:
    first, shares = evidence.first, evidence.running.shares

    def share(moment: datetime) -> float:
        index = (moment - first) // evidence.step if first else 0
        return shares[min(max(index, 0), len(shares) - 1)]

    return share


Judged = tuple["Update", "Verdict", "tuple[Step, Committed | None] | None"]
"""A release, what is made of it, and if that is a hold, the step and what came of it (nothing: a dry run)."""


def guard_document(judged: Sequence[Judged], rules: Rules, *, dry_run: bool) -> dict[str, Any]:
    """Return the guard's judgement as ``--json`` prints it."""
    return {
        "budget": rules.budget,
        "silence_budget": rules.silence,
        "alpha": rules.alpha,
        "hold_on": rules.hold_on.value,
        "dry_run": dry_run,
        "releases": [
            {
                "variant": update.variant,
                "arch": update.arch,
                "version": str(update.version),
                "hold": verdict.hold,
                "step": _step_document(*held) if held else None,
                "findings": [_finding(finding, verdict) for finding in verdict.findings],
            }
            for update, verdict, held in judged
        ],
    }


def _step_document(step: Step, done: Committed | None) -> dict[str, Any]:
    return step.to_json() | (done.to_json() if done else {})


def _finding(finding: Finding, verdict: Verdict) -> dict[str, Any]:
    return {
        "group": finding.group,
        "question": finding.question,
        "failed": finding.count.failed,
        "of": finding.count.total,
        "lower": round(finding.lower, 6),
        "upper": round(finding.upper, 6),
        "budget": finding.budget,
        "answer": finding.answer.value,
        "holds": finding in verdict.against,
    }


def guard_text(judged: Sequence[Judged]) -> str:
    """Return the guard's judgement: of each release a table, and what was done about it."""
    return "\n\n".join(
        f"{update}\n{_table(verdict)}\n{_step_text(*held) if held else f'{update} may go on'}"
        for update, verdict, held in judged
    )


def _step_text(step: Step, done: Committed | None) -> str:
    if done is None:
        return step_text(step, done=False)
    return f"{step_text(step, done=done.pending is None)}\n{committed_text(done)}"


def _table(verdict: Verdict) -> str:
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
    return table_text(("nodes", "question", "seen", "true rate", "budget", ""), rows)


_ANSWERS = {
    Answer.OVER: "OVER the budget",
    Answer.WITHIN: "within the budget",
    Answer.OPEN: "not decided yet",
}


def reason_text(verdict: Verdict, rules: Rules) -> str:
    """Return why a release is held, as the log of changes and a node that is asked why have it."""
    because = "; ".join(_because(finding) for finding in verdict.against)
    return f"guard: {because} (a healthy release is held in at most {share_text(rules.alpha)} of cases)"


def _because(finding: Finding) -> str:
    what = "failed" if finding.question == "failures" else "fell silent"
    seen = f"{finding.group}: {finding.count.failed} of {finding.count.total} nodes {what}"
    if finding.lower > finding.budget:
        return f"{seen}, so at least {share_text(finding.lower)} do; {share_text(finding.budget)} may"
    return f"{seen}, so up to {share_text(finding.upper)} may do; {share_text(finding.budget)} is the budget"


def _time(moment: datetime | None) -> str | None:
    return format_time(moment.replace(microsecond=0)) if moment else None
