"""One connection at a time: what no well-behaved client sends, and what every one may rely on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from signpost.text import printable
from tests.support.api_clients import Connection, RunningAgent, agent_of, configure_api
from tests.support.nodes import make_node
from tests.support.patience import eventually, slowness_of_this_run
from updog.api_keys import Grantee
from updog.daemon.api.access import Peer
from updog.daemon.api.exchange import MAX_BODY, MAX_HEAD, Request, Response
from updog.daemon.api.route import Right, Route
from updog.daemon.api.routes import Grants, Router

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = b"GET /v1 HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent with the product's limits; nothing that a client sends is a defect in its log."""
    node = make_node(tmp_path_factory.mktemp("patient"))
    configure_api(node)
    with agent_of(node) as running:
        yield running
        assert not running.says("Traceback")
        assert running.process.poll() is None


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent that waits for its clients for a short time."""
    node = make_node(tmp_path_factory.mktemp("impatient"))
    configure_api(node)
    seconds = 0.5 * slowness_of_this_run()
    limits = {f"updog.daemon.api.exchange:{name}_SECONDS": seconds for name in ("HEAD", "IDLE", "SEND")}
    with agent_of(node, limits=limits) as running:
        yield running
        assert not running.says("Traceback")


def is_served(agent: RunningAgent) -> bool:
    return agent.get("/v1").status == 200


# -- limits of time


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", GET + b"X: y", POST + b"Content-Length: 9\r\n\r\n", POST + b"Content-Length: 9\r\n\r\n{"],
    ids=["nothing", "a byte", "half a head", "no body", "half a body"],
)
def test_a_request_that_is_not_there_in_time_is_answered_408(impatient: RunningAgent, sent: bytes) -> None:
    with impatient.connect() as connection:
        connection.send(sent)
        reply = connection.reply()
        assert (reply.status, reply.code) == (408, "too-slow")
        assert reply.headers["connection"] == "close"
        assert connection.is_ended()


def test_a_byte_now_and_then_gives_no_more_time(impatient: RunningAgent) -> None:
    with impatient.connect() as connection:
        connection.send(GET + b"X: ")
        connection.socket.settimeout(0.05)
        for _ in range(10_000):
            connection.send(b"y")
            try:
                assert connection.socket.recv(12) == b"HTTP/1.1 408"
            except TimeoutError:
                continue
            break
        else:
            pytest.fail("it was waited for as long as something came")


def test_half_of_the_next_request_has_to_be_completed_too(impatient: RunningAgent) -> None:
    with impatient.connect() as connection:
        connection.send(GET + b"\r\n" + GET)
        assert connection.reply().status == 200
        assert connection.reply().status == 408


def test_a_client_that_asks_nothing_more_is_left_without_a_word(impatient: RunningAgent) -> None:
    with impatient.connect() as connection:
        assert connection.ask("GET", "/v1").status == 200
        assert connection.is_ended()


def test_a_client_that_does_not_read_is_left(impatient: RunningAgent) -> None:
    """What it asked for is more than fits: a server that waited for it would keep its thread for ever."""
    with impatient.connect() as connection:
        connection.send(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        assert eventually(connection.is_left)
    assert is_served(impatient)


# -- limits of size


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"y" * MAX_HEAD,
        GET + b"X: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        GET + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
        GET + b"X: y\r\n" * 3000 + b"\r\n",
        b"GET /v1?x=" + b"y" * MAX_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"y" * (MAX_HEAD + 1),
    ],
    ids=["unended", "just too much", "a megabyte", "many", "target", "no line"],
)
def test_a_head_that_is_too_large_is_answered_431(agent: RunningAgent, head: bytes) -> None:
    with agent.connect() as connection:
        connection.send(head)
        reply = connection.reply()
        assert (reply.status, reply.code) == (431, "head-too-large")
        assert connection.is_ended()


def test_a_head_of_the_largest_size_is_taken(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        head = GET + b"X: "
        connection.send(head + b"y" * (MAX_HEAD - len(head) - 4) + b"\r\n\r\n")
        assert connection.reply().status == 200


def test_many_small_requests_at_once_are_not_one_large_head(agent: RunningAgent) -> None:
    count = MAX_HEAD // len(GET)
    with agent.connect() as connection:
        connection.send((GET + b"\r\n") * count)
        assert {connection.reply().status for _ in range(count)} == {200}


CHUNK = b"1000\r\n" + b" " * 0x1000 + b"\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n",
        POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 1_000_000,
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 17,
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 300,
        b"HEAD /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
    ],
    ids=["one byte", "digits", "asks first", "sends all", "chunks", "more chunks", "HEAD"],
)
def test_a_body_that_is_too_large_is_answered_413(agent: RunningAgent, request_bytes: bytes) -> None:
    method = request_bytes.partition(b" ")[0].decode()
    with agent.connect() as connection:
        connection.send(request_bytes)
        assert connection.line().startswith(b"HTTP/1.1 413 "), "and not 100 before"
    with agent.connect() as connection:
        connection.send(request_bytes)
        reply = connection.reply(method)
        assert reply.headers["connection"] == "close"
        assert method == "HEAD" or reply.code == "body-too-large"
        assert connection.is_ended()


def test_a_body_of_the_largest_size_is_taken(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        body = b'{"do": "no such"' + b" " * (MAX_BODY - 17) + b"}"
        assert connection.ask("POST", "/v1/jobs", body, JSON).status == 400
        chunked = b"".join(b"1000\r\n%b\r\n" % body[at : at + 0x1000] for at in range(0, MAX_BODY, 0x1000))
        connection.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked + b"0\r\n\r\n")
        assert connection.reply().status == 400


# -- bodies


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_that_is_not_declared_as_json_is_answered_415(agent: RunningAgent, kind: str) -> None:
    with agent.connect() as connection:
        headers = {"Content-Type": kind} if kind else {}
        reply = connection.ask("POST", "/v1/jobs", b'{"do": "refresh"}', headers)
        assert (reply.status, reply.code) == (415, "not-json")
    assert agent.get("/v1/jobs").document == {"jobs": []}


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", " application/json "]
)
def test_json_may_be_declared_in_other_words(agent: RunningAgent, kind: str) -> None:
    with agent.connect() as connection:
        assert connection.ask("POST", "/v1/jobs", b"{}", {"Content-Type": kind}).status == 400


NO_JOBS = {
    "empty": b"",
    "blank": b" ",
    "cut": b'{"do": "refresh"',
    "more": b'{"do": "refresh"} {}',
    "list": b'[{"do": "refresh"}]',
    "text": b'"refresh"',
    "null": b"null",
    "nothing": b"{}",
    "other case": b'{"Do": "refresh"}',
    "unknown job": b'{"do": "refresh; reboot"}',
    "NUL": b'{"do": "refresh\\u0000"}',
    "number": b'{"do": 1}',
    "unknown member": b'{"do": "refresh", "force": true}',
    "foreign member": json.dumps({"do": "refresh", "\x1b[2J\n\u202e": 1}).encode(),
    "raw controls": b'{"do": "refresh", "\x1b[2J": 1}',
    "long member": b'{"do": "refresh", "%b": 1}' % (b"x" * 60_000),
    "long value": b'{"do": "%b"}' % (b"x" * 60_000),
    "not UTF-8": b'{"do": "\xff\xfe"}',
    "not UTF-8 at all": b"\xff\xfe\x00\x80",
    "UTF-16": '{"do": "refresh"}'.encode("utf-16"),
    "half a pair": b'{"do": "\\ud800"}',
    "deep": b"[" * 60_000,
    "deep in a member": b'{"do": "refresh", "x": %b%b}' % (b"[" * 30_000, b"]" * 30_000),
    "not a number": b'{"do": "install", "max_bytes": NaN}',
    "no bytes": b'{"do": "install", "max_bytes": 0}',
    "fewer": b'{"do": "install", "max_bytes": -1}',
    "half a byte": b'{"do": "install", "max_bytes": 1.5}',
    "too many bytes": b'{"do": "install", "max_bytes": 9223372036854775808}',
    "many digits": b'{"do": "install", "max_bytes": %b}' % (b"9" * 60_000),
    "true bytes": b'{"do": "install", "max_bytes": true}',
    "bytes as text": b'{"do": "install", "max_bytes": "1"}',
    "option as version": b'{"do": "install", "version": "1.0 --now"}',
    "version with a line": b'{"do": "install", "version": "1.0.0\\n"}',
    "empty version": b'{"do": "install", "version": ""}',
    "text as truth": b'{"do": "install", "ignore_waves": "yes"}',
    "no digest": b'{"do": "install", "accept_plan": "abc"}',
    "not taken": b'{"do": "revert", "version": "1.0.0"}',
}


@pytest.mark.parametrize("body", NO_JOBS.values(), ids=NO_JOBS)
def test_a_body_that_is_no_job_is_answered_400_in_one_printable_line(
    agent: RunningAgent, body: bytes
) -> None:
    with agent.connect() as connection:
        reply = connection.ask("POST", "/v1/jobs", body, JSON)
        assert (reply.status, reply.code) == (400, "usage")
        message = reply.document["error"]["message"]
        assert printable(message) == message
        assert "\n" not in message
        assert len(message) < 1000
        assert connection.ask("GET", "/v1/jobs").document == {"jobs": []}


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
@pytest.mark.parametrize("wish", ["permit", "postpone"])
def test_a_time_outside_the_calendar_is_answered_400(agent: RunningAgent, wish: str, until: str) -> None:
    assert agent.post(f"/v1/auto/{wish}", {"until": until}).status == 400


@pytest.mark.parametrize("until", ["2026-01-01T00:00:00", "soon", "", 0, "2020-01-01T00:00:00Z", None])
@pytest.mark.parametrize("wish", ["permit", "postpone"])
def test_a_time_that_is_none_or_over_is_answered_400(agent: RunningAgent, wish: str, until: object) -> None:
    assert agent.post(f"/v1/auto/{wish}", {"until": until}).status == 400


def test_a_postponement_beyond_seven_days_is_answered_400(agent: RunningAgent) -> None:
    reply = agent.post("/v1/auto/postpone", {"until": "2999-01-01T00:00:00Z"})
    assert reply.status == 400
    assert "7 days" in reply.document["error"]["message"]


@pytest.mark.parametrize(
    "reason", ["moving\x00racks", "moving\nracks", "\x1b[2Jmoving", "\u202egnivom", "r" * 1000, "\x7f"]
)
def test_what_a_client_says_is_kept_as_one_printable_line(agent: RunningAgent, reason: str) -> None:
    said = agent.post("/v1/auto/hold", {"reason": reason})
    assert said.status == 200
    sentence = said.document["sentence"]
    assert printable(sentence) == sentence
    assert "\n" not in sentence
    last = agent.get("/v1/history?limit=1000").document["events"][-1]
    assert (last["code"], last["sentence"]) == ("held-by-hand", sentence)
    assert len(sentence) < 500
    assert agent.ask("DELETE", "/v1/auto/hold").document["sentence"] == "Taken back: hold."
    assert agent.ask("DELETE", "/v1/auto/hold").document["sentence"] == "Nothing was asked for."


@pytest.mark.parametrize("reason", ["", " ", "r" * 1001, None, 1])
def test_a_hold_without_a_reason_or_with_a_novel_is_answered_400(agent: RunningAgent, reason: object) -> None:
    assert agent.post("/v1/auto/hold", {"reason": reason}).status == 400
    assert agent.get("/v1/status").document["auto"]["hold"] is None


# -- several requests


def test_requests_that_are_sent_at_once_are_answered_in_their_order(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        first = GET + b"\r\n" + POST + b"Content-Length: 2\r\n\r\n{}"
        others = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + b"HEAD /v1 HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.send(first + others + GET + b"\r\n")
        replies = [connection.reply(method) for method in ("GET", "POST", "GET", "HEAD", "GET")]
        assert [reply.status for reply in replies] == [200, 400, 404, 200, 200]
        assert replies[0].body == replies[4].body


def test_a_connection_is_kept_also_after_errors(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        for path, status in [("/v1", 200), ("/nothing", 404), ("/v1/history?limit=0", 400)] * 3:
            assert connection.ask("GET", path).status == status


def test_a_client_can_end_the_connection_with_its_request(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        assert connection.ask("GET", "/v1", headers={"Connection": "close"}).status == 200
        assert connection.is_ended()


@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_gets_its_answer_and_the_end(agent: RunningAgent, more: bytes) -> None:
    with agent.connect() as connection:
        connection.send(b"GET /v1 HTTP/1.0\r\n" + more + b"\r\n")
        assert connection.reply().document["api"] == 1
        assert connection.is_ended()


def test_events_for_http_1_0_come_without_chunks(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        connection.send(b"GET /v1/events HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n")
        response = connection.response()
        assert response.getheader("Transfer-Encoding") is None
        assert json.loads(response.readline())["event"] == "state"


@pytest.mark.parametrize("path", ["/v1", "/v1/status", "/v1/openapi.json", "/nothing", "/v1/decision"])
def test_head_has_the_head_of_get_and_nothing_else(agent: RunningAgent, path: str) -> None:
    with agent.connect() as connection:
        get, head = connection.ask("GET", path), connection.ask("HEAD", path)
        assert (head.status, head.headers) == (get.status, get.headers)
        assert head.body == b""
        assert connection.ask("GET", path).body == get.body, "nothing of a body is in the way"


def test_head_of_events_does_not_stream(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        reply = connection.ask("HEAD", "/v1/events", headers={"Connection": "close"})
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert connection.is_ended()


def test_a_body_is_asked_for_where_the_client_waits_for_that(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        connection.send(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.line() == b"HTTP/1.1 100 \r\n"
        assert connection.line() == b"\r\n"
        connection.send(b"{}")
        assert connection.reply().status == 400


def test_who_is_right_in_its_copy_is_told_so_in_a_few_bytes(agent: RunningAgent) -> None:
    tag = agent.get("/v1/status").headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        reply = agent.get("/v1/status", If_None_Match=known)
        assert (reply.status, reply.body, reply.headers) == (304, b"", {"etag": tag})
    assert agent.get("/v1/status", If_None_Match='"other"').status == 200


# -- what is no request


GARBAGE = {
    "TLS": bytes.fromhex("16030100c8010000c403035e") + os.urandom(100) + b"\r\n\r\n",
    "HTTP/0.9": b"GET /v1\r\n\r\n",
    "no version": b"GET /v1 FTP/1.1\r\n\r\n",
    "no host": b"GET /v1 HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no colon": GET + b"nothing\r\n\r\n",
    "blank in a name": GET + b"X : y\r\n\r\n",
    "NUL in a value": GET + b"X: \0\r\n\r\n",
    "control in the target": b"GET /v1/\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "blank in the target": b"GET /v1 /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw UTF-8 in the target": "GET /v1/ä HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "length in words": POST + b"Content-Length: two\r\n\r\n{}",
    "chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk that is longer": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "endless size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
    "endless trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 100_000,
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_request_is_answered_once_and_the_connection_ends(
    agent: RunningAgent, sent: bytes
) -> None:
    with agent.connect() as connection:
        connection.send(sent)
        reply = connection.reply()
        assert 400 <= reply.status < 500
        assert reply.code in {"not-http", "head-too-large"}
        assert reply.headers["connection"] == "close"
        assert connection.is_ended()
    assert is_served(agent)


def test_an_unknown_coding_is_answered_501(agent: RunningAgent) -> None:
    """RFC 9112 6.1."""
    with agent.connect() as connection:
        connection.send(POST + b"Transfer-Encoding: gzip\r\n\r\n{}")
        assert connection.reply().status == 501
        assert connection.is_ended()


@pytest.mark.parametrize(
    "sent",
    [b"G", GET, POST + b"Content-Length: 9\r\n\r\n{", GET + b"\r\n", GET + b"\r\n" + GET],
    ids=["head", "more head", "body", "answer", "next"],
)
def test_a_client_that_goes_away_in_the_middle_disturbs_nobody(agent: RunningAgent, sent: bytes) -> None:
    for _ in range(40):  # more than there may be clients
        with agent.connect() as connection:
            connection.send(sent)
    assert eventually(lambda: is_served(agent))


# -- paths


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/status", "GET, HEAD"),
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("PATCH", "/v1/jobs/x", "DELETE, GET, HEAD"),
        ("GET", "/v1/auto/hold", "DELETE, POST"),
        ("HEAD", "/v1/auto/hold", "DELETE, POST"),
        ("OPTIONS", "/v1", "GET, HEAD"),
        ("GET", "/actions/reboot", "POST"),
        ("BREW", "/v1", "GET, HEAD"),
        ("get", "/v1", "GET, HEAD"),
    ],
)
def test_another_method_is_answered_405_with_those_that_there_are(
    agent: RunningAgent, method: str, path: str, allowed: str
) -> None:
    reply = agent.ask(method, path)
    assert reply.status == 405
    assert reply.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/", "*", "/v2/status", "/v1/", "//v1", "/V1", "/v1/status/", "/v1//status", "/v1/../v1/status",
        "/v1/jobs/", "/v1/jobs/a/b", "/v1/jobs/a%2Fb", "/v1/status%00", "/v1/status%0A", "/v1/%2e%2e/v1",
        "/v1/openapi-json", "/%ff", "/v1/statu%E9", "/v1/status;x",
    ],
)  # fmt: skip
def test_another_path_is_answered_404(agent: RunningAgent, path: str) -> None:
    reply = agent.get(path)
    assert (reply.status, reply.code) == (404, "no-such-path")


@pytest.mark.parametrize("job_id", ["x", "%00", "%0a", "%ff", "..", "%e2%80%ae", "x" * 9000, "%25"])
def test_a_job_that_there_is_not_is_answered_404(agent: RunningAgent, job_id: str) -> None:
    for method in ("GET", "DELETE"):
        reply = agent.ask(method, f"/v1/jobs/{job_id}")
        assert (reply.status, reply.code) == (404, "no-such-job")


@pytest.mark.parametrize(
    "path", ["/%761", "/v1/%73tatus", "/v1?", "/v1?x=%ff&&=", "http://localhost/v1/status"]
)
def test_a_path_can_be_written_in_other_ways(agent: RunningAgent, path: str) -> None:
    """RFC 9112 3.2.2: a server must take the absolute form too, which proxies send."""
    assert agent.get(path).status == 200


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "", "x", "1e2", "+1", "%D9%A1", "01", "1&limit=0"])
def test_a_limit_that_makes_no_sense_is_answered_400(agent: RunningAgent, limit: str) -> None:
    reply = agent.get(f"/v1/history?limit={limit}")
    assert (reply.status, reply.code) == (400, "usage")


@pytest.mark.parametrize("after", ["", "x", "%00", "%ff", "x" * 10_000])
def test_an_event_that_is_not_known_is_a_gap(agent: RunningAgent, after: str) -> None:
    reply = agent.get(f"/v1/history?after={after}")
    assert reply.status == 200
    assert reply.document["gap"] is True


def test_pages_of_the_history_leave_nothing_out(agent: RunningAgent) -> None:
    for number in range(5):
        assert agent.post("/v1/auto/hold", {"reason": f"rack {number}"}).status == 200
    agent.ask("DELETE", "/v1/auto/hold")
    whole = agent.get("/v1/history?limit=1000").document
    found: list[Any] = []
    last = None
    while True:
        after = f"&after={last}" if last else ""
        page = agent.get(f"/v1/history?limit=2{after}").document
        assert page["gap"] is False
        if not page["events"]:
            break
        found += page["events"]
        last = page["last"]
    assert found == whole["events"]
    assert last == whole["last"] == found[-1]["id"]
    assert [event["sentence"][-7:] for event in found[-6:-1]] == [f"rack {number}." for number in range(5)]


def test_a_protocol_is_not_switched(agent: RunningAgent) -> None:
    with agent.connect() as connection:
        reply = connection.ask("GET", "/v1", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
        assert reply.status == 200
    with agent.connect() as connection:
        connection.send(b"CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.reply("CONNECT").status in {404, 405}


@pytest.mark.parametrize("is_text", [False, True])
def test_a_handler_that_fails_is_an_answer_with_status_500(
    caplog: pytest.LogCaptureFixture, *, is_text: bool
) -> None:
    """Without an answer a client cannot tell a defect from an agent that has ended."""

    def fail(*_: object) -> Response:
        raise ZeroDivisionError

    route = Route(method="GET", path="/x", right=Right.READ, handler=fail, answers={}, is_text=is_text)
    peer = Peer(pid=1, uid=1, gid=1, groups=frozenset())
    grants = Grants(by_right={Right.READ: [Grantee.parse("any")]})
    router = Router([route], node=None, grants=grants)  # type: ignore[arg-type]
    response = router.answer(Request(method="GET", path="/x", query={}, headers={}, body=b"", peer=peer))
    assert response.http == 500
    assert response.content_type.startswith("text/plain" if is_text else "application/json")
    assert "ZeroDivisionError" in caplog.text


def test_many_in_a_row_and_at_once(agent: RunningAgent) -> None:
    connections = [Connection(agent.socket) for _ in range(16)]
    try:
        for _ in range(5):
            for connection in connections:
                connection.send(GET + b"\r\n")
            assert [connection.reply().status for connection in connections] == [200] * 16
    finally:
        for connection in connections:
            connection.__exit__()
