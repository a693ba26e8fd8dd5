"""The restart: its command, the hooks around it, and the sentinel for a program that restarts the node.

Rules it enforces:

* hooks are executables, run one after the other in the order of their names, each with its time limit, as
  health checks are. The first one before a restart that fails (or cannot be run) ends it: the node is not
  restarted. Those after a confirm are all run, and only reported;
* how each hook ended is an event of the history, with the last line of its output; those before a restart are
  on the disk before the machine goes down. A history that cannot be written stops no restart;
* a restart by systemctl respects the locks of other programs (``--check-inhibitors=yes``) where systemctl has
  that option: without a terminal it ignores them otherwise. It asks logind over the system bus; where there
  is no bus there are no locks, and with the option the restart would fail;
* a sentinel that another program wrote is neither changed nor removed: it asks for a restart of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from signpost.medium import OsMedium
from signpost.text import FOREIGN_CHARACTERS, line
from updog.daemon.small_files import UnreadError, read_small
from updog.durable import write_bytes
from updog.errors import HookError, HostError
from updog.state import Code, Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

PRE_RESTART, POST_CONFIRM = "pre-restart.d", "post-confirm.d"
_WITH_CHECK_INHIBITORS = 248  # systemd's NEWS: "systemctl --check-inhibitors=true may now be used"
_INHIBITOR_OPTIONS = ("--check-inhibitors", "--ignore-inhibitors", "-i", "-ff", "--force", "-f")
_VERSION = re.compile(r"^systemd ([0-9]{1,5})\b", re.MULTILINE)
_VERSION_SECONDS, _VERSION_BYTES = 10.0, 1 << 14
SYSTEM_BUS = Path("/run/dbus/system_bus_socket")
RESTART_SECONDS = 60.0  # for the command, not for the machine
_OUTPUT_BYTES = 2000
_SENTINEL_BYTES = 1 << 12
_OURS = "updog: "
_SENTINEL_STEP = "Check the key `sentinel` and its folder."


@dataclass(frozen=True, kw_only=True, slots=True)
class HookResult:
    """The result of a hook: its name, why it failed (empty: it did not), and the last line of its output.

    ``name`` is empty where the folder of the hooks cannot be read.
    """

    name: str
    problem: str
    last_line: str

    def event(self, folder: str, now: datetime, by: str | None) -> Event:
        """Return it as an event of the history; ``folder`` is the name of the folder with the hook."""
        place = f"{folder}/{self.name}" if self.name else folder
        end = self.problem or "passed"
        if self.last_line.removesuffix("…") not in end:
            end = f"{end}: {self.last_line}"
        code = Code.HOOK_FAILED if self.problem else Code.HOOK_PASSED
        return Event(time=now, code=code, version=None, sentence=f"{place} {end.rstrip('.')}.", by=by)


def run_pre_restart(hooks_dir: Path, timeout: float) -> tuple[HookResult, ...]:
    """Run the hooks before a restart, each for at most ``timeout`` seconds, up to the first that fails."""
    return _run_hooks(hooks_dir / PRE_RESTART, timeout, all_of_them=False)


def require_passed(hooks_dir: Path, results: Sequence[HookResult]) -> None:
    """Raise HookError, which names the hook before a restart that failed: the node must not be restarted."""
    if results and results[-1].problem:
        failed = results[-1]
        raise HookError(f"not restarted: {hooks_dir / PRE_RESTART / failed.name} {failed.problem}")


def run_post_confirm(hooks_dir: Path, timeout: float) -> tuple[HookResult, ...]:
    """Run all hooks after a confirm, each for at most ``timeout`` seconds; their failures stop nothing."""
    return _run_hooks(hooks_dir / POST_CONFIRM, timeout, all_of_them=True)


def _run_hooks(folder: Path, timeout: float, *, all_of_them: bool) -> tuple[HookResult, ...]:
    from updog.health.checks import names_in, run_file

    try:
        names = names_in(folder)
    except OSError as error:
        return (HookResult(name="", problem=f"cannot be read: {error.strerror}", last_line=""),)
    results: list[HookResult] = []
    for name in names:
        run = run_file(folder / name, timeout)
        if not run.is_meant:
            continue
        last_line = line(run.output.rpartition("\n")[2], FOREIGN_CHARACTERS)
        results.append(HookResult(name=line(name), problem=run.problem, last_line=last_line))
        if run.problem and not all_of_them:
            break
    return tuple(results)


def restart_command(command: Sequence[str], *, check_inhibitors: bool, systemd: int | None) -> list[str]:
    """Return the words of the restart.

    Args:
        command: what is configured.
        check_inhibitors: whether locks of other programs stop the restart.
        systemd: version of systemctl; None: unknown, or there is none.
    """
    program, *others = command
    is_systemctl = PurePath(program).name == "systemctl" and "reboot" in others
    says_itself = any(word.partition("=")[0] in _INHIBITOR_OPTIONS for word in others)
    knows = systemd is not None and systemd >= _WITH_CHECK_INHIBITORS
    if check_inhibitors and is_systemctl and knows and not says_itself:
        return [program, "--check-inhibitors=yes", *others]
    return list(command)


def systemd_version(program: str = "systemctl") -> int | None:
    """Return the version of systemctl; None if there is none, or it does not say."""
    from updog.health.checks import run_bounded

    output = run_bounded([program, "--version"], _VERSION_SECONDS, kept=_VERSION_BYTES).output
    match = _VERSION.search(output)
    return int(match[1]) if match else None


def restart(command: Sequence[str], *, check_inhibitors: bool = True, system_bus: Path = SYSTEM_BUS) -> None:
    """Restart this machine by the configured command, which returns before the machine goes down.

    What the command leaves running in the background is left alone: it may be what restarts.

    Args:
        command: its words.
        check_inhibitors: whether locks of other programs stop the restart.
        system_bus: the socket of D-Bus.

    Raises:
        HostError: no command is configured, or it failed; the node is not restarted.
    """
    if not command:
        message = "no reboot_command is configured, so the node is not restarted"
        raise HostError(message, next_step="Set `reboot_command`, or restart the node yourself.")
    is_systemctl = PurePath(command[0]).name == "systemctl"
    is_asked = check_inhibitors and is_systemctl and system_bus.exists()
    version = systemd_version(command[0]) if is_asked else None
    words = restart_command(command, check_inhibitors=check_inhibitors, systemd=version)
    output = os.memfd_create("restart", os.MFD_CLOEXEC)  # not a pipe: nobody need read it
    try:
        problem = _problem(words, output)
        said = os.pread(output, _OUTPUT_BYTES, max(0, os.fstat(output).st_size - _OUTPUT_BYTES))
    finally:
        os.close(output)
    if problem:
        last_line = line(said.decode(errors="replace").strip().rpartition("\n")[2], FOREIGN_CHARACTERS)
        text = f"cannot restart with {shlex.join(words)}: {problem}" + (f": {last_line}" if last_line else "")
        raise HostError(text, next_step="Find out what prevents the restart, or restart the node yourself.")


def _problem(words: Sequence[str], output: int) -> str:
    """Run the restart's command and return why it failed; an empty text if it did not."""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        return error.strerror or str(error)
    try:
        status = process.wait(RESTART_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it did not finish in {RESTART_SECONDS:g} s"
    if status < 0:
        return f"it was killed by signal {-status}"
    return f"exit status {status}" if status else ""


# -- the sentinel


def write_sentinel(path: Path, message: str) -> None:
    """Ask the program that watches ``path`` (kured) to restart this node, unless somebody has asked already.

    Raises:
        MediumError: it cannot be written. HostError: something else than a file is there.
    """
    if _sentinel(path) in {None, True}:
        write_bytes(OsMedium(), path, f"{_OURS}{message.removeprefix(_OURS).strip()}\n".encode())


def remove_sentinel(path: Path) -> None:
    """Take back what :func:`write_sentinel` asked for. Raises MediumError or HostError."""
    if _sentinel(path):
        OsMedium().remove(str(path))


def _sentinel(path: Path) -> bool | None:
    """Return whether the sentinel was written by us; None if there is none. Raises HostError."""
    try:
        content = read_small(path, _SENTINEL_BYTES)
    except UnreadError as error:
        raise HostError(f"the sentinel cannot be used: {error}", next_step=_SENTINEL_STEP) from error
    return None if content is None else content.startswith(_OURS.encode())
