"""The process of the daemon: one for each node, told by signals, ended without loss at any moment.

* SIGTERM ends it; a child goes on. SIGHUP starts it again with a new configuration. SIGUSR1 makes it look at
  once, after an operator asked for something. SIGCHLD says that a child has ended.
* Where the mode is off it ends once there is no lock to release, and no client at a socket of systemd.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import select
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from signpost.errors import MediumError, ToolError
from updog import config as configuration
from updog import status_files
from updog.auto.policy import Mode
from updog.auto.table import Lock, Phase
from updog.daemon import decision, view, wishes
from updog.daemon.api.door import open_door
from updog.daemon.children import Children
from updog.daemon.loop import Daemon, Edges
from updog.daemon.machine import Machine
from updog.daemon.memory import MemoryStore
from updog.daemon.notify import notify, watchdog_seconds
from updog.daemon.running import run_folder
from updog.errors import BusyError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from updog.config import Config
    from updog.daemon.api.door import Door
    from updog.daemon.api.start import Api

log = logging.getLogger(__name__)

_UNIT_FOLDERS = (
    Path("etc/systemd/system"),
    Path("run/systemd/system"),
    Path("usr/local/lib/systemd/system"),
    Path("usr/lib/systemd/system"),
    Path("lib/systemd/system"),
)
"""Where systemd looks for units, systemd.unit(5); the first that has one decides."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_TIMER = "updog-update.timer"
LEAVE_LOOK_SECONDS = 10.0
FIRST_CLIENT_SECONDS = 60.0
"""Without automatic updates: how often it is looked whether clients are left, and how long for the first."""

_AFTER_ERROR = timedelta(minutes=1)
_LOCK_SECONDS = 1.0  # a command that looks whether a daemon runs holds the lock for a moment


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def serve(path: Path, *, root: Path = Path("/")) -> int:
    """Run the daemon until it is told to end; return the exit status.

    Args:
        path: the configuration file.
        root: where the system's files are.

    Raises:
        ConfigError: the configuration is wrong, or the timer that updates is enabled too.
        BusyError: another agent runs on this node.
        MediumError: the state cannot be read.
    """
    config = configuration.load(path)
    refuse_timer(config, root)
    run = run_folder()
    wakeup = _listen()  # before anybody can find this process through the lock: SIGUSR1 would end it
    with _lock_file(run) as lock_file:
        _lock(lock_file.fileno())
        daemon = _daemon(config, path, run)
        door = open_door(config.api, os.environ, is_off=config.auto.mode is Mode.OFF)
        api: Api | None = None
        started = time.monotonic()
        _publish(daemon, config, run)  # what the one before this one said is not true any more
        notify("READY=1")
        while True:
            wake = _look(daemon)
            document = _publish(daemon, config, run)
            if api is not None:
                api.tell(document)
            if _is_over(daemon, config):
                is_wanted = api.is_wanted if api else time.monotonic() - started < FIRST_CLIENT_SECONDS
                if not door.is_activated or not is_wanted:
                    break
                wake = min(wake, now() + timedelta(seconds=LEAVE_LOOK_SECONDS))
            seconds = max((wake - now()).total_seconds(), 0.0)
            knocked = () if api else door.sockets
            signals, has_client = _wait(wakeup, knocked, min(seconds, watchdog_seconds() or seconds), daemon)
            notify("WATCHDOG=1")
            if has_client:
                api = _api(daemon, config, path, run, door)
                api.start(document)
            if signal.SIGTERM in signals or signal.SIGINT in signals:
                notify("STOPPING=1")
                break
            if signal.SIGHUP in signals and _is_sound(path):
                log.info("starts again with the configuration in %s", path)
                if api is not None:
                    api.close()
                status_files.remove_agent_metrics(config)
                door.leave_open()
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it listens: one would end it
                os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - itself, with the same words
        if api is not None:
            api.close()
        status_files.remove_agent_metrics(config)  # of an agent that does not run there is nothing to say
    return 0


def refuse_timer(config: Config, root: Path) -> None:
    """Refuse to run beside the timer that installs and restarts by itself. Raises ConfigError."""
    if config.auto.mode is not Mode.OFF and _is_enabled(_TIMER, root):
        raise ConfigError(
            f"{_TIMER} is enabled, and auto.mode is {config.auto.mode.value}: both would install updates",
            next_step=f"Run `systemctl disable --now {_TIMER}`, or set auto.mode to off.",
        )


