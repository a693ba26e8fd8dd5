"""`updog tuf` against the public TUF client conformance protocol, sentence by sentence of formats.md."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from signpost.console import run
from tests.support.http_server import HttpServer, answer, plain
from tests.support.tuf_repositories import TufRepository, in_days
from updog import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMESTAMP = "metadata/timestamp.json"
SUITE = "tuf_conformance"


class Client:
    """The client under test: three commands on one metadata folder and one target folder."""

    def __init__(self, folder: Path, server: HttpServer, root: bytes) -> None:
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self._server = server
        self._root = folder / "initial_root.json"
        self._root.write_bytes(root)
        self.said = ""

    def run(self, *words: str) -> int:
        """Run ``updog tuf``; all of its messages belong on stderr."""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = run(cli.program, ["tuf", "--metadata-dir", str(self.metadata), *words])
        self.said = err.getvalue()
        assert out.getvalue() == ""
        return status

    def init(self) -> int:
        return self.run("init", str(self._root))

    def refresh(self) -> int:
        return self.run("--metadata-url", self._server.url("metadata"), "refresh")

    def download(self, *names: str) -> int:
        words = [word for name in names for word in ("--target-name", name)]
        where = ["--target-base-url", self._server.url("targets"), "--target-dir", str(self.targets)]
        return self.run("--metadata-url", self._server.url("metadata"), *words, *where, "download")

    def downloaded(self) -> dict[str, bytes]:
        """Return every file of the target folder."""
        files = self.targets.rglob("*")
        return {str(path.relative_to(self.targets)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository({"a": b"first", "b": b"second", "folder/c.txt": b"third"})


@pytest.fixture
def server(repository: TufRepository) -> Iterator[HttpServer]:
    with HttpServer(repository.files) as server:
        yield server


@pytest.fixture
def client(tmp_path: Path, server: HttpServer, repository: TufRepository) -> Client:
    client = Client(tmp_path, server, repository.first_root)
    assert client.init() == 0
    return client


# -- init ----------------------------------------------------------------------------------------------


def test_init_takes_the_trusted_root_and_asks_nobody(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    assert (client.metadata / "root.json").read_bytes() == repository.first_root
    assert server.log == []


def test_init_with_a_root_that_is_none_is_1(tmp_path: Path, server: HttpServer) -> None:
    client = Client(tmp_path, server, b"nonsense")
    assert client.init() == 1
    assert re.search(r"the trusted root \S+ is not valid", client.said)


def test_init_with_a_file_that_is_not_there_is_1(tmp_path: Path, client: Client) -> None:
    assert client.run("init", str(tmp_path / "nothing.json")) == 1
    assert "nothing.json" in client.said


# -- refresh -------------------------------------------------------------------------------------------


def test_refresh_keeps_metadata_under_unversioned_names(client: Client, repository: TufRepository) -> None:
    repository.rotate("root")
    repository.publish()
    assert client.refresh() == 0
    kept = {path.name: path.read_bytes() for path in client.metadata.glob("*.json")}
    assert kept == {
        "root.json": repository.files["metadata/2.root.json"],
        "timestamp.json": repository.files[TIMESTAMP],
        "snapshot.json": repository.files["metadata/2.snapshot.json"],
        "targets.json": repository.files["metadata/2.targets.json"],
    }


def test_a_second_refresh_starts_from_the_root_of_init_and_fetches_nothing_again(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    repository.rotate("root", times=9)
    assert client.refresh() == 0
    server.log.clear()
    assert client.refresh() == 0
    assert server.paths == ["metadata/11.root.json", TIMESTAMP]


def test_refresh_before_init_is_1(tmp_path: Path, server: HttpServer, repository: TufRepository) -> None:
    client = Client(tmp_path, server, repository.first_root)
    assert client.refresh() == 1
    assert "run init first" in client.said


def test_refresh_without_an_url_is_1(client: Client) -> None:
    assert client.run("refresh") == 1


def test_refused_metadata_is_1_in_one_line_and_nothing_of_it_is_kept(
    client: Client, repository: TufRepository
) -> None:
    assert client.refresh() == 0
    kept = (client.metadata / "timestamp.json").read_bytes()
    repository.publish(expires=in_days(-1))
    assert client.refresh() == 1
    assert client.said.count("\n") == 1
    assert client.said.startswith("updog tuf: ")
    assert (client.metadata / "snapshot.json").read_bytes() == repository.files["metadata/1.snapshot.json"]
    assert len(kept) > 0


def test_a_repository_that_does_not_answer_is_1(client: Client, server: HttpServer) -> None:
    server.behave(TIMESTAMP, answer(404))
    assert client.refresh() == 1


# -- download ------------------------------------------------------------------------------------------


def test_a_download_refreshes_and_puts_the_target_into_the_folder(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    assert client.download("a") == 0
    assert client.downloaded() == {"a": b"first"}
    assert server.paths[-1] == repository.target_path("a", b"first")
    assert (client.metadata / "timestamp.json").exists()


def test_several_targets_are_taken_in_order_by_one_client(client: Client, server: HttpServer) -> None:
    assert client.download("b", "folder/c.txt", "a") == 0
    names = [path.rpartition(".")[2] for path in server.paths if path.startswith("targets/")]
    assert names == ["b", "txt", "a"]
    assert server.paths.count(TIMESTAMP) == 1


def test_a_download_stops_at_the_first_failure(client: Client, server: HttpServer) -> None:
    assert client.download("b", "missing", "a") == 1
    assert client.downloaded() == {"b": b"second"}
    assert len([path for path in server.paths if path.startswith("targets/")]) == 1
    assert "'missing'" in client.said


def test_a_target_that_is_there_with_the_right_hash_is_not_fetched_again(
    client: Client, server: HttpServer
) -> None:
    assert client.download("a", "b") == 0
    server.log.clear()
    assert client.download("a", "b") == 0
    assert server.paths == ["metadata/2.root.json", TIMESTAMP]


def test_a_target_that_changed_is_fetched_again_under_the_same_name(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    assert client.download("a", "b") == 0
    repository.put("a", b"first, revised")
    repository.publish()
    server.log.clear()
    assert client.download("a", "b") == 0
    assert client.downloaded() == {"a": b"first, revised", "b": b"second"}
    assert len([path for path in server.paths if path.startswith("targets/")]) == 1


def test_a_target_that_was_damaged_here_is_fetched_again(client: Client) -> None:
    assert client.download("a") == 0
    (client.targets / "a").write_bytes(b"f1rst")
    assert client.download("a") == 0
    assert client.downloaded() == {"a": b"first"}


@pytest.mark.parametrize("name", ["folder/c.txt", "../escape", "/etc/absolute", "a?b#c", "100% \u00fc"])
def test_no_name_leaves_the_target_folder(client: Client, repository: TufRepository, name: str) -> None:
    repository.put(name, b"content")
    repository.publish()
    before = {path for path in client.targets.parent.iterdir() if path != client.targets}
    client.download(name)
    assert {path for path in client.targets.parent.iterdir() if path != client.targets} == before
    assert all("/" not in found for found in client.downloaded())


@pytest.mark.parametrize(
    "content", [b"FIRST", b"firs", b"first and more", b""], ids=["wrong", "short", "long", "empty"]
)
def test_a_target_that_is_not_what_was_signed_is_1_and_not_kept(
    client: Client, repository: TufRepository, content: bytes
) -> None:
    """D51."""
    repository.files[repository.target_path("a", b"first")] = content
    assert client.download("a") == 1
    assert client.downloaded() == {}


def test_a_target_that_went_bad_leaves_the_good_one_in_place(
    client: Client, repository: TufRepository
) -> None:
    """D51."""
    assert client.download("a") == 0
    repository.put("a", b"newer")
    repository.files[repository.target_path("a", b"newer")] = b"WRONG"
    repository.publish()
    assert client.download("a") == 1
    assert client.downloaded() == {"a": b"first"}


def test_a_target_of_a_delegated_role_is_found(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    repository.delegate("stable", ["stable/*"])
    repository.put("stable/d", b"fourth", role="stable")
    repository.publish()
    assert client.download("stable/d") == 0
    assert client.downloaded() == {"stable%2Fd": b"fourth"}
    assert (client.metadata / "stable.json").exists()
    server.log.clear()
    assert client.download("stable/d") == 0
    assert server.paths == ["metadata/2.root.json", TIMESTAMP]


def test_a_download_that_breaks_off_is_continued(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    """D60."""
    path = repository.target_path("a", b"first")
    server.behave(path, plain(cut=2), plain())
    assert client.download("a") == 0
    assert [request.start for request in server.asked(path)] == [0, 2]


@pytest.mark.parametrize("missing", ["--target-name", "--target-base-url", "--target-dir"])
def test_a_download_without_what_it_needs_is_1_and_reports_it(
    client: Client, server: HttpServer, tmp_path: Path, missing: str
) -> None:
    given = {
        "--metadata-url": server.url("metadata"),
        "--target-name": "a",
        "--target-base-url": server.url("targets"),
        "--target-dir": str(tmp_path / "targets"),
    }
    words = [word for option, value in given.items() if option != missing for word in (option, value)]
    assert client.run(*words, "download") == 1
    assert missing in client.said
    assert server.log == []


# -- the public suite ----------------------------------------------------------------------------------

_KNOWN = """\
# Targets are signed with SHA-256 (other clients require it too); one with SHA-512 alone is refused in words.
test_download_with_hash_algorithms[hashes1]
"""


_SPEC = importlib.util.find_spec(SUITE)


@pytest.mark.skipif(_SPEC is None, reason=f"{SUITE} is not installed")
@pytest.mark.skipif(shutil.which("faketime") is None, reason="the public suite needs faketime")
def test_the_public_conformance_suite_passes(tmp_path: Path) -> None:
    """The suite of theupdateframework/tuf-conformance, which is not on the package index; some minutes."""
    entrypoint = tmp_path / "client"
    main = "from updog.cli import main; main()"
    script = f"#!/bin/sh\nexec '{sys.executable}' -c '{main}' tuf \"$@\"\n"
    entrypoint.write_text(script, encoding="utf-8")
    entrypoint.chmod(0o755)
    (tmp_path / "client.xfails").write_text(_KNOWN, encoding="utf-8")
    folders = _SPEC.submodule_search_locations if _SPEC else None
    words = [*(folders or []), "--entrypoint", str(entrypoint), "-q", "-p", "no:cacheprovider", "-n", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_the_hash_in_a_path_is_the_one_that_was_signed(repository: TufRepository) -> None:
    """Where targets are, according to the simulator, so that both sides cannot make the same mistake."""
    digest = hashlib.sha256(b"third").hexdigest()
    assert repository.target_path("folder/c.txt", b"third") == f"targets/folder/{digest}.c.txt"
