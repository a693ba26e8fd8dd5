"""``[auto]`` of ``updog.toml`` and the tables below it: automatic updates.

Rules:

* the names are dotted: ``auto.fleet_lock.group`` is the key ``group`` of the table ``[auto.fleet_lock]``;
* ``[[auto.window]]`` and ``[[auto.freeze]]`` may stand there several times; a fault says in which of them;
* an unknown key or table is an error, as is a setting that another one makes useless: an operator who wrote
  it believes that it counts;
* a time zone that cannot be read is an error. It never becomes UTC.

The table :data:`AUTO_KEYS` defines all names, types, defaults (as TOML has them) and meanings.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from updog.auto.policy import PASSABLE, AfterFallback, Apply, FleetLock, GateName, Mode, Policy, Sessions
from updog.auto.windows import Freeze, Window, Windows, window_faults
from updog.config_key import (
    BadValueError,
    Key,
    read_keys,
    to_duration,
    to_flag,
    to_names,
    to_path,
    to_text,
    to_texts,
    to_url,
    to_whole_number,
)
from updog.url import WEB, Url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import tzinfo
    from enum import StrEnum
    from pathlib import Path

_DAYS = {
    "Mon": "monday",
    "Tue": "tuesday",
    "Wed": "wednesday",
    "Thu": "thursday",
    "Fri": "friday",
    "Sat": "saturday",
    "Sun": "sunday",
}
_WEEKDAYS = {name: number for number, name in enumerate(_DAYS)}  # as datetime.date.weekday
_DAY_MINUTES, _WEEK_MINUTES = 1440, 10_080
_ZERO, _SECOND, _MINUTE = timedelta(), timedelta(seconds=1), timedelta(minutes=1)
_HOUR, _DAY, _YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
_GROUP = re.compile(r"[a-zA-Z0-9.-]+")  # FleetLock protocol: the member client_params.group
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_YEARS = range(2000, 3000)  # the others are mistakes, and a day more or a time zone must not end the calendar
_DURATION = 'a duration such as "30m", "1h" or "2d"'
_PASSABLE = tuple(name for name in GateName if name in PASSABLE)


def _one_of(values: type[StrEnum]) -> Callable[[Any, Path], StrEnum]:
    def convert(value: Any, folder: Path) -> StrEnum:
        try:
            return values(to_text(value, folder))
        except ValueError as error:
            raise BadValueError from error

    return convert


def _names_of(values: type[StrEnum]) -> str:
    return " or ".join(f'"{value}"' for value in values)


def _duration_or_none(value: Any, folder: Path) -> timedelta | None:
    return None if value == "none" else to_duration(_ZERO, _YEAR)(value, folder)


def _gates(value: Any, folder: Path) -> frozenset[GateName]:
    return frozenset(GateName(name) for name in to_names(*_PASSABLE)(value, folder))


def _days(value: Any, folder: Path) -> tuple[str, ...]:
    """Return days by their short names, in the order of the week."""
    named = {name.casefold() for name in to_texts(value, folder)}
    days = tuple(short for short, long in _DAYS.items() if named & {short.casefold(), long})
    if not named or not named <= {*_DAYS.values(), *map(str.casefold, _DAYS)}:
        raise BadValueError
    return days


def _time_of_day(value: Any, folder: Path) -> time:
    if isinstance(value, time):
        value = value.isoformat().removesuffix(":00")
    match = _TIME_OF_DAY.fullmatch(to_text(value, folder))
    if match is None:
        raise BadValueError
    return time(int(match[1]), int(match[2]))


def _date(value: Any, folder: Path) -> date:
    found = value if isinstance(value, date) and not isinstance(value, datetime) else _date_of(value, folder)
    if found.year not in _YEARS:
        raise BadValueError
    return found


def _date_of(value: Any, folder: Path) -> date:
    text = to_text(value, folder)
    if not _DATE.fullmatch(text):
        raise BadValueError
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadValueError from error


def _zone(value: Any, folder: Path) -> tzinfo:
    if value == "UTC":
        return UTC
    from updog.time_zone import TimeZoneError, time_zone  # only the nodes that need it load zoneinfo

    try:
        return time_zone(to_text(value, folder))
    except TimeZoneError as error:
        raise BadValueError(str(error)) from error


def _lock_url(value: Any, folder: Path) -> Url | None:
    if value == "":
        return None
    url = to_url(*WEB)(value, folder)
    if "?" in value:
        raise BadValueError
    return url.folder()


def _group(value: Any, folder: Path) -> str:
    text = to_text(value, folder)
    if not _GROUP.fullmatch(text):
        raise BadValueError
    return text


def _optional_path(value: Any, folder: Path) -> Path | None:
    return None if value == "" else to_path(value, folder)


AUTO_KEYS: tuple[Key, ...] = (
    Key(
        name="auto.mode",
        convert=_one_of(Mode),
        takes=_names_of(Mode),
        default="off",
        meaning="off: the agent does nothing by itself; check: it looks for updates; install: it also "
        "installs them, and an operator restarts; restart: it also restarts",
    ),
    Key(
        name="auto.check_every",
        convert=to_duration(_MINUTE, 30 * _DAY),
        takes=f"{_DURATION}, at least one minute and at most 30 days",
        default="1h",
        meaning="time between two checks; each is moved by up to a tenth",
    ),
    Key(
        name="auto.min_age",
        convert=to_duration(_ZERO, _YEAR),
        takes=_DURATION,
        default="0m",
        meaning="install no release before it has been offered for this long, counted from its first wave, "
        "or without waves from its publication",
    ),
    Key(
        name="auto.settle",
        convert=to_duration(_ZERO, _YEAR),
        takes=_DURATION,
        default="0m",
        meaning="install nothing for this long after a confirm, so that the way back stays",
    ),
    Key(
        name="auto.max_attempts",
        convert=to_whole_number(1, 1000),
        takes="a whole number from 1 to 1000",
        default=12,
        meaning="failed installs of one version in a row, after which only a newer version is tried",
    ),
    Key(
        name="auto.apply",
        convert=_one_of(Apply),
        takes=_names_of(Apply),
        default="at-restart",
        meaning="at-restart: an update boots next only when the agent restarts; at-once: any restart after "
        "the install takes it",
    ),
    Key(
        name="auto.max_wait",
        convert=_duration_or_none,
        takes=f'{_DURATION}, or "none"',
        default="none",
        meaning="after a release has waited for this long, users, postponements, blockers and soft "
        "inhibitors no longer hold up the restart; none: they always do",
    ),
    Key(
        name="auto.after_fallback",
        convert=_one_of(AfterFallback),
        takes=_names_of(AfterFallback),
        default="keep-lock",
        meaning="keep-lock: after a fallback, keep the fleet lock until no release that failed here is "
        "offered or a newer one is; release: release the lock",
    ),
    Key(
        name="auto.urgent",
        convert=_gates,
        takes=f"a list of {', '.join(_PASSABLE)}",
        default=[],
        meaning="gates that a release passes if its publisher marked it urgent",
    ),
    Key(
        name="auto.warn",
        convert=to_duration(_ZERO, _DAY),
        takes=f"{_DURATION}, at most one day",
        default="5m",
        meaning="time from the warning of users who are logged in to the restart; 0m: no warning",
    ),
    Key(
        name="auto.restart_limit",
        convert=to_duration(_MINUTE, 7 * _DAY),
        takes=f"{_DURATION}, at least one minute and at most 7 days",
        default="2h",
        meaning="a restart that has not happened after this time has failed: it is taken back, and the fleet "
        "lock is released",
    ),
    Key(
        name="auto.window.days",
        convert=_days,
        takes=f"a list of {', '.join(_DAYS)}",
        default=list(_DAYS),
        meaning="days on which the window starts; if unset, every day",
    ),
    Key(
        name="auto.window.start_time",
        convert=_time_of_day,
        takes='a time of day such as "23:30"',
        default=None,
        meaning="time at which the window starts, in auto.windows.time_zone. Restarts start only inside a "
        "window; without any window, at any time",
        required=True,
    ),
    Key(
        name="auto.window.length_minutes",
        convert=to_whole_number(1, _WEEK_MINUTES),
        takes=f"a whole number from 1 to {_WEEK_MINUTES}",
        default=None,
        meaning="time for which the window is open (minutes), also where the clock is changed inside it",
        required=True,
    ),
    Key(
        name="auto.windows.time_zone",
        convert=_zone,
        takes='"UTC", "localtime", or a name such as "Europe/Berlin"',
        default="UTC",
        meaning="time zone of the windows and freezes; localtime: that of the machine (/etc/localtime)",
    ),
    Key(
        name="auto.windows.spread",
        convert=to_duration(_ZERO, 7 * _DAY),
        takes=f"{_DURATION}, at most 7 days",
        default="0m",
        meaning="nodes start up to this much later in a window, each by its seed",
    ),
    Key(
        name="auto.windows.margin",
        convert=to_duration(_ZERO, 7 * _DAY),
        takes=f"{_DURATION}, at most 7 days",
        default="0m",
        meaning="nothing starts in this last part of a window",
    ),
    Key(
        name="auto.windows.install_in_window",
        convert=to_flag,
        takes="true or false",
        default=False,
        meaning="install too only inside a window",
    ),
    Key(
        name="auto.freeze.from",
        convert=_date,
        takes='a date such as "2026-12-20"',
        default=None,
        meaning="first day on which nothing is installed and nothing restarts",
        required=True,
    ),
    Key(
        name="auto.freeze.until",
        convert=_date,
        takes='a date such as "2027-01-05"',
        default=None,
        meaning="last day of the freeze",
        required=True,
    ),
    Key(
        name="auto.freeze.why",
        convert=to_text,
        takes="a text",
        default=None,
        meaning="why, as shown to operators",
        required=True,
    ),
    Key(
        name="auto.sessions.grace",
        convert=to_duration(_ZERO, 7 * _DAY),
        takes=f"{_DURATION}, at most 7 days",
        default="10m",
        meaning="time for which users who are logged in hold up a restart after they were warned; 0m: they "
        "do not hold it up",
    ),
    Key(
        name="auto.sessions.ttys_only",
        convert=to_flag,
        takes="true or false",
        default=True,
        meaning="count only sessions that have a terminal",
    ),
    Key(
        name="auto.blockers.dir",
        convert=to_path,
        takes="a path",
        default="/etc/updog/blockers.d",
        meaning="folder with executables that are run before a restart; one that does not exit with 0 holds "
        "it up",
    ),
    Key(
        name="auto.blockers.timeout",
        convert=to_whole_number(1, 86_400),
        takes="seconds, 1 to 86400",
        default=30,
        meaning="time limit of one blocker (seconds)",
    ),
    Key(
        name="auto.hooks.dir",
        convert=to_path,
        takes="a path",
        default="/etc/updog",
        meaning="folder with pre-restart.d/ and post-confirm.d/, whose executables are run before a restart "
        "(one that does not exit with 0 stops it) and after a confirm",
    ),
    Key(
        name="auto.hooks.timeout",
        convert=to_whole_number(1, 86_400),
        takes="seconds, 1 to 86400",
        default=300,
        meaning="time limit of one hook (seconds)",
    ),
    Key(
        name="auto.fleet_lock.base_url",
        convert=_lock_url,
        takes="an http or https URL without a query, or an empty text",
        default=None,
        meaning="FleetLock server that is asked for a lock before each restart; unset or empty: none",
    ),
    Key(
        name="auto.fleet_lock.group",
        convert=_group,
        takes="letters, digits, '.' and '-'",
        default="default",
        meaning="group of this node at the lock server",
    ),
    Key(
        name="auto.fleet_lock.id",
        convert=to_text,
        takes="a text",
        default="zincati",
        meaning="identity of this node at the lock server; zincati: the one that zincati would derive from "
        "the machine-id",
    ),
    Key(
        name="auto.fleet_lock.timeout",
        convert=to_duration(_SECOND, _DAY),
        takes=f"{_DURATION}, at least one second and at most one day",
        default="30m",
        meaning="time limit of a request to the lock server, which may drain the node before it answers",
    ),
    Key(
        name="auto.fleet_lock.ca_file",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM certificates of the CAs to trust for the lock server; if unset, those of the system",
    ),
    Key(
        name="auto.fleet_lock.client_certificate",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM certificate that this node presents to the lock server",
    ),
    Key(
        name="auto.fleet_lock.client_key",
        convert=to_path,
        takes="a path",
        default=None,
        meaning="PEM key of that certificate, if it is in a separate file",
    ),
    Key(
        name="auto.fleet_lock.release_delay",
        convert=to_duration(_ZERO, 7 * _DAY),
        takes=f"{_DURATION}, at most 7 days",
        default="0m",
        meaning="time from the confirm to the release of the lock: a pause before the next node",
    ),
    Key(
        name="auto.sentinel.file",
        convert=_optional_path,
        takes="a path, or an empty text",
        default=None,
        meaning="file that tells another program (kured) to restart this node, such as /run/reboot-required; "
        "the agent then does not restart it. Unset or empty: the agent restarts",
    ),
)

ARRAYS = ("auto.window", "auto.freeze")
"""Tables that may stand in the file several times."""

_TABLES = (
    "auto",
    "auto.windows",
    "auto.sessions",
    "auto.blockers",
    "auto.hooks",
    "auto.fleet_lock",
    "auto.sentinel",
)


class AutoSettings:
    """What a file says about automatic updates.

    Args:
        document: the value of ``auto`` in the file; None: it is not there.
        folder: of the file.
        elsewhere: where in the file each key belongs (:func:`updog.config_key.homes`).

    Attributes:
        values: of every key by its dotted name, without those of windows and freezes.
        windows, freezes: the values of each, by the last part of their names.
        given: the dotted names that the file has. faults: what is wrong, a sentence each.
    """

    def __init__(self, document: Any, folder: Path, elsewhere: Mapping[str, Sequence[str]]) -> None:
        self.values: dict[str, Any] = {}
        self.windows: list[dict[str, Any]] = []
        self.freezes: list[dict[str, Any]] = []
        self.given: set[str] = set()
        self.faults: list[str] = []
        self._folder = folder
        self._elsewhere = elsewhere
        tables = {name: self._table(name, document) for name in _TABLES}
        for name, table in tables.items():
            found = self._read(name, name, table)
            self.values |= {f"{name}.{key}": value for key, value in found.items()}
        arrays = {name: self._array(name, tables["auto"]) for name in ARRAYS}
        self.windows, self.freezes = (
            [self._read(name, f"{name}[{number}]", table) for number, table in enumerate(array, 1)]
            for name, array in arrays.items()
        )
        if not self.faults:
            self.faults = _contradictions(self) or [
                f"auto.window: {fault}" for fault in window_faults(self._windows())
            ]

    def _table(self, name: str, document: Any) -> Mapping[str, Any]:
        """Return the table ``name``; an empty one if it is not there or not a table."""
        table = {} if document is None else document
        for part in name.split(".")[1:]:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):
            return table
        more = "; the windows themselves are [[auto.window]]" if name == "auto.windows" else ""
        self.faults.append(f"{name} = {table!r}: must be a table, [{name}]{more}")
        return {}

    def _array(self, name: str, auto: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        array = auto.get(name.rpartition(".")[2], [])
        if isinstance(array, list) and all(isinstance(table, dict) for table in array):
            return array
        self.faults.append(f"{name} must be a list of tables, [[{name}]]")
        return []

    def _read(self, table_name: str, shown_name: str, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of one table, with the defaults of what it does not have."""
        keys = {
            key.name.rpartition(".")[2]: key for key in AUTO_KEYS if key.name.rpartition(".")[0] == table_name
        }
        below = [
            name.rpartition(".")[2] for name in (*ARRAYS, *_TABLES) if name.rpartition(".")[0] == table_name
        ]
        found, faults = read_keys(
            table, keys, self._folder, below=below, elsewhere=self._elsewhere, name=shown_name
        )
        self.faults += faults
        self.given |= {f"{shown_name}.{name}" for name in found}
        defaults = {
            name: None if key.default is None else key.convert(key.default, self._folder)
            for name, key in keys.items()
        }
        return defaults | found

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield each key by its dotted name, with its value; windows and freezes have their number."""
        yield from self.values.items()
        for name, tables in (("auto.window", self.windows), ("auto.freeze", self.freezes)):
            for number, table in enumerate(tables, 1):
                for key, value in table.items():
                    yield f"{name}[{number}].{key}", value

    def policy(self) -> Policy:
        """Return the policy; only if there are no faults."""
        value = self.values
        return Policy(
            mode=value["auto.mode"],
            check_every=value["auto.check_every"],
            min_age=value["auto.min_age"],
            settle=value["auto.settle"],
            max_attempts=value["auto.max_attempts"],
            apply=value["auto.apply"],
            max_wait=value["auto.max_wait"],
            after_fallback=value["auto.after_fallback"],
            urgent=value["auto.urgent"],
            warn=value["auto.warn"],
            restart_limit=value["auto.restart_limit"],
            windows=self._windows(),
            freezes=tuple(
                Freeze(first=freeze["from"], last=freeze["until"], why=freeze["why"])
                for freeze in self.freezes
            ),
            sessions=Sessions(grace=value["auto.sessions.grace"], ttys_only=value["auto.sessions.ttys_only"]),
            blockers_dir=value["auto.blockers.dir"],
            blocker_timeout=timedelta(seconds=value["auto.blockers.timeout"]),
            hooks_dir=value["auto.hooks.dir"],
            hook_timeout=timedelta(seconds=value["auto.hooks.timeout"]),
            fleet_lock=self._fleet_lock(),
            sentinel=value["auto.sentinel.file"],
        )

    def _windows(self) -> Windows:
        return Windows(
            windows=tuple(
                Window(
                    days=frozenset(_WEEKDAYS[day] for day in window["days"]),
                    start=window["start_time"],
                    length=timedelta(minutes=window["length_minutes"]),
                )
                for window in self.windows
            ),
            zone=self.values["auto.windows.time_zone"],
            spread=self.values["auto.windows.spread"],
            margin=self.values["auto.windows.margin"],
            install_in_window=self.values["auto.windows.install_in_window"],
        )

    def _fleet_lock(self) -> FleetLock | None:
        prefix = "auto.fleet_lock."
        values = {
            name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)
        }
        return None if values["base_url"] is None else FleetLock(**values)


def _contradictions(settings: AutoSettings) -> list[str]:
    """Return the faults of values that are valid one by one."""
    values, given = settings.values, settings.given
    faults = [
        fault
        for number, window in enumerate(settings.windows, 1)
        for fault in [_overlap(f"auto.window[{number}]", window)]
        if fault
    ]
    faults += [
        f"auto.freeze[{number}] ends on {freeze['until']}, before it begins on {freeze['from']}"
        for number, freeze in enumerate(settings.freezes, 1)
        if freeze["until"] < freeze["from"]
    ]
    if not settings.windows:
        names = [f"auto.windows.{name}" for name in ("spread", "margin", "install_in_window")]
        faults += [f"{name} has no effect without [[auto.window]]" for name in names if values[name]]
    lock = "auto.fleet_lock"
    if f"{lock}.base_url" not in given:
        faults += [
            f"{name} has no effect without {lock}.base_url"
            for name in sorted(given)
            if name.startswith(f"{lock}.")
        ]
    if values[f"{lock}.client_key"] and not values[f"{lock}.client_certificate"]:
        faults.append(f"{lock}.client_key has no effect without {lock}.client_certificate")
    if values["auto.sentinel.file"]:
        does_not_restart = "has no effect with auto.sentinel.file: another program restarts this node"
        if values[f"{lock}.base_url"]:
            faults.append(f"{lock}.base_url {does_not_restart}")
        if settings.windows and not values["auto.windows.install_in_window"]:
            faults.append(f"auto.window {does_not_restart}, and auto.windows.install_in_window is false")
    return faults


def _overlap(name: str, window: Mapping[str, Any]) -> str | None:
    """Return the fault of a window that starts again before it ends; None if it does not."""
    days = [_WEEKDAYS[day] for day in window["days"]]
    gaps = [(later - day - 1) % 7 + 1 for day, later in zip(days, [*days[1:], days[0]], strict=True)]
    between, length = min(gaps) * _DAY_MINUTES, window["length_minutes"]
    if length <= between:
        return None
    return f"{name} overlaps itself: it is open for {length} minutes and starts again after {between}"