def _is_enabled(timer: str, root: Path) -> bool:
    """Return whether a timer is enabled, by an operator or by the image, and not masked."""
    folders = [root / folder for folder in _UNIT_FOLDERS]
    unit = next((folder / timer for folder in folders if os.path.lexists(folder / timer)), None)
    is_masked = unit is not None and os.path.realpath(unit) == os.devnull
    return not is_masked and any(
        os.path.lexists(folder / "timers.target.wants" / timer) for folder in folders
    )


def _is_sound(path: Path) -> bool:
    """Return whether the configuration can be read: a daemon that ends for a typing error stays away."""
    try:
        configuration.load(path)
    except ToolError as error:
        log.error("the configuration stays as it was: %s", error.message)  # noqa: TRY400 - no traceback
        return False
    return True


def _lock_file(run: Path) -> IO[bytes]:
    """Open the file whose lock the daemon holds, for everybody to read. Raises MediumError."""
    try:
        run.mkdir(mode=0o755, parents=True, exist_ok=True)
        file = (run / "agent.lock").open("a+b")
        os.fchmod(file.fileno(), 0o644)
    except OSError as error:
        raise MediumError.of(f"cannot write {run / 'agent.lock'}: {error.strerror}", error) from error
    return file


def _lock(descriptor: int) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise BusyError(
                    "another agent runs on this node", next_step="`updog agent status` shows what it does."
                ) from error
            time.sleep(0.05)
        else:
            break
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _listen() -> int:
    """Return a descriptor that can be read when one of the daemon's signals has come."""
    reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return reads


def _wait(descriptor: int, door: Sequence[socket], seconds: float, daemon: Daemon) -> tuple[set[int], bool]:
    """Wait for signals and clients, at most so long; return which signals have come, and whether a client.

    The end of a child that the last look has waited for is no reason for the next look: that would never end.
    """
    end = time.monotonic() + seconds
    doors = [each.fileno() for each in door]
    while True:
        ready, _, _ = select.select([descriptor, *doors], [], [], max(end - time.monotonic(), 0.0))
        signals = set(os.read(descriptor, 4096)) if descriptor in ready else set()
        has_client = any(number in doors for number in ready)
        if signals != {signal.SIGCHLD} or has_client or daemon.has_news:
            return signals, has_client


def _daemon(config: Config, path: Path, run: Path) -> Daemon:
    folder = config.state_dir
    edges = Edges(
        store=MemoryStore(folder),
        children=Children.of(path, run),
        surroundings=Machine(config.auto, folder),
        requests=lambda: wishes.read(folder),
        state_file=folder / "state.json",
        keep_check=partial(decision.keep, folder),
        clock=now,
        jitter=lambda: random.uniform(-1, 1),  # noqa: S311 - spreads a fleet, hides nothing
    )
    seed = config.wave_seed() if config.auto.windows.spread else 0
    return Daemon(config.auto, seed, edges)


def _api(daemon: Daemon, config: Config, path: Path, run: Path, door: Door) -> Api:
    from updog.daemon.api.start import Api  # not before somebody asks: it takes memory

    return Api(config, path, run, door, is_busy=lambda: not daemon.is_idle)


def _look(daemon: Daemon) -> datetime:
    """Look, and return when to look again; where nothing can be saved nothing is done."""
    try:
        return daemon.look()
    except MediumError as error:
        log.error("nothing is done until this is mended: %s", error.message)  # noqa: TRY400 - no traceback
        return now() + _AFTER_ERROR


def _publish(daemon: Daemon, config: Config, run: Path) -> dict[str, Any]:
    """Write how things stand, and return it; a file that cannot be written is logged and stops nothing."""
    requests = wishes.read(config.state_dir)
    document = view.document(config.auto, daemon.memory, daemon.gates, requests)
    status_files.post_agent_metrics(config, document, now())
    status_files.replace(run / "agent.json", json.dumps(document).encode())
    notify(f"STATUS={view.text(document).splitlines()[0]}")
    return document


def _is_over(daemon: Daemon, config: Config) -> bool:
    state = daemon.memory.state
    is_off = config.auto.mode is Mode.OFF and state.phase is Phase.OFF
    is_in_order = (
        state.lock in {Lock.NO, Lock.KEPT} and state.applied is None
    )  # what boots next is taken back
    return is_off and is_in_order and daemon.is_idle
