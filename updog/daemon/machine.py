"""What the machine says for and against a restart, and what the agent tells its users.

Rules it enforces:

* a user session is one of logind (``/run/systemd/sessions``), or an entry of utmp whose process lives. Both
  are read: logind does not run everywhere (the folder exists all the same), and does not always know the
  terminal of a session. Greeters, lock screens, managers and background sessions (cron) are not users, and a
  session that is closing is over;
* an inhibitor is a file in an ``inhibit.d`` (``{"why": TEXT, "until"?: TIME, "soft"?: BOOLEAN}``), or a lock
  of logind that blocks a shutdown. One whose time is over does not count. A file that cannot be understood
  counts, as a hard one, until it is removed;
* a blocker is an executable in the folder of blockers, run as health checks are: what does not exit with 0
  objects, and so does what cannot be run. Copies that editors and package managers leave behind, folders and
  README files are not blockers;
* what exists and cannot be read is reported, and closes its gate. A system that has neither logind nor utmp
  does not know who is logged in; there, nobody is;
* foreign text is cut and printable; files are read as :mod:`updog.daemon.small_files` does;
* a warning never blocks: a terminal that does not take it at once does not get it.

All root folders can be set, so that tests can use folders of plain files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signpost.text import FOREIGN_CHARACTERS, line, printable
from updog.auto.gates import Inhibitor, Objection, UserSession
from updog.auto.policy import GateName
from updog.daemon.restart import remove_sentinel, write_sentinel
from updog.daemon.small_files import UnreadError, read_folder, read_small
from updog.daemon.surroundings import MachineReadings
from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from updog.auto.policy import Policy

_FILE_BYTES = 1 << 14  # of logind's files and of inhibitors: a few hundred bytes each
_UTMP_BYTES = 1 << 20  # some 2,700 entries
_NAME_CHARACTERS = 64
_PIPE = ".ref"  # ending of the named pipes beside logind's files: each is held open by its program
_WALL_SECONDS = 10.0  # wall itself waits for no terminal

_NOT_USERS = frozenset(
    [
        "greeter",
        "lock-screen",
        "background",
        "background-light",
        "manager",
        "manager-early",
        "none",
    ]
)
"""Classes of logind's sessions (pam_systemd(8)) that are not somebody who is logged in."""

_BLOCKING = frozenset({"block", "block-weak"})
"""logind's modes that ask for no shutdown at all; "delay" asks for a moment."""

_USER_PROCESS = 7  # utmp(5)
_UTMP_HEAD = struct.Struct("=hxxi32s4s32s")  # type, pid, line, id, user; the same on all architectures
_WIDE_UTMP = frozenset({"aarch64", "loongarch64"})
"""Machines whose utmp has 64-bit times; the others with 64 bits keep those of their 32-bit programs."""

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-3][0-7]{2})|(.))")
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"s": b" "}
_TERMINAL = re.compile(r"[A-Za-z0-9]{1,24}(?:/[0-9]{1,9})?")  # below /dev: pts/3, tty1, ttyS0


def utmp_record_bytes(machine: str) -> int:
    """Return the size of a record of utmp on a machine with 64 bits, as uname(2) names it."""
    return 400 if machine in _WIDE_UTMP else 384


