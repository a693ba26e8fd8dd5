"""A root shell on a machine's serial port: run a command, read its answer, notice when the shell changes.

A serial port loses bytes. While a machine starts, its terminal is opened, reset and flushed more than once,
and what waits in the port is cut anywhere: a shell may get the end of a line without its beginning.

Rules it enforces:

* nothing depends on the state of the terminal, such as its echo or a prompt: an answer is what stands between
  two marks. They are new for every question, and cannot be in an echo: the shell removes a backslash from
  them;
* a shell is greeted first. The greeting gives it a word, and a command runs only in a shell that has the word
  of the last greeting. So a restarted shell is noticed, and a command that is left in the port has no effect
  on the system that starts next;
* parts of lines are harmless: a greeting has no quotes and opens no block, and a command without its
  beginning is a syntax error;
* it asks, and does not only listen: a command that does not begin is interrupted (Ctrl-C) and sent again, on
  a new connection every second time; while one runs, the question whether it is over waits behind it;
* a silence and a machine that is gone both end a wait, with different errors.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import termios
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from updog.drill.patience import Patience
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AGAIN_SECONDS = 10.0
"""A shell begins a command in a tenth of a second; after this (reference machine) it is asked again."""

_LOOK_SECONDS = 0.1
_CONNECT_SECONDS = 30
_SHOWN = 500  # characters of an answer in an error
_INTERRUPT = "\x03"
_INTERRUPTED_SECONDS = 0.5
"""An interrupted shell discards the line that it has just read, so the next line is sent later."""

_GREETINGS_BEFORE_MORE = 30  # about as many seconds: a system may start its shell late
_GREETING = "\ndrill={word}; export TERM=dumb; echo @\\@$drill up\n"
"""The first line end completes what waits in the port. A dumb terminal gets no pager and no colours."""

_COMMAND = (
    "if [ _$drill = _{word} ]; then echo @\\@{mark} begun; ( {command} ) </dev/null; echo @\\@{mark} $?; "
    "else echo @\\@{mark} other; fi\n"
)
_IS_IT_OVER = "if [ _$drill = _{word} ]; then echo @\\@{mark} over; else echo @\\@{mark} other; fi\n"


class GoneError(DrillFailedError):
    """The machine was restarted or switched off, or its shell was restarted, during a command."""


class LostAnswerError(DrillFailedError):
    """A command ended, and its answer is incomplete."""


@dataclass(kw_only=True, slots=True)
class Question:
    """A command that was sent to the shell; used by :class:`Shell` only.

    Attributes:
        command: its words.
        patience: until it is asked again.
        mark: stands before and behind its answer.
        sent: how often it was sent.
    """

    command: str
    patience: Patience
    mark: str = ""
    sent: int = 0


class Shell:
    """A connection to a shell.

    Args:
        path: Unix socket of the serial port.
        is_gone: tells whether the system at the other end has restarted or is off.
        again: seconds after which a command that does not begin is sent again, on the reference machine.
    """

    def __init__(self, path: Path, is_gone: Callable[[], bool], again: float = AGAIN_SECONDS) -> None:
        self._path, self._is_gone, self._again = path, is_gone, again
        self._text = b""
        self.forget()
        self._socket = _connected(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def forget(self) -> None:
        """Treat the shell as unknown: commands run only after :meth:`greet` returned True."""
        self._word = uuid4().hex
        self._looks = self._greetings = 0

    def greet(self, seconds: float = 1.0) -> bool:
        """Greet the shell; tell whether it has answered this greeting or an earlier one. Raises GoneError.

        Nothing is sent while an earlier greeting still waits in the port: then nothing reads from it.
        """
        self._looks += 1
        if self._looks % _GREETINGS_BEFORE_MORE == 0:
            self._connect_again()
        if not self._waits():
            self._greetings += 1
            if self._greetings % _GREETINGS_BEFORE_MORE == 0:
                self._interrupt()  # something reads the port, but not a shell that waits for a line
            self._send(_GREETING.format(word=self._word))
        answer = re.compile(rb"@@" + self._word.encode() + rb" up\r?\n")
        until = time.monotonic() + seconds
        while not answer.search(self._text):
            if time.monotonic() > until:
                return False
            self._hear()
        return True

    def run(self, command: str, silence: float) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed.

        Args:
            command: for the shell.
            silence: seconds without a byte of it after which the command has failed, see
                :class:`~updog.drill.patience.Patience`.

        Raises:
            DrillFailedError: no answer.
            LostAnswerError: it has ended, with an unknown result.
            GoneError: the machine or the shell was restarted.
        """
        question = self.begin(command)
        patience = Patience(silence=silence)
        while True:
            status, text = self.poll(question)
            if status is not None:
                return status, text
            patience.watch(len(text))
            if patience.is_over():
                raise DrillFailedError(
                    f"no answer to `{command}` in {patience.seconds:.0f} s, sent {question.sent} times; "
                    f"the shell said: {text[-_SHOWN:]!r}"
                )

    def ask(self, command: str, silence: float) -> tuple[int, str]:
        """Run a command that may be run twice, and is if its answer was lost; else as :meth:`run`."""
        try:
            return self.run(command, silence)
        except LostAnswerError:
            return self.run(command, silence)

    def begin(self, command: str) -> Question:
        """Send a command and return what :meth:`poll` needs. Raises GoneError."""
        question = Question(command=command, patience=Patience(silence=self._again))
        self._ask(question)
        return question

    def poll(self, question: Question) -> tuple[int | None, str]:
        """Listen for a moment; return the exit status, None while it runs, and everything printed so far.

        Raises:
            LostAnswerError: it has ended, with an unknown result.
            GoneError: the machine or the shell was restarted.
        """
        self._hear()
        marks = list(re.finditer(rb"@@" + question.mark.encode() + rb" (\w+)\r?\n", self._text))
        words = [mark[1].decode() for mark in marks]
        text = self._text[marks[0].end() :] if words[:1] == ["begun"] else b""
        if words[:1] == ["begun"] and len(words) > 1 and words[1].isdecimal():
            text = self._text[marks[0].end() : marks[1].start()]
            return int(words[1]), self._printed(text, question)
        if words and words[-1] == "other":
            raise GoneError("the shell on the node was restarted")
        if words and words != ["begun"]:
            raise LostAnswerError(f"the answer to `{question.command}` was lost in the serial port")
        if self._is_gone():
            raise GoneError("the machine restarted in the middle of a command")
        question.patience.watch(words)
        if question.patience.is_over():
            self._ask_again(question, has_begun=bool(words))
        return None, self._printed(text, question)

    def _ask(self, question: Question) -> None:
        question.mark, self._text = uuid4().hex, b""
        question.sent += 1
        line = _COMMAND.format(word=self._word, mark=question.mark, command=question.command)
        self._send(line)

    def _ask_again(self, question: Question, *, has_begun: bool) -> None:
        """Send a command again that did not begin, or ask whether the one that runs is over."""
        before = question.patience
        question.patience = replace(before, silence=before.silence * (2 if has_begun else 1))
        if has_begun:  # less and less often: a terminal keeps only 4096 bytes that are not read yet
            self._send(_IS_IT_OVER.format(word=self._word, mark=question.mark))
            return
        if question.sent % 2 == 0:
            self._connect_again()
        self._interrupt(before.factor)
        self._ask(question)

    def _interrupt(self, factor: float = 1.0) -> None:
        self._send(_INTERRUPT)
        time.sleep(_INTERRUPTED_SECONDS * factor)

    def _printed(self, text: bytes, question: Question) -> str:
        """Return what a command printed, without the echo of what was sent meanwhile."""
        typed = _IS_IT_OVER.format(word=self._word, mark=question.mark)
        return text.decode(errors="replace").replace("\r", "").replace(typed, "")

    def _connect_again(self) -> None:
        self._socket.close()
        self._socket = _connected(self._path)

    def _waits(self) -> bool:
        """Tell whether something that was sent has not been read yet."""
        unread = fcntl.ioctl(self._socket, termios.TIOCOUTQ, struct.pack("i", 0))
        return bool(struct.unpack("i", unread)[0])

    def _hear(self) -> None:
        """Receive for a moment. Raises GoneError."""
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError as error:
            raise GoneError("the machine is switched off") from error
        if not data:
            raise GoneError("the machine is switched off")
        self._text += data

    def _send(self, text: str) -> None:
        try:
            self._socket.sendall(text.encode())
        except OSError as error:
            raise GoneError("the machine is switched off") from error


def _connected(path: Path) -> socket.socket:
    """Connect to a socket that is there and may not be listened to yet. Raises DrillFailedError."""
    patience = Patience(silence=_CONNECT_SECONDS)
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
        except OSError as error:
            client.close()
            if patience.is_over():
                raise DrillFailedError(f"no machine listens on {path}: {error}") from error
            time.sleep(_LOOK_SECONDS)
        else:
            client.settimeout(_LOOK_SECONDS)
            return client
