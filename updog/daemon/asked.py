"""What an operator asks of the agent, as a change of the requests. PURE, and the only home of these rules.

`updog agent …` and the API both call these functions, in :func:`updog.daemon.wishes.change`. Each records
what was asked, and by whom (:mod:`updog.daemon.caller`), as the last event of :attr:`Requests.events`; its
sentence is also the answer to the operator.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from signpost import text
from signpost.errors import UsageError
from updog.auto.gates import MAX_POSTPONE
from updog.state import Code, Event
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from updog.daemon.wishes import Requests

MAX_EVENTS = 100  # what operators asked in months; the oldest is dropped first


class Wish(StrEnum):
    """What stays until it is over or taken back."""

    PERMIT = "permit"
    POSTPONE = "postpone"
    HOLD = "hold"


def permit(
    requests: Requests,
    until: datetime,
    *,
    even_frozen: bool = False,
    without_lock: bool = False,
    now: datetime,
    by: str,
) -> Requests:
    """Let updates install and restart until ``until``; it ends a postponement.

    Args:
        requests: what was asked before.
        until: a time with a time zone.
        even_frozen: also during a freeze.
        without_lock: restart without the fleet lock.
        now: the time, UTC.
        by: who asks.

    Raises:
        UsageError: ``until`` is in the past.
    """
    _require_future(until, now)
    wishes = replace(
        requests.wishes, permit=until, even_frozen=even_frozen, without_lock=without_lock, postpone=None
    )
    more = ", also during a freeze" * even_frozen + ", without the fleet lock" * without_lock
    sentence = f"Updates may install and restart until {readable_time(until)}{more}."
    return _recorded(replace(requests, wishes=wishes), Code.PERMITTED, sentence, now, by)


def postpone(requests: Requests, until: datetime, *, now: datetime, by: str) -> Requests:
    """Let nothing restart before ``until``; it ends a permit. Raises UsageError, also beyond 7 days."""
    _require_future(until, now)
    if until > now + MAX_POSTPONE:
        days = MAX_POSTPONE.days
        raise UsageError(
            f"{readable_time(until)} is more than {days} days from now",
            next_step="Ask for a time before that, or use `updog agent hold REASON`, which has no end.",
        )
    wishes = replace(requests.wishes, permit=None, even_frozen=False, without_lock=False, postpone=until)
    sentence = f"No restart before {readable_time(until)}."
    return _recorded(replace(requests, wishes=wishes), Code.POSTPONED, sentence, now, by)


def hold(requests: Requests, reason: str, *, now: datetime, by: str) -> Requests:
    """Let nothing install or restart until :func:`resume`. Raises UsageError: ``reason`` is empty."""
    reason = text.line(reason.strip())
    if not reason:
        raise UsageError("the reason is empty", next_step="Say why: whoever finds the hold wants to know it.")
    wishes = replace(requests.wishes, hold=reason, held_since=now)
    sentence = f"Nothing is installed or restarted until `updog agent resume`: {reason.rstrip('.')}."
    return _recorded(replace(requests, wishes=wishes), Code.HELD_BY_HAND, sentence, now, by)


def resume(requests: Requests, *, wishes: Collection[Wish] = tuple(Wish), now: datetime, by: str) -> Requests:
    """Take back the wishes that are named, by default all; without one of them nothing changes."""
    before = requests.wishes
    is_asked = {
        Wish.PERMIT: before.permit is not None,
        Wish.POSTPONE: before.postpone is not None,
        Wish.HOLD: before.hold is not None,
    }
    over = [wish for wish in Wish if wish in wishes and is_asked[wish]]
    if not over:
        return requests
    after = before
    if Wish.PERMIT in over:
        after = replace(after, permit=None, even_frozen=False, without_lock=False)
    if Wish.POSTPONE in over:
        after = replace(after, postpone=None)
    if Wish.HOLD in over:
        after = replace(after, hold=None, held_since=None)
    sentence = f"Taken back: {', '.join(over)}."
    return _recorded(replace(requests, wishes=after), Code.RESUMED, sentence, now, by)


def check(requests: Requests, *, now: datetime, by: str) -> Requests:
    """Let the repository be asked now; of checks in a row only the last is kept in the history."""
    events = requests.events
    if events and events[-1].code is Code.CHECK_ASKED:
        requests = replace(requests, events=events[:-1])
    asked = replace(requests, check_at=now)
    return _recorded(asked, Code.CHECK_ASKED, "The agent asks the repository now.", now, by)


def release_lock(requests: Requests, *, now: datetime, by: str) -> Requests:
    """Let the fleet lock that is kept after a fallback be released."""
    asked = replace(requests, release_lock_at=now)
    sentence = "The agent releases the fleet lock, if it is kept because this node fell back."
    return _recorded(asked, Code.LOCK_RELEASE_ASKED, sentence, now, by)


def _recorded(requests: Requests, code: Code, sentence: str, now: datetime, by: str) -> Requests:
    event = Event(time=now, code=code, version=None, sentence=sentence, by=by)
    return replace(requests, events=(*requests.events, event)[-MAX_EVENTS:])


def _require_future(moment: datetime, now: datetime) -> None:
    if moment <= now:
        raise UsageError(f"{readable_time(moment)} is in the past", next_step="Ask for a later time.")
