"""Run the machine's own tools.

Rules: the locale and the time zone are fixed, and ``SOURCE_DATE_EPOCH`` is not handed on (mkfs.erofs would
keep times that are earlier), so that no image depends on the machine; a tool that is missing is named with
its Debian package, one that fails with the end of its output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from repo_tools.errors import ImageBuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PACKAGES: Mapping[str, str] = {
    "debugfs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "qemu-img": "qemu-utils",
    "tar": "tar",
    "veritysetup": "cryptsetup-bin",
}
"""Every tool that is started, and the Debian package that has it."""

OF_IMAGES = ("debugfs", "mke2fs", "mkfs.erofs", "tar", "veritysetup")
"""Those without which no images can be built."""

_FIXED = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
_LEFT_OUT = "SOURCE_DATE_EPOCH"
_ADMIN_FOLDERS = "/usr/sbin:/sbin"  # file system tools are there, and the PATH of a plain user lacks it
_SHOWN = 2000  # characters of a tool's last words


def search_path() -> str:
    """Return the PATH under which tools are looked for."""
    return f"{os.environ.get('PATH', os.defpath)}:{_ADMIN_FOLDERS}"


def require(tools: Iterable[str]) -> None:
    """Refuse to begin if a tool is missing. Raises ImageBuildError, which names all of them."""
    path = search_path()
    missing = sorted(tool for tool in tools if shutil.which(tool, path=path) is None)
    if missing:
        packages = " ".join(sorted({PACKAGES[tool] for tool in missing}))
        raise ImageBuildError(
            f"not installed: {', '.join(missing)}", next_step=f"Install the Debian packages {packages}."
        )


def run(command: Sequence[str | Path], *, extra: Mapping[str, str] | None = None, next_step: str = "") -> str:
    """Run a tool and return what it printed.

    Args:
        command: its name and arguments.
        extra: added to its environment.
        next_step: what to do if it fails.

    Raises:
        ImageBuildError: it is missing, or failed.
    """
    arguments = [str(part) for part in command]
    inherited = {name: value for name, value in os.environ.items() if name != _LEFT_OUT}
    environment = {**inherited, **_FIXED, "PATH": search_path(), **(extra or {})}
    try:
        done = subprocess.run(
            arguments, env=environment, check=False, capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        require([arguments[0]])
        raise
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "it gave no reason"
        raise ImageBuildError(f"{arguments[0]} failed: {said[-_SHOWN:]}", next_step=next_step)
    return done.stdout
