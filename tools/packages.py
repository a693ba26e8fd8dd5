"""Build the Debian packages: updog for a node, repo-tools for a publisher (packaging/README.md).

usage: packages.py build [--out DIR] [--architecture amd64|arm64] [NAME...]
       packages.py pin        write the versions and hashes of the libraries anew

Both packages share one environment of Python, /usr/lib/updog, laid out as venv does it: programs that a
daemon starts by sys.executable find it too, and neither sees Python packages of the system.
"""

from __future__ import annotations

import argparse
import email.parser
import email.policy
import hashlib
import os
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "repo-tools")]

from click.testing import CliRunner

from repo_tools.cli import cli as repo_tools
from signpost.cli import program as signpost
from tools import annotated_configuration, man_pages
from tools.debian_package import ControlFiles, PackageError, build, compressed, run
from updog import units
from updog.cli import program as updog

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click

PACKAGING = ROOT / "packaging"
PYTHON = "3.11"
"""Debian 12's. Compiled wheels and compiled modules are for one minor version."""

ENVIRONMENT = "usr/lib/updog"
SITE = f"{ENVIRONMENT}/lib/python{PYTHON}/site-packages"
GLIBC = 36  # Debian 12 has 2.36

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's name of an architecture → the name in wheels and tools."""

EXTRAS = {"updog": (), "repo-tools": ("s3", "kms", "hsm")}
"""Extras of pyproject.toml that a package contains. `fleet` is several times as large as all the rest."""

QEMU = frozenset(
    f"updog/drill/{name}.py"
    for name in ("console", "emulated", "patience", "proxy", "qemu", "shell", "snapshots")
)
"""The part of updog that starts machines in QEMU: in repo-tools, not on a node."""

PROGRAMS: dict[str, dict[str, tuple[str, click.Group]]] = {
    "updog": {"updog": ("updog.cli", updog), "signpost": ("signpost.cli", signpost)},
    "repo-tools": {"repo-tools": ("repo_tools.cli", repo_tools)},
}
"""Package → its programs, each with its module and its command line."""

FOLDERS = {
    "updog": (
        "etc/updog/blockers.d",
        "etc/updog/health.d/required",
        "etc/updog/health.d/wanted",
        "etc/updog/post-confirm.d",
        "etc/updog/pre-restart.d",
        "usr/share/updog",
    ),
    "repo-tools": (),
}
"""Empty folders for what operators add."""

