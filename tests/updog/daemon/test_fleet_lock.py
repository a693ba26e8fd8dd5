"""The FleetLock client against models of its servers, and against everything else that may answer."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signpost.text import printable
from tests.support.certificates import Authority
from tests.support.fleet_lock_servers import (
    Airlock,
    BrokenServer,
    FleetLockServer,
    HeathcliffFleetlock,
    PoseidonFleetlock,
)
from tests.support.http_server import unused_port
from tests.support.nodes import CommandResult, command_line
from tests.support.patience import stretched, took_less
from updog.auto.policy import FleetLock
from updog.config import parse
from updog.daemon.fleet_lock import Answer, LockAnswer, Request, ask, identity, judged, zincati_id
from updog.errors import ConfigError
from updog.transport import HttpAnswer
from updog.url import WEB, Url

if TYPE_CHECKING:
    from threading import Event

    from repo_tools.copies.serve import LoopbackHandler
    from updog.config import Config

MACHINE, ZINCATIS = "1c09ca98649c4c7abc779cd04c96812e", "978a225b3d7b40e9acd7ce9b62f68444"
URL = "http://lock.example/v1/pre-reboot"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return config_with(tmp_path)


def config_with(folder: Path, *lines: str, machine: str = MACHINE) -> Config:
    (folder / "machine-id").write_text(f"{machine}\n")
    repository = "http://repository.example"
    given = [f'metadata_base_url = "{repository}/m"', f'targets_base_url = "{repository}/t"', *lines]
    return parse("\n".join([*given, 'machine_id = "machine-id"', "connect_timeout = 5"]), folder)


def lock_at(base_url: str, *, node: str = "zincati", seconds: float = 60, **others: Any) -> FleetLock:
    timeout = timedelta(seconds=stretched(seconds))
    return FleetLock(base_url=Url.parse(base_url, WEB), id=node, timeout=timeout, **others)


def asked(
    base_url: str, config: Config, request: Request = Request.LOCK, node: str = "zincati"
) -> LockAnswer:
    return ask(lock_at(base_url, node=node), config, request, {})


# -- the identity


@pytest.mark.parametrize("text", [MACHINE, f"{MACHINE}\n"])
def test_the_identity_is_zincatis(text: str) -> None:
    """Servers on Kubernetes find the Node of a request only through this formula."""
    assert zincati_id(text) == ZINCATIS


@pytest.mark.parametrize("text", ["", "uninitialized\n", MACHINE[:-1], MACHINE.upper(), "0" * 32, "é" * 32])
def test_what_is_not_a_machine_id_gives_no_identity(tmp_path: Path, text: str) -> None:
    config = config_with(tmp_path, machine=text)
    with pytest.raises(ConfigError, match="no identity for the fleet lock"):
        identity(lock_at("http://lock.example"), config)


def test_a_pipe_in_place_of_the_machine_id_is_not_waited_for(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    (tmp_path / "machine-id").unlink()
    os.mkfifo(tmp_path / "machine-id")
    with pytest.raises(ConfigError, match="not a regular file"):
        identity(lock_at("http://lock.example"), config)


def test_a_configured_identity_needs_no_machine_id(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    (tmp_path / "machine-id").unlink()
    assert identity(lock_at("http://lock.example", node="node-7"), config) == "node-7"


# -- what is sent


@pytest.mark.parametrize("path", ["", "/", "/base", "/base/", "/a/b-c"])
def test_the_paths_are_appended_to_the_base_url(config: Config, path: str) -> None:
    """Zincati joins URLs, and loses the last part of a base without a slash at its end."""
    with FleetLockServer(path=path.rstrip("/")) as server:
        base = server.base_url + ("/" if path.endswith("/") else "")
        assert asked(base, config).answer is Answer.YES
        assert asked(base, config, Request.UNLOCK).answer is Answer.YES
        root = path.rstrip("/")
        assert [one.path for one in server.log] == [f"{root}/v1/pre-reboot", f"{root}/v1/steady-state"]


def test_the_request_is_the_protocols_with_our_member_beside_it(config: Config) -> None:
    with FleetLockServer() as server:
        about = {"from": "1.0.0", "to": "1.1.0", "outcome": "confirmed"}
        ask(lock_at(server.base_url), config, Request.UNLOCK, about)
    (request,) = server.log
    assert request.headers["fleet-lock-protocol"] == "true"
    assert request.document == {"client_params": {"id": ZINCATIS, "group": "default"}, "updog": about}


def test_a_login_in_the_url_is_sent_and_never_printed(config: Config) -> None:
    with FleetLockServer() as server:
        base = server.base_url.replace("//", "//node:s3cret@")
        answer = asked(base, config)
        assert server.log[0].headers["Authorization"] == "Basic bm9kZTpzM2NyZXQ="
    failed = asked(base, config)
    assert (answer.answer, failed.answer) == (Answer.YES, Answer.FAILED)
    assert "s3cret" not in json.dumps([answer.to_document(), failed.to_document(), repr(lock_at(base))])


def test_the_proxy_is_used(tmp_path: Path) -> None:
    with FleetLockServer() as proxy, FleetLockServer() as server:
        key = f'https_proxy = "{proxy.base_url}"'
        asked(server.base_url, config_with(tmp_path, key))
        assert [one.path for one in proxy.log] == [f"{server.base_url}/v1/pre-reboot"]
        assert server.log == []
        direct = config_with(tmp_path, key, 'no_proxy = ["127.0.0.1"]')
        assert asked(server.base_url, direct).answer is Answer.YES
        assert len(proxy.log) == 1


# -- models of servers


@pytest.mark.parametrize("kind", [Airlock, PoseidonFleetlock, HeathcliffFleetlock])
def test_one_node_after_the_other_gets_the_lock(config: Config, kind: type[FleetLockServer]) -> None:
    with kind() as server:
        answers = [
            asked(server.base_url, config, request, node).answer
            for request, node in [
                (Request.LOCK, "one"),
                (Request.LOCK, "one"),  # idempotent
                (Request.LOCK, "two"),
                (Request.UNLOCK, "one"),
                (Request.UNLOCK, "one"),
                (Request.LOCK, "two"),
                (Request.UNLOCK, "two"),
            ]
        ]
        assert server.holders == {"default": set()}
    yes, no = Answer.YES, Answer.NO
    assert answers == [yes, yes, no, yes, yes, yes, yes]


def test_airlocks_500_is_a_no_with_its_words(config: Config) -> None:
    """Its content type is text/plain."""
    with Airlock() as server:
        asked(server.base_url, config, node="one")
        answer = asked(server.base_url, config, node="two")
    assert (answer.answer, answer.kind) == (Answer.NO, "failed_lock")
    assert answer.value == "all 1 semaphore slots currently locked"
    assert answer.value in answer.sentence


def test_a_node_that_just_started_is_steady_though_another_one_holds_poseidons_lease(config: Config) -> None:
    """Zincati waits until the other one is done."""
    with PoseidonFleetlock() as server:
        asked(server.base_url, config, node="one")
        answer = asked(server.base_url, config, Request.UNLOCK, "two")
        assert server.holders == {"default": {"one"}}
    assert (answer.answer, answer.kind) == (Answer.YES, "lock_held")
    assert "does not hold" in answer.sentence


def test_a_node_that_is_still_being_drained_waits(config: Config) -> None:
    """Zincati takes 202 for a yes, and restarts during the drain."""
    with HeathcliffFleetlock(drains=2) as server:
        answers = [asked(server.base_url, config) for _ in range(3)]
    assert [answer.answer for answer in answers] == [Answer.NO, Answer.NO, Answer.YES]
    assert "Ask again" in answers[0].sentence


@pytest.mark.parametrize("request_", list(Request))
def test_an_unknown_group_is_a_no_with_the_servers_words(request_: Request) -> None:
    body = b'{"kind": "unknown_group", "value": "unable to validate group"}'
    answer = judged(HttpAnswer(status=400, body=body), request_, URL)
    assert (answer.answer, answer.kind) == (Answer.NO, "unknown_group")


# -- everything else


@pytest.mark.parametrize(
    "status", [100, 201, 204, 206, 301, 302, 304, 307, 308, 400, 404, 409, 500, 503, 504]
)
@pytest.mark.parametrize("request_", list(Request))
def test_only_200_is_a_yes(status: int, request_: Request) -> None:
    answer = judged(HttpAnswer(status=status, body=b""), request_, URL)
    assert (answer.answer, answer.kind) == (Answer.FAILED, f"generic_http_{status}")


@pytest.mark.parametrize("status", [200, 202, 423, 500, 503])
def test_a_web_page_is_no_answer_whatever_its_status(status: int) -> None:
    """A captive portal answers for any server."""
    page = HttpAnswer(status=status, body=b"\n<!DOCTYPE html><html>log in</html>")
    for request in Request:
        answer = judged(page, request, URL)
        assert answer.answer is Answer.FAILED
        assert "web page" in answer.sentence


def test_423_at_steady_state_is_a_yes_only_with_the_kind_of_the_protocol() -> None:
    for body in (b"", b"{}", b'{"kind": "other", "value": "x"}', b"lock_held", b'["lock_held"]'):
        assert judged(HttpAnswer(status=423, body=body), Request.UNLOCK, URL).answer is Answer.NO
    held = b'{"kind": "lock_held", "value": "x"}'
    assert judged(HttpAnswer(status=423, body=held), Request.LOCK, URL).answer is Answer.NO


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["same host", "other host"])
def test_a_redirect_is_not_followed(config: Config, status: int, to: str) -> None:
    with FleetLockServer(path="/moved") as other:

        def redirect(handler: LoopbackHandler, _closing: Event) -> None:
            place = "/moved" if to == "same host" else other.base_url.replace("//", "//user:s3cret@")
            handler.send_head(status, {"Location": f"{place}/v1/pre-reboot", "Content-Length": "0"})

        with BrokenServer(redirect) as server:
            answer = asked(server.base_url, config)
            assert len(server.log) == 1
        assert other.log == []
    assert answer.answer is Answer.FAILED
    assert "not followed" in answer.sentence
    assert "s3cret" not in answer.sentence


def _answer(handler: LoopbackHandler, status: int, body: bytes) -> None:
    handler.send_head(status, {"Content-Length": str(len(body))})
    handler.wfile.write(body)


def test_a_server_that_is_down_gives_no_answer(config: Config) -> None:
    answer = asked(f"http://127.0.0.1:{unused_port()}", config)
    assert (answer.answer, answer.kind) == (Answer.FAILED, "client_failed_request")
    assert "cannot be reached" in answer.sentence


def test_a_slow_server_is_waited_for_only_until_the_time_out(config: Config) -> None:
    def stall(_handler: LoopbackHandler, closing: Event) -> None:
        closing.wait()

    with BrokenServer(stall) as server:
        began = time.monotonic()
        answer = ask(lock_at(server.base_url, seconds=1), config, Request.LOCK, {})
        assert took_less(began, 20)
    assert answer.answer is Answer.FAILED


def test_a_server_that_drains_within_the_time_out_gives_the_lock(config: Config) -> None:
    def drain(handler: LoopbackHandler, closing: Event) -> None:
        closing.wait(1)
        _answer(handler, 200, b"")

    with BrokenServer(drain) as server:
        assert asked(server.base_url, config).answer is Answer.YES


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "by proxy"])
def test_a_silent_connection_is_kept_alive(tmp_path: Path, *, proxied: bool) -> None:
    """Routers forget a silent connection, some after six minutes; a drain takes longer."""
    timers: list[str] = []

    def look(handler: LoopbackHandler, _closing: Event) -> None:
        port = handler.client_address[1]
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        timers.extend(row[5] for row in rows if row[1].endswith(f":{port:04X}"))
        _answer(handler, 200, b"")

    with BrokenServer(look) as server:
        config = config_with(tmp_path, *([f'https_proxy = "{server.base_url}"'] if proxied else []))
        assert asked("http://lock.example" if proxied else server.base_url, config).answer is Answer.YES
    assert [timer[:2] for timer in timers] == ["02"], "proc_net_tcp: 02 is a keepalive timer"


def test_a_head_without_an_end_of_its_body_is_a_yes_after_the_time_out(config: Config) -> None:
    """200 is the yes; the body may only show that it came from another server."""

    def stall(handler: LoopbackHandler, closing: Event) -> None:
        handler.send_head(200, {"Content-Length": "10"})
        handler.wfile.write(b"ok")
        closing.wait()

    with BrokenServer(stall) as server:
        answer = ask(lock_at(server.base_url, seconds=1), config, Request.LOCK, {})
    assert answer.answer is Answer.YES


@pytest.mark.parametrize("status", [200, 500])
def test_a_huge_body_is_read_only_in_part(config: Config, status: int) -> None:
    sent = 0

    def flood(handler: LoopbackHandler, closing: Event) -> None:
        nonlocal sent
        handler.send_head(status, {"Connection": "close"})
        while not closing.is_set():
            sent += handler.wfile.write(b" " * 65536) or 65536

    with BrokenServer(flood) as server:
        answer = asked(server.base_url, config)
    assert answer.answer is (Answer.YES if status == 200 else Answer.FAILED)
    assert sent < 64 << 20, "it was cut off"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_is_cut_gives_no_answer(config: Config, *, reset: bool) -> None:
    def cut(handler: LoopbackHandler, _closing: Event) -> None:
        handler.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()

    with BrokenServer(cut) as server:
        answer = asked(server.base_url, config)
        assert len(server.log) == 1, "it is not sent again"
    assert (answer.answer, answer.kind) == (Answer.FAILED, "client_failed_request")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xff\xfe\x00bad", Answer.FAILED),
        (b'{"kind": "failed_lock", "value": "caf\xe9 \x1b[2J"}', Answer.NO),
        (b"[" * 60_000, Answer.FAILED),
        (b'{"kind": ["x"], "value": 1}', Answer.FAILED),
        (b'{"kind": "", "value": "x"}', Answer.FAILED),
        (b'{"kind": "failed_lock"', Answer.FAILED),
        (
            b'{"kind": "k\\u001b]0;x\\u0007' + b"k" * 500 + b'", "value": "\\ud800' + b"v" * 5000 + b'"}',
            Answer.NO,
        ),
    ],
    ids=["not text", "not UTF-8", "deep", "other types", "empty kind", "cut", "long, with orders"],
)
def test_any_body_gives_a_short_printable_answer(config: Config, body: bytes, expected: Answer) -> None:
    with BrokenServer(lambda handler, _closing: _answer(handler, 500, body)) as server:
        answer = asked(server.base_url, config)
    assert answer.answer is expected
    for text in answer.to_document().values():
        assert printable(text) == text
        assert len(text) < 700
    assert len(answer.kind) <= 65
    assert bool(answer.kind)


def test_a_lock_of_another_node_is_not_ours_whatever_bytes_name_it() -> None:
    body = b'{"kind": "lock_held", "value": "held by caf\xe9"}'
    answer = judged(HttpAnswer(status=423, body=body), Request.UNLOCK, URL)
    assert (answer.answer, answer.kind) == (Answer.YES, "lock_held")


KNOWN = (200, 202, 204, 400, 404, 423, 500, 503)
BODIES = (b"", b'{"kind": "lock_held", "value": "x"}', b'{"kind": "failed_lock", "value": "x"}')


@given(
    status=st.sampled_from(KNOWN) | st.integers(100, 599),
    body=st.sampled_from(BODIES) | st.binary(max_size=300),
    request=st.sampled_from(Request),
)
def test_no_answer_but_200_and_not_ours_is_ever_a_yes(status: int, body: bytes, request: Request) -> None:
    answer = judged(HttpAnswer(status=status, body=body), request, URL)
    if answer.answer is Answer.YES:
        assert status == 200 or (status == 423 and request is Request.UNLOCK and b"lock_held" in body)
    assert LockAnswer.from_document(json.loads(json.dumps(answer.to_document()))) == answer


@pytest.mark.parametrize("document", [None, [], {}, {"answer": "yes"}, {"answer": "yes", "sentence": 1}])
def test_what_is_no_document_of_the_command_is_an_error(document: object) -> None:
    with pytest.raises(ValueError, match="not an answer of the fleet lock"):
        LockAnswer.from_document(document)


def test_an_answer_that_the_protocol_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="'maybe' is not a valid Answer"):
        LockAnswer.from_document({"answer": "maybe", "sentence": "x", "kind": "", "value": ""})


# -- TLS


def test_tls_with_a_certificate_authority_of_its_own(tmp_path: Path, config: Config) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with FleetLockServer(tls=authority.serving()) as server:
        assert (
            ask(lock_at(server.base_url, ca_file=authority.file), config, Request.LOCK, {}).answer
            is Answer.YES
        )
        refused = ask(lock_at(server.base_url, ca_file=other.file), config, Request.LOCK, {})
        assert refused.answer is Answer.FAILED
        assert "certificate verify failed" in refused.sentence
        assert "ca_file" in refused.next_step


def test_a_client_certificate_is_presented_only_where_the_lock_has_one(tmp_path: Path) -> None:
    """That of the repository is for the repository."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node", host="node.example")
    own: dict[str, Any] = {"client_certificate": certificate, "client_key": key}
    config = config_with(tmp_path, *(f'{name} = "{path}"' for name, path in own.items()))
    with FleetLockServer(tls=authority.serving(clients=authority.file)) as server:
        without = lock_at(server.base_url, ca_file=authority.file)
        assert ask(without, config, Request.LOCK, {}).answer is Answer.FAILED
        with_it = lock_at(server.base_url, ca_file=authority.file, **own)
        assert ask(with_it, config_with(tmp_path), Request.LOCK, {}).answer is Answer.YES


