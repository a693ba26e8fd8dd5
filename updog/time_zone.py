"""The time zone that an operator names: an IANA name, or this machine's own.

Rules:

* a zone that cannot be read is an error. It never becomes UTC: restarts would start in the middle of the day;
* ``localtime`` is what ``/etc/localtime`` is or links to, and an error if that is missing;
* the system's database comes first; the package ``tzdata`` is used where the system has none;
* a file of the database (RFC 8536) that was cut off is an error: CPython's reader does not end on some, and
  takes others for a zone with other rules.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo

LOCALTIME = Path("/etc/localtime")
"""The zone of the machine (localtime(5))."""

_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


class TimeZoneError(ValueError):
    """There is no such zone, or it cannot be read; the message says why, and names near ones."""


def time_zone(name: str, *, localtime: Path = LOCALTIME) -> tzinfo:
    """Return the zone ``name``: ``UTC``, ``localtime``, or a name of the IANA database.

    ``str()`` of the zone is its name.

    Raises:
        TimeZoneError: the zone does not exist or cannot be read.
    """
    if name == "UTC":
        return UTC
    if name == "localtime":
        return _zone_of_machine(localtime)
    try:
        content = _content(name) if _NAME.fullmatch(name) else None
    except OSError as error:
        raise TimeZoneError(f"time zone {name!r} cannot be read: {error}") from error
    if content is None:
        known = zoneinfo.available_timezones()
        if not known:
            message = f"time zone {name!r}: this system has no time zone database; install tzdata, or use UTC"
            raise TimeZoneError(message)
        raise TimeZoneError(f"there is no time zone {name!r}{_did_you_mean(name, known)}")
    return _zone(content, name, f"time zone {name!r}")


def _content(name: str) -> bytes | None:
    """Return the file of zone ``name`` in the system's database or the package's; None: there is none."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder, name)
        if path.is_file():
            return path.read_bytes()
    from importlib import resources  # 3 MiB, only where the system has no database

    try:
        file = resources.files("tzdata") / "zoneinfo" / name
    except ModuleNotFoundError:
        return None
    return file.read_bytes() if file.is_file() else None


def _zone_of_machine(localtime: Path) -> tzinfo:
    target = ""
    try:
        if localtime.is_symlink():
            target = str(localtime.readlink())
        content = localtime.read_bytes()
    except FileNotFoundError as error:
        state = f"is a link to {target}, which does not exist" if target else "does not exist"
        message = f"{localtime} {state}: set the machine's time zone (timedatectl set-timezone), or name one"
        raise TimeZoneError(message) from error
    except OSError as error:
        raise TimeZoneError(f"{localtime} cannot be read: {error}") from error
    return _zone(content, target.partition("zoneinfo/")[2] or "localtime", str(localtime))


class _WholeFile(BytesIO):
    """A file that does not end before what is asked of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise EOFError("it ends too early")
        return data


def _zone(content: bytes, name: str, shown: str) -> tzinfo:
    """Return the zone in ``content``; ``shown`` names it in an error."""
    try:
        return zoneinfo.ZoneInfo.from_file(_WholeFile(content), key=name)
    except Exception as error:  # CPython's reader has no error of its own for bad content
        raise TimeZoneError(f"{shown} is damaged: {str(error) or type(error).__name__}") from error


def _did_you_mean(name: str, known: set[str]) -> str:
    """Return ``; did you mean …?`` with the nearest names: a city alone is near, and case does not matter."""
    import difflib  # only needed after a typing error

    wanted = name.casefold().replace(" ", "_")
    cities = [zone for zone in sorted(known) if zone.casefold().rpartition("/")[2] == wanted]
    folded = {zone.casefold(): zone for zone in sorted(known)}
    spelt = [folded[near] for near in difflib.get_close_matches(wanted, folded, n=3)]
    near = list(dict.fromkeys([*cities, *spelt]))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
