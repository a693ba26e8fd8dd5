"""A systemd of the test's own, for what only systemd does with a unit: open sockets, start services.

    with service_manager(units) as systemctl:
        systemctl("start", "updog-agent.socket")

It is a user's manager in a mount namespace whose ``/run`` is empty, so that it neither sees nor disturbs
that of the machine. It cannot set up the sandbox of a service of the system: units come without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.patience import eventually, stretched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SYSTEMD = Path("/usr/lib/systemd/systemd")
_ALONE = ("unshare", "--mount", "sh", "-c")
_EMPTY_RUN = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system"  # sd_booted(3)


@cache
def can_manage_services() -> bool:
    """Whether this machine can run one: it has systemd, and this process may mount."""
    tools = all(shutil.which(name) for name in ("systemctl", "unshare"))
    if not (_SYSTEMD.exists() and tools):
        return False
    return subprocess.run([*_ALONE, _EMPTY_RUN], capture_output=True, check=False).returncode == 0


@contextmanager
def service_manager(units: Path) -> Iterator[Callable[..., str]]:
    """Run systemd with the units of a folder, before those of the machine; yield `systemctl`.

    It returns what it prints, and must succeed unless ``check`` is false.
    """
    run = Path(tempfile.mkdtemp(prefix="run-"))  # a short path: there are sockets below it
    environment = {
        "PATH": os.defpath,
        "HOME": str(run),
        "XDG_RUNTIME_DIR": str(run),
        "XDG_CONFIG_HOME": str(run / "config"),
        "SYSTEMD_UNIT_PATH": f"{units}:",
        "SYSTEMD_LOG_TARGET": "console",
    }
    log = units.parent / "systemd.log"

    def systemctl(*words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["systemctl", "--user", "--no-pager", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=stretched(60),
        )
        assert not check or done.returncode == 0, (words, done.stderr, log.read_text(encoding="utf-8"))
        return done.stdout.strip()

    with log.open("wb") as file:
        process = subprocess.Popen(
            [*_ALONE, f"{_EMPTY_RUN} && exec {_SYSTEMD} --user"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        is_up = "active"  # is-system-running asks whether the machine was started by systemd
        assert eventually(lambda: systemctl("is-active", "basic.target", check=False) == is_up), (
            log.read_text()
        )
        yield systemctl
    finally:
        systemctl("exit", check=False)
        try:
            process.wait(stretched(30))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(run, ignore_errors=True)
