"""What logs show about one release: which nodes took it and run it, what failed and why, which are stuck.

Rules:

* the time is that of the logs: "now" is their last request, so that old logs can be evaluated as well;
* a node *took* the release when it was first served a request with that version as ``target=``, and *runs* it
  from its first request with that version as ``version=``;
* only nodes of the release's variant, architecture and channel count. Requests say which; of older nodes, the
  outcome line says it, or the image that the node fetched. A node of which nothing is known counts, too;
* of a node's outcome lines about the release, the latest counts, once (docs/reference/outcome-line.md);
* a node is *quiet* if no request came from it after its last request for the release; any later request, of
  whatever version, shows that it is alive, and so does an outcome. A node is only judged ``patience`` after
  that last request;
* an older node that got a new address looks like two: one that took the release and was not heard of again,
  and one that appears later with the same seed and runs or reports the release. They are joined in pairs;
* a node is *stuck* if it took the release more than ``patience`` ago and does not run it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from repo_tools.fleet.bounds import FailureCount, step_over
from repo_tools.fleet.logs import counted
from repo_tools.fleet.verdict import Sight, Tally
from updog.update_metadata.errors import VersionError
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import duckdb

    from repo_tools.fleet.logs import Lines, Logs
    from updog.update_metadata.manifest import Update

MAX_LISTED = 100
"""Most stuck nodes, and kinds of failures, that are listed; all are counted."""

VERSIONS_SHOWN = 6
"""Most versions with their own curve: more cannot be distinguished."""

MAX_TEXT = 128
"""Most characters of a text from a log that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveProgress:
    """One wave at the end of the logs.

    Attributes:
        number: from 1. start: when it starts; None if the release is open at once.
        open: share of its seeds that may update. nodes: number seen. took: how many took the release.
        runs: how many run it. good, bad: number of outcomes.
    """

    number: int
    start: datetime | None
    open: float
    nodes: int
    took: int
    runs: int
    good: int
    bad: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One kind of failure: its code, its cause (empty if unknown), and the number of nodes."""

    code: str
    cause: str
    nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StuckNode:
    """A node that took the release and does not run it.

    Attributes:
        node: address and seed. seed: of the node. runs: the version in its last request; empty if unknown.
        took: when it took the release. seen: time of its last request.
        quiet: whether no request came after it took the release. code: of its outcome line, if there is one.
    """

    node: str
    seed: int
    runs: str
    took: datetime
    seen: datetime
    quiet: bool
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeCurve:
    """Shares of the fleet at the end of each step, the first one a step after the logs begin."""

    name: str
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that the logs show about one release.

    Attributes:
        update: the release. first, last: times of the first and the last request; None without requests.
        lines: number of lines read. nodes: number seen. took, runs: how many took the release, and run it.
        versions: version → number of nodes that last reported it; most frequent first.
        waves: progress of each wave. failures: kinds of failures, most frequent first.
        not_counted: outcomes that are neither good nor bad.
        stuck: stuck nodes, the longest first, at most :data:`MAX_LISTED`. stuck_count: their total number.
        quiet: nodes that have had time to be heard of again, and how many have not.
        reached: per cent → when this part of the fleet ran the release; None if it does not yet.
        unnamed: nodes that send no pseudonym, and are told apart by address and seed.
        step: of the curves. running: share that runs the release. planned: share that it was open to.
        spread: for each frequent version, the share of nodes that last reported it.
    """

    update: Update
    first: datetime | None
    last: datetime | None
    lines: Lines
    nodes: int
    unnamed: int
    took: int
    runs: int
    versions: dict[str, int]
    waves: tuple[WaveProgress, ...]
    failures: tuple[Failure, ...]
    not_counted: int
    stuck: tuple[StuckNode, ...]
    stuck_count: int
    quiet: FailureCount
    reached: dict[int, datetime | None]
    step: timedelta
    running: OutcomeCurve
    planned: OutcomeCurve
    spread: tuple[OutcomeCurve, ...] = field(default=())

    @property
    def moments(self) -> list[datetime]:
        """The moments of the points of the curves."""
        first = self.first or datetime.fromtimestamp(0, UTC)
        return [first + self.step * (index + 1) for index in range(len(self.running.shares))]

    @property
    def tally(self) -> Tally:
        """What the guard evaluates."""
        return _tally(self.waves, self.quiet)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceOptions:
    """Which outcomes count.

    Attributes:
        patience: how long a node may be silent after its last request for the release.
        only_seen: count only outcomes of nodes that took the release according to these logs.
        since: count only outcomes, and silence, from this time on; None for all.
        channel: the channel that the nodes follow; None for nodes that follow none.
        siblings: all releases of the manifest; the names of their images tell variants apart.
    """

    patience: timedelta
    only_seen: bool = False
    since: datetime | None = None
    channel: str | None = None
    siblings: tuple[Update, ...] = ()


