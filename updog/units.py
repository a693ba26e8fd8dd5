"""Where each file of ``updog/systemd`` goes on a node, and the units for where the program is.

Rules:

* :func:`files` is the one home of these places: the Debian package, the images of the tests and `updog units
  install` take them from there;
* a unit starts the program by its absolute path, so a path is refused that the units' own hardening hides
  (``ProtectHome=``, ``PrivateTmp=``), or that systemd would read as something else;
* nothing is enabled and no program is run: that is the operator's, or the image's.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from signpost.errors import MediumError
from updog.errors import UnitsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

UNITS = "usr/lib/systemd/system"
"""Where the units go, and the folders with their drop-ins."""

_PLACES = {
    "updog.catalog": "usr/lib/systemd/catalog/updog.catalog",
    "updog.preset": "usr/lib/systemd/system-preset/80-updog.preset",
    "updog.sysusers": "usr/lib/sysusers.d/updog.conf",
    "updog.tmpfiles": "usr/lib/tmpfiles.d/updog.conf",
    "watchdog.conf": "usr/lib/systemd/system.conf.d/updog-watchdog.conf",
}
"""Where a file goes that is not a unit."""

_PREFIX = PurePosixPath("/usr")
_PROGRAMS = "ExecStart={prefix}/bin/"  # updog, and signpost beside it
_PLAIN = re.compile(r"(/[A-Za-z0-9._+-]+)+")  # no blank, no %, no quote: systemd.service(5), "COMMAND LINES"
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - compared with, never written


def files(prefix: PurePosixPath = _PREFIX) -> dict[str, bytes]:
    """Return the content of every file by its place, a path from the root without a leading slash.

    Args:
        prefix: the program is ``bin/updog`` below it.

    Raises:
        UnitsError: no unit could start a program there.
    """
    if not _PLAIN.fullmatch(str(prefix)) or ".." in prefix.parts:
        raise UnitsError(f"{prefix} has to be an absolute path of letters, digits and . _ + -")
    hidden = [folder for folder in _HIDDEN if prefix.is_relative_to(folder)]
    if hidden:
        raise UnitsError(f"{prefix} cannot be seen by the units, which are protected from {hidden[0]}")
    ours, theirs = (_PROGRAMS.format(prefix=each).encode("ascii") for each in (_PREFIX, prefix))
    folder = resources.files("updog") / "systemd"
    return {
        _PLACES.get(name, f"{UNITS}/{name}"): content.replace(ours, theirs)
        for name, content in _contents(folder)
        if not name.endswith(".md")
    }


def _contents(folder: Traversable, below: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file below a folder, sorted."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _contents(entry, f"{below}{entry.name}/")
        else:
            yield f"{below}{entry.name}", entry.read_bytes()


def install(root: Path, prefix: PurePosixPath) -> list[Path]:
    """Write every file to its place below ``root``, and return their paths.

    A file that is there is replaced in one step. Two runs write the same.

    Args:
        root: of the system that gets them.
        prefix: in that system, the program is ``bin/updog`` below it.

    Raises:
        UnitsError: no unit could start a program there, or there is none.
        MediumError: a file cannot be written.
    """
    contents = files(prefix)
    program = root / str(prefix / "bin/updog").lstrip("/")
    if not os.path.lexists(program):  # a link of an image that is being built leads nowhere yet
        raise UnitsError(f"there is no {program}, which the units would start")
    try:
        return [_write(root / place, content) for place, content in contents.items()]
    except OSError as error:
        raise MediumError.of(f"cannot write the units below {root}", error) from error


def enabled_by_preset(contents: Mapping[str, bytes]) -> list[str]:
    """Return the units that the preset among :func:`files` enables."""
    lines = contents[_PLACES["updog.preset"]].decode("ascii").splitlines()
    return [line.split()[1] for line in lines if line.startswith("enable ")]


def _write(path: Path, content: bytes) -> Path:
    """Put a file that everybody can read in the place of what is there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.chmod(0o644)
    draft.replace(path)
    return path
