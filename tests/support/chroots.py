"""A fresh Debian in a folder, where packages are installed and removed as on a machine.

    debian = Chroot.unpacked(base, tmp_path / "debian")
    debian.run("dpkg", "--install", "/updog.deb")

Only root can do it. Each command has a mount and a process namespace of its own, with /proc.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUITE = "bookworm"
INCLUDED = ("ca-certificates", "python3", "systemd")
_ENTER = 'mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/run" && exec chroot "$@"'


def make_base(folder: Path) -> None:
    """Write a Debian into ``folder/base_.tar``."""
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(INCLUDED)}",
            SUITE,
            folder / "base_.tar",
        ],
        check=True,
    )


@dataclass(frozen=True)
class Chroot:
    """A Debian in a folder."""

    root: Path

    @classmethod
    def unpacked(cls, base: Path, root: Path) -> Chroot:
        """Return a new one from what :func:`make_base` wrote."""
        root.mkdir()
        subprocess.run(
            ["tar", "--extract", "--numeric-owner", "--file", base, "--directory", root], check=True
        )
        return cls(root)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there, with nothing of this process's environment."""
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, "sh", self.root, *words],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def put(self, package: Path) -> str:
        """Copy a file there, and return its path there."""
        shutil.copyfile(package, self.root / "root" / package.name)
        return f"/root/{package.name}"

    def paths(self) -> set[str]:
        """Return every path there is, but those in which packages in general are recorded."""
        known = ("var/lib/dpkg/", "var/log/", "var/cache/", "root/")
        return {
            place
            for path in self.root.rglob("*")
            for place in [str(path.relative_to(self.root))]
            if not place.startswith(known)
        }
