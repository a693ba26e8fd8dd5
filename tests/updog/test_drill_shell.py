"""The shell on a serial port: real shells at the other end, as talkative as a terminal."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from updog.drill.emulated import written
from updog.drill.shell import GoneError, Shell
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Port:
    """A socket with a shell behind it, on a terminal that echoes, as QEMU has its serial port."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "port"
        self.gone = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._ours, theirs = pty.openpty()
        command = ["/bin/sh", "-i"]
        self._process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        self._line, _ = self._listener.accept()
        with self._line:
            threading.Thread(target=self._answer, daemon=True).start()
            while data := self._line.recv(4096):
                os.write(self._ours, data)

    def _answer(self) -> None:
        try:
            while data := os.read(self._ours, 4096):
                self._line.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.close()
        os.close(self._ours)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    port = Port(tmp_path)
    yield port
    port.close()


def test_commands_are_run_and_their_ends_are_found_whatever_they_print(port: Port) -> None:
    with Shell(port.path, lambda: port.gone) as shell:
        assert shell.answers(10)
        assert shell.run("echo one; echo two", 10) == (0, "one\ntwo\n")
        assert shell.run("(exit 75)", 10) == (75, "")
        assert shell.run("echo '@@''mark 0'; false", 10) == (1, "@@mark 0\n")


def test_a_silence_and_a_machine_that_is_gone_are_told_apart(port: Port) -> None:
    with Shell(port.path, lambda: port.gone) as shell:
        assert shell.answers(10)
        with pytest.raises(DrillFailedError, match="no answer from the node in 0 s") as caught:
            shell.run("sleep 1", 0.2)
        assert not isinstance(caught.value, GoneError)
        port.gone = True
        with pytest.raises(GoneError, match="restarted in the middle"):
            shell.run("sleep 5", 10)


def test_a_command_is_watched_while_it_runs(port: Port) -> None:
    with Shell(port.path, lambda: port.gone) as shell:
        assert shell.answers(10)
        end = shell.begin("echo begun; sleep 0.5; echo done")
        seen = []
        while True:
            status, said = shell.poll(end)
            seen.append(said)
            if status is not None:
                break
        assert "begun\n" in seen
        assert (status, seen[-1]) == (0, "begun\ndone\n")


def test_half_a_question_that_waited_in_the_port_does_no_harm(port: Port, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "listener"))
        listener.listen()
        with Shell(tmp_path / "listener", lambda: False) as shell:
            shell.answers(0.1)
        heard, _ = listener.accept()
        with heard:
            question = heard.recv(4096)
    assert question.endswith(b"$?\n")
    with Shell(port.path, lambda: port.gone) as shell:
        assert shell.answers(10)
        for cut in range(len(question)):
            shell._socket.sendall(question[cut : cut + 30])
            assert shell.answers(2), question[cut : cut + 30]
        assert shell.run("echo fine", 10) == (0, "fine\n")


def test_nobody_answers_on_a_port_where_nobody_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "port"))
        listener.listen()
        with Shell(tmp_path / "port", lambda: False) as shell:
            assert not shell.answers(0.2)


def test_a_port_that_is_there_before_it_is_listened_to_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "port"))
        later = threading.Timer(0.3, listener.listen)
        later.start()
        with Shell(tmp_path / "port", lambda: False) as shell:
            assert not shell.answers(0.2)
        later.join()


def test_how_much_was_written_is_read_from_the_events_of_update() -> None:
    said = (
        '{"event": "progress", "phase": "fetch root", "done": 9, "total": 9}\n'
        '{"event": "progress", "phase": "write root", "done": 3, "total": 4}\n{"event": "pro'
    )
    assert written(said) == 0.75
    assert written(said[:70]) == -1.0
    assert written("not JSON\n[]\n") == -1.0
