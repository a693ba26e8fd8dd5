"""``[auto]`` of the configuration: every key, every fault, and what contradicts itself."""

from __future__ import annotations

from datetime import UTC, date, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from signpost.errors import ExitStatus
from updog.auto.policy import AfterFallback, Apply, FleetLock, GateName, Mode, Policy, Sessions
from updog.auto.windows import Freeze, Window, Windows
from updog.auto_keys import AUTO_KEYS
from updog.config import effective, parse
from updog.errors import ConfigError
from updog.url import Url

FOLDER = Path("/srv/node")
URLS = 'metadata_base_url = "https://os.example/metadata"\ntargets_base_url = "https://os.example/targets/"\n'
WINDOW = '[[auto.window]]\nstart_time = "23:30"\nlength_minutes = 60\n'
FREEZE = '[[auto.freeze]]\nfrom = "2026-12-20"\nuntil = "2027-01-05"\nwhy = "year end"\n'
SENTINEL = "auto.sentinel.file: another program restarts this node"
LOCK = '[auto.fleet_lock]\nbase_url = "https://lock.example/fleet"\n'


def policy(text: str) -> Policy:
    return parse(URLS + text, FOLDER).auto


def faults(text: str) -> list[str]:
    """Return what a file with this text is refused for."""
    with pytest.raises(ConfigError) as caught:
        parse(URLS + text, FOLDER)
    assert caught.value.status is ExitStatus.USAGE
    head, *others = caught.value.message.split("\n  - ")
    assert not others or head == f"{len(others)} faults:"
    return others or [head]


def test_without_the_table_nothing_happens_by_itself() -> None:
    """Vmware #81, knuckle #33: nodes restarted by default, to everybody's surprise."""
    assert policy("") == policy("[auto]\n") == Policy()
    assert policy("").mode is Mode.OFF


def test_every_default_of_the_table_is_that_of_the_policy() -> None:
    assert policy("[auto.windows]\n[auto.sessions]\n[auto.blockers]\n[auto.fleet_lock]\n") == Policy()


EVERYTHING = """\
[auto]
mode = "restart"
check_every = "30m"
min_age = "3d"
settle = "12h"
max_attempts = 3
apply = "at-once"
max_wait = "2w"
after_fallback = "release"
urgent = ["window", "sessions"]
warn = "0m"
restart_limit = "45m"

[[auto.window]]
days = ["Sat", "sunday"]
start_time = "23:30"
length_minutes = 90

[[auto.window]]
start_time = 04:00:00
length_minutes = 30

[auto.windows]
time_zone = "UTC"
spread = "20m"
margin = "5m"
install_in_window = true

[[auto.freeze]]
from = 2026-12-20
until = "2027-01-05"
why = "year end"

[auto.sessions]
grace = "1h"
ttys_only = false

[auto.blockers]
dir = "blockers.d"
timeout = 5

[auto.hooks]
dir = "hooks"
timeout = 6

[auto.fleet_lock]
base_url = "https://user:secret@lock.example/fleet"
group = "workers-1.a"
id = "node-7"
timeout = "90s"
ca_file = "ca.pem"
client_certificate = "/etc/node.pem"
client_key = "node.key"
release_delay = "10m"
"""


