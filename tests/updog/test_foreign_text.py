"""Text of others (a server, a health check, a publisher) reaches every reader cut, printable and marked.

The outlets: the terminal and the journal (stdout, stderr), documents with ``--json``, the history and
``state.json``, the login message and the metrics.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from signpost import text
from signpost.errors import ToolError
from tests.support.http_server import HttpServer, raw
from tests.support.nodes import Node, make_node
from tests.support.patience import stretched
from updog.state import Code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORDERS = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2066\x08"
"""Sets the title of a terminal, clears it, goes back in the line, colours, turns the reading direction."""

FLOOD = 1 << 16


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from _texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)


def _assert_harmless(shown: str) -> None:
    assert text.printable(shown) == shown, "no character that a terminal would obey"


def _run(program: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program as a process of its own, with its real streams."""
    code = f"from {program} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, check=False, timeout=stretched(120)
    )


def _assert_all_outlets_harmless(node: Node, *, longest: int) -> None:
    """Look at everything that this node shows or keeps."""
    for words in (["status"], ["history"], ["motd"], ["deny-list"], ["status", "--json"]):
        ran = _run("updog.cli", "--config", str(node.config), *words)
        for shown in (ran.stdout.decode(), ran.stderr.decode()):
            _assert_harmless(shown)
            assert len(shown) < longest
        if "--json" in words:
            assert all(text.printable(each) == each for each in _texts(json.loads(ran.stdout)))
    for path in (node.state_file, node.folder / "motd", node.folder / "metrics"):
        kept = path.read_text(encoding="utf-8")
        _assert_harmless(kept)
        assert len(kept) < longest
    assert all(text.printable(each) == each for each in _texts(json.loads(node.state_file.read_bytes())))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path, motd_file="motd", metrics_file="metrics")


@pytest.mark.parametrize(
    "head",
    [
        f"HTTP/1.1 {ORDERS} said the server\r\n\r\n",
        f"HTTP/1.1 {'5' * FLOOD}\r\n\r\n",
        f"{ORDERS * 500}\r\n\r\n",
        f"HTTP/1.1 302 Found\r\nLocation: gopher://{ORDERS.replace(chr(13), '')}\r\n\r\n",
        f"HTTP/1.1 302 Found\r\nLocation: gopher://{'x' * 30_000}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Encoding: {ORDERS.replace(chr(13), '')}\r\nContent-Length: 0\r\n\r\n",
        f"HTTP/1.1 206 OK\r\nContent-Range: {'y' * 30_000}\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["status-line", "long-status", "no-http", "location", "long-location", "encoding", "long-range"],
)
def test_what_a_server_says_is_repeated_cut_and_printable(node: Node, head: str) -> None:
    with HttpServer({}) as server:
        for path in ("metadata/2.root.json", "metadata/timestamp.json", "metadata/1.root.json"):
            server.behave(path, raw(head.encode()))
        node.configure(metadata_base_url=server.url("metadata"), targets_base_url=server.url("targets"))
        node.configure(download_tries=1)
        options = ["--config", str(node.config), "--log-level", "debug"]
        ran = _run("updog.cli", *options, "update")
        assert ran.returncode in {4, 5}
        for shown in (ran.stdout.decode(), ran.stderr.decode()):
            _assert_harmless(shown)
            assert max(map(len, [*shown.splitlines(), ""])) < text.MESSAGE_CHARACTERS
        ran = _run("updog.cli", *options, "update", "--json")
        (document,) = [json.loads(line) for line in ran.stdout.splitlines() if b'"error"' in line]
        message = document["error"]["message"]
        assert text.printable(message) == message
        assert len(message) < 1000
        assert b"internal error" not in ran.stderr
    _assert_all_outlets_harmless(node, longest=10_000)


def test_what_a_health_check_says_is_repeated_cut_and_printable(node: Node) -> None:
    assert node.updog("update").status == 0
    node.start()
    node.health_check("10-evil", f"printf '%s' '{ORDERS}{'z' * 1900}'; exit 1")
    ran = _run("updog.cli", "--config", str(node.config), "confirm")
    assert ran.returncode == 4
    _assert_harmless(ran.stderr.decode())
    assert "\\x1b" in ran.stderr.decode(), "nothing is hidden: it is escaped"
    (event,) = [event for event in node.state().history if event.code is Code.HEALTH_FAILED]
    assert len(event.sentence) <= text.LINE_CHARACTERS + 1
    _assert_all_outlets_harmless(node, longest=20_000)


def test_a_state_that_was_flooded_before_is_read_and_cut(node: Node) -> None:
    """By an earlier version, which kept a server's text unchanged."""
    assert node.updog("update").status == 0
    document = json.loads(node.state_file.read_bytes())
    event = {**document["history"][-1], "sentence": ORDERS * FLOOD, "cause": "c" * FLOOD}
    document["history"] = [event] * 50
    node.state_file.write_text(json.dumps(document), encoding="utf-8")
    assert node.updog("update-revert").status == 0
    assert node.state_file.stat().st_size < 100_000
    _assert_all_outlets_harmless(node, longest=100_000)


def test_a_publisher_s_reason_is_cut_where_a_node_keeps_it(node: Node) -> None:
    assert node.updog("update").status == 0
    document = json.loads(node.state_file.read_bytes())
    document["pending"]["recalled"] = f"the publisher held it: {'r' * FLOOD}\x1b[2J"
    node.state_file.write_text(json.dumps(document), encoding="utf-8")
    pending = node.state().pending
    assert pending is not None
    assert len(pending.recalled) <= text.LINE_CHARACTERS + 1
    ran = node.updog("update-apply")
    assert len(ran.err) < text.MESSAGE_CHARACTERS
    _assert_harmless(ran.err)


# -- the pure parts -----------------------------------------------------------------------------------------


def test_foreign_text_is_one_quoted_line() -> None:
    assert text.foreign("plain") == '"plain"'
    assert text.foreign('a "word"\r\nand\ta line') == "\"a 'word' and a line\""
    assert text.foreign(b"\xff\xfe\x1b[2J") == '"\\xff\\xfe\\x1b[2J"'
    cut = text.foreign("x" * FLOOD)
    assert (len(cut), cut[-2:]) == (text.FOREIGN_CHARACTERS + 3, '…"')
    assert len(text.foreign(b"\x00" * FLOOD)) == text.FOREIGN_CHARACTERS + 3


@pytest.mark.parametrize("harmless", ["", "äöü 回収 ☎ … ·", "two\nlines\tand a tab", "a line of Windows\r\n"])
def test_what_is_harmless_stays_as_it_is(harmless: str) -> None:
    assert text.printable(harmless) == harmless


def test_an_error_says_what_it_has_to_in_printable_words_of_a_bounded_length() -> None:
    error = ToolError(f"the server said {ORDERS}{'x' * FLOOD}", next_step=f"ask {ORDERS}")
    for said in (str(error), error.message, error.next_step, *error.args):
        _assert_harmless(said)
        assert len(said) <= text.MESSAGE_CHARACTERS + 1
    assert str(ToolError("two\nlines")) == "two\nlines"
