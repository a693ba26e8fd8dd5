"""What the logs say about one release: who took it, who runs it, what failed and why, who is stuck.

Rules:

* time is that of the logs: "now" is their last request, so that logs of last month can be read as well;
* a node *took* the release when it was first served something with ``target=`` that version, and *runs* it
  from its first request with ``version=`` that version;
* of one node's outcome lines about the release the latest counts, once (docs/reference/outcome-line.md);
* a node is *quiet* if nothing at all came from it after its last request for the release. One that asks
  again, whatever it runs, is alive. Nodes are due for that ``patience`` after that request, not before;
* a node is *stuck* if it took the release more than ``patience`` ago and does not run it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from repo_tools.fleet.bounds import Count
from repo_tools.fleet.logs import counted
from repo_tools.fleet.steps import step_over
from repo_tools.fleet.verdict import Tally
from updog.update_metadata.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import duckdb

    from repo_tools.fleet.logs import Lines, Logs
    from updog.update_metadata.manifest import Update

SHOWN = 100
"""Stuck nodes, and kinds of failures, that are listed: a person reads no more. All are counted."""

VERSIONS_SHOWN = 6
"""Versions that get a curve of their own: more cannot be told apart."""

MAX_TEXT = 128
"""Characters of a text from a log that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveProgress:
    """One wave at the end of the logs.

    Attributes:
        number: from 1. start: when it starts; None where the release is open at once.
        open: share of its seeds whose turn has come. nodes: seen of it. took: of these, took the release.
        runs: of these, run it. good, bad: outcomes.
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
    """One kind of failure: its code, its cause (empty if unknown), and on how many nodes."""

    code: str
    cause: str
    nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stuck:
    """A node that took the release and does not run it.

    Attributes:
        node: address and seed. seed: of it. runs: the version it last asked with; empty if it never said.
        took: when it took the release. seen: its last request. quiet: whether nothing came since it took it.
        code: of its own outcome line, where there is one.
    """

    node: str
    seed: int
    runs: str
    took: datetime
    seen: datetime
    quiet: bool
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Shares of the fleet at the end of each step, the first one step after the logs begin."""

    name: str
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that is known about one release.

    Attributes:
        update: the release. first, last: moments of the first and the last request; None without any.
        lines: how much was read. nodes: seen in all. took, runs: of these.
        versions: version → nodes that said last that they run it; most first.
        waves: progress of each. failures: kinds, most frequent first.
        neither: outcomes that count for nothing.
        stuck: the nodes, longest first, at most :data:`SHOWN`; stuck_count: of how many.
        quiet: of the nodes that are due, those that nothing was heard of.
        reached: per cent → when that much of the fleet ran the release; None if it does not yet.
        step: of the curves. running: share that runs it. planned: share it was open for.
        spread: of each frequent version, its share of the nodes, by what each said last.
    """

    update: Update
    first: datetime | None
    last: datetime | None
    lines: Lines
    nodes: int
    took: int
    runs: int
    versions: dict[str, int]
    waves: tuple[WaveProgress, ...]
    failures: tuple[Failure, ...]
    neither: int
    stuck: tuple[Stuck, ...]
    stuck_count: int
    quiet: Count
    reached: dict[int, datetime | None]
    step: timedelta
    running: Curve
    planned: Curve
    spread: tuple[Curve, ...] = field(default=())

    @property
    def moments(self) -> list[datetime]:
        """What the points of the curves stand for."""
        first = self.first or datetime.fromtimestamp(0, UTC)
        return [first + self.step * (index + 1) for index in range(len(self.running.shares))]

    @property
    def tally(self) -> Tally:
        """What the guard judges."""
        return _tally(self.waves, self.quiet)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What counts.

    Attributes:
        patience: how long a node may take from its last request for the release to its next sign of life.
        only_seen: count outcomes only of nodes that these logs show taking the release.
        since: count only outcomes, and silence, from then on; None for all.
        channel: count only outcomes of nodes that follow it; None for all.
    """

    patience: timedelta
    only_seen: bool = False
    since: datetime | None = None
    channel: str | None = None