def test_every_key_is_taken() -> None:
    assert policy(EVERYTHING) == Policy(
        mode=Mode.RESTART,
        check_every=timedelta(minutes=30),
        min_age=timedelta(days=3),
        settle=timedelta(hours=12),
        max_attempts=3,
        apply=Apply.AT_ONCE,
        max_wait=timedelta(weeks=2),
        after_fallback=AfterFallback.RELEASE,
        urgent=frozenset({GateName.WINDOW, GateName.SESSIONS}),
        warn=timedelta(),
        restart_limit=timedelta(minutes=45),
        windows=Windows(
            windows=(
                Window(days=frozenset({5, 6}), start=time(23, 30), length=timedelta(minutes=90)),
                Window(days=frozenset(range(7)), start=time(4), length=timedelta(minutes=30)),
            ),
            zone=UTC,
            spread=timedelta(minutes=20),
            margin=timedelta(minutes=5),
            install_in_window=True,
        ),
        freezes=(Freeze(first=date(2026, 12, 20), last=date(2027, 1, 5), why="year end"),),
        sessions=Sessions(grace=timedelta(hours=1), ttys_only=False),
        blockers_dir=FOLDER / "blockers.d",
        blocker_timeout=timedelta(seconds=5),
        hooks_dir=FOLDER / "hooks",
        hook_timeout=timedelta(seconds=6),
        fleet_lock=FleetLock(
            base_url=Url.parse("https://user:secret@lock.example/fleet/", ("https",)),
            group="workers-1.a",
            id="node-7",
            timeout=timedelta(seconds=90),
            ca_file=FOLDER / "ca.pem",
            client_certificate=Path("/etc/node.pem"),
            client_key=FOLDER / "node.key",
            release_delay=timedelta(minutes=10),
        ),
    )
    given = {setting.name for setting in effective(URLS + EVERYTHING, FOLDER) if setting.is_from_file}
    missing = [
        key.name
        for key in AUTO_KEYS
        if key.name.replace("window.", "window[1].").replace("freeze.", "freeze[1].") not in given
    ]
    assert missing == ["auto.sentinel.file"]


def test_a_sentinel_is_a_path_and_an_empty_text_is_none() -> None:
    assert policy('[auto.sentinel]\nfile = "/run/reboot-required"\n').sentinel == Path("/run/reboot-required")
    assert policy('[auto.sentinel]\nfile = ""\n').sentinel is None


def test_an_empty_lock_url_switches_the_lock_off_with_its_other_keys() -> None:
    assert policy('[auto.fleet_lock]\nbase_url = ""\ngroup = "workers"\n').fleet_lock is None


def test_max_wait_may_be_none() -> None:
    assert policy('[auto]\nmax_wait = "none"\n').max_wait is None


NO_DURATIONS = (
    "1",
    "0",
    "true",
    '""',
    '"1"',
    '"h"',
    '"-1h"',
    '"1.5h"',
    '"1 h"',
    '"1h30m"',
    '"1y"',
    '"1H"',
    "[]",
)
BAD: dict[str, tuple[str, ...]] = {
    "auto.mode": ('"on"', "true", '"Off"', '""'),
    "auto.check_every": (*NO_DURATIONS, '"none"', '"59s"', '"0m"', '"31d"'),
    "auto.min_age": (*NO_DURATIONS, '"none"', '"366d"'),
    "auto.settle": (*NO_DURATIONS, '"none"'),
    "auto.max_attempts": ("0", "1001", '"3"', "true"),
    "auto.apply": ('"now"', "true"),
    "auto.max_wait": (*NO_DURATIONS, '"None"', '"999999999w"'),
    "auto.after_fallback": ('"keep"', "1"),
    "auto.urgent": ('"window"', '["freeze"]', '["hold"]', '["fleet_lock"]', '["inhibitors"]', "[1]"),
    "auto.warn": (*NO_DURATIONS, '"none"', '"25h"'),
    "auto.restart_limit": (*NO_DURATIONS, '"0m"', '"8d"'),
    "auto.window.days": ("[]", '["Son"]', '"Sat"', "[6]"),
    "auto.window.start_time": ('"24:00"', '"23:60"', '"7:30"', '"23:30:10"', "23:30:10", "2330", "true"),
    "auto.window.length_minutes": ("0", "-1", "10081", "1.5", '"60"', "true"),
    "auto.windows.time_zone": ('""', "1"),
    "auto.windows.spread": (*NO_DURATIONS, '"8d"'),
    "auto.windows.margin": (*NO_DURATIONS, '"8d"'),
    "auto.windows.install_in_window": ("1", '"true"'),
    "auto.freeze.from": (
        '"20.12.2026"',
        '"2026-02-30"',
        '"20261220"',
        "2026-12-20T00:00:00Z",
        "2026",
        "9999-12-31",
        '"0001-01-01"',
    ),
    "auto.freeze.until": ('"tomorrow"', '"2026-W52-1"'),
    "auto.freeze.why": ('""', "1"),
    "auto.sessions.grace": (*NO_DURATIONS, '"none"', '"8d"'),
    "auto.sessions.ttys_only": ("0", '"yes"'),
    "auto.blockers.dir": ('""', "[]"),
    "auto.blockers.timeout": ("0", "86401", '"30s"'),
    "auto.hooks.dir": ('""', "[]"),
    "auto.hooks.timeout": ("0", "86401", '"5m"'),
    "auto.fleet_lock.base_url": (
        '"lock.example"',
        '"ftp://lock.example/"',
        '"https://lock.example/?group=1"',
        '"https://lock.example/?"',
        '"https://lock.example/#here"',
        '"https://lock.example:port/"',
        "1",
    ),
    "auto.fleet_lock.group": ('""', '"work ers"', '"a/b"', '"gr\\u00fcn"', '"a_b"', '"a\\n"', "1"),
    "auto.fleet_lock.id": ('""', "7"),
    "auto.fleet_lock.timeout": (*NO_DURATIONS, '"0s"', '"25h"'),
    "auto.fleet_lock.ca_file": ('""', "1"),
    "auto.fleet_lock.client_certificate": ('""', "1"),
    "auto.fleet_lock.client_key": ('""', "1"),
    "auto.fleet_lock.release_delay": (*NO_DURATIONS, '"8d"'),
    "auto.sentinel.file": ("1", "[]"),
}


