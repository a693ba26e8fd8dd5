"""The smallest Python that runs the boot stage, taken from an unpacked Debian system.

Rules:

* nothing is guessed: the system's own interpreter, started by the system's own loader, imports the boot
  stage and then lists the modules and shared libraries that it has loaded for that;
* modules that are imported only later are named here, and a drill boots the result;
* modules are compiled by that interpreter and stored without their sources: compiling them at every start
  would take longer than everything else.

So the system must be of this machine's architecture.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import signpost
from repo_tools.bootstage import cpio
from repo_tools.errors import BootStageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENTRY = "signpost.initramfs"
"""The module whose ``main`` is the first process, PID 1."""

_LATE = ("encodings.utf_16_le",)  # names in a partition table
_INTERPRETERS = {"ld-linux-x86-64.so.2": "lib64", "ld-linux-aarch64.so.1": "lib"}  # where programs expect it
_WHAT_IT_TAKES = "`repo-tools boot-stage build --help` lists the packages to unpack there."

# Arguments: a folder to import from, names of modules. Prints the files in use, by kind. It imports nothing
# that the boot stage does not import.
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

# Arguments: a folder for the results, then pairs of a source and the path that the compiled code will name.
# Results are named by number. They never look for their source, whose time would differ in another build.
_COMPILE = """
import py_compile, sys
folder, *rest = sys.argv[1:]
for number, (source, known) in enumerate(zip(rest[::2], rest[1::2])):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(source, f"{folder}/{number}", known, doraise=True, invalidation_mode=mode)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """An interpreter in a system's folder, and the loader that starts it there."""

    system: Path
    program: str  # relative to the folder
    loader: Path

    @property
    def home(self) -> str:
        """The folder of its standard library, relative to the system's."""
        return f"usr/lib/{Path(self.program).name}"

    def run(self, code: str, *arguments: str) -> str:
        """Run a program and return what it printed. Raises BootStageError."""
        libraries = ":".join(dict.fromkeys(str(path.parent) for path in _library_files(self.system)))
        command = [str(self.loader), "--library-path", libraries, str(self.system / self.program)]
        command += ["-BSsP", "-c", code, *arguments]
        environment = {"PYTHONHOME": str(self.system / "usr"), "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        except OSError as error:
            cause = f"{self.loader} cannot run on this machine: {error.strerror}"
            raise BootStageError(cause, next_step=_WHAT_IT_TAKES) from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or "it gave no reason").splitlines()[-1]
            cause = f"{self.system / self.program} cannot run the boot stage: {last}"
            raise BootStageError(cause, next_step=_WHAT_IT_TAKES) from error
        return done.stdout


def find_python(system: Path) -> Python:
    """Return the only Python of a system. Raises BootStageError if there is none, or several."""
    system = system.resolve()
    found = sorted((system / "usr/bin").glob("python3.[0-9]*[0-9]"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        cause = f"one Python is needed in {system}/usr/bin; found: {names}"
        raise BootStageError(cause, next_step=_WHAT_IT_TAKES)
    return Python(system=system, program=f"usr/bin/{found[0].name}", loader=_loader(system))


def gather(python: Python) -> dict[str, cpio.CpioEntry]:
    """Return the interpreter, its libraries, and every module that the boot stage imports, by path.

    Raises:
        BootStageError: the interpreter does not run, or a file that it used is outside its system's folder.
    """
    ours = Path(signpost.__file__).resolve().parents[1]
    used: dict[str, list[Path]] = {"module": [], "library": []}
    for line in python.run(_TRACE, str(ours), ENTRY, *_LATE).splitlines():
        kind, _, path = line.partition(" ")
        used[kind].append(Path(path))
    loader = python.loader
    program = (python.system / python.program).read_bytes()
    modules = {_place(python, path, ours): path for path in used["module"]}
    return {
        python.program: cpio.file(program, executable=True),
        f"{_INTERPRETERS[loader.name]}/{loader.name}": cpio.file(loader.read_bytes(), executable=True),
        **_libraries(python, used["library"]),
        **_compiled(python, {place: path for place, path in modules.items() if path.suffix == ".py"}),
        **{place: _shared(path) for place, path in modules.items() if path.suffix == ".so"},
    }


def _loader(system: Path) -> Path:
    """Return the system's dynamic loader, by searching: the usual link to it is absolute."""
    for path in _library_files(system):
        if path.name in _INTERPRETERS and not path.is_symlink():
            return path
    raise BootStageError(f"{system} has no dynamic loader", next_step=_WHAT_IT_TAKES)


def _library_files(system: Path) -> list[Path]:
    """Return the files in the folders of shared libraries."""
    return [path for lib in ("usr/lib", "lib") for path in sorted((system / lib).glob("*-linux-gnu/*"))]


def _shared(path: Path) -> cpio.CpioEntry:
    return cpio.file(path.read_bytes(), executable=True)


def _libraries(python: Python, paths: Iterable[Path]) -> dict[str, cpio.CpioEntry]:
    """Return shared libraries and the links by which programs find them, at their original paths."""
    entries: dict[str, cpio.CpioEntry] = {}
    links = [path for path in _library_files(python.system) if path.is_symlink()]
    for path in paths:
        if path == python.loader or path.is_relative_to(python.system / python.home):
            continue
        entries[_inside(python.system, path)] = _shared(path)
        for link in links:
            if link.resolve() == path.resolve():
                entries[_inside(python.system, link.parent / link.name)] = cpio.link(path.name)
    return entries


def _place(python: Python, module: Path, ours: Path) -> str:
    """Return where a module goes: the project's own go beside those of the standard library."""
    base = ours if module.is_relative_to(ours / signpost.__name__) else python.system / python.home
    return f"{python.home}/{_inside(base, module)}"


def _compiled(python: Python, sources: Mapping[str, Path]) -> dict[str, cpio.CpioEntry]:
    """Return the modules as the interpreter compiles them, each beside the path of its source."""
    pairs = [word for place, path in sources.items() for word in (str(path), f"/{place}")]
    with tempfile.TemporaryDirectory() as folder:
        python.run(_COMPILE, folder, *pairs)
        results = [(Path(folder) / str(number)).read_bytes() for number in range(len(sources))]
    return {f"{place}c": cpio.file(data) for place, data in zip(sources, results, strict=True)}


def _inside(folder: Path, path: Path) -> str:
    """Return a path relative to a folder. Raises BootStageError if it is outside."""
    try:
        return str((path.parent.resolve() / path.name).relative_to(folder.resolve()))
    except ValueError as error:
        raise BootStageError(f"{path} was used, but is outside {folder}", next_step=_WHAT_IT_TAKES) from error
