"""The loopback server: ranges as the RFC says, only the public folders, and how it starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import requests

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.copies.serve import listen
from repo_tools.errors import RepositoryUnreachableError
from repo_tools.trust.source import FolderSource, UrlSource, source_of
from signpost.console import run
from tests.support.repositories import make_repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    repository = make_repository(tmp_path_factory.mktemp("served") / "repo")
    (repository.folder / "targets" / "digits").write_bytes(b"0123456789")
    with repository.served() as url:
        yield url, repository.folder


@pytest.mark.parametrize(
    ("header", "status", "body", "place"),
    [
        (None, 200, b"0123456789", None),
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=3-1", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
def test_a_range_request_gets_its_bytes_or_the_whole_file(
    served: tuple[str, Path], header: str | None, status: int, body: bytes, place: str | None
) -> None:
    response = requests.get(
        f"{served[0]}/targets/digits", headers={"Range": header} if header else {}, timeout=60
    )
    assert (response.status_code, response.content) == (status, body)
    assert response.headers.get("Content-Range") == place


def test_if_range_with_another_etag_gives_the_whole(served: tuple[str, Path]) -> None:
    url = f"{served[0]}/targets/digits"
    head = requests.head(url, timeout=60)
    assert head.headers["Content-Length"] == "10"
    assert head.headers["Accept-Ranges"] == "bytes"
    same = requests.get(url, headers={"Range": "bytes=1-1", "If-Range": head.headers["ETag"]}, timeout=60)
    other = requests.get(url, headers={"Range": "bytes=1-1", "If-Range": '"other"'}, timeout=60)
    assert (same.status_code, other.status_code) == (206, 200)


@pytest.mark.parametrize(
    "path",
    [
        "/repo.toml",
        "/keys/targets.pem",
        "/",
        "/metadata",
        "/targets/",
        "/metadata/%2e%2e/repo.toml",
        "/.lock",
        "/targets/../repo.toml",
    ],
)
def test_nothing_but_the_public_files(served: tuple[str, Path], path: str) -> None:
    request = requests.Request("GET", served[0]).prepare()
    request.url = f"{served[0]}{path}"
    with requests.Session() as session:
        assert session.send(request, timeout=60).status_code == 404


def test_the_command_serves_until_interrupted(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    command = [
        sys.executable,
        "-m",
        "repo_tools.cli",
        "--repo",
        str(repository.folder),
        "serve",
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        assert requests.get(f"{url}/metadata/timestamp.json", timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0
    assert err == "ended\n"


def test_a_port_in_use_is_status_1(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    with listen(repository.folder) as server:
        port = str(server.server_address[1])
        assert run(cli, ["--repo", str(repository.folder), "serve", "--port", port]) == 1


def test_sources_say_what_is_not_there(served: tuple[str, Path]) -> None:
    for source in (UrlSource(served[0]), FolderSource(served[1])):
        assert source.read("targets/nothing", 10) is None
        assert source.blocks("targets/nothing") is None
        assert source.size("targets/nothing") is None
        assert source.read("targets/digits", 10) == b"0123456789"
        assert source.size("targets/digits") == 10
        with pytest.raises(RepositoryUnreachableError, match="longer than 9 bytes"):
            source.read("targets/digits", 9)
    assert isinstance(source_of(served[0]), UrlSource)
    assert isinstance(source_of(served[1]), FolderSource)
    assert FolderSource(served[1] / "nowhere").names("metadata") == []
    assert config.FILE not in (FolderSource(served[1]).names("targets") or [])
