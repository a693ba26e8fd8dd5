"""A child that is being started when a signal arrives does not outlive whoever has to end it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.patience import eventually
from updog.child_process import signals_held_back
from updog.health.checks import run_bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Unwound(BaseException):
    """What the handlers here raise, as those of Ctrl-C and of a service manager's SIGTERM do."""


def unwind(_number: int, _frame: object) -> None:
    raise Unwound


@pytest.fixture(autouse=True)
def raising_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, unwind) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return the processes that were started; those that still run are ended afterwards."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def as_it_starts(act: Callable[[], None], started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Do something when the next child runs, but its caller does not know of it yet."""

    def watch(frame: FrameType, event: str, _value: object) -> None:
        if event == "return" and frame.f_code.co_name == "_execute_child":
            sys.setprofile(None)
            started.append(frame.f_locals["self"])
            act()

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_is_being_started_when_a_signal_arrives_is_ended(
    number: signal.Signals, started: list[subprocess.Popen[bytes]]
) -> None:
    for _ in as_it_starts(lambda: signal.raise_signal(number), started):
        with pytest.raises(Unwound):
            run_bounded(["sleep", "600"], 600)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_signal_takes_effect_at_the_end_of_the_block_and_once() -> None:
    done = []

    def block() -> None:
        with signals_held_back():
            signal.raise_signal(signal.SIGTERM)
            done.append("the rest of the block")

    with pytest.raises(Unwound):
        block()
    assert done
    assert signal.getsignal(signal.SIGTERM) is unwind


def test_a_block_that_fails_says_so_if_no_signal_came() -> None:
    with pytest.raises(OSError, match="no such program"), signals_held_back():
        raise OSError("no such program")
    assert signal.getsignal(signal.SIGINT) is unwind


@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_child_inherits_what_its_parent_ignores(ignored: signal.Handlers) -> None:
    signal.signal(signal.SIGINT, ignored)
    with signals_held_back():
        assert signal.getsignal(signal.SIGINT) is ignored


def test_a_child_can_be_terminated() -> None:
    """A signal that is held back by the process's mask would be held back in the child for ever."""
    with signals_held_back():
        process = subprocess.Popen(["sleep", "600"])
    process.terminate()
    assert eventually(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGTERM


def test_another_thread_starts_children_as_before() -> None:
    statuses: list[int] = []

    def start() -> None:
        with signals_held_back():
            statuses.append(subprocess.call(["true"]))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert statuses == [0]