def gather(logs: Logs, update: Update, terms: Terms) -> Evidence:
    """Return what the logs say about a release, as it is published."""
    return _Query(logs, update, terms).evidence()


def tally_of(logs: Logs, update: Update, terms: Terms) -> Tally:
    """Return the part of :func:`gather` that the guard judges."""
    return _Query(logs, update, terms).tally()


def _tally(waves: Iterable[WaveProgress], quiet: Count) -> Tally:
    counts = {wave.number: Count(failed=wave.bad, total=wave.good + wave.bad) for wave in waves}
    return Tally(waves=counts, quiet=quiet)


class _Query:
    """The questions about one release; tables ``turns``, ``nodes`` and ``votes`` are made for it."""

    def __init__(self, logs: Logs, update: Update, terms: Terms) -> None:
        self._logs, self._update, self._patience = logs, update, terms.patience.total_seconds()
        self._since = terms.since.timestamp() if terms.since else float("-inf")
        self._database: duckdb.DuckDBPyConnection = logs.database
        self._first, self._last = self._one("SELECT min(moment), max(moment) FROM requests")
        self._make_turns()
        self._make_nodes()
        self._make_votes(terms)

    def evidence(self) -> Evidence:
        """Ask everything."""
        nodes, took, runs = self._one("SELECT count(*), count(took), count(*) FILTER (running) FROM nodes")
        step, count = self._steps()
        stuck, stuck_count = self._stuck()
        return Evidence(
            update=self._update,
            first=_time(self._first),
            last=_time(self._last),
            lines=self._logs.lines,
            nodes=nodes,
            took=took,
            runs=runs,
            versions=self._versions(),
            waves=tuple(self._waves()),
            failures=self._failures(),
            neither=self._one("SELECT count(*) FROM votes WHERE says = 'neither'")[0],
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
        """Ask what the guard judges."""
        return _tally(self._waves(), self._quiet())

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        return self._database.execute(query, list(values)).fetchone() or ()

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.execute(query, list(values)).fetchall()

    def _make_turns(self) -> None:
        waves = self._update.waves
        positions = [waves.position(seed) for seed in range(MAX_SEED)]
        self._database.execute(
            "CREATE OR REPLACE TABLE turns AS"
            " SELECT unnest(?::SMALLINT[]) AS seed, unnest(?::SMALLINT[]) AS wave",
            [list(range(MAX_SEED)), [position.number if position else 1 for position in positions]],
        )

    def _make_nodes(self) -> None:
        version = str(self._update.version)
        self._database.execute(
            "CREATE OR REPLACE TABLE nodes AS SELECT node, any_value(seed) AS seed, max(moment) AS seen,"
            " coalesce(arg_max(version, moment) FILTER (version IS NOT NULL), '') AS version,"
            " min(moment) FILTER (version = $1) AS runs_since,"
            " min(moment) FILTER (target = $1) AS took, max(moment) FILTER (target = $1) AS asked,"
            " coalesce(arg_max(version, moment) FILTER (version IS NOT NULL), '') = $1 AS running"
            " FROM sightings GROUP BY node",
            [version],
        )

    def _make_votes(self, terms: Terms) -> None:
        seen = " AND sighting IN (SELECT node FROM nodes WHERE took IS NOT NULL)" if terms.only_seen else ""
        variant, arch, version = self._update.key
        self._database.execute(
            "CREATE OR REPLACE TABLE votes AS SELECT *, " + counted() + " AS says FROM (SELECT node,"
            " arg_max(seed, moment) AS seed, arg_max(code, moment) AS code,"
            " coalesce(arg_max(coalesce(cause, ''), moment), '') AS cause,"
            " arg_max(sighting, moment) AS sighting FROM outcomes"
            f" WHERE target = ? AND variant = ? AND arch = ? AND moment >= ?"
            f" AND coalesce(channel = ?, ?){seen} GROUP BY node)",
            [str(version), variant, arch, self._since, terms.channel, terms.channel is None],
        )

    def _versions(self) -> dict[str, int]:
        rows = self._all(
            "SELECT version, count(*) AS n FROM nodes WHERE version <> '' GROUP BY version"
            " ORDER BY n DESC, version LIMIT ?",
            SHOWN,
        )
        return {_text(version): count for version, count in rows}

    def _waves(self) -> Iterator[WaveProgress]:
        seen = {
            row[0]: row[1:]
            for row in self._all(
                "SELECT wave, count(*), count(took), count(*) FILTER (running) FROM nodes JOIN turns"
                " USING (seed) GROUP BY wave"
            )
        }
        said = {
            row[0]: row[1:]
            for row in self._all(
                "SELECT wave, count(*) FILTER (says = 'good'), count(*) FILTER (says = 'bad') FROM votes"
                " JOIN turns USING (seed) GROUP BY wave"
            )
        }
        for number, start, share in self._plan():
            nodes, took, runs = seen.get(number, (0, 0, 0))
            good, bad = said.get(number, (0, 0))
            yield WaveProgress(
                number=number, start=start, open=share, nodes=nodes, took=took, runs=runs, good=good, bad=bad
            )

    def _plan(self) -> Iterator[tuple[int, datetime | None, float]]:
        """Yield of each wave its number, its start, and the share of its seeds that is open by now."""
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
            "SELECT code, cause, count(*) AS n FROM votes WHERE says = 'bad' GROUP BY code, cause"
            " ORDER BY n DESC, code, cause LIMIT ?",
            SHOWN,
        )
        return tuple(Failure(code=_text(row[0]), cause=_text(row[1]), nodes=row[2]) for row in rows)

    def _stuck(self) -> tuple[tuple[Stuck, ...], int]:
        where = "FROM nodes WHERE took IS NOT NULL AND NOT running AND took < ?"
        due = (self._last or 0) - self._patience
        rows = self._all(
            "SELECT node, seed, version, took, seen, seen <= asked, coalesce("
            f"(SELECT any_value(code) FROM votes WHERE sighting = nodes.node), '') {where}"
            " ORDER BY took, node LIMIT ?",
            due,
            SHOWN,
        )
        (count,) = self._one(f"SELECT count(*) {where}", due)
        stuck = tuple(
            Stuck(
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

    def _quiet(self) -> Count:
        total, failed = self._one(
            "SELECT count(*), count(*) FILTER (seen <= asked) FROM nodes WHERE asked < ? AND asked >= ?",
            (self._last or 0) - self._patience,
            self._since,
        )
        return Count(failed=failed, total=total)

    def _reached(self, nodes: int, percent: int) -> datetime | None:
        needed = -(-percent * nodes // 100)
        rows = self._all(
            "SELECT runs_since FROM nodes WHERE runs_since IS NOT NULL ORDER BY 1 LIMIT 1 OFFSET ?",
            max(needed - 1, 0),
        )
        return _moment(rows[0][0]) if rows and nodes else None

    def _steps(self) -> tuple[timedelta, int]:
        span = timedelta(seconds=(self._last or 0) - (self._first or 0))
        step = step_over(span)
        return step, int(span / step) + 1

    def _running(self, nodes: int, step: timedelta, count: int) -> Curve:
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
        return Curve(name=f"runs {self._update.version}", shares=tuple(shares))

    def _planned(self, step: timedelta, count: int) -> Curve:
        first = _time(self._first) or datetime.fromtimestamp(0, UTC)
        ends = (first + step * (index + 1) for index in range(count))
        return Curve(name="plan", shares=tuple(float(self._update.waves.share_open(end)) for end in ends))

    def _spread(self, step: timedelta, count: int) -> tuple[Curve, ...]:
        """Return for each frequent version its share of the nodes heard so far, by what each said last."""
        rows = self._all(
            "WITH heard AS (SELECT node, floor((moment - ?) / ?)::INTEGER AS bin,"
            " arg_max(version, moment) AS version FROM sightings WHERE version IS NOT NULL"
            " GROUP BY node, bin),"
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
            Curve(name=version, shares=tuple(n / all_ for n, all_ in zip(nodes[version], heard, strict=True)))
            for version in most
        )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: object) -> str:
    """Return a text from a log as it may be shown: printable, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value or ""))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
