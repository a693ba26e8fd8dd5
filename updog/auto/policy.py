"""What the operator wants automatic updates to do: the values of ``[auto]`` in ``updog.toml``. PURE.

The values are validated where the configuration is read (:mod:`updog.config`); here they are only named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from updog.auto.windows import Windows

if TYPE_CHECKING:
    from updog.auto.windows import Freeze
    from updog.url import Url


class Mode(StrEnum):
    """How far the agent goes by itself."""

    OFF = "off"
    CHECK = "check"
    INSTALL = "install"
    RESTART = "restart"


class Apply(StrEnum):
    """When the installed update becomes what boots next."""

    AT_RESTART = "at-restart"
    AT_ONCE = "at-once"


class AfterFallback(StrEnum):
    """What becomes of the fleet lock after this node fell back from a release."""

    KEEP_LOCK = "keep-lock"
    RELEASE = "release"


class GateName(StrEnum):
    """The gates, in the order in which they are asked."""

    MODE = "mode"
    HOLD = "hold"
    FREEZE = "freeze"
    UNCONFIRMED = "unconfirmed"
    MIN_AGE = "min_age"
    SETTLE = "settle"
    WINDOW = "window"
    POSTPONE = "postpone"
    INHIBITORS = "inhibitors"
    SESSIONS = "sessions"
    BLOCKERS = "blockers"
    FLEET_LOCK = "fleet_lock"


SOFT = frozenset({GateName.POSTPONE, GateName.INHIBITORS, GateName.SESSIONS, GateName.BLOCKERS})
"""The gates that count only until the release has waited for ``max_wait``; the others count for ever."""

PASSABLE = frozenset(
    {GateName.MIN_AGE, GateName.SETTLE, GateName.WINDOW, GateName.POSTPONE, GateName.SESSIONS}
)
"""The gates that an operator's permit opens, and that an urgent release may open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sessions:
    """Who counts as logged in.

    Attributes:
        grace: how long users, once warned, may hold up a restart; 0: they never do.
        ttys_only: count only sessions that have a terminal.
    """

    grace: timedelta = timedelta(minutes=10)
    ttys_only: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetLock:
    """The FleetLock server that is asked before a restart.

    Attributes:
        base_url: ``/v1/pre-reboot`` and ``/v1/steady-state`` are below it.
        group: matches ``[a-zA-Z0-9.-]+``.
        id: ``zincati`` (derived from the machine-id, as zincati does), or the id itself.
        timeout: for one request. release_delay: from the confirm to the release of the lock.
    """

    base_url: Url
    group: str = "default"
    id: str = "zincati"
    timeout: timedelta = timedelta(minutes=30)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    release_delay: timedelta = timedelta()


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The whole policy. The defaults are those of the configuration.

    Attributes:
        mode: how far the agent goes by itself.
        check_every: between two looks at the repository; each is moved by up to a tenth.
        min_age: no release is installed that was offered for a shorter time.
        settle: no install for so long after a confirm.
        max_attempts: failed installs of one version in a row, after which only a newer one is tried.
        apply: when the installed update becomes what boots next.
        max_wait: after it, soft gates no longer count; None: they always do.
        after_fallback: what becomes of the lock.
        urgent: the gates that a release marked urgent passes.
        warn: from the warning of the users to the restart; 0: no warning.
        restart_limit: a restart that has not happened after so long has failed.
        windows, freezes: when restarts may start.
        sessions: who counts as logged in.
        blockers_dir: folder of executables that may object to a restart. blocker_timeout: for each.
        hooks_dir: folder with ``pre-restart.d`` and ``post-confirm.d``. hook_timeout: for each hook.
        fleet_lock: the lock server; None: no lock.
        sentinel: file that tells another program (kured) to restart this node; None: the agent restarts.
    """

    mode: Mode = Mode.OFF
    check_every: timedelta = timedelta(hours=1)
    min_age: timedelta = timedelta()
    settle: timedelta = timedelta()
    max_attempts: int = 12
    apply: Apply = Apply.AT_RESTART
    max_wait: timedelta | None = None
    after_fallback: AfterFallback = AfterFallback.KEEP_LOCK
    urgent: frozenset[GateName] = frozenset()
    warn: timedelta = timedelta(minutes=5)
    restart_limit: timedelta = timedelta(hours=2)
    windows: Windows = field(default_factory=Windows)
    freezes: tuple[Freeze, ...] = ()
    sessions: Sessions = field(default_factory=Sessions)
    blockers_dir: Path | None = Path("/etc/updog/blockers.d")
    blocker_timeout: timedelta = timedelta(seconds=30)
    hooks_dir: Path = Path("/etc/updog")
    hook_timeout: timedelta = timedelta(minutes=5)
    fleet_lock: FleetLock | None = None
    sentinel: Path | None = None
