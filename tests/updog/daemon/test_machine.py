"""What is read of the machine: real files, real scripts, a real terminal, and what may lie in their place."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import struct
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from signpost.text import printable
from tests.support.patience import stretched, took_less
from updog.auto.gates import Inhibitor, Objection
from updog.auto.policy import GateName, Policy
from updog.daemon.machine import Machine, utmp_record_bytes
from updog.daemon.small_files import MAX_FILES, read_folder

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
X86, ARM = 384, 400
USER, LOGIN, DEAD = 7, 6, 8
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("systemd/sessions", "systemd/inhibit", "updog/inhibit.d"):
        (tmp_path / "run" / name).mkdir(parents=True)
    return tmp_path / "run"


def machine_in(
    tmp_path: Path, *, policy: Policy | None = None, record: int = X86, dev: Path = Path("/dev")
) -> Machine:
    return Machine(
        policy or Policy(),
        tmp_path / "state",
        run=tmp_path / "run",
        dev=dev,
        utmp_record=record,
    )


def session(run: Path, name: str, **fields: str) -> None:
    """Write a session as logind does."""
    given = {"UID": "1000", "USER": "ann", "ACTIVE": "1", "STATE": "active", "CLASS": "user", **fields}
    rows = [
        "# This is private data. Do not parse.",
        *(f"{key}={value}" for key, value in given.items() if value),
    ]
    (run / "systemd/sessions" / name).write_text("\n".join(rows) + "\n")


def sessions_of(machine: Machine) -> list[tuple[str, str]]:
    readings = machine.read(NOW)
    assert readings.unread == ()
    return [(one.user, one.terminal) for one in readings.sessions]


def unread_of(machine: Machine) -> dict[GateName, str]:
    return dict(machine.read(NOW).unread)


def utmp(pid: int, terminal: bytes, user: bytes, kind: int = USER, *, record: int = X86) -> bytes:
    """Return a record of a login database."""
    return struct.pack("=hxxi32s4s32s", kind, pid, terminal, b"1", user).ljust(record, b"\0")


# -- sessions


def test_nobody_is_logged_in_where_nothing_says_so(tmp_path: Path) -> None:
    """A system with neither logind nor utmp."""
    assert sessions_of(machine_in(tmp_path)) == []


def test_a_session_of_logind_is_a_user_with_its_terminal(tmp_path: Path, run: Path) -> None:
    session(run, "3", TTY="pts/0", REMOTE="1")
    session(run, "c1", USER="bob", TTY="", STATE="online")
    assert sessions_of(machine_in(tmp_path)) == [("ann", "pts/0"), ("bob", "")]


@pytest.mark.parametrize("kind", ["greeter", "lock-screen", "background", "manager", "manager-early", "none"])
def test_sessions_that_are_not_users_do_not_count(tmp_path: Path, run: Path, kind: str) -> None:
    session(run, "1", CLASS=kind, TTY="tty7")
    assert sessions_of(machine_in(tmp_path)) == []


@pytest.mark.parametrize("kind", ["user", "user-early", "user-light", "user-incomplete", "of-tomorrow", ""])
def test_sessions_of_users_and_of_unknown_classes_count(tmp_path: Path, run: Path, kind: str) -> None:
    session(run, "1", CLASS=kind, TTY="tty1")
    assert sessions_of(machine_in(tmp_path)) == [("ann", "tty1")]


def test_a_closing_session_is_over_and_its_pipe_is_not_a_session(tmp_path: Path, run: Path) -> None:
    session(run, "1", STATE="closing", TTY="tty1")
    os.mkfifo(run / "systemd/sessions/1.ref")
    (run / "systemd/sessions/.#2abc").write_text("half")
    assert sessions_of(machine_in(tmp_path)) == []


def test_a_session_without_a_name_is_known_by_its_number_and_one_without_both_is_reported(
    tmp_path: Path, run: Path
) -> None:
    session(run, "1", USER="", TTY="tty1")
    assert sessions_of(machine_in(tmp_path)) == [("1000", "tty1")]
    (run / "systemd/sessions/2").write_bytes(b"\x00\xff\n")
    assert "sessions/2: names no user" in unread_of(machine_in(tmp_path))[GateName.SESSIONS]


@pytest.mark.parametrize("record", [X86, ARM])
def test_utmp_counts_users_whose_process_lives(tmp_path: Path, run: Path, record: int) -> None:
    """A node image without D-Bus has logind's empty folder, and no logind."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    me = os.getpid()
    (run / "utmp").write_bytes(
        utmp(me, b"ttyS0", b"root", record=record)
        + utmp(ended.pid, b"pts/1", b"gone", record=record)
        + utmp(me, b"tty1", b"LOGIN", LOGIN, record=record)
        + utmp(me, b"pts/2", b"", DEAD, record=record)
        + utmp(-1, b"pts/3", b"bad", record=record)
        + utmp(me, b"t" * 32, b"u" * 32, record=record)
    )
    assert sessions_of(machine_in(tmp_path, record=record)) == [("root", "ttyS0"), ("u" * 32, "t" * 32)]


