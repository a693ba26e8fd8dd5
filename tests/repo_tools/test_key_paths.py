"""A relative path of a key on the command line starts at the current folder, whatever --repo is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.ceremonies import RepoTools, make_key
from tests.support.channels import add_channel
from tests.support.repositories import SmallRepository, make_repository, tree_digest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=[])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which has ``pems/own.pem``; the repository has no folder of that name."""
    folder = tmp_path / "desk"
    (folder / "pems").mkdir(parents=True)
    make_key(folder / "pems", "own")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tool(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> RepoTools:
    return RepoTools(repository.folder, capsys)


def _lines(tool: RepoTools, *words: object) -> list[str]:
    lines: list[str] = json.loads(tool.run(*words, "--json"))["signer_lines"]
    return [line.partition(" = ")[2] for line in lines]


def _public_key_line(tool: RepoTools, uri: str) -> str:
    return tool.run("root", "public-key", uri, "--signer-line").rstrip().partition(" = ")[2]


def test_every_command_reads_a_key_in_the_current_folder(
    repository: SmallRepository, tool: RepoTools, desk: Path
) -> None:
    line = f'"file2:{desk}/pems/own.pem"'
    assert _public_key_line(tool, "file2:pems/own.pem") == line
    assert _public_key_line(tool, "file2:pems/own.pem,pems/own.pub.pem") == line
    assert _lines(tool, "channel", "add", "dev", "--signer", "file2:pems/own.pem") == [line]
    tool.run("channel", "add", "x", "--signer", "file2:pems/own.pem", "--public-key", "pems/own.pub.pem")
    make_key(desk / "pems", "brake")
    words = ("brake", "add", "--channel", "dev", "--signer", "duty=file2:pems/brake.pem")
    assert _lines(tool, *words) == [f'"file2:{desk}/pems/brake.pem"']
    made = add_channel(repository, "lts", available=(True, False), threshold=2)
    shutil.copy(repository.folder / "keys" / "lts-2.pem", desk / "pems")
    tool.run("channel", "sign", made.pending, "--key", "file2:pems/lts-2.pem")
    tool.root("renew", "root-2.json")
    shutil.copy(repository.folder / "keys" / "root-1.pem", desk / "pems")
    tool.root("sign", "root-2.json", "--key", "file2:pems/root-1.pem", "--yes")
    tool.run("new", "other", "--signer", "targets=file2:pems/own.pem")
    assert f'"file2:{desk}/pems/own.pem"' in (desk / "other" / "repo.toml").read_text()


def test_a_printed_line_can_be_added_to_repo_toml_as_it_is(
    repository: SmallRepository, tool: RepoTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(repository.folder / "keys", "dev")
    monkeypatch.chdir(repository.folder / "keys")
    assert _lines(tool, "channel", "add", "dev", "--signer", "file2:dev.pem") == ['"file2:keys/dev.pem"']
    assert _public_key_line(tool, "file2:dev.pem") == '"file2:keys/dev.pem"'
    assert _public_key_line(tool, "envvar:KEY,dev.pub.pem") == '"envvar:KEY"'


def test_a_line_printed_where_no_repository_is_has_an_absolute_path(
    tool: RepoTools, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(desk / "pems", "dev")
    assert _public_key_line(RepoTools(desk, capsys), "file2:pems/dev.pem") == f'"file2:{desk}/pems/dev.pem"'
    words = ("channel", "add", "dev", "--signer", "file2:pems/none.pem", "--json")
    assert "root make-key" in json.loads(tool.run(*words, status=2))["error"]["next_step"]


def test_a_key_that_is_only_in_the_repository_is_found_there(
    repository: SmallRepository, tool: RepoTools, desk: Path
) -> None:
    make_key(repository.folder / "keys", "dev")
    assert desk.exists()
    for uri in ("file2:keys/dev.pem", "file2:keys/dev.pem,keys/dev.pub.pem"):
        assert _public_key_line(tool, uri) == '"file2:keys/dev.pem"'
    assert _lines(tool, "channel", "add", "dev", "--signer", "file2:keys/dev.pem") == ['"file2:keys/dev.pem"']
    words = ("brake", "add", "--channel", "dev", "--signer", "file2:keys/timestamp.pem")
    assert _lines(tool, *words) == []  # repo.toml names it already


def test_a_path_that_means_two_keys_is_refused(
    repository: SmallRepository, tool: RepoTools, desk: Path
) -> None:
    (repository.folder / "pems").mkdir()
    make_key(repository.folder / "pems", "own")
    before = tree_digest(repository.folder)
    uri = "file2:pems/own.pem"
    for words in (
        ("channel", "add", "dev", "--signer", uri),
        ("brake", "add", "--signer", uri),
        ("root", "public-key", uri),
    ):
        assert "and another one in" in tool.run(*words, "--json", status=2)
    assert tree_digest(repository.folder) == before
    (repository.folder / "pems" / "own.pem").unlink()
    (repository.folder / "pems" / "own.pem").symlink_to(desk / "pems" / "own.pem")
    tool.run("root", "public-key", uri)
