"""A real systemd-journald of its own, in a mount namespace whose /run and journals are empty and its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.patience import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

_JOURNALD = Path("/usr/lib/systemd/systemd-journald")
_SCRIPT = """
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd
[ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
[ -z "$2" ] || mount --bind "$2" /var/lib/systemd/catalog
exec "$1"
"""
# systemd sets JOURNAL_STREAM for a service whose stderr is the journal's socket; systemd-cat connects it.
_AS_A_SERVICE = 'JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/self/fd/2) exec "$@"'


def why_not() -> str:
    """Return why journald cannot be run here; empty if it can."""
    if os.geteuid():
        return "a mount namespace needs root"
    tools = ("unshare", "nsenter", "systemd-cat", "journalctl", str(_JOURNALD))
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


class Journald:
    """The journal, for the duration of a ``with`` block.

    Args:
        catalog: folder with the index of a catalog, in place of the machine's.
    """

    def __init__(self, catalog: Path | None = None) -> None:
        self._catalog = catalog

    def __enter__(self) -> Self:
        """Start journald, and wait until it listens."""
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", _SCRIPT, "sh", _JOURNALD, self._catalog or ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        is_up = ["test", "-S", "/run/systemd/journal/socket"]
        assert eventually(lambda: self._inside(is_up, check=False).returncode == 0), self._process.poll()
        return self

    def __exit__(self, *_: object) -> None:
        """End journald; what it kept is gone."""
        self._process.terminate()
        self._process.communicate()

    def serve(self, words: Sequence[str], *, identifier: str = "updog") -> int:
        """Run a command as a service does, with its output connected to the journal; return its status."""
        service = ["systemd-cat", f"--identifier={identifier}", "sh", "-c", _AS_A_SERVICE, "sh", *words]
        return self._inside(service, check=False).returncode

    def read(self, *options: str) -> list[dict[str, Any]]:
        """Return the messages that ``journalctl`` prints, oldest first."""
        self._inside(["journalctl", "--sync"])
        done = self._inside(["journalctl", "--no-pager", "--quiet", "--output=json", *options])
        return [json.loads(line) for line in done.stdout.splitlines()]

    def show(self, *options: str) -> str:
        """Return what ``journalctl`` prints for people."""
        self._inside(["journalctl", "--sync"])
        return self._inside(["journalctl", "--no-pager", "--quiet", *options]).stdout

    def _inside(self, words: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--target={self._process.pid}", "--mount", f"--wdns={Path.cwd()}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=check)