@pytest.mark.skipif(shutil.which("utmpdump") is None, reason="Debian package util-linux-extra")
def test_a_utmp_of_util_linux_is_read(tmp_path: Path, run: Path) -> None:
    """The layout of this machine, written by another program."""
    rows = (
        f"[7] [{os.getpid():05d}] [ts/0] [ann     ] [pts/0       ] [host.example        ] [10.0.0.1       ] "
    )
    rows += "[2026-11-27T12:00:00,000000+00:00]\n"
    written = subprocess.run(["utmpdump", "-r"], input=rows.encode(), capture_output=True, check=True)
    (run / "utmp").write_bytes(written.stdout)
    record = utmp_record_bytes(os.uname().machine)
    assert len(written.stdout) == record
    assert sessions_of(machine_in(tmp_path, record=record)) == [("ann", "pts/0")]


def test_utmp_says_the_terminal_where_logind_does_not(tmp_path: Path, run: Path) -> None:
    session(run, "1")
    (run / "utmp").write_bytes(utmp(os.getpid(), b"pts/0", b"ann") + utmp(os.getpid(), b"pts/1", b"ann"))
    assert sessions_of(machine_in(tmp_path)) == [("ann", "pts/0"), ("ann", "pts/1")]


def test_a_utmp_of_another_size_is_reported(tmp_path: Path, run: Path) -> None:
    (run / "utmp").write_bytes(utmp(os.getpid(), b"pts/0", b"ann")[:-1])
    assert "not a multiple of 384" in unread_of(machine_in(tmp_path))[GateName.SESSIONS]


def test_foreign_names_are_printable_and_cut(tmp_path: Path, run: Path) -> None:
    (run / "utmp").write_bytes(utmp(os.getpid(), b"\x1b[2J\xff", b"caf\xc3\xa9\x9b"))
    session(run, "1", USER="x" * 5000, TTY="\x1b]0;")
    found = sessions_of(machine_in(tmp_path))
    assert len(found) == 2
    for user, terminal in found:
        assert printable(user + terminal) == user + terminal
        assert len(user + terminal) < 150


# -- inhibitors


def inhibit(run: Path, name: str, document: object) -> None:
    (run / "updog/inhibit.d" / name).write_text(json.dumps(document))


def test_an_inhibitor_says_why_until_and_how_hard(tmp_path: Path, run: Path) -> None:
    (tmp_path / "state/inhibit.d").mkdir(parents=True)
    inhibit(run, "backup", {"why": " the backup\nruns ", "until": "2026-11-27T13:00:00+00:00"})
    (tmp_path / "state/inhibit.d/hard").write_text('{"why": "never", "soft": false}')
    readings = machine_in(tmp_path).read(NOW)
    assert readings.unread == ()
    assert readings.inhibitors == (
        Inhibitor(
            source=f"{run}/updog/inhibit.d/backup",
            why="the backup runs",
            until=NOW + timedelta(hours=1),
            soft=True,
        ),
        Inhibitor(source=f"{tmp_path}/state/inhibit.d/hard", why="never", soft=False),
    )


@pytest.mark.parametrize(("seconds", "count"), [(-1, 0), (0, 0), (1, 1)])
def test_an_inhibitor_whose_time_is_over_does_not_count(
    tmp_path: Path, run: Path, seconds: int, count: int
) -> None:
    """Zincati #245: a permission with an end."""
    inhibit(run, "x", {"why": "x", "until": (NOW + timedelta(seconds=seconds)).isoformat()})
    assert len(machine_in(tmp_path).read(NOW).inhibitors) == count


