"""What is built and installed: the wheel's contents, and that no page leads to an unrelated package.

On the public Python index, `updog`, `signpost` and `repo-tools` are other people's projects; ours is called
`updog-ab`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
INSTALL_PAGE = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")

_OURS = r"(?:updog|signpost|repo[-_]tools)"
_INSTALLS = r"\b(?:pip3?|pipx|uv)[ ]+(?:\w+[ ]+)?(?:install|download|wheel|add|run)\b"
_STRANGER = re.compile(
    rf"(?<![\w./-]){_OURS}\[[a-z]"  # an extra of a name that does not belong to this project
    rf"|{_INSTALLS}[^\n`]*?[ \"']{_OURS}(?![\w/-]|\.\w)",  # an installer, later the name alone
    re.IGNORECASE,
)


def _files() -> Iterator[tuple[str, str]]:
    """Yield every text file of the project, new ones included: its path, its text."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _strangers(text: str) -> list[str]:
    return [match[0] for match in _STRANGER.finditer(re.sub(r"\\\n\s*", " ", text))]


@pytest.mark.parametrize(
    "text",
    [
        "pip install updog",
        "Run `pip install updog`.",
        "pip install 'updog[fleet]'",
        'dev = ["updog[fleet]"]',
        "venv/bin/pip install --quiet signpost",
        "python3 -m pip install -U repo-tools==0.1.0",
        "pip install boto3 'repo_tools>=0.1'",
        "pipx install updog",
        "uv pip install updog",
        "uv tool install updog",
        "pip download updog\n",
        "pip install \\\n    updog\n",
    ],
)
def test_the_search_finds(text: str) -> None:
    assert _strangers(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'updog-ab[fleet]'",
        "pip install dist/updog_ab-0.1.0-py3-none-any.whl",
        "pip install .\nupdog status",
        "/etc/updog[.toml]",
        "pip install --editable /srv/updog",
        "pip install -r updog.txt",
    ],
)
def test_the_search_passes_over(text: str) -> None:
    assert not _strangers(text)


def test_no_text_tells_anyone_to_install_a_strangers_package() -> None:
    found = {name: strangers for name, text in _files() if (strangers := _strangers(text))}
    assert found == {}


def test_whatever_names_the_distribution_to_pip_says_where_it_comes_from() -> None:
    asks = re.compile(r"pip3? install [^\n]*\bupdog[-_]ab\b")
    silent = [
        name for name, text in _files() if asks.search(text) and not re.search(r"wheel|own index", text)
    ]
    assert silent == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip does, without using an index."""
    folder = tmp_path_factory.mktemp("wheels")
    words = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def test_the_wheel_has_the_name_and_the_commands(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert wheel.name == f"updog_ab-{project['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        commands = archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["Name"] == "updog-ab"
    assert {line.split(" = ")[0] for line in commands.splitlines() if " = " in line} == set(
        project["scripts"]
    )
    required = [*(metadata.get_all("Requires-Dist") or [])]
    assert [line for line in required if re.match(rf"{_OURS}\b(?!-ab)", line)] == []


def test_the_wheel_has_all_of_the_packages_and_nothing_else(wheel: Path) -> None:
    tracked = {
        name.removeprefix("repo-tools/")
        for name, _ in _files()
        if name.startswith(("signpost/", "updog/", "repo-tools/repo_tools/"))
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == tracked


def test_a_type_checker_reads_the_installed_packages(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    shutil.unpack_archive(wheel, site, "zip")
    script = tmp_path / "script.py"
    script.write_text(
        "import repo_tools.trust.findings\nimport signpost.gptprio\nimport updog.update_metadata.content\n"
        "right: signpost.gptprio.Flags = signpost.gptprio.flags(0)\n"
        "wrong: str = signpost.gptprio.flags(0)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            f"--cache-dir={tmp_path / 'cache'}",
            f"--python-executable={tmp_path / 'venv/bin/python'}",
            str(script),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stdout
    assert "script.py:5: error: Incompatible types in assignment" in lines[0]


def test_wheels_with_hashes_install_without_an_index_and_only_unchanged(wheel: Path, tmp_path: Path) -> None:
    lock, install = _locking()
    (tmp_path / "wheels").mkdir()
    copy = tmp_path / "wheels" / wheel.name
    copy.write_bytes(wheel.read_bytes())
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_TARGET": str(tmp_path / "installed"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    def _run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )

    assert _run(lock).returncode == 0
    done = _run(install)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed/repo_tools/cli/__init__.py").exists()
    with copy.open("ab") as file:
        file.write(b"\0")
    refused = _run(install)
    assert refused.returncode != 0
    assert "do not match the hashes" in refused.stderr.lower()


def _locking() -> tuple[str, str]:
    """Return the page's scripts: write requirements.txt (without the download), and install."""
    section = INSTALL_PAGE.partition("\n## Install where signing keys are\n")[2]
    lock, install = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    first, _, loop = lock.partition("\n")
    assert first.startswith("pip wheel ")
    return loop, install


def test_other_pages_install_in_the_same_way() -> None:
    _, install = _locking()
    for name in ("keep-alive", "drill"):
        assert install.strip() in (ROOT / f"docs/how-to/{name}.md").read_text(encoding="utf-8"), name


def test_the_page_names_every_extra_that_people_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for_people = set(project["optional-dependencies"]) - {"dev", "fuzz"}
    assert set(re.findall(r"^\| `(\w+)` \|", INSTALL_PAGE, re.MULTILINE)) == for_people