class Machine:
    """The machine on which this process runs.

    Args:
        policy: the blockers and the sentinel. state_dir: whose ``inhibit.d`` survives a restart.
        run: where the folders of running programs are. dev: where the terminals are.
        utmp_record: bytes of a record of utmp.
    """

    def __init__(
        self,
        policy: Policy,
        state_dir: Path,
        *,
        run: Path = Path("/run"),
        dev: Path = Path("/dev"),
        utmp_record: int = utmp_record_bytes(os.uname().machine),
    ) -> None:
        self._policy, self._state_dir = policy, state_dir
        self._run, self._dev, self._utmp_record = run, dev, utmp_record

    def read(self, now: datetime) -> MachineReadings:
        """Return who is logged in and who objects to a restart."""
        sessions, unread_sessions = self._sessions()
        inhibitors, unread_inhibitors = self._inhibitors(now)
        problems = {GateName.SESSIONS: unread_sessions, GateName.INHIBITORS: unread_inhibitors}
        return MachineReadings(
            sessions=sessions,
            inhibitors=inhibitors,
            unread=tuple((gate, line("; ".join(found))) for gate, found in problems.items() if found),
        )

    def objections(self) -> tuple[Objection, ...]:
        """Run the blockers, one after the other, and return those that object."""
        from updog.health.checks import names_in, run_file

        folder, timeout = self._policy.blockers_dir, self._policy.blocker_timeout.total_seconds()
        if folder is None:
            return ()
        try:
            names = names_in(folder)
        except OSError as error:
            return (Objection(name=line(str(folder)), problem=f"cannot be read: {error.strerror}"),)
        results = [(name, run_file(folder / name, timeout)) for name in names]
        return tuple(
            Objection(name=line(name), problem=line(result.problem, FOREIGN_CHARACTERS))
            for name, result in results
            if result.problem and result.is_meant
        )

    def warn(self, message: str) -> None:
        """Show a message to everybody who is logged in at a terminal."""
        text = printable(message)
        if (self._run / "utmp").exists() and _wall(text):
            return  # wall finds the terminals in utmp, and tells nobody where there is none
        sessions, _ = self._sessions()
        for terminal in sorted({session.terminal for session in sessions} - {""}):
            _write_to(self._dev, terminal, text)

    def write_sentinel(self, message: str) -> None:
        """Tell the program that watches the sentinel to restart this node."""
        if self._policy.sentinel is not None:
            write_sentinel(self._policy.sentinel, message)

    def remove_sentinel(self) -> None:
        """Take that back."""
        if self._policy.sentinel is not None:
            remove_sentinel(self._policy.sentinel)

    # -- sessions

    def _sessions(self) -> tuple[tuple[UserSession, ...], list[str]]:
        """Return who is logged in, and what could not be read."""
        found: set[tuple[str, str]] = set()  # user and terminal
        folder = self._run / "systemd/sessions"
        content = read_folder(folder, _FILE_BYTES, but=_PIPE)
        problems = list(content.problems)
        for name, data in content.files.items():
            fields = _fields(data)
            user = fields.get("USER") or fields.get("UID", "")
            if not user:
                problems.append(line(f"{folder / name}: names no user"))
            elif fields.get("CLASS", "user") not in _NOT_USERS and fields.get("STATE") != "closing":
                found.add((_name(user), _name(fields.get("TTY", ""))))
        try:
            found |= self._utmp_logins()
        except UnreadError as error:
            problems.append(str(error))
        at_terminals = {user for user, terminal in found if terminal}
        sessions = sorted((user, at) for user, at in found if at or user not in at_terminals)
        return tuple(UserSession(user=user, terminal=terminal) for user, terminal in sessions), problems

    def _utmp_logins(self) -> set[tuple[str, str]]:
        """Return user and terminal of each login in utmp, utmp(5). Raises UnreadError."""
        path = self._run / "utmp"
        content = read_small(path, _UTMP_BYTES) or b""
        if len(content) % self._utmp_record:
            raise UnreadError(line(f"{path}: its size is not a multiple of {self._utmp_record} bytes"))
        found = set()
        for start in range(0, len(content), self._utmp_record):
            kind, pid, terminal, _, user = _UTMP_HEAD.unpack_from(content, start)
            if kind == _USER_PROCESS and pid > 0 and _is_alive(pid):
                found.add((_name(_c_text(user)), _name(_c_text(terminal))))
        return found

    # -- inhibitors

    def _inhibitors(self, now: datetime) -> tuple[tuple[Inhibitor, ...], list[str]]:
        """Return who objects to a restart, and what could not be read."""
        found: list[Inhibitor] = []
        problems: list[str] = []
        for folder in (self._run / "updog/inhibit.d", self._state_dir / "inhibit.d"):
            content = read_folder(folder, _FILE_BYTES)
            problems += content.problems
            found += [_inhibitor(line(str(folder / name)), data) for name, data in content.files.items()]
        content = read_folder(self._run / "systemd/inhibit", _FILE_BYTES, but=_PIPE)
        problems += content.problems
        for fields in map(_fields, content.files.values()):
            if "shutdown" in fields.get("WHAT", "").split(":") and fields.get("MODE") in _BLOCKING:
                who, why = _name(fields.get("WHO", "")), line(fields.get("WHY", ""), FOREIGN_CHARACTERS)
                found.append(Inhibitor(source=who or "a program", why=why or "no reason given"))
        return tuple(one for one in found if one.until is None or now < one.until), problems