BAD = {
    "empty": b"",
    "not JSON": b"because",
    "not an object": b'["why"]',
    "no reason": b'{"until": "2026-11-27T13:00:00Z"}',
    "blank reason": b'{"why": " "}',
    "reason of another type": b'{"why": 3}',
    "misspelt": b'{"why": "x", "untill": "2026-11-27T13:00:00Z"}',
    "no time": b'{"why": "x", "until": "tomorrow"}',
    "time without a zone": b'{"why": "x", "until": "2020-11-27T13:00:00"}',
    "time of another type": b'{"why": "x", "until": 5}',
    "soft of another type": b'{"why": "x", "soft": "no"}',
    "not UTF-8": b'{"why": "caf\xe9"}',
    "deep": b"[" * 16_000,
    "NUL": b"\0" * 100,
    "orders for the terminal": b'{"why": "x", "\\u001b[2J": 1}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_not_an_inhibitor_is_a_hard_one_that_says_so(
    tmp_path: Path, run: Path, content: bytes
) -> None:
    (run / "updog/inhibit.d/bad").write_bytes(content)
    (inhibitor,) = machine_in(tmp_path).read(NOW).inhibitors
    assert (inhibitor.soft, inhibitor.until) == (False, None)
    assert inhibitor.why.startswith("this file is not a valid inhibitor: ")
    assert printable(inhibitor.why) == inhibitor.why
    assert len(inhibitor.why) < 250


def lock(run: Path, name: str, **fields: str) -> None:
    """Write a lock as logind does."""
    given = {"WHAT": "shutdown", "MODE": "block", "UID": "0", "PID": "1", **fields}
    (run / "systemd/inhibit" / name).write_text("".join(f"{key}={value}\n" for key, value in given.items()))
    os.mkfifo(run / f"systemd/inhibit/{name}.ref")


def test_locks_of_logind_that_block_a_shutdown_count(tmp_path: Path, run: Path) -> None:
    lock(run, "1", WHO="dpkg", WHY=r"caf\303\251 \x22x\x22\n", WHAT="idle:shutdown:sleep")
    lock(run, "2", MODE="delay", WHO="NetworkManager")
    lock(run, "3", WHAT="sleep:handle-power-key", WHO="x")
    lock(run, "4", MODE="block-weak")
    assert [(one.source, one.why) for one in machine_in(tmp_path).read(NOW).inhibitors] == [
        ("dpkg", 'café "x" '),
        ("a program", "no reason given"),
    ]


# -- what may lie in the place of a file


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.write_bytes(b'{"why": "x"}' + b" " * (10 << 20))


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))


STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "named pipe": (_fifo, "is not a regular file"),
    "folder": (Path.mkdir, "is not a regular file"),
    "10 MiB": (_huge, "is larger than"),
    "link": (_link, "is a link"),
    "link to nothing": (_dangling, "is a link"),
    "device": (_device, "is not a regular file"),
}