def gather(logs: Logs, update: Update, options: EvidenceOptions) -> Evidence:
    """Return what the logs show about a published release."""
    return _Query(logs, update, options).evidence()


def tally_of(logs: Logs, update: Update, options: EvidenceOptions) -> Tally:
    """Return the part of :func:`gather` that the guard evaluates."""
    return _Query(logs, update, options).tally()


def sight_of(logs: Logs, update: Update, options: EvidenceOptions) -> tuple[Tally, Sight]:
    """Return the part of :func:`gather` that the guard evaluates, and how much the logs show at all."""
    query = _Query(logs, update, options)
    tally = query.tally()
    return tally, query.sight(tally)


def _tally(waves: Iterable[WaveProgress], quiet: FailureCount) -> Tally:
    counts = {wave.number: FailureCount(failed=wave.bad, total=wave.good + wave.bad) for wave in waves}
    return Tally(waves=counts, quiet=quiet)


class _Query:
    """The queries about one release; creates the tables ``seed_waves``, ``nodes`` and ``results`` for it."""

    def __init__(self, logs: Logs, update: Update, options: EvidenceOptions) -> None:
        self._logs, self._update, self._patience = logs, update, options.patience.total_seconds()
        self._since = options.since.timestamp() if options.since else float("-inf")
        self._database: duckdb.DuckDBPyConnection = logs.database
        self._first, self._last = self._one("SELECT min(moment), max(moment) FROM requests")
        self._create_seed_waves()
        self._create_nodes(options)
        self._join_moved_nodes(options)
        self._create_results(options)

    def evidence(self) -> Evidence:
        """Run all queries."""
        nodes, unnamed, took, runs = self._one(
            "SELECT count(*), count(*) FILTER (NOT named), count(took), count(*) FILTER (running) FROM nodes"
        )
        span = timedelta(seconds=(self._last or 0) - (self._first or 0))
        step = step_over(span)
        count = int(span / step) + 1
        stuck, stuck_count = self._stuck()
        return Evidence(
            update=self._update,
            first=_time(self._first),
            last=_time(self._last),
            lines=self._logs.lines,
            nodes=nodes,
            unnamed=unnamed,
            took=took,
            runs=runs,
            versions=self._versions(),
            waves=tuple(self._waves()),
            failures=self._failures(),
            not_counted=self._one("SELECT count(*) FROM results WHERE counts_as = 'neither'")[0],
            stuck=stuck,
            stuck_count=stuck_count,
            quiet=self._quiet(),
            reached={percent: self._reached(nodes, percent) for percent in (50, 90, 99)},
            step=step,
            running=self._running(nodes, step, count),
            planned=self._planned(step, count),
            spread=self._spread(step, count),
        )

    def tally(self) -> Tally:
        """Run the queries that the guard needs."""
        return _tally(self._waves(), self._quiet())

    def sight(self, tally: Tally) -> Sight:
        """Return how much the logs show, beside the tally."""
        nodes, unnamed, took = self._one(
            "SELECT count(*), count(*) FILTER (NOT named), count(took) FROM nodes"
        )
        (said,) = self._one("SELECT max(moment) FROM outcomes")
        rows = self._all("SELECT version, count(*) FROM nodes GROUP BY version")
        return Sight(
            read=self._logs.lines.read,
            understood=self._logs.lines.read - self._logs.lines.not_understood,
            last=_time(said if self._last is None else self._last),
            nodes=nodes,
            unnamed=unnamed,
            behind=sum(count for version, count in rows if not self._is_reached(version)),
            took=took,
            outcomes=tally.overall.total,
        )

    def _is_reached(self, version: str) -> bool:
        """Return whether a version from a log is the release or a later one."""
        try:
            return Version.parse(version) >= self._update.version
        except VersionError:
            return False

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        return self._database.execute(query, list(values)).fetchone() or ()

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.execute(query, list(values)).fetchall()

    def _create_seed_waves(self) -> None:
        waves = self._update.waves
        positions = [waves.position(seed) for seed in range(MAX_SEED)]
        self._database.execute(
            "CREATE OR REPLACE TABLE seed_waves AS"
            " SELECT unnest(?::SMALLINT[]) AS seed, unnest(?::SMALLINT[]) AS wave",
            [list(range(MAX_SEED)), [position.number if position else 1 for position in positions]],
        )

    def _create_nodes(self, options: EvidenceOptions) -> None:
        """Create the table of the nodes of the release's variant, architecture and channel."""
        variant, arch, version = self._update.key
        ours = set(self._update.images.values())
        others = {
            image
            for sibling in options.siblings
            if (sibling.variant, sibling.arch) != (variant, arch)
            for image in sibling.images.values()
        } - ours
        fetched_others = (
            "coalesce(bool_or(target IS NOT NULL AND regexp_matches(replace(path, '%2B', '+'), $5)), false)"
        )
        self._database.execute(
            "CREATE OR REPLACE TABLE nodes AS SELECT * FROM (SELECT node, any_value(seed) AS seed,"
            " bool_or(named) AS named, min(moment) AS first, max(moment) AS seen,"
            " coalesce(arg_max(version, moment) FILTER (version IS NOT NULL), '') AS version,"
            " min(moment) FILTER (version = $1) AS runs_since,"
            " min(moment) FILTER (target = $1) AS took, max(moment) FILTER (target = $1) AS asked,"
            " coalesce(arg_max(version, moment) FILTER (version IS NOT NULL), '') = $1 AS running,"
            " arg_max((variant, coalesce(arch, $3), coalesce(channel, '')), moment)"
            " FILTER (variant IS NOT NULL) AS family,"
            f" {fetched_others} AS other FROM sightings GROUP BY node)"
            " WHERE CASE WHEN family IS NULL THEN NOT other ELSE family = ($2, $3, $4) END",
            [
                str(version),
                variant,
                arch,
                options.channel or "",
                rf"[./](?:{'|'.join(map(re.escape, sorted(others)))})" if others else "^$",
            ],
        )

    def _join_moved_nodes(self, options: EvidenceOptions) -> None:
        """Join the two halves of nodes without a pseudonym whose address changed after they took the release.

        Of each seed, a half that was last heard of is joined with one that was first heard of later.
        """
        release, values = self._of_release(options)
        silent = self._all(
            "SELECT seed, seen, node FROM nodes WHERE took IS NOT NULL AND NOT running AND NOT named"
            " ORDER BY seed, seen DESC"
        )
        if not silent:
            return
        new = self._all(
            "WITH said AS (SELECT node, any_value(seed) AS seed, any_value(sighting) AS sighting,"
            f" max(moment) AS moment FROM outcomes WHERE {release} GROUP BY node)"
            " SELECT seed, first, node FROM nodes WHERE took IS NULL AND (runs_since IS NOT NULL"
            " OR node IN (SELECT node FROM said) OR node IN (SELECT sighting FROM said))"
            " UNION ALL SELECT seed, moment, node FROM said WHERE NOT EXISTS"
            " (SELECT 1 FROM nodes WHERE nodes.node IN (said.node, said.sighting)) ORDER BY 1, 2 DESC",
            *values,
        )
        if pairs := _pairs(silent, new):
            self._database.execute(
                "CREATE OR REPLACE TEMP TABLE pairs AS SELECT unnest(?::VARCHAR[]) AS old,"
                " unnest(?::VARCHAR[]) AS new, unnest(?::DOUBLE[]) AS moment",
                [list(column) for column in zip(*pairs, strict=True)],
            )
            self._database.execute(
                "CREATE OR REPLACE TABLE nodes AS SELECT pairs.new AS node, old.seed,"
                " coalesce(new.named, false) AS named, old.first, coalesce(new.seen, pairs.moment) AS seen,"
                " coalesce(nullif(new.version, ''), old.version) AS version,"
                " coalesce(new.runs_since, old.runs_since) AS runs_since, old.took, old.asked,"
                " coalesce(new.running, false) AS running FROM pairs"
                " JOIN nodes AS old ON old.node = pairs.old LEFT JOIN nodes AS new ON new.node = pairs.new"
                " UNION ALL SELECT node, seed, named, first, seen, version, runs_since, took, asked, running"
                " FROM nodes WHERE node NOT IN (SELECT old FROM pairs UNION SELECT new FROM pairs)"
            )

    def _of_release(self, options: EvidenceOptions) -> tuple[str, list[object]]:
        """Return the condition for outcomes of the release, and its values."""
        variant, arch, version = self._update.key
        condition = (
            "target = ? AND variant = ? AND arch = ? AND channel IS NOT DISTINCT FROM ? AND moment >= ?"
        )
        return condition, [str(version), variant, arch, options.channel, self._since]

    def _create_results(self, options: EvidenceOptions) -> None:
        """Create the table of each node's latest outcome."""
        took = "(SELECT node FROM nodes WHERE took IS NOT NULL)"
        seen = f" AND (node IN {took} OR sighting IN {took})" if options.only_seen else ""
        release, values = self._of_release(options)
        self._database.execute(
            "CREATE OR REPLACE TABLE results AS SELECT *, " + counted() + " AS counts_as FROM (SELECT node,"
            " arg_max(seed, moment) AS seed, arg_max(code, moment) AS code,"
            " coalesce(arg_max(coalesce(cause, ''), moment), '') AS cause, max(moment) AS moment,"
            f" arg_max(sighting, moment) AS sighting FROM outcomes WHERE {release}{seen} GROUP BY node)",
            values,
        )

    def _versions(self) -> dict[str, int]:
        rows = self._all(
            "SELECT version, count(*) AS n FROM nodes WHERE version <> '' GROUP BY version"
            " ORDER BY n DESC, version LIMIT ?",
            MAX_LISTED,
        )
        return {_text(version): count for version, count in rows}

    def _waves(self) -> Iterator[WaveProgress]:
        seen = {
            row[0]: row[1:]
            for row in self._all(
                "SELECT wave, count(*), count(took), count(*) FILTER (running) FROM nodes JOIN seed_waves"
                " USING (seed) GROUP BY wave"
            )
        }
        outcomes = {
            row[0]: row[1:]
            for row in self._all(
                "SELECT wave, count(*) FILTER (counts_as = 'good'), count(*) FILTER (counts_as = 'bad')"
                " FROM results JOIN seed_waves USING (seed) GROUP BY wave"
            )
        }
        for number, start, share in self._plan():
            nodes, took, runs = seen.get(number, (0, 0, 0))
            good, bad = outcomes.get(number, (0, 0))
            yield WaveProgress(
                number=number, start=start, open=share, nodes=nodes, took=took, runs=runs, good=good, bad=bad
            )

    def _plan(self) -> Iterator[tuple[int, datetime | None, float]]:
        """Yield each wave's number, its start, and the share of its seeds that may update by now."""
        waves, now = self._update.waves, _time(self._last)
        seeds = [start.seed for start in waves.starts if start.seed < MAX_SEED]
        if not seeds:
            yield 1, None, 1.0
        for seed in seeds:
            wave = waves.position(seed)
            if wave is not None:
                size = wave.end_seed - (0 if wave.number == 1 else wave.first_seed)
                yield wave.number, wave.start, wave.opened(now) / size if now else 0.0

    def _failures(self) -> tuple[Failure, ...]:
        rows = self._all(
            "SELECT code, cause, count(*) AS n FROM results WHERE counts_as = 'bad' GROUP BY code, cause"
            " ORDER BY n DESC, code, cause LIMIT ?",
            MAX_LISTED,
        )
        return tuple(Failure(code=_text(row[0]), cause=_text(row[1]), nodes=row[2]) for row in rows)

    def _stuck(self) -> tuple[tuple[StuckNode, ...], int]:
        where = "FROM nodes WHERE took IS NOT NULL AND NOT running AND took < ?"
        due = (self._last or 0) - self._patience
        rows = self._all(
            "SELECT node, seed, version, took, seen, seen <= asked, coalesce("
            "(SELECT any_value(code) FROM results WHERE nodes.node IN (results.node, sighting)), '')"
            f" {where}"
            " ORDER BY took, node LIMIT ?",
            due,
            MAX_LISTED,
        )
        (count,) = self._one(f"SELECT count(*) {where}", due)
        stuck = tuple(
            StuckNode(
                node=_text(row[0]),
                seed=row[1],
                runs=_text(row[2]),
                took=_moment(row[3]),
                seen=_moment(row[4]),
                quiet=bool(row[5]),
                code=_text(row[6]),
            )
            for row in rows
        )
        return stuck, count

    def _quiet(self) -> FailureCount:
        total, failed = self._one(
            "SELECT count(*), count(*) FILTER (seen <= asked AND NOT EXISTS (SELECT 1 FROM results"
            " WHERE results.node = nodes.node AND results.moment > asked))"
            " FROM nodes WHERE asked < ? AND asked >= ?",
            (self._last or 0) - self._patience,
            self._since,
        )
        return FailureCount(failed=failed, total=total)

    def _reached(self, nodes: int, percent: int) -> datetime | None:
        needed = -(-percent * nodes // 100)
        rows = self._all(
            "SELECT runs_since FROM nodes WHERE runs_since IS NOT NULL ORDER BY 1 LIMIT 1 OFFSET ?",
            max(needed - 1, 0),
        )
        return _moment(rows[0][0]) if rows and nodes else None

    def _running(self, nodes: int, step: timedelta, count: int) -> OutcomeCurve:
        rows = self._all(
            "SELECT floor((runs_since - ?) / ?)::INTEGER, count(*) FROM nodes WHERE runs_since IS NOT NULL"
            " GROUP BY 1",
            self._first or 0,
            step.total_seconds(),
        )
        new = dict(rows)
        shares, total = [], 0
        for index in range(count):
            total += new.get(index, 0)
            shares.append(total / nodes if nodes else 0.0)
        return OutcomeCurve(name=f"runs {self._update.version}", shares=tuple(shares))

    def _planned(self, step: timedelta, count: int) -> OutcomeCurve:
        first = _time(self._first) or datetime.fromtimestamp(0, UTC)
        ends = (first + step * (index + 1) for index in range(count))
        return OutcomeCurve(
            name="plan", shares=tuple(float(self._update.waves.share_open(end)) for end in ends)
        )

    def _spread(self, step: timedelta, count: int) -> tuple[OutcomeCurve, ...]:
        """Return for each frequent version the share of the nodes heard so far that last reported it."""
        rows = self._all(
            "WITH heard AS (SELECT node, floor((moment - ?) / ?)::INTEGER AS bin,"
            " arg_max(version, moment) AS version FROM sightings WHERE version IS NOT NULL"
            " AND node IN (SELECT node FROM nodes) GROUP BY node, bin),"
            " moves AS (SELECT bin, version, lag(version) OVER (PARTITION BY node ORDER BY bin) AS before"
            " FROM heard)"
            " SELECT bin, version, count(*) FROM moves WHERE version IS DISTINCT FROM before GROUP BY ALL"
            " UNION ALL SELECT bin, before, -count(*) FROM moves"
            " WHERE before IS NOT NULL AND version <> before GROUP BY ALL",
            self._first or 0,
            step.total_seconds(),
        )
        changes: dict[str, list[int]] = defaultdict(lambda: [0] * count)
        for bin_, version, change in rows:
            changes[_text(version)][bin_] += change
        nodes = {version: list(accumulate(each)) for version, each in changes.items()}
        heard = [sum(each[index] for each in nodes.values()) or 1 for index in range(count)]
        most = sorted(nodes, key=lambda version: (-max(nodes[version]), version))[:VERSIONS_SHOWN]
        return tuple(
            OutcomeCurve(
                name=version, shares=tuple(n / all_ for n, all_ in zip(nodes[version], heard, strict=True))
            )
            for version in most
        )


def _pairs(
    silent: Iterable[tuple[int, float, str]], new: Iterable[tuple[int, float, str]]
) -> list[tuple[str, str, float]]:
    """Return old name, new name and first time of as many nodes as can be joined.

    Both are (seed, time, name), sorted by seed, the latest first: every half that is new to one silent half
    is new to all silent ones after it, so that taking any of them leaves enough for the others.
    """
    waiting: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for seed, first, name in new:
        waiting[seed].append((first, name))
    pairs: list[tuple[str, str, float]] = []
    for seed, seen, name in silent:
        later = waiting[seed]
        if later and later[0][0] > seen:
            first, other = later.pop(0)
            pairs.append((name, other, first))
    return pairs


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: object) -> str:
    """Return a text from a log so that it can be shown: printable, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value or ""))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