def _inhibitor(source: str, content: bytes) -> Inhibitor:
    """Return the objection in a file of an ``inhibit.d``; one that cannot be understood is a hard one."""
    until = None
    try:
        document = json.loads(content)
        fault = _fault(document)
        if not fault and document.get("until") is not None:
            until = parse_time(document["until"])
    except (ValueError, RecursionError, TimeError) as error:
        fault = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    if fault:
        why = line(f"this file is not a valid inhibitor: {fault}", FOREIGN_CHARACTERS)
        return Inhibitor(source=source, why=why, soft=False)
    why = line(document["why"].strip(), FOREIGN_CHARACTERS)
    return Inhibitor(source=source, why=why, until=until, soft=document.get("soft", True))


def _fault(document: Any) -> str:
    """Return what is wrong with the document of an inhibitor, besides the format of its time."""
    if not isinstance(document, dict):
        return "it is not a JSON object"
    if unknown := sorted(set(document) - {"why", "until", "soft"}):
        return f"its member {unknown[0]!r} is not known"
    why, until = document.get("why"), document.get("until")
    if not isinstance(why, str) or not why.strip():
        return '"why" must be a text that is not empty'
    if until is not None and not isinstance(until, str):
        return '"until" must be a time such as 2027-01-31T00:00:00Z'
    return "" if isinstance(document.get("soft", True), bool) else '"soft" must be true or false'


def _is_alive(pid: int) -> bool:
    """Whether a process exists. procfs does not show those of other users under ``ProtectProc=``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, and belongs to somebody else
    return True


# -- texts of others


def _fields(content: bytes) -> dict[str, str]:
    """Return the ``NAME=VALUE`` lines of one of logind's files, whose values have the escapes of C."""
    pairs = (row.partition(b"=") for row in content.splitlines())
    return {name.decode("ascii", "replace"): _value(value) for name, found, value in pairs if found}


def _value(value: bytes) -> str:
    if len(value) > 1 and value[:1] == value[-1:] and value[:1] in {b'"', b"'"}:
        value = value[1:-1]
    return _ESCAPE.sub(_escaped_byte, value).decode("utf-8", "backslashreplace")


def _escaped_byte(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes([int(match[1], 16)])
    return bytes([int(match[2], 8)]) if match[2] else _LETTERS.get(match[3], match[3])


def _c_text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _name(text: str) -> str:
    return line(text.strip(), _NAME_CHARACTERS)


# -- the warning


def _wall(text: str) -> bool:
    """Show a text to everybody in utmp by wall(1); return whether that could be done."""
    try:
        process = subprocess.Popen(
            ["wall"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        process.communicate(text.encode("utf-8", "backslashreplace"), timeout=_WALL_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode == 0


def _write_to(dev: Path, terminal: str, text: str) -> None:
    """Show a text on a terminal, as far as it takes it at once."""
    if not _TERMINAL.fullmatch(terminal):
        return
    shown = f"\r\n\aMessage from updog:\r\n{text}\r\n".replace("\r\n", "\n").replace("\n", "\r\n")
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(dev / terminal, flags)
        try:
            if os.isatty(descriptor):
                os.write(descriptor, shown.encode("utf-8", "backslashreplace"))
        finally:
            os.close(descriptor)