@pytest.mark.parametrize(("make", "why"), STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize(
    ("place", "gate"),
    [
        ("updog/inhibit.d/x", GateName.INHIBITORS),
        ("systemd/inhibit/x", GateName.INHIBITORS),
        ("systemd/sessions/x", GateName.SESSIONS),
        ("utmp", GateName.SESSIONS),
    ],
)
def test_what_is_no_small_file_is_reported_and_never_waited_for(
    tmp_path: Path, run: Path, make: Callable[[Path], None], why: str, place: str, gate: GateName
) -> None:
    if make is _device and not AS_ROOT:
        pytest.skip("only root makes devices")
    make(run / place)
    inhibit(run, "y", {"why": "y"})
    session(run, "1")
    readings = machine_in(tmp_path).read(NOW)
    assert [name for name, _ in readings.unread] == [gate]
    assert why in readings.unread[0][1]
    assert [one.why for one in readings.inhibitors] == ["y"], "the others are read all the same"
    assert [one.user for one in readings.sessions] == ["ann"]


@pytest.mark.parametrize(
    ("place", "gate"), [("updog/inhibit.d", GateName.INHIBITORS), ("systemd/sessions", GateName.SESSIONS)]
)
def test_a_folder_that_is_none_is_reported(tmp_path: Path, run: Path, place: str, gate: GateName) -> None:
    (run / place).rmdir()
    (run / place).write_text("")
    assert "Not a directory" in unread_of(machine_in(tmp_path))[gate]


NOBODY = 65534


def as_nobody(tmp_path: Path, prepare: Callable[[Path], None]) -> str:
    """Return what a user without rights reads of a machine whose ``run`` was prepared.

    A copy of this process gives up its rights: others may not be able to execute the interpreter.
    """
    # the folders of pytest are closed to others
    with tempfile.TemporaryDirectory(prefix=tmp_path.name[:20], ignore_cleanup_errors=True) as folder:
        run = Path(folder)
        run.chmod(0o755)
        (run / "updog/inhibit.d").mkdir(parents=True)
        prepare(run)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if AS_ROOT:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                machine = Machine(Policy(), run / "state", run=run, utmp_record=X86)
                os.write(writes, repr(machine.read(NOW)).encode())
            finally:
                os._exit(0)
        os.close(writes)
        with os.fdopen(reads, encoding="utf-8") as said:
            text = said.read()
        os.waitpid(child, 0)
        (run / "updog/inhibit.d").chmod(0o755)
    return text


@pytest.mark.parametrize("name", ["secret", ""], ids=["file", "folder"])
def test_what_this_user_may_not_read_is_reported(tmp_path: Path, name: str) -> None:
    def prepare(run: Path) -> None:
        inhibit(run, "secret", {"why": "x"})
        (run / "updog/inhibit.d" / name).chmod(0)

    assert "Permission denied" in as_nobody(tmp_path, prepare)


def test_a_user_whose_process_belongs_to_somebody_else_is_logged_in(tmp_path: Path) -> None:
    """The services of updog do not see the processes of others in procfs (ProtectProc=invisible)."""

    def prepare(run: Path) -> None:
        (run / "utmp").write_bytes(utmp(1, b"tty1", b"ann"))

    said = as_nobody(tmp_path, prepare)
    assert "UserSession(user='ann', terminal='tty1')" in said


def test_names_that_are_not_utf_8_are_shown_printable(tmp_path: Path, run: Path) -> None:
    path = os.fsencode(run / "updog/inhibit.d") + b"/caf\xe9\x1b"
    Path(os.fsdecode(path)).write_bytes(b'{"why": "x"}')
    (inhibitor,) = machine_in(tmp_path).read(NOW).inhibitors
    assert printable(inhibitor.source) == inhibitor.source
    inhibitor.source.encode()


def test_too_many_files_are_reported(tmp_path: Path, run: Path) -> None:
    for number in range(MAX_FILES + 1):
        inhibit(run, f"{number:04}", {"why": "x"})
    readings = machine_in(tmp_path).read(NOW)
    assert len(readings.inhibitors) == MAX_FILES
    assert f"more than {MAX_FILES} files" in dict(readings.unread)[GateName.INHIBITORS]


def test_a_file_that_is_gone_when_its_turn_comes_is_not_there() -> None:
    """Sessions end and inhibitors are removed at any time, between the list and the open too.

    The kernel's list of descriptors always has one that is gone: the one by which it was read.
    """
    descriptors = Path("/proc/self/fd")
    listed = os.listdir(descriptors)  # noqa: PTH208 - names
    assert any(not os.path.lexists(descriptors / name) for name in listed)
    problems = read_folder(descriptors, 1 << 14).problems
    assert problems
    assert [one for one in problems if not one.endswith("is a link, which is not followed")] == []


# -- blockers


def script(folder: Path, name: str, body: str, mode: int = 0o755) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(mode)


def objections(folder: Path, seconds: float = 60) -> list[Objection]:
    timeout = timedelta(seconds=stretched(seconds))
    policy = replace(Policy(), blockers_dir=folder, blocker_timeout=timeout)
    return list(Machine(policy, folder).objections())


def test_a_blocker_that_does_not_exit_with_0_objects_with_its_last_line(tmp_path: Path) -> None:
    blockers = tmp_path / "blockers.d"
    script(blockers, "10-fine", "echo all is well")
    script(blockers, "20-raid", "echo looking; echo resync runs; exit 3")
    script(blockers, "30-killed", "kill -9 $$")
    assert objections(blockers) == [
        Objection(name="20-raid", problem="exited with status 3: resync runs"),
        Objection(name="30-killed", problem="was killed by signal 9"),
    ]


def test_a_blocker_that_cannot_be_asked_objects(tmp_path: Path) -> None:
    blockers = tmp_path / "blockers.d"
    script(blockers, "closed", "exit 0", mode=0o644)
    (blockers / "dangling").symlink_to("nowhere")
    os.mkfifo(blockers / "pipe")
    (blockers / "odd").write_bytes(b"\x7fELFnonsense")
    (blockers / "odd").chmod(0o755)
    assert [one.name for one in objections(blockers)] == ["closed", "dangling", "odd", "pipe"]


def test_leftovers_folders_and_readmes_are_not_blockers(tmp_path: Path) -> None:
    blockers = tmp_path / "blockers.d"
    for name in ("10-x~", "10-x.dpkg-old", "#10-x#", ".hidden"):
        script(blockers, name, "exit 1")
    (blockers / "README").write_text("how to")
    (blockers / "below").mkdir()
    assert objections(blockers) == []


def test_a_blocker_that_hangs_objects_after_its_time_and_the_next_one_is_asked(tmp_path: Path) -> None:
    blockers = tmp_path / "blockers.d"
    script(blockers, "10-hangs", "sleep 600")
    script(blockers, "20-no", "exit 1")
    began = time.monotonic()
    first, second = objections(blockers, seconds=1)
    assert took_less(began, 60)
    assert (first.name, second.name) == ("10-hangs", "20-no")
    assert "did not finish" in first.problem


def test_no_folder_of_blockers_objects_to_nothing_and_one_that_cannot_be_read_objects(tmp_path: Path) -> None:
    assert Machine(Policy(), tmp_path).objections() == ()
    assert objections(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    (objection,) = objections(tmp_path / "file")
    assert objection.problem == "cannot be read: Not a directory"
    (tmp_path / "link").symlink_to("nowhere")
    assert len(objections(tmp_path / "link")) == 1


# -- the warning


def test_a_warning_is_shown_on_the_terminals_of_sessions(tmp_path: Path, run: Path) -> None:
    mine, terminal = os.openpty()
    try:
        session(run, "1", TTY=os.ttyname(terminal).removeprefix("/dev/"))
        machine_in(tmp_path).warn("This machine restarts in 5 min.\x1b[2J\nSave your work.")
        os.set_blocking(mine, False)
        shown = os.read(mine, 1000).replace(b"\r\n", b"\n").replace(b"\r", b"").decode()
    finally:
        os.close(mine)
        os.close(terminal)
    assert "Message from updog:\nThis machine restarts in 5 min.\\x1b[2J\nSave your work.\n" in shown


def test_a_terminal_that_takes_nothing_does_not_hold_up_the_warning(tmp_path: Path, run: Path) -> None:
    mine, terminal = os.openpty()
    try:
        os.set_blocking(terminal, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(terminal, b"x" * 4096)
        session(run, "1", TTY=os.ttyname(terminal).removeprefix("/dev/"))
        began = time.monotonic()
        machine_in(tmp_path).warn("x")
        assert took_less(began, 5)
    finally:
        os.close(mine)
        os.close(terminal)


@pytest.mark.parametrize("terminal", ["../etc/passwd", "pts/../x", "null", "nowhere", ":0", "x y", ""])
def test_a_terminal_that_is_none_is_passed_over(tmp_path: Path, run: Path, terminal: str) -> None:
    dev = tmp_path / "dev"
    files = [tmp_path / "etc/passwd", dev / "null", dev / "x", dev / "pts/0", dev / "x y"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    session(run, "1", TTY=terminal)
    machine_in(tmp_path, dev=dev).warn("x")
    assert [path.read_bytes() for path in files] == [b""] * len(files)


def test_a_terminal_is_not_reached_by_another_way(tmp_path: Path, run: Path) -> None:
    mine, terminal = pty.openpty()
    try:
        number = os.ttyname(terminal).rpartition("/")[2]
        session(run, "1", TTY=f"pts/../pts/{number}")
        machine_in(tmp_path).warn("x")
        os.set_blocking(mine, False)
        with pytest.raises(BlockingIOError):
            os.read(mine, 1)
    finally:
        os.close(mine)
        os.close(terminal)


def test_wall_gets_the_message_where_there_is_a_utmp(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real program on PATH in its place, which shows what it was given."""
    script(tmp_path / "bin", "wall", f"cat > {tmp_path}/said")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (run / "utmp").write_bytes(b"")
    machine_in(tmp_path).warn("restart soon\nreally")
    assert (tmp_path / "said").read_text() == "restart soon\nreally"


def test_without_wall_the_terminals_get_it(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    mine, terminal = os.openpty()
    try:
        name = os.ttyname(terminal).removeprefix("/dev/").encode()
        (run / "utmp").write_bytes(utmp(os.getpid(), name, b"ann"))
        machine_in(tmp_path).warn("restart soon")
        os.set_blocking(mine, False)
        assert b"restart soon" in os.read(mine, 1000)
    finally:
        os.close(mine)
        os.close(terminal)
