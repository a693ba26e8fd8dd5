"""The shell on a serial port that loses bytes: real shells at the other end, on a terminal that echoes."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.patience import eventually
from tests.support.serial_port import SerialPort
from updog.drill.emulated import written
from updog.drill.shell import GoneError, LostAnswerError, Question, Shell
from updog.errors import DrillFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AGAIN = 0.3
PATIENCE = 60.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[SerialPort]:
    """Return a port with a shell behind it."""
    with SerialPort(tmp_path / "port") as port:
        port.start_shell()
        yield port


@pytest.fixture
def shell(port: SerialPort) -> Iterator[Shell]:
    """Return a connection to the shell, which has been greeted."""
    with Shell(port.path, lambda: False, AGAIN) as shell:
        greet(shell)
        yield shell


def greet(shell: Shell) -> None:
    """Greet until there is an answer."""
    until = time.monotonic() + PATIENCE
    while not shell.greet(0.2):
        assert time.monotonic() < until, "no answer"


def finish(shell: Shell, command: str) -> tuple[int, str]:
    """Run a command."""
    return shell.run(command, PATIENCE)


def test_commands_are_run_and_their_ends_are_found_whatever_they_print(shell: Shell) -> None:
    assert finish(shell, "echo one; echo two") == (0, "one\ntwo\n")
    assert finish(shell, "(exit 75)") == (75, "")
    assert finish(shell, "exit 3") == (3, "")
    assert finish(shell, "echo '@@''mark 0'; false") == (1, "@@mark 0\n")
    assert finish(shell, "printf unfinished") == (0, "unfinished")
    assert finish(shell, "cat; echo $TERM") == (0, "dumb\n")


def test_a_command_is_watched_while_it_runs(shell: Shell, tmp_path: Path) -> None:
    go = tmp_path / "go"
    question = shell.begin(f"echo begun; until [ -e {go} ]; do sleep 0.1; done; echo done")
    while "begun\n" not in (seen := shell.poll(question))[1]:
        assert seen[0] is None
    go.touch()
    while (seen := shell.poll(question))[0] is None:
        assert seen[1].startswith("begun\n")
    assert seen == (0, "begun\ndone\n")


def _end(shell: Shell, question: Question) -> tuple[int, str]:
    while True:
        status, text = shell.poll(question)
        if status is not None:
            return status, text


# -- what a port loses ----------------------------------------------------------------------------------


def test_a_greeting_without_its_beginning_is_no_greeting(port: SerialPort) -> None:
    """How `good-update` once failed: the shell had answered, and still echoed what it was asked."""
    with Shell(port.path, lambda: False, AGAIN) as shell:
        for lost in range(1, 90, 4):
            port.restart_shell()
            shell.forget()
            port.lose_input = lost
            greet(shell)
            assert finish(shell, "true") == (0, ""), f"{lost} bytes were lost"
            assert finish(shell, "echo $TERM") == (0, "dumb\n"), f"{lost} bytes were lost"


@pytest.mark.parametrize("lost", [1, 20, 60, 100, 150, 200, 400])
def test_a_command_that_did_not_arrive_whole_is_sent_again_and_run_once(
    port: SerialPort, shell: Shell, tmp_path: Path, lost: int
) -> None:
    port.lose_input = lost
    assert finish(shell, f"echo run >>{tmp_path}/runs; echo fine") == (0, "fine\n")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_line_that_waits_for_its_end_is_given_up(port: SerialPort, shell: Shell) -> None:
    shell._socket.sendall(b"if true; then echo 'open\n")
    assert finish(shell, "echo fine") == (0, "fine\n")
    del port


def test_a_command_behind_one_that_ignores_interrupts_is_asked_again_on_new_connections(
    port: SerialPort, shell: Shell, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    shell._socket.sendall(f"trap '' INT; until [ -e {go} ]; do sleep 0.1; done; trap - INT\n".encode())
    question = shell.begin("echo fine")
    while port.connections < 3:
        assert shell.poll(question) == (None, "")
    go.touch()
    assert _end(shell, question) == (0, "fine\n")


def test_a_command_whose_answer_was_lost_says_so_and_is_asked_again_only_where_it_may(
    port: SerialPort, shell: Shell, tmp_path: Path
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    command = f"echo run >>{runs}; until [ -e {go} ]; do sleep 0.1; done; echo fine"
    for expected, run in ((LostAnswerError, shell.run), (None, shell.ask)):
        losing = threading.Thread(target=_lose_the_end, args=(port, runs, go))
        losing.start()
        if expected is not None:
            with pytest.raises(expected, match="was lost in the serial port"):
                run(command, PATIENCE)
            assert runs.read_text() == "run\n"
        else:
            assert run(command, PATIENCE) == (0, "fine\n")
            assert runs.read_text() == "run\nrun\n"
        losing.join()
        runs.unlink()
        go.unlink()


def _lose_the_end(port: SerialPort, runs: Path, go: Path) -> None:
    """Let a command end, and lose what it and the shell print then."""
    while not runs.exists():
        time.sleep(0.01)
    time.sleep(0.5)  # its beginning has arrived
    port.lose_output = everything = 10_000
    go.touch()
    while port.lose_output > everything - len("fine"):
        time.sleep(0.01)
    time.sleep(0.5)
    port.lose_output = 0


def test_a_shell_that_is_busy_with_something_else_gets_a_new_prompt(port: SerialPort) -> None:
    port.stop_shell()
    port.start_shell("/bin/sh", "-c", "trap : INT; cat; exec /bin/sh -i")
    with Shell(port.path, lambda: False, AGAIN) as shell:
        until = time.monotonic() + PATIENCE
        while not shell.greet(0.02):
            assert time.monotonic() < until
        assert finish(shell, "echo fine") == (0, "fine\n")
    assert port.connections > 1


# -- who answers ----------------------------------------------------------------------------------------


def test_a_silence_and_a_machine_that_is_gone_are_told_apart(port: SerialPort) -> None:
    gone = False
    with Shell(port.path, lambda: gone, AGAIN) as shell:
        greet(shell)
        with pytest.raises(
            DrillFailedError, match=r"no answer to `echo so far; sleep 9` .* 'so far\\n'"
        ) as caught:
            shell.run("echo so far; sleep 9", 0.5)
        assert not isinstance(caught.value, GoneError)
        gone = True
        with pytest.raises(GoneError, match="restarted in the middle"):
            finish(shell, "sleep 9")


def test_a_shell_that_was_restarted_is_noticed_at_the_next_command(port: SerialPort, shell: Shell) -> None:
    port.restart_shell()
    with pytest.raises(GoneError, match="the shell on the node was restarted"):
        finish(shell, "echo fine")
    shell.forget()
    greet(shell)
    assert finish(shell, "echo fine") == (0, "fine\n")


def test_a_shell_that_is_restarted_while_it_is_listened_to_is_noticed(
    port: SerialPort, shell: Shell, tmp_path: Path
) -> None:
    question = shell.begin(f"touch {tmp_path}/runs; sleep 60")
    while not (tmp_path / "runs").exists():
        shell.poll(question)
    port.restart_shell()
    with pytest.raises(GoneError, match="the shell on the node was restarted"):
        _end(shell, question)


def test_what_waits_in_the_port_is_not_run_by_the_next_system(
    port: SerialPort, shell: Shell, tmp_path: Path
) -> None:
    port.stop_shell()
    shell.begin(f"touch {tmp_path}/reboot")
    port.start_shell()
    shell.forget()
    greet(shell)
    assert finish(shell, "echo fine") == (0, "fine\n")
    assert not (tmp_path / "reboot").exists()


def test_a_command_without_its_beginning_does_nothing_and_harms_no_later_one(
    port: SerialPort, shell: Shell, tmp_path: Path
) -> None:
    """Whatever part the shell got: each end of a line by itself, and some before another command."""
    with SerialPort(tmp_path / "nobody") as nobody, Shell(nobody.path, lambda: False) as other:
        other.begin(f"touch {tmp_path}/harm; echo 'quoted'; touch {tmp_path}/harm")
        assert eventually(lambda: nobody._client is not None)
        assert nobody._client is not None
        line = nobody._client.recv(4096)
    for cut in range(1, len(line)):
        subprocess.run(["/bin/sh"], input=line[cut:], check=False, capture_output=True)
        assert not (tmp_path / "harm").exists(), line[cut:]
    for cut in range(1, len(line), 13):
        shell._socket.sendall(line[cut:])
        assert finish(shell, "echo fine") == (0, "fine\n"), line[cut:]
    assert not (tmp_path / "harm").exists()
    del port


def test_nobody_answers_on_a_port_where_nobody_is_and_one_greeting_waits_there(tmp_path: Path) -> None:
    with SerialPort(tmp_path / "port") as port, Shell(port.path, lambda: False) as shell:
        for _ in range(9):
            assert not shell.greet(0.01)
        assert port._client is not None
        assert port._client.recv(4096).count(b"up\n") == 1


def test_a_port_that_is_there_before_it_is_listened_to_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "port"))
        later = threading.Timer(0.3, listener.listen)
        later.start()
        with Shell(tmp_path / "port", lambda: False) as shell:
            assert not shell.greet(0.2)
        later.join()


def test_a_machine_that_was_switched_off_is_gone(port: SerialPort, shell: Shell) -> None:
    port.__exit__()
    with pytest.raises(GoneError, match="switched off"):
        finish(shell, "echo fine")


def test_how_much_was_written_is_read_from_the_events_of_update() -> None:
    said = (
        '{"event": "progress", "phase": "fetch root", "done": 9, "total": 9}\n'
        '{"event": "progress", "phase": "write root", "done": 3, "total": 4}\n{"event": "pro'
    )
    assert written(said) == 0.75
    assert written(said[:70]) == -1.0
    assert written("not JSON\n[]\n") == -1.0
