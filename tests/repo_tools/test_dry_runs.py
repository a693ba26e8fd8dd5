"""A dry run reports what the command would do, refuses what the command refuses, and writes nothing."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from repo_tools.cli import cli
from signpost.console import run
from tests.support.ceremonies import RepoTools, make_key
from tests.support.channels import add_channel
from tests.support.repositories import ARCH, VARIANT, SmallRepository, make_repository, tree_digest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", waves="default")


@pytest.fixture
def tool(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> RepoTools:
    return RepoTools(repository.folder, capsys)


def _publish(repository: SmallRepository, version: str, *words: str) -> int:
    images = repository.synthesize(version)
    files = ["--boot", str(images.boot), "--root", str(images.root), "--hash", str(images.hash)]
    family = ["--variant", VARIANT, "--arch", ARCH, "--version", version]
    return run(cli, ["--repo", str(repository.folder), "publish", *family, *files, "--dry-run", *words])


def test_publish_says_what_it_would_do(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(repository.folder)
    assert _publish(repository, "1.1.0", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == "1.1.0"
    assert document["deltas_from"] == ["1.0.0"]
    assert len(document["images"]) == 3
    assert document["dry_run"] is True
    assert _publish(repository, "1.1.0") == 0
    assert "would publish 1.1.0" in capsys.readouterr().out
    assert tree_digest(repository.folder) == before


def test_a_dry_run_of_publish_refuses_what_publish_refuses(repository: SmallRepository) -> None:
    assert _publish(repository, "1.0.0") == 2
    (repository.folder / "keys" / "snapshot.pem").unlink()
    assert _publish(repository, "1.1.0") == 2


def test_refresh_says_what_it_would_sign(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_digest(repository.folder)
    repo = ["--repo", str(repository.folder), "refresh", "--dry-run"]
    assert run(cli, [*repo, "--within", "8d"]) == 0
    assert capsys.readouterr().out == "would sign timestamp 3\n"
    assert run(cli, repo) == 3
    assert run(cli, [*repo, "--clock-is-right"]) == 2
    assert tree_digest(repository.folder) == before


@pytest.mark.parametrize("within", ["8d", "100d"])
def test_refresh_would_sign_what_it_then_signs(
    repository: SmallRepository, tool: RepoTools, within: str
) -> None:
    before = tree_digest(repository.folder)
    planned = json.loads(tool.run("refresh", "--dry-run", "--within", within, "--json"))
    assert tree_digest(repository.folder) == before
    done = json.loads(tool.run("refresh", "--within", within, "--json"))
    assert planned == {"would_sign": list(done["metadata"]), "dry_run": True, **done}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_refresh_would_fail_where_it_then_fails(
    repository: SmallRepository, tool: RepoTools, role: str
) -> None:
    """A key that is not due itself is needed all the same: a new role is listed by new metadata."""
    (repository.folder / "keys" / f"{role}.pem").unlink()
    before = tree_digest(repository.folder)
    words = ("refresh", "--within", "100d", "--json")
    planned = json.loads(tool.run(*words, "--dry-run", status=2))
    assert planned["error"]["code"] == "signing-key"
    assert json.loads(tool.run(*words, status=2)) == planned
    assert tree_digest(repository.folder) == before


def test_root_publish_says_what_it_would_publish_and_sign(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path
) -> None:
    pem, file = make_key(tmp_path, "new"), tmp_path / "root-2.json"
    words = ("rotate", file, "timestamp", "timestamp", pem.with_suffix(".pub.pem"), "--role", "timestamp")
    tool.root(*words)
    assert tool.error("publish", file, "--dry-run", status=1) == "proposal-incomplete"
    tool.sign(file, *(repository.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    assert tool.error("publish", file, "--dry-run", status=1) == "threshold"
    tool.add_signer(pem)
    before = tree_digest(repository.folder)
    document = tool.root_json("publish", file, "--dry-run")
    assert document["dry_run"] is True
    said = tool.root("publish", file, "--dry-run")
    assert said.startswith("would publish ")
    assert "would sign root 2, timestamp 3" in said
    assert tree_digest(repository.folder) == before
    assert tool.root_json("publish", file)["metadata"] == document["metadata"]
    assert tool.error("publish", file, "--dry-run", status=3) == "nothing-to-do"


def test_channel_add_says_whether_the_channel_would_exist(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path
) -> None:
    own, other = make_key(tmp_path, "dev"), make_key(tmp_path, "boris")
    before = tree_digest(repository.folder)
    words = ("channel", "add", "dev", "--signer", f"file2:{own}")
    said = tool.run(*words, "--dry-run")
    assert said.startswith("would add dev\nwould sign targets ")
    threshold = ("--public-key", other.with_suffix(".pub.pem"), "--threshold", "2", "--dry-run")
    assert "/pending/dev-1.json: 1 of 2 signatures" in tool.run(*words, *threshold, status=3)
    document = json.loads(tool.run(*words, "--dry-run", "--json"))
    assert document["dry_run"] is True
    assert tree_digest(repository.folder) == before
    assert json.loads(tool.run(*words, "--json"))["metadata"] == document["metadata"]
    tool.run(*words, "--dry-run", status=2)


def test_a_brake_says_what_it_would_hold_and_release(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path
) -> None:
    pem = make_key(tmp_path, "duty")
    added = json.loads(tool.run("brake", "add", "--signer", f"file2:{pem}", "--json"))
    (line,) = added["signer_lines"]
    settings = repository.folder / "repo.toml"
    settings.write_text(f"{settings.read_text()}\n{line}\n")
    for command, effect in (("hold", "no other node takes it"), ("release", "it is open to")):
        before = tree_digest(repository.folder)
        document = json.loads(tool.run("brake", command, "1.0.0", "--dry-run", "--json"))
        assert document["dry_run"] is True
        said = tool.run("brake", command, "1.0.0", "--dry-run")
        assert said.startswith(f"would brake {command} 1.0.0")
        assert effect in said
        assert "would sign brake" in said
        pem.rename(tmp_path / "away")
        tool.run("brake", command, "1.0.0", "--dry-run", status=2)
        (tmp_path / "away").rename(pem)
        assert tree_digest(repository.folder) == before
        assert json.loads(tool.run("brake", command, "1.0.0", "--json"))["metadata"] == document["metadata"]
        tool.run("brake", command, "1.0.0", "--dry-run", status=3)


def test_channel_finish_says_what_it_would_publish(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path
) -> None:
    file = add_channel(repository, "lts", available=(True, False), threshold=2).pending
    assert file is not None
    before = tree_digest(repository.folder)
    assert "1 of 2 signatures" in tool.run("channel", "finish", file, "--dry-run", status=3)
    assert tree_digest(repository.folder) == before
    copy = tmp_path / "signed.json"
    shutil.copy(file, copy)
    tool.run("channel", "sign", copy, "--key", f"file2:{repository.folder}/keys/lts-2.pem")
    document = json.loads(tool.run("channel", "finish", copy, "--dry-run", "--json"))
    assert document["dry_run"] is True
    assert "would sign targets" in tool.run("channel", "finish", copy, "--dry-run")
    assert tree_digest(repository.folder) == before
    assert json.loads(tool.run("channel", "finish", copy, "--json"))["metadata"] == document["metadata"]


@pytest.mark.parametrize("name", ["bundle.tar", "bundle"])
def test_bundle_export_and_import_say_what_they_would_write(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path, name: str
) -> None:
    place, folder = tmp_path / name, tmp_path / "copy"
    before = tree_digest(tmp_path)
    words = ("bundle", "export", place, "--from", "1.0.0")
    assert tool.run(*words, "--dry-run").startswith(f"would create {place}: ")
    tool.run("bundle", "export", place, "--variant", "nobody", "--dry-run", status=2)
    assert tree_digest(tmp_path) == before
    tool.run(*words)
    before = tree_digest(tmp_path)
    import_words = ("bundle", "import", place, folder)
    tool.run(*import_words, "--dry-run", status=1)  # no root is trusted yet
    trusted = ("--trusted-root", repository.folder / "metadata" / "1.root.json")
    assert tool.run(*import_words, *trusted, "--dry-run").startswith(f"{folder} would have timestamp ")
    assert tree_digest(tmp_path) == before


def test_mirror_says_what_it_would_fetch_and_remove(
    repository: SmallRepository, tool: RepoTools, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    trusted = ("--trusted-root", repository.folder / "metadata" / "1.root.json")
    words = ("mirror", repository.folder, folder)
    planned = json.loads(tool.run(*words, *trusted, "--dry-run", "--json"))
    assert planned.pop("dry_run") is True
    assert not folder.exists()
    done = json.loads(tool.run(*words, *trusted, "--json").splitlines()[-1])
    assert {"event": "result", **planned} == done
    stray = folder / "targets" / "stray"
    stray.write_text("x")
    before = tree_digest(folder)
    assert "would remove 1 targets" in tool.run(*words, "--delete", "--dry-run")
    assert tree_digest(folder) == before
    assert json.loads(tool.run(*words, "--delete", "--json").splitlines()[-1])["removed"] == ["targets/stray"]