def test_the_table_of_bad_values_knows_every_key() -> None:
    assert list(BAD) == [key.name for key in AUTO_KEYS]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_by_its_dotted_name_with_what_it_takes(name: str, value: str) -> None:
    table, _, key = name.rpartition(".")
    is_array = table in {"auto.window", "auto.freeze"}
    head = f"[[{table}]]" if is_array else f"[{table}]"
    found = [fault for fault in faults(f"{head}\n{key} = {value}\n") if " = " in fault]
    takes = next(each.takes for each in AUTO_KEYS if each.name == name)
    assert len(found) == 1
    assert found[0].startswith(f"{table}[1].{key} = " if is_array else f"{name} = ")
    assert found[0].endswith(f": must be {takes}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[autos]\n", "unknown key 'autos', did you mean 'auto'?"),
        ('[auto]\nmod = "off"\n', "auto: unknown key 'mod', did you mean 'mode'?"),
        ("[auto.windws]\n", "auto: unknown key 'windws', did you mean 'windows'?"),
        ("[[auto.windows_]]\n", "auto: unknown key 'windows_', did you mean 'windows'?"),
        (f"{WINDOW}length = 1\n", "auto.window[1]: unknown key 'length', did you mean 'length_minutes'?"),
        (f'{WINDOW}start = "23:30"\n', "auto.window[1]: unknown key 'start', did you mean 'start_time'?"),
        (f"{WINDOW}zzzz = 1\n", "auto.window[1]: unknown key 'zzzz'"),
        (f'{LOCK}baseurl = ""\n', "auto.fleet_lock: unknown key 'baseurl', did you mean 'base_url'?"),
        ("[auto.fleet_lock.group]\n", "auto.fleet_lock.group = {}: must be letters, digits, '.' and '-'"),
    ],
)
def test_an_unknown_key_or_table_is_an_error_that_names_the_nearest(text: str, fault: str) -> None:
    """Bugs airlock #81, rebootmgr #19, zincati #1160: what was misspelt was ignored, and nodes restarted."""
    assert fault in faults(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('mode = "restart"\n', "unknown key 'mode' here; it belongs in [auto]"),
        (
            "[auto]\ninstall_in_window = true\n",
            "auto: unknown key 'install_in_window' here; it belongs in [auto.windows]",
        ),
        (
            f'{WINDOW}time_zone = "UTC"\n',
            "auto.window[1]: unknown key 'time_zone' here; it belongs in [auto.windows]",
        ),
        (
            '[auto.windows]\nstart_time = "23:30"\n',
            "auto.windows: unknown key 'start_time' here; it belongs in [[auto.window]]",
        ),
        ("[auto.windows]\nseed = 3\n", "auto.windows: unknown key 'seed' here; it belongs above all tables"),
        ("[api]\nseed = 3\n", "api: unknown key 'seed' here; it belongs above all tables"),
        (
            "[auto]\ntimeout = 3\n",
            "it belongs in [auto.blockers] or in [auto.hooks] or in [auto.fleet_lock]",
        ),
        (
            '[[auto.windows]]\nstart_time = "23:30"\n',
            "[auto.windows]; the windows themselves are [[auto.window]]",
        ),
    ],
)
def test_a_key_in_the_wrong_table_is_told_where_it_belongs(text: str, fault: str) -> None:
    assert fault in " ".join(faults(text))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("auto = 1\n", "auto = 1: must be a table, [auto]"),
        ("auto = [1]\n", "auto = [1]: must be a table, [auto]"),
        (
            "[auto]\nwindows = true\n",
            (
                "auto.windows = True: must be a table, [auto.windows]; the windows themselves are "
                "[[auto.window]]"
            ),
        ),
        ("[[auto.fleet_lock]]\n", "auto.fleet_lock = [{}]: must be a table, [auto.fleet_lock]"),
        ("[auto.window]\n", "auto.window must be a list of tables, [[auto.window]]"),
        ("[auto]\nwindow = [1]\n", "auto.window must be a list of tables, [[auto.window]]"),
        ("[auto.freeze]\n", "auto.freeze must be a list of tables, [[auto.freeze]]"),
    ],
)
def test_a_table_and_a_list_of_tables_are_not_mixed_up(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("[[auto.window]]\n", ["auto.window[1].start_time", "auto.window[1].length_minutes"]),
        ("[[auto.freeze]]\n", ["auto.freeze[1].from", "auto.freeze[1].until", "auto.freeze[1].why"]),
        (f"{WINDOW}[[auto.window]]\nlength_minutes = 5\n", ["auto.window[2].start_time"]),
    ],
)
def test_what_a_window_or_a_freeze_needs_is_missed_by_its_number(text: str, missing: list[str]) -> None:
    assert faults(text) == [f"{name} is missing" for name in missing]


