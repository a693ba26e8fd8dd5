"""Time zones of the configuration: found, or an error that helps; never UTC instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import updog
from updog.time_zone import TimeZoneError, time_zone

DATABASE = Path("/usr/share/zoneinfo")
SOURCES = Path(updog.__file__).parent.parent
JULY = datetime(2026, 7, 1, tzinfo=UTC)


def offset_in_july(name: str, localtime: Path) -> timedelta | None:
    return JULY.astimezone(time_zone(name, localtime=localtime)).utcoffset()


@pytest.fixture
def localtime(tmp_path: Path) -> Path:
    return tmp_path / "localtime"


def test_a_name_of_the_database_is_that_zone() -> None:
    zone = time_zone("Europe/Berlin")
    assert str(zone) == "Europe/Berlin"
    assert JULY.astimezone(zone).utcoffset() == timedelta(hours=2)


def test_utc_needs_no_database() -> None:
    assert time_zone("UTC") is UTC


def test_localtime_is_what_the_machines_link_points_to(localtime: Path) -> None:
    localtime.symlink_to(DATABASE / "Asia/Tokyo")
    assert offset_in_july("localtime", localtime) == timedelta(hours=9)
    assert str(time_zone("localtime", localtime=localtime)) == "Asia/Tokyo"


def test_localtime_may_be_a_copy(localtime: Path) -> None:
    shutil.copy(DATABASE / "Asia/Tokyo", localtime)
    assert offset_in_july("localtime", localtime) == timedelta(hours=9)
    assert str(time_zone("localtime", localtime=localtime)) == "localtime"


def test_a_missing_localtime_is_an_error_and_not_utc(localtime: Path) -> None:
    with pytest.raises(TimeZoneError, match=r"localtime does not exist: set the machine's time zone"):
        time_zone("localtime", localtime=localtime)


def test_a_link_of_localtime_to_nothing_is_an_error_and_not_utc(localtime: Path) -> None:
    localtime.symlink_to("/usr/share/zoneinfo/Europe/Berln")
    with pytest.raises(TimeZoneError, match="is a link to /usr/share/zoneinfo/Europe/Berln, which does not"):
        time_zone("localtime", localtime=localtime)


def test_a_localtime_that_is_a_folder_is_an_error(localtime: Path) -> None:
    localtime.mkdir()
    with pytest.raises(TimeZoneError, match="cannot be read"):
        time_zone("localtime", localtime=localtime)


def test_a_file_cut_off_at_any_byte_is_an_error(localtime: Path) -> None:
    # CPython's own reader takes some for a zone without summer time, and does not end on one.
    whole = (DATABASE / "Europe/Berlin").read_bytes()
    for length in range(len(whole)):
        localtime.write_bytes(whole[:length])
        with pytest.raises(TimeZoneError, match="is damaged"):
            time_zone("localtime", localtime=localtime)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Europe/Berln", "'Europe/Berlin'"),
        ("europe/berlin", "'Europe/Berlin'"),
        ("Berlin", "'Europe/Berlin'"),
        ("New York", "'America/New_York'"),
        ("GMT+1", "'Etc/GMT+1'"),
    ],
)
def test_an_unknown_name_is_an_error_with_near_names(name: str, near: str) -> None:
    with pytest.raises(TimeZoneError) as refused:
        time_zone(name)
    assert str(refused.value).startswith(f"there is no time zone {name!r}; did you mean {near}")


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "/etc/localtime", "Europe", "zone.tab", "a\0b", "\udc80", "Europe/"]
)
def test_what_is_no_name_of_a_zone_is_an_error(name: str) -> None:
    with pytest.raises(TimeZoneError, match="there is no time zone"):
        time_zone(name)


def run(script: str, **variables: str) -> str:
    """Return what ``script`` prints in a process whose environment has ``variables`` too."""
    environment = os.environ | {"PYTHONPATH": str(SOURCES)} | variables
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_the_package_tzdata_is_used_where_the_system_has_no_database(tmp_path: Path) -> None:
    package = tmp_path / "tzdata"
    (package / "zoneinfo/Asia").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(DATABASE / "Asia/Tokyo", package / "zoneinfo/Asia")
    script = """
from datetime import datetime, UTC
import updog
from updog.time_zone import time_zone
print(datetime(2026, 7, 1, tzinfo=UTC).astimezone(time_zone("Asia/Tokyo")).isoformat())"""
    shown = run(script, PYTHONTZPATH="", PYTHONPATH=f"{SOURCES}:{tmp_path}")
    assert shown == "2026-07-01T09:00:00+09:00\n"


def test_without_any_database_the_error_says_so() -> None:
    script = """
import updog
from updog.time_zone import TimeZoneError, time_zone
try:
    time_zone("Asia/Tokyo")
except TimeZoneError as error:
    print(error)"""
    assert "this system has no time zone database; install tzdata, or use UTC" in run(script, PYTHONTZPATH="")
