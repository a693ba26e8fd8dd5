"""A folder becomes a Debian package: permissions, times, control files, and what its libraries need.

Rules:

* the same folder and date give the same bytes: every file has one time, its permissions come from what it is,
  and dpkg-deb, which sorts, gets no more than one thread for the compression;
* it needs no root: dpkg-deb writes root as the owner of everything;
* what the compiled libraries depend on is read from them (DT_NEEDED, and the newest version of glibc's
  symbols), which works for a foreign architecture too; dpkg-shlibdeps would need its libraries here.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
_PROVIDERS = {
    "ld-linux-x86-64.so.2": "libc6",
    "ld-linux-aarch64.so.1": "libc6",
    "libc.so.6": "libc6",
    "libdl.so.2": "libc6",
    "libgcc_s.so.1": "libgcc-s1",
    "libm.so.6": "libc6",
    "libpthread.so.0": "libc6",
    "librt.so.1": "libc6",
}
"""Debian package of a shared library."""

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_GLIBC = re.compile(r"\bGLIBC_(\d+)\.(\d+)")


class PackageError(Exception):
    """A package cannot be built; the text says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlFiles:
    """What goes into DEBIAN/.

    Attributes:
        folder: has ``control``, a template of :meth:`str.format`, and maybe conffiles and the scripts.
        fields: for the template; installed_size and libraries are added.
    """

    folder: Path
    fields: Mapping[str, str]


def build(stage: Path, control: ControlFiles, package: Path, *, date: int, quick: bool = False) -> None:
    """Write a package from the folder ``stage``, which gets DEBIAN/ and its final permissions and times.

    Args:
        stage: the files as they are to be installed; those below usr/bin and of DEBIAN/ are programs.
        control: what goes into DEBIAN/.
        package: the file to write.
        date: the time of every file, a Unix time.
        quick: compress little, for tests: xz takes half of the time of a build.

    Raises:
        PackageError: a library needs one that no package is known for, or a tool failed.
    """
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(_kib(path) for path in stage.rglob("*"))
    libraries = [path for path in files if ".so" in path.suffixes]
    fields = {**control.fields, "installed_size": str(size), "libraries": depends(libraries)}
    conffiles = _optional(control.folder / "conffiles")
    debian = stage / "DEBIAN"
    debian.mkdir()
    template = (control.folder / "control").read_text(encoding="utf-8")
    (debian / "control").write_text(template.format_map(fields), encoding="utf-8")
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(stage)}\n"
        for path in files
        if f"/{path.relative_to(stage)}" not in conffiles.split()
    ]
    (debian / "md5sums").write_text("".join(sums), encoding="utf-8")
    if conffiles:
        (debian / "conffiles").write_text(conffiles, encoding="utf-8")
    for name in _SCRIPTS:
        if text := _optional(control.folder / name):
            (debian / name).write_text(text, encoding="utf-8")
    _settle(stage, date)
    package.parent.mkdir(parents=True, exist_ok=True)
    options = ["--root-owner-group", "--threads-max=1", *(["-Zgzip", "-z1"] if quick else ["-Zxz"])]
    run(["dpkg-deb", *options, "--build", stage, package], environment={"SOURCE_DATE_EPOCH": str(date)})


def depends(libraries: Iterable[Path]) -> str:
    """Return the packages that compiled libraries need, as ``Depends:`` has them. Raises PackageError."""
    paths = list(libraries)
    if not paths:
        return ""
    told = run(["readelf", "--dynamic", "--version-info", "--wide", *paths])
    needed, bundled = set(_NEEDED.findall(told)), {path.name for path in paths}
    unknown = sorted(needed - bundled - _PROVIDERS.keys())
    if unknown:
        raise PackageError(f"which package has {', '.join(unknown)}? Add it to tools/debian_package.py")
    newest = max((int(major), int(minor)) for major, minor in _GLIBC.findall(told))
    names = sorted({_PROVIDERS[name] for name in needed if name in _PROVIDERS})
    return ", ".join(f"{name} (>= {newest[0]}.{newest[1]})" if name == "libc6" else name for name in names)


def compressed(content: bytes) -> bytes:
    """Return content as gzip -9n writes it: documentation of packages is compressed."""
    return gzip.compress(content, 9, mtime=0)


def run(
    words: list[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a tool and return what it printed. Raises PackageError."""
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PackageError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise PackageError(f"{words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def _settle(stage: Path, date: int) -> None:
    """Give everything its permissions and its time."""
    for path in sorted(stage.rglob("*"), reverse=True):
        if not path.is_symlink():
            place = path.relative_to(stage)
            is_program = place.is_relative_to("usr/bin") or place.name in _SCRIPTS
            path.chmod(0o755 if path.is_dir() or is_program else 0o644)
        os.utime(path, (date, date), follow_symlinks=False)
    stage.chmod(0o755)
    os.utime(stage, (date, date))


def _kib(path: Path) -> int:
    """Return what deb-substvars(5) counts for a file: KiB, rounded up; one for all that is not a file."""
    return -(-path.stat().st_size // 1024) if path.is_file() and not path.is_symlink() else 1


def _optional(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
