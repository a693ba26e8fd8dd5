"""The least Python that runs the boot stage, taken from an unpacked Debian system.

Rules:

* nothing is guessed: the system's own interpreter, started by the system's own loader, imports the boot
  stage and then says which files it had opened for that, modules and shared libraries alike;
* modules that are imported only when something is used are named here, and a drill boots the result.

So the folder must be of this machine's architecture.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import signpost
from repo_tools.bootstage import cpio
from repo_tools.errors import BootStageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENTRY = "signpost.initramfs"
"""The module whose ``main`` is the first process."""

_LATE = ("encodings.utf_16_le",)  # names in a partition table
_INTERPRETERS = {"ld-linux-x86-64.so.2": "lib64", "ld-linux-aarch64.so.1": "lib"}  # where programs expect it

# Prints the files by kind; it imports nothing that the boot stage does not.
_TRACE = """
import sys
sys.path.append(sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
for module in sys.modules.values():
    if getattr(module, "__file__", None):
        print("module", module.__file__)
with open("/proc/self/maps", encoding="utf-8") as maps:
    for path in {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line and ".so" in line}:
        print("library", path)
"""

_WHAT_IT_TAKES = "docs/how-to/boot.md names the packages to unpack there."


def find_python(system: Path) -> str:
    """Return the path of the system's Python, relative to its folder. Raises BootStageError."""
    found = sorted((system / "usr/bin").glob("python3.[0-9]*[0-9]"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BootStageError(
            f"one Python is needed in {system}/usr/bin, found: {names}", next_step=_WHAT_IT_TAKES
        )
    return f"usr/bin/{found[0].name}"


def gather(system: Path, python: str) -> dict[str, cpio.Entry]:
    """Return the interpreter, its libraries, and every module that the boot stage imports, by path.

    Args:
        system: folder of an unpacked Debian system.
        python: path of its interpreter, from :func:`find_python`.

    Raises:
        BootStageError: the interpreter does not run, or a file it used lies outside the folder.
    """
    system = system.resolve()
    loader = _loader(system)
    traced = _traced(system, loader, python)
    home = f"usr/lib/{Path(python).name}"
    return {
        python: cpio.file((system / python).read_bytes(), executable=True),
        f"{_INTERPRETERS[loader.name]}/{loader.name}": cpio.file(loader.read_bytes(), executable=True),
        **_libraries(system, traced["library"], loader),
        **_modules(system / home, home, traced["module"]),
    }


def _loader(system: Path) -> Path:
    """Return the system's dynamic loader. It is looked for: the usual link to it is absolute."""
    for name in _INTERPRETERS:
        found = sorted(path for path in _library_files(system) if path.name == name and not path.is_symlink())
        if found:
            return found[0]
    raise BootStageError(f"{system} has no dynamic loader", next_step=_WHAT_IT_TAKES)


def _library_files(system: Path) -> list[Path]:
    """Return what lies in the folders of shared libraries."""
    return [path for lib in ("usr/lib", "lib") for path in sorted((system / lib).glob("*-linux-gnu/*"))]


def _traced(system: Path, loader: Path, python: str) -> Mapping[str, list[Path]]:
    """Let the system's Python import the boot stage and say what it opened."""
    libraries = ":".join(dict.fromkeys(str(path.parent) for path in _library_files(system)))
    code = str(Path(signpost.__file__).resolve().parents[1])
    command = [str(loader), "--library-path", libraries, str(system / python)]
    command += ["-BSsP", "-c", _TRACE, code, ENTRY, *_LATE]
    environment = {"PYTHONHOME": str(system / "usr"), "LC_ALL": "C.UTF-8"}
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd="/")
    except OSError as error:
        raise BootStageError(
            f"{loader} cannot be run here: {error.strerror}", next_step=_WHAT_IT_TAKES
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise BootStageError(
            f"{system / python} cannot run the boot stage: {last}", next_step=_WHAT_IT_TAKES
        ) from error
    traced: dict[str, list[Path]] = {"module": [], "library": []}
    for line in run.stdout.splitlines():
        kind, _, path = line.partition(" ")
        traced[kind].append(Path(path))
    return traced


def _libraries(system: Path, paths: Iterable[Path], loader: Path) -> dict[str, cpio.Entry]:
    """Return shared libraries and the links to them by which they are asked for, where they lay."""
    entries: dict[str, cpio.Entry] = {}
    everything = _library_files(system)
    for path in paths:
        if "lib-dynload" in path.parts or path == loader:
            continue
        entries[_inside(system, path)] = cpio.file(path.read_bytes(), executable=True)
        links = [other for other in everything if other.is_symlink() and other.resolve() == path]
        entries |= {
            f"{_inside(system, path.parent)}/{other.name}": cpio.link(path.name)
            for other in links
            if other.name != path.name
        }
    return entries


def _modules(stdlib: Path, home: str, paths: Iterable[Path]) -> dict[str, cpio.Entry]:
    """Return the Python modules; the project's own stand beside those of the standard library."""
    ours = Path(signpost.__file__).resolve().parents[1]
    entries = {}
    for path in paths:
        base = ours if path.is_relative_to(ours / "signpost") else stdlib
        entries[f"{home}/{_inside(base, path)}"] = cpio.file(path.read_bytes())
    return entries


def _inside(folder: Path, path: Path) -> str:
    """Return a path relative to a folder. Raises BootStageError when it lies outside."""
    try:
        return str(path.resolve().relative_to(folder))
    except ValueError as error:
        raise BootStageError(
            f"{path} was used and lies outside {folder}", next_step=_WHAT_IT_TAKES
        ) from error