@pytest.mark.parametrize(
    ("days", "minutes", "between"),
    [
        ('["Sat", "Sun"]', 1441, 1440),
        ('["Sun", "Mon"]', 1500, 1440),
        ('["Mon", "Thu"]', 4321, 4320),
        ('["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]', 2000, 1440),
    ],
)
def test_a_window_that_overlaps_itself_is_refused(days: str, minutes: int, between: int) -> None:
    window = f'[[auto.window]]\ndays = {days}\nstart_time = "00:00"\nlength_minutes = {{}}\n'
    assert faults(window.format(minutes)) == [
        f"auto.window[1] overlaps itself: it is open for {minutes} minutes and starts again after {between}"
    ]
    if len(days) < 20:  # otherwise it would be open all week
        assert policy(window.format(between)).windows.windows[0].length == timedelta(minutes=between)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            FREEZE.replace("2027-01-05", "2026-12-19"),
            "auto.freeze[1] ends on 2026-12-19, before it begins on 2026-12-20",
        ),
        ('[auto.windows]\nspread = "5m"\n', "auto.windows.spread has no effect without [[auto.window]]"),
        ('[auto.windows]\nmargin = "5m"\n', "auto.windows.margin has no effect without [[auto.window]]"),
        (
            "[auto.windows]\ninstall_in_window = true\n",
            "auto.windows.install_in_window has no effect without [[auto.window]]",
        ),
        (
            '[auto.fleet_lock]\ngroup = "workers"\n',
            "auto.fleet_lock.group has no effect without auto.fleet_lock.base_url",
        ),
        (
            f'{LOCK}client_key = "node.key"\n',
            "auto.fleet_lock.client_key has no effect without auto.fleet_lock.client_certificate",
        ),
        (
            f'[auto.sentinel]\nfile = "/run/reboot-required"\n{LOCK}',
            f"auto.fleet_lock.base_url has no effect with {SENTINEL}",
        ),
        (
            f'[auto.sentinel]\nfile = "/run/reboot-required"\n{WINDOW}',
            f"auto.window has no effect with {SENTINEL}, and auto.windows.install_in_window is false",
        ),
    ],
)
def test_a_setting_that_would_not_count_is_refused(text: str, fault: str) -> None:
    """Bug rebootmgr #19: a strategy that was not supported was ignored, and nodes restarted."""
    assert faults(text) == [fault]


def test_a_freeze_of_one_day_is_taken() -> None:
    assert policy(FREEZE.replace("2027-01-05", "2026-12-20")).freezes[0].last == date(2026, 12, 20)


