"""Which job is allowed, as the node stands. PURE.

What a command itself refuses is refused here only where a client should know it at once: the command decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from updog.daemon.api.documents import Do
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping


class Refusal(NamedTuple):
    """Why a job is not allowed: a stable name, and for an operator what is wrong and what to do."""

    code: str
    message: str
    next_step: str


_REVERT_FIRST = Refusal(
    "revert-first", "an update waits for a restart", "Start a job `revert`, or restart the node."
)
_UNCONFIRMED = Refusal(
    "unconfirmed", "the running release is on trial", "Wait until it is confirmed, or start a job `confirm`."
)
_NOTHING_STAGED = Refusal("nothing-staged", "no update is staged", "Start a job `install` first.")
_APPLIED = Refusal("already-applied", "the update boots next already", "Restart the node.")
_NOT_APPLIED = Refusal("nothing-applied", "no update waits for a restart", "There is nothing to revert.")
_CONFIRMED = Refusal("already-confirmed", "the running release is confirmed", "There is nothing to do.")
_STAGED = Refusal(
    "staged", "the other slot holds a staged update, not an earlier release", "Start a job `apply` instead."
)
_LEFT = Refusal(
    "left-already", "the other slot holds the release that this node left", "Install another release."
)

_SETTLED = (Standing.NONE, Standing.CONFIRMED)
_LEFT_BEHIND = (Standing.FELL_BACK, Standing.ROLLED_BACK)

REFUSALS: Mapping[Do, Mapping[Standing, Refusal]] = {
    Do.INSTALL: {Standing.WAITING: _REVERT_FIRST, Standing.TRIAL: _UNCONFIRMED},
    Do.UPDATE: {Standing.WAITING: _REVERT_FIRST, Standing.TRIAL: _UNCONFIRMED},
    Do.APPLY: {
        **dict.fromkeys((*_SETTLED, *_LEFT_BEHIND), _NOTHING_STAGED),
        Standing.WAITING: _APPLIED,
        Standing.TRIAL: _UNCONFIRMED,
    },
    Do.REVERT: dict.fromkeys(
        (standing for standing in Standing if standing is not Standing.WAITING), _NOT_APPLIED
    ),
    Do.CONFIRM: dict.fromkeys(
        (standing for standing in Standing if standing is not Standing.TRIAL), _CONFIRMED
    ),
    Do.ROLLBACK: {
        Standing.STAGED: _STAGED,
        Standing.WAITING: _REVERT_FIRST,
        **dict.fromkeys(_LEFT_BEHIND, _LEFT),
    },
}
"""What is refused in a standing; anything else is allowed."""


def refusal(do: Do, standing: Standing, *, is_confirmed: bool) -> Refusal | None:
    """Return why a job is refused; None if it is allowed.

    Args:
        do: the job.
        standing: of the pending update.
        is_confirmed: whether the running slot is; one that is not, without an update, can be confirmed.
    """
    if do is Do.CONFIRM and not is_confirmed:
        return None
    return REFUSALS.get(do, {}).get(standing)
