"""Long work prints one line a phase off a terminal, and with `--quiet` its result only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from signpost.console import run
from tests.support.repositories import ARCH, VARIANT, SmallRepository, make_repository

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"])


def _commands(repository: SmallRepository, place: Path) -> list[tuple[list[str], set[str]]]:
    """Return commands with long work, each with the phases that it has."""
    images = repository.synthesize("1.2.0")
    files = ["--boot", str(images.boot), "--root", str(images.root), "--hash", str(images.hash)]
    release = ["--variant", VARIANT, "--arch", ARCH, "--version", "1.2.0", *files, "--level", "1"]
    trusted = ["--trusted-root", str(repository.folder / "metadata" / "1.root.json")]
    return [
        (["publish", *release], {"compress", "delta"}),
        (["validate"], {"check"}),
        (["push", str(place / "www")], {"upload"}),
        (["mirror", str(repository.folder), str(place / "mirror"), *trusted], {"fetch"}),
        (["bundle", "export", str(place / "bundle.tar")], {"export"}),
        (["bundle", "import", str(place / "bundle.tar"), str(place / "copy"), *trusted], {"fetch"}),
        (["disk", "create", str(place / "disk.img"), "--version", "1.0.0"], {"write"}),
    ]


@pytest.mark.parametrize("words", [[], ["--quiet"], ["-q", "--json"]], ids=" ".join)
def test_long_work_prints_a_line_a_phase_or_nothing(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "www").mkdir()
    for command, phases in _commands(repository, tmp_path):
        capsys.readouterr()
        ended = run(cli, ["--repo", str(repository.folder), *command, *words])
        said = capsys.readouterr()
        assert ended == 0, (command, said)
        lines = [line for line in said.err.splitlines() if not line.startswith("repo-tools: ")]
        if words:
            assert lines == [], command
        else:
            assert sorted(line.partition(" ")[0] for line in lines) == sorted(phases), (command, lines)
        if "--json" in words:
            assert [json.loads(line)["event"] for line in said.out.splitlines()] == ["result"], command