_PAGES = {"updog": ("updog.1", "signpost.1", "updog.toml.5"), "repo-tools": ("repo-tools.1",)}
_COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{}",
    "fish": "usr/share/fish/vendor_completions.d/{}.fish",
    "zsh": "usr/share/zsh/vendor-completions/_{}",
}
_UNUSED = ("tests", "test_data", ".gitignore")  # of libraries
_PROGRAM = "#!/{environment}/bin/python3 -I\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
_APACHE = "Version 2.0, January 2004"  # whose text every Debian system has
_COMMON = "/usr/share/common-licenses/Apache-2.0\n"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is built: the tree as it is, at one date, for one architecture.

    Attributes:
        architecture: Debian's name.
        date: of the commit, or SOURCE_DATE_EPOCH; a Unix time.
        maintainer: whoever builds the package, as DEBFULLNAME and DEBEMAIL say (devscripts' variables).
    """

    architecture: str
    date: int
    maintainer: str

    @cached_property
    def version(self) -> str:
        """Debian's version of the tree: ``0.2.0rc1`` comes before ``0.2.0``."""
        return re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", project()["version"])

    @property
    def moment(self) -> datetime:
        """The date, UTC."""
        return datetime.fromtimestamp(self.date, UTC)


def release(architecture: str) -> Release:
    """Return what this tree builds. Raises PackageError."""
    date = os.environ.get("SOURCE_DATE_EPOCH") or run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"])
    name = os.environ.get("DEBFULLNAME", "updog developers")
    address = os.environ.get("DEBEMAIL", "updog@packages.invalid")
    return Release(architecture=architecture, date=int(date), maintainer=f"{name} <{address}>")


def project() -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["project"]
    return found


def build_package(name: str, this: Release, out: Path, *, quick: bool = False) -> Path:
    """Build one package into ``out``, and return its path. Raises PackageError."""
    package = out / f"{name}_{this.version}_{this.architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="updog-package-") as folder:
        stage = Path(folder) / "stage"
        fields = {"version": this.version, "architecture": this.architecture, "maintainer": this.maintainer}
        _fill(stage, name, this)
        control = ControlFiles(folder=PACKAGING / name, fields=fields)
        build(stage, control, package, date=this.date, quick=quick)
    return package


def _fill(stage: Path, name: str, this: Release) -> None:
    """Put everything that a package installs into the folder ``stage``."""
    wheels = libraries(name, this.architecture)
    site = stage / SITE
    for wheel in wheels:
        _unpack(wheel, site)
    _add_own(site, name)
    licences = _licences(site)
    _prune(site)
    _strip(site, this.architecture)
    _compile(stage)
    if name == "updog":
        _add_interpreter(stage / ENVIRONMENT)
        for place, content in units.files().items():
            _write(stage / place, content)
        _write(stage / "etc/updog.toml", annotated_configuration.annotated().encode())
    for folder in FOLDERS[name]:
        (stage / folder).mkdir(parents=True)
    for program, (module, group) in PROGRAMS[name].items():
        text = _PROGRAM.format(environment=ENVIRONMENT, module=module)
        _write(stage / "usr/bin" / program, text.encode())
        for shell, place in _COMPLETIONS.items():
            words = ["completion", shell]
            script = CliRunner().invoke(group, words, prog_name=program, catch_exceptions=False)
            _write(stage / place.format(program), script.stdout_bytes)
    pages = man_pages.pages(this.moment)
    for page in _PAGES[name]:
        place = f"usr/share/man/man{page[-1]}/{page}.gz"
        _write(stage / place, compressed(pages[page].encode("ascii")))
    documents = stage / "usr/share/doc" / name
    _write(documents / "copyright", _copyright(licences).encode())
    _write(documents / "changelog.gz", compressed(_changelog(name, this).encode()))
    _write(documents / "NEWS.md.gz", compressed((ROOT / "CHANGELOG.md").read_bytes()))
    overrides = PACKAGING / name / "lintian-overrides"
    _write(stage / "usr/share/lintian/overrides" / name, overrides.read_bytes())


# -- the libraries


def libraries(name: str, architecture: str) -> list[Path]:
    """Return the wheels that a package contains; their hashes are pinned. Raises PackageError."""
    pins = PACKAGING / name / "requirements.txt"
    key = hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
    folder = ROOT / ".cache/packages" / f"{name}-{architecture}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            options = ["--no-deps", "--require-hashes", f"--requirement={pins}"]
            _download(architecture, Path(draft) / "wheels", *options)
            (Path(draft) / "wheels").rename(folder)
    return sorted(folder.glob("*.whl"))


def _download(architecture: str, folder: Path, *words: str) -> None:
    machine = ARCHITECTURES[architecture]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
    options = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    run([*pip, *options, f"--dest={folder}", *words])


def pin() -> None:
    """Write the requirements of each package: the newest versions that fit, with the hashes of all wheels."""
    own = project()
    known: set[str] = set()
    for name, extras in EXTRAS.items():
        wanted = [
            *own["dependencies"],
            *(each for extra in extras for each in own["optional-dependencies"][extra]),
        ]
        hashes: dict[str, set[str]] = {}
        for architecture in ARCHITECTURES:
            with tempfile.TemporaryDirectory() as folder:
                _download(architecture, Path(folder), *wanted)
                for wheel in Path(folder).glob("*.whl"):
                    library, version = wheel.name.split("-")[:2]
                    line = f"{library.replace('_', '-').lower()}=={version}"
                    hashes.setdefault(line, set()).add(hashlib.sha256(wheel.read_bytes()).hexdigest())
        text = "# Written by `tools/packages.py pin`: the libraries in the package, for all architectures.\n"
        for line, sums in sorted(hashes.items()):
            if line not in known:  # it is in a package that this one depends on
                text += "".join([line, *(f" \\\n    --hash=sha256:{each}" for each in sorted(sums)), "\n"])
        known |= hashes.keys()
        (PACKAGING / name / "requirements.txt").write_text(text, encoding="ascii")


def _unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel's modules; its scripts and data, which are for a command line, stay out."""
    shutil.unpack_archive(wheel, site, "zip")
    for folder in site.glob("*.data"):
        shutil.rmtree(folder)


def _add_own(site: Path, name: str) -> None:
    """Add the part of the project's own wheel that belongs to a package."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={folder}"], cwd=ROOT)
        (wheel,) = Path(folder).glob("*.whl")
        _unpack(wheel, Path(folder) / "tree")
        for path in sorted((Path(folder) / "tree").rglob("*")):
            place = path.relative_to(Path(folder) / "tree")
            is_publisher = place.parts[0] == "repo_tools" or str(place) in QEMU
            if path.is_file() and is_publisher == (name == "repo-tools"):
                _write(site / place, path.read_bytes())


def _prune(site: Path) -> None:
    """Leave of the wheels' own records what importlib.metadata reads: name and version; no tests."""
    for path in (path for name in _UNUSED for path in list(site.rglob(name))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in site.glob("*.dist-info"):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif path.name != "METADATA":
                path.unlink()


def _strip(site: Path, architecture: str) -> None:
    """Take the symbols for debuggers out of the compiled libraries: more than half of their bytes."""
    found = sorted(site.rglob("*.so"))
    sections = ["--remove-section=.comment", "--remove-section=.note"]
    run([f"{ARCHITECTURES[architecture]}-linux-gnu-strip", "--strip-unneeded", *sections, *found])


def _compile(stage: Path) -> None:
    """Compile every module, never to be compared with its source: images give all files one time."""
    options = ["-q", "--invalidation-mode=unchecked-hash", "-s", str(stage), "-p", "/"]
    run([_interpreter(), "-m", "compileall", *options, stage / SITE], environment={"PYTHONHASHSEED": "0"})


def _interpreter() -> Path:
    """Return a Python whose compiled modules the packages' one reads; Debian's own, if it is here."""
    system = Path(f"/usr/bin/python{PYTHON}")
    if system.exists():
        return system
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        return Path(sys.executable)
    raise PackageError(f"Python {PYTHON} is needed, whose compiled modules the packages contain")


def _add_interpreter(environment: Path) -> None:
    """Lay out a virtual environment (the documentation of site): Python finds its libraries by pyvenv.cfg."""
    _write(environment / "pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n")
    (environment / "bin").mkdir()
    (environment / "bin/python3").symlink_to(f"/usr/bin/python{PYTHON}")


# -- the documents


def _licences(site: Path) -> list[tuple[str, str]]:
    """Return the name of each library, with its version and home, and the text of its licence files."""
    found = []
    for folder in sorted(site.glob("*.dist-info")):
        text = (folder / "METADATA").read_text(encoding="utf-8")
        facts = email.parser.Parser(policy=email.policy.compat32).parsestr(text, headersonly=True)
        if facts["Name"] == project()["name"]:
            continue
        licence = facts["License-Expression"] or (facts["License"] or "").partition("\n")[0]
        title = " ".join(filter(None, (facts["Name"], facts["Version"], licence and f"({licence})")))
        own = (path for path in sorted(folder.rglob("*")) if path.is_file() and _is_licence(path))
        found.append((title, "\n".join(_licence(path) for path in own)))
    return found


def _is_licence(path: Path) -> bool:
    return path.name.upper().startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS"))


def _licence(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return _COMMON if _APACHE in text else text


def _copyright(licences: Iterable[tuple[str, str]]) -> str:
    parts = [
        "updog, signpost and repo-tools: signed A/B image updates.\n",
        "Copyright: the authors of updog.\nLicense: Apache-2.0; on Debian systems its text is in\n" + _COMMON,
        "The package contains these libraries for Python, without tests and symbols for debuggers:\n",
        *(f"== {title}\n\n{text.strip()}\n" for title, text in licences),
    ]
    return "\n".join(parts)


def _changelog(name: str, this: Release) -> str:
    return (
        f"{name} ({this.version}) unstable; urgency=medium\n\n"
        f"  * What is new: /usr/share/doc/{name}/NEWS.md.gz\n\n"
        f" -- {this.maintainer}  {format_datetime(this.moment)}\n"
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> int:
    """Read the command line, and build or pin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["build", "pin"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="packages to build (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the packages")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="default: that of this machine")
    options = parser.parse_args()
    try:
        if options.what == "pin":
            pin()
            return 0
        this = release(options.architecture or run(["dpkg", "--print-architecture"]).strip())
        for name in options.names or EXTRAS:
            package = build_package(name, this, options.out)
            size, installed = package.stat().st_size, run(["dpkg-deb", "--field", package, "Installed-Size"])
            print(f"{package}: {size / 1e6:.1f} MB, {int(installed) / 1024:.0f} MiB installed")
    except PackageError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
