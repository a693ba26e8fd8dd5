"""Events in the journal: ids, the catalog, and a real journald that gets what a service sends."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import updog
from signpost import journal
from signpost.errors import ExitStatus
from signpost.journal import Severity
from tests.support.journald import Journald, why_not
from tests.support.nodes import NEWER, Node, make_node
from updog.drill import Stage
from updog.event_journal import MESSAGE_IDS, fields
from updog.state import CODES, SEVERITIES, Code, Event
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOG = Path(updog.__file__).parent / "systemd/updog.catalog"
_ENTRY = re.compile(r"^-- ([0-9a-f]{32})\n((?:[A-Z][A-Za-z-]+: .*\n)+)\n((?:(?!-- ).*\n)+)", re.MULTILINE)
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
LEFT = Event(
    time=NOON,
    code=Code.HEALTH_FAILED,
    version=Version.parse("1.1.0"),
    sentence="1.1.0 in slot B failed its health check: 20-web: exit status 1.",
    cause="20-web",
    by="uid 1000 (anna), pid 4711, bash",
)


def entries() -> dict[str, tuple[dict[str, str], str]]:
    """Return the heads and the text of each id of the catalog."""
    return {
        id_: (dict(re.findall(r"^([A-Z][A-Za-z-]+): (.*)$", heads, re.MULTILINE)), text)
        for id_, heads, text in _ENTRY.findall(CATALOG.read_text(encoding="ascii"))
    }


def test_every_code_has_an_id_of_its_own() -> None:
    assert set(MESSAGE_IDS) == set(CODES)
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(re.fullmatch("[0-9a-f]{32}", id_) for id_ in MESSAGE_IDS.values())


def test_the_catalog_explains_every_id_and_no_other() -> None:
    assert list(entries()) == list(MESSAGE_IDS.values())
    assert CATALOG.read_text(encoding="ascii").count("\n-- ") == len(MESSAGE_IDS)


def test_an_entry_has_a_subject_its_author_and_only_fields_that_are_sent() -> None:
    sent = set(fields(LEFT))
    for heads, text in entries().values():
        assert heads["Defined-By"] == "updog"
        named = set(re.findall("@([A-Z_]+)@", heads["Subject"] + text))
        assert named <= sent, heads["Subject"]


def test_what_an_operator_must_see_says_what_to_do() -> None:
    """With a command, an option or a key of the configuration."""
    seen = {MESSAGE_IDS[code] for code, severity in SEVERITIES.items() if severity <= Severity.WARNING}
    assert [
        heads["Subject"] for id_, (heads, text) in entries().items() if id_ in seen and "`" not in text
    ] == []


def test_the_catalog_names_commands_that_updog_has() -> None:
    import click

    from updog.cli import program

    commands = set(program.list_commands(click.Context(program)))
    named = set(re.findall(r"`updog ([a-z-]+)", CATALOG.read_text(encoding="ascii")))
    assert named <= commands
    assert named


def test_an_event_has_its_facts_as_fields() -> None:
    assert fields(LEFT) == {
        "SYSLOG_IDENTIFIER": "updog",
        "PRIORITY": "3",
        "MESSAGE": "health-check-failed: 1.1.0 in slot B failed its health check: 20-web: exit status 1.",
        "MESSAGE_ID": MESSAGE_IDS[Code.HEALTH_FAILED],
        "UPDOG_CODE": "health-check-failed",
        "UPDOG_VERSION": "1.1.0",
        "UPDOG_CAUSE": "20-web",
        "UPDOG_BY": "uid 1000 (anna), pid 4711, bash",
    }


def test_a_code_of_a_later_updog_is_sent_without_an_id() -> None:
    sent = fields(Event(time=NOON, code=Code("not-yet-known"), version=None, sentence="What?"))
    assert "MESSAGE_ID" not in sent
    assert (sent["UPDOG_CODE"], sent["PRIORITY"]) == ("not-yet-known", "6")


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "socket")
    monkeypatch.setattr(journal, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        yield listener


def test_a_message_is_what_the_native_protocol_says(listener: socket.socket) -> None:
    assert journal.send({"PRIORITY": "4", "MESSAGE": "one\ntwo", "UPDOG_CAUSE": "ü"})
    two_lines = b"MESSAGE\n" + (7).to_bytes(8, "little") + b"one\ntwo\n"
    assert listener.recv(4096) == b"PRIORITY=4\n" + two_lines + "UPDOG_CAUSE=ü\n".encode()


def test_without_a_journal_nothing_is_sent_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "nobody"))
    assert not journal.send({"MESSAGE": "lost"})


def test_what_is_too_large_for_the_journal_is_not_sent(listener: socket.socket) -> None:
    assert not journal.send({"MESSAGE": "x" * (64 << 20)})
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(1)


with_journald = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def journald() -> Iterator[Journald]:
    with Journald() as running:
        yield running


def _words(node: Node, *words: str) -> list[str]:
    return [sys.executable, "-c", "from updog.cli import main; main()", "--config", str(node.config), *words]


@with_journald
def test_a_fallback_is_found_by_identifier_priority_and_id(tmp_path: Path, journald: Journald) -> None:
    node = make_node(tmp_path, health_checks=[])
    assert journald.serve(_words(node, "update")) == 0
    assert [entry["UPDOG_CODE"] for entry in journald.read("UPDOG_VERSION=1.1.0")] == ["installed", "applied"]
    assert journald.read("-t", "updog", "-p", "warning") == []
    node.start(Stage.INIT)
    node.start()
    assert journald.serve(_words(node, "boot-record")) == 0
    (entry,) = journald.read("-t", "updog", "-p", "warning")
    assert entry["MESSAGE_ID"] == MESSAGE_IDS[Code.BOOT_FAILED]
    assert entry["MESSAGE"].startswith(f"boot-failed: {NEWER} in slot B")
    assert (entry["PRIORITY"], entry["UPDOG_VERSION"], entry["_TRANSPORT"]) == ("3", NEWER, "journal")
    assert journald.read(f"MESSAGE_ID={MESSAGE_IDS[Code.BOOT_FAILED]}") == [entry]
    journald.serve(_words(node, "boot-record"))
    assert len(journald.read("-t", "updog", "-p", "warning")) == 1  # it is recorded once, and sent once


@with_journald
def test_a_repository_that_is_not_reached_is_a_warning_at_the_third_check_and_once(
    tmp_path: Path, journald: Journald
) -> None:
    node = make_node(tmp_path, health_checks=[])
    node.lose_repository()
    for seen in (0, 0, 1, 1):
        assert journald.serve(_words(node, "check-update")) == ExitStatus.UNREACHABLE
        assert len(journald.read("-t", "updog", "-p", "warning")) == seen
    (entry,) = journald.read("-t", "updog", "-p", "warning")
    assert entry["MESSAGE_ID"] == MESSAGE_IDS[Code.CHECKS_FAILED]


@with_journald
def test_a_command_at_a_terminal_writes_into_no_journal(tmp_path: Path, journald: Journald) -> None:
    node = make_node(tmp_path, health_checks=[])
    assert journald.serve(["env", "--unset=JOURNAL_STREAM", *_words(node, "update")]) == 0
    assert node.codes()[-1] == "applied"
    assert journald.read("UPDOG_CODE=applied") == []


@with_journald
def test_journalctl_explains_a_message_with_the_catalog(tmp_path: Path) -> None:
    _update_catalog(tmp_path)
    sending = f"from signpost import journal; journal.send({fields(LEFT)!r})"
    with Journald(tmp_path / "var/lib/systemd/catalog") as journald:
        assert journald.serve([sys.executable, "-c", sending]) == 0
        shown = journald.show("-t", "updog", "-x")
    assert "Subject: 1.1.0 failed a health check" in shown
    assert "`updog deny-list --clear 1.1.0` allows it again." in shown


def _update_catalog(root: Path) -> subprocess.CompletedProcess[str]:
    """Make the index of a system in a folder that has our catalog, as its image is built."""
    place = root / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (root / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, place)
    words = ["journalctl", f"--root={root}", "--update-catalog"]
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_LOG_TARGET": "console"}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment)


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="systemd is not installed")
def test_systemd_reads_the_catalog_without_a_complaint(tmp_path: Path) -> None:
    assert _update_catalog(tmp_path).stderr == ""
    words = ["journalctl", f"--root={tmp_path}", "--list-catalog", "--no-pager"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.partition(" ")[0] for line in listed] == sorted(MESSAGE_IDS.values())
    assert all(" updog: " in line for line in listed)
