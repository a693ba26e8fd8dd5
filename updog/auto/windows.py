"""When a restart may start: windows of the week, and dates on which none may. PURE.

Rules:

* an occurrence of a window starts at the wall-clock time ``start`` of its day in the windows' time zone, and
  lasts ``length`` of *elapsed* time: a change of the clock inside it makes it neither longer nor shorter;
* a start is the first moment at which the wall clock shows that time or a later one: the first of the two if
  the clock shows it twice, the first moment after the gap if the clock jumps over it;
* ``days`` are those on which an occurrence *starts*; it may end on the next one;
* occurrences that touch or overlap are one span of open time;
* of each span, a node uses what begins its part of ``spread`` later and ends ``margin`` earlier: nothing ever
  starts outside what the operator wrote;
* a freeze is whole days in the same time zone, both ends inclusive, from the first moment at which the wall
  clock shows the first day to the last at which it shows the last one.

What would leave some node without open time is found by :func:`window_faults`, for the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from updog.update_metadata.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import time, tzinfo

_DAY, _WEEK, _SECOND = timedelta(days=1), timedelta(weeks=1), timedelta(seconds=1)
_BACK = 4 * _WEEK  # windows that pass window_faults close each week, unless the clock jumps over the gap
_AHEAD = 5 * _WEEK
_EARLIEST, _LATEST = date(1900, 1, 1), date(9999, 1, 1)  # a freeze until 9999-12-31 has no day after it


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A window that opens every week.

    Attributes:
        days: the days on which it starts: 0 is Monday … 6 is Sunday, as :meth:`datetime.date.weekday`.
        start: wall-clock time in whole seconds, without a zone. length: elapsed time, at most a week.
    """

    days: frozenset[int]
    start: time
    length: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """All windows of a node.

    Attributes:
        windows: none means that it is always open.
        zone: the time zone of the wall-clock times and dates.
        spread: nodes start up to so much later, each by its seed.
        margin: the end of each span of open time in which nothing starts any more.
        install_in_window: whether installs too start only inside.
    """

    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC
    spread: timedelta = timedelta()
    margin: timedelta = timedelta()
    install_in_window: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    """Days on which nothing starts, both inclusive, and why."""

    first: date
    last: date
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A span of time, UTC: ``start`` belongs to it, ``end`` does not."""

    start: datetime
    end: datetime


def current_or_next(windows: Windows, now: datetime, seed: int) -> Span | None:
    """Return the span of this node's open time that contains ``now``, or else the next one.

    Args:
        windows: at least one window; :func:`window_faults` finds nothing in them.
        now: with a time zone.
        seed: of the node, 0 … 2047.

    Returns:
        the span in UTC; None if no occurrence is long enough to open within the next five weeks.
    """
    later = timedelta(seconds=windows.spread // _SECOND * seed // MAX_SEED)
    for span in _united(_occurrences(windows, now)):
        start, end = span.start + later, span.end - windows.margin
        if now < end and start < end:
            return Span(start=start, end=end)
    return None


def freeze_at(freezes: tuple[Freeze, ...], zone: tzinfo, now: datetime) -> tuple[Freeze, datetime] | None:
    """Return the freeze that holds at ``now`` and the moment at which all freezes that touch it end (UTC)."""
    spans = [(freeze, _span_of(freeze, zone)) for freeze in freezes]
    holding = next((freeze for freeze, span in spans if span.start <= now < span.end), None)
    if holding is None:
        return None
    united = _united(sorted((span for _, span in spans), key=lambda span: span.start))
    return holding, next(span.end for span in united if now < span.end)


def window_faults(windows: Windows) -> list[str]:
    """Return what is wrong with windows whose values are valid one by one, a sentence each; empty if nothing.

    A window that no node or only some nodes could use, and windows that are open all week, which say nothing
    and hide that, are faults.
    """
    faults = []
    lost = windows.spread + windows.margin
    for window in windows.windows:
        name = f"the window at {window.start:%H:%M}"
        if not window.days:
            faults.append(f"{name} has no days")
        if window.length > _WEEK:
            faults.append(f"{name} is longer than a week")
        if window.length <= lost:
            faults.append(
                f"{name} is open for {_minutes(window.length)}, but spread and margin take {_minutes(lost)}: "
                "some nodes would never update"
            )
    if not faults and windows.windows and _is_always_open(windows.windows):
        faults.append("the windows are open all week: without any window, updates may start at any time too")
    return faults


def _is_always_open(windows: tuple[Window, ...]) -> bool:
    """Whether every moment of a week without a change of the clock is inside a window."""
    monday = datetime(2001, 1, 1, tzinfo=UTC)
    weekly = Windows(windows=windows)
    spans = _united(_occurrences(weekly, monday))
    return any(span.start <= monday and span.end >= monday + _AHEAD for span in spans)


def _minutes(length: timedelta) -> str:
    return f"{length / timedelta(minutes=1):g} minutes"


def _occurrences(windows: Windows, now: datetime) -> Iterator[Span]:
    """Yield the occurrences around ``now``, in the order of their starts."""
    today = now.astimezone(windows.zone).date()
    for number in range(-(_BACK // _DAY), _AHEAD // _DAY):
        day = today + number * _DAY
        of_day = [window for window in windows.windows if day.weekday() in window.days]
        for window in sorted(of_day, key=lambda window: window.start):
            start = _first_moment(datetime.combine(day, window.start), windows.zone)
            yield Span(start=start, end=start + window.length)


def _united(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield ``spans``, sorted by their starts, with those that touch or overlap as one."""
    united: Span | None = None
    for span in spans:
        if united is None:
            united = span
        elif span.start <= united.end:
            united = Span(start=united.start, end=max(united.end, span.end))
        else:
            yield united
            united = span
    if united is not None:
        yield united


def _span_of(freeze: Freeze, zone: tzinfo) -> Span:
    first, last = max(freeze.first, _EARLIEST), min(freeze.last, _LATEST)
    midnight = datetime.combine(last + _DAY, datetime.min.time())
    end = _first_moment(midnight, zone)
    again = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if again > end and _wall(again - _SECOND, zone) < midnight:  # the clock goes back into the last day
        end = again
    return Span(start=_first_moment(datetime.combine(first, datetime.min.time()), zone), end=end)


def _first_moment(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first moment (UTC) at which the clock of ``zone`` shows ``wall`` or a later time."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)  # fold=0: the first of two
    if _wall(moment, zone) == wall:
        return moment
    # In a gap, PEP 495 has fold=0 after it and fold=1 before it; the clock jumps in between.
    before, after = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), moment
    while after - before > _SECOND:
        middle = before + (after - before) // 2 // _SECOND * _SECOND
        if _wall(middle, zone) < wall:
            before = middle
        else:
            after = middle
    return after


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)