def test_a_zone_that_does_not_exist_is_refused_with_the_nearest_and_never_becomes_utc() -> None:
    [fault] = faults('[auto.windows]\ntime_zone = "Europe/Berln"\n')
    assert fault.startswith("auto.windows.time_zone = 'Europe/Berln': ")
    assert "'Europe/Berlin'" in fault


def test_a_zone_is_taken_by_its_name() -> None:
    assert str(policy('[auto.windows]\ntime_zone = "Europe/Berlin"\n').windows.zone) == "Europe/Berlin"


def test_no_fault_shows_the_secret_of_a_lock_url() -> None:
    [fault] = faults('[auto.fleet_lock]\nbase_url = "https://node:hunter2@lock.example/?token=s3cret"\n')
    assert "hunter2" not in fault
    assert "s3cret" not in fault


def test_all_faults_are_reported_at_once_those_of_auto_after_the_others() -> None:
    text = f'seed = 4000\n[auto]\nmode = "on"\nmod = 1\n{WINDOW}days = []\n[auto.sessions]\ngrace = 10\n'
    assert [fault.split(" = ")[0].split(",")[0] for fault in faults(text)] == [
        "seed",
        "auto: unknown key 'mod'",
        "auto.mode",
        "auto.sessions.grace",
        "auto.window[1].days",
    ]


# -- the effective configuration


def shown(text: str) -> dict[str, tuple[Any, bool]]:
    return {each.name: (each.value, each.is_from_file) for each in effective(URLS + text, FOLDER)}


def test_the_effective_configuration_says_where_each_key_comes_from() -> None:
    found = shown(f'tries = 3\n[auto]\nmode = "check"\nmax_wait = "36h"\n{WINDOW}{FREEZE}')
    assert found["tries"] == (3, True)
    assert found["seed"] == (None, False)
    assert found["auto.mode"] == ("check", True)
    assert found["auto.max_wait"] == ("36h", True)
    assert found["auto.warn"] == ("5m", False)
    assert found["auto.min_age"] == ("0m", False)
    assert found["auto.urgent"] == ([], False)
    assert found["auto.windows.time_zone"] == ("UTC", False)
    assert found["auto.window[1].start_time"] == ("23:30", True)
    assert found["auto.window[1].days"] == (["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], False)
    assert found["auto.freeze[1].from"] == ("2026-12-20", True)
    assert found["metadata_base_url"] == ("https://os.example/metadata/", True)


def test_the_effective_configuration_is_json_and_has_no_secrets() -> None:
    secrets = (
        'https_proxy = "http://user:hunter2@proxy:3128"\nreport_url = "https://os.example/?token=s3cret"\n'
        'no_proxy = ["localhost", "10.0.0.0/8", "[fe80::1]:80", "192.0.2.1"]\n'
        "accept_expired_until = 2027-01-31T00:00:00Z\n"
    )
    found = shown(secrets + EVERYTHING)
    assert found["https_proxy"] == ("http://proxy:3128", True)
    assert found["report_url"] == ("https://os.example/", True)
    assert found["auto.fleet_lock.base_url"] == ("https://lock.example/fleet/", True)
    assert found["no_proxy"] == (["localhost", "10.0.0.0/8", "[fe80::1]:80", "192.0.2.1"], True)
    assert found["accept_expired_until"] == ("2027-01-31T00:00:00Z", True)
    assert found["auto.urgent"] == (["sessions", "window"], True)
    values = [value for value, _ in found.values()]
    assert all(value is None or isinstance(value, (str, int, bool, list)) for value in values)
    text = repr(found)
    assert all(secret not in text for secret in ("hunter2", "s3cret", "secret@"))


def test_the_values_shown_are_read_back_as_the_same() -> None:
    found = shown(EVERYTHING)
    written = "".join(
        f"{name.rpartition('.')[2]} = {value!r}\n".replace("'", '"')
        .replace("True", "true")
        .replace("False", "false")
        for name, (value, _) in found.items()
        if name.startswith("auto.") and name.count(".") == 1
    )
    assert policy(f"[auto]\n{written}") == policy(EVERYTHING.partition("\n\n")[0])
