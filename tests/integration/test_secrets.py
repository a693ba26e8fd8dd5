"""A node whose URLs have passwords and tokens: none of them leaves the configuration file.

Real commands against a real server, in every way in which a request can end; what they print, to the journal
too, and every file that they write is searched for the secret.
"""

from __future__ import annotations

import logging
import stat
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import HttpServer, answer, redirect, unused_port
from tests.support.nodes import Node, make_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.http_server import Behaviour

    Run = Callable[..., str]

SECRET = "S3cretPw"
TOKEN = f"sv=1&sig={SECRET}%2Bx"
FORMS = (SECRET.encode(), b64encode(f"node:{SECRET}".encode()))  # as it is, and as a header has it


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.behave("outcome", answer(204))
        yield server


@pytest.fixture
def node(tmp_path: Path, server: HttpServer) -> Node:
    base = server.url(host=f"node:{SECRET}@127.0.0.1")
    node = make_node(
        tmp_path,
        metadata_base_url=f"{base}metadata?{TOKEN}",
        targets_base_url=f"{base}targets/?{TOKEN}",
        report_url=f"{base}outcome?token={SECRET}",
        metrics_file="metrics.prom",
        motd_file="motd",
        download_tries=1,
    )
    for kind in ("metadata", "targets"):
        for path in (node.repository.folder / kind).iterdir():
            server.files[f"{kind}/{path.name}"] = path.read_bytes()
    return node


@pytest.fixture
def run(node: Node, caplog: pytest.LogCaptureFixture) -> Run:
    """Return a function that runs a command and checks that the secret is in none of its output."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "repo_tools.copies.serve")  # the server of this test

    def run(*words: str, status: int = 0) -> str:
        caplog.clear()
        result = node.updog(*words)
        said = result.out + result.err + caplog.text
        assert result.status == status, said
        assert not any(form.decode() in said for form in FORMS)
        return said

    return run


def files_with_the_secret(node: Node) -> list[str]:
    return [
        path.name
        for path in node.folder.rglob("*")
        if path.is_file() and path != node.config and any(form in path.read_bytes() for form in FORMS)
    ]


def test_an_update_is_fetched_with_login_and_token_and_nothing_prints_them(
    node: Node, run: Run, server: HttpServer
) -> None:
    run("update")
    node.boot()
    run("confirm")
    for command in ("status", "history", "motd"):
        run(command)
        run(command, *(["--json"] if command != "motd" else []))
    fetched = [request for request in server.log if request.path != "outcome"]
    assert fetched
    assert all(request.headers["Authorization"].startswith("Basic ") for request in fetched)
    assert all(request.query["sig"] == f"{SECRET}+x" for request in fetched)
    (outcome,) = server.asked("outcome")
    assert outcome.query["token"] == SECRET
    assert files_with_the_secret(node) == []


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (answer(404), 5),
        (answer(403), 5),
        (answer(500), 5),
        (answer(200, body=b"x"), 4),
        (answer(200, {"Content-Encoding": "gzip"}, b"x"), 5),
        (redirect(f"ftp://node:{SECRET}@os.example/?X-Amz-Signature={SECRET}"), 5),
        (redirect(f"http://node:{SECRET}@127.0.0.1:1/?X-Amz-Signature={SECRET}"), 5),
        (redirect(f"http://node:{SECRET}@[::1/?X-Amz-Signature={SECRET}"), 5),
        (redirect(f"/again?X-Amz-Signature={SECRET}"), 5),
    ],
    ids=["404", "403", "500", "wrong", "encoded", "ftp", "refused", "invalid", "loop"],
)
@pytest.mark.parametrize("kind", ["metadata/timestamp.json", "targets"])
def test_a_failure_is_reported_without_the_secret(
    node: Node, run: Run, server: HttpServer, behaviour: Behaviour, status: int, kind: str
) -> None:
    for path in list(server.files):
        if path.startswith(kind):
            server.behave(path, behaviour)
    server.behave("again", behaviour)
    run("update", status=status)
    run("update", "--json", status=status)
    run("status")
    assert files_with_the_secret(node) == []


@pytest.mark.parametrize(
    "proxy",
    [
        "http://node:{secret}@127.0.0.1:{port}",
        "https://node:{secret}@127.0.0.1:{port}",
        "node:{secret}@127.0.0.1:{port}",
        "socks5h://node:{secret}@127.0.0.1:{port}",
        "http://node:{secret}€@127.0.0.1:{port}",
    ],
)
def test_a_proxy_is_named_without_its_password(node: Node, run: Run, proxy: str) -> None:
    node.configure(https_proxy=proxy.format(secret=SECRET, port=unused_port()))
    run("check-update", status=5)


def test_a_server_that_is_down_is_named_without_the_secret(node: Node, run: Run) -> None:
    base = f"http://node:{SECRET}@127.0.0.1:{unused_port()}"
    node.configure(metadata_base_url=f"{base}/metadata?{TOKEN}", report_url=f"{base}/outcome?token={SECRET}")
    assert "Connection refused" in run("check-update", status=5)
    node.boot()
    run("confirm")
    assert files_with_the_secret(node) == []


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "denies access"), (403, "denies access"), (511, "portal")]
)
def test_a_status_that_means_something_here_has_its_own_next_step(
    run: Run, server: HttpServer, status: int, advice: str
) -> None:
    server.behave("metadata/timestamp.json", answer(status))
    assert advice in run("check-update", status=5)


def test_a_redirect_to_another_host_gets_neither_login_nor_token(run: Run, server: HttpServer) -> None:
    with HttpServer({"timestamp.json": server.files["metadata/timestamp.json"]}) as other:
        server.behave("metadata/timestamp.json", redirect(other.url("timestamp.json")))
        run("check-update")
        (request,) = other.log
    assert "Authorization" not in request.headers
    assert request.query == {}


def test_the_state_file_is_for_its_owner_alone(node: Node, run: Run) -> None:
    run("update")
    assert stat.S_IMODE(node.state_file.stat().st_mode) == 0o600