# -- the command


def command(folder: Path, base_url: str, *words: str) -> CommandResult:
    """Run the command with a configuration file."""
    config_with(folder)
    lock = f'[auto.fleet_lock]\nbase_url = "{base_url}"\n' if base_url else ""
    repository = "http://repository.example"
    (folder / "updog.toml").write_text(
        f'metadata_base_url = "{repository}/m"\ntargets_base_url = "{repository}/t"\n'
        f'machine_id = "machine-id"\n{lock}'
    )
    return command_line(["--config", str(folder / "updog.toml"), "fleet-lock", *words])


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_ends_with_the_status_of_the_answer(tmp_path: Path, *, as_json: bool) -> None:
    words = ["--json"] if as_json else []
    with Airlock() as server:
        server.holders["default"] = {"other"}
        no = command(tmp_path, server.base_url, "lock", "--from", "1.0.0", "--to", "1.1.0", *words)
        assert server.log[0].document["updog"] == {"from": "1.0.0", "to": "1.1.0"}
        server.holders.clear()
        yes = command(tmp_path, server.base_url, "lock", *words)
        assert server.holders == {"default": {ZINCATIS}}
        done = command(tmp_path, server.base_url, "unlock", "--outcome", "fell back", *words)
        assert server.log[-1].document["updog"] == {"outcome": "fell back"}
        assert server.holders == {"default": set()}
    failed = command(tmp_path, server.base_url, "lock", *words)
    ran = [no, yes, done, failed]
    assert [one.status for one in ran] == [3, 0, 0, 5]
    assert "all 1 semaphore slots" in no.err
    assert "Traceback" not in failed.err
    if as_json:
        answers = [LockAnswer.from_document(one.document).answer for one in ran]
        assert answers == [Answer.NO, Answer.YES, Answer.YES, Answer.FAILED]
    else:
        assert [one.out for one in ran] == [
            "",
            "The fleet lock was given.\n",
            "The fleet lock is released.\n",
            "",
        ]


@pytest.mark.parametrize("word", ["lock", "unlock"])
def test_without_a_fleet_lock_the_command_is_wrong_usage(tmp_path: Path, word: str) -> None:
    said = command(tmp_path, "", word)
    assert said.status == 2
    assert "no fleet lock is configured" in said.err
    assert "[auto.fleet_lock]" in said.err


def test_the_daemon_can_load_the_client_without_what_its_child_needs() -> None:
    code = "import sys; import updog.daemon.fleet_lock; print(*sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    heavy = {"tuf", "requests", "ssl", "cryptography", "rich", "click", "hashlib", "updog.agent"}
    assert not heavy & set(loaded.stdout.split())
