"""Files of an ext4 image, read by e2fsprogs' ``debugfs``: no mount, no privileges, nothing is written.

Rules:

* debugfs gets numbers of inodes, never names: a name in an image cannot become a word of its language;
* links are followed as the boot stage's mount follows them; one that leads out of the image leads nowhere;
* what is read is bounded by the caller.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.errors import InspectionToolError, UnreadableImageError
from signpost.text import foreign

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOOL = "debugfs"
ROOT = 2  # number of the inode of an ext4's root folder

_ADMIN_FOLDERS = "/usr/sbin:/sbin"  # not in the PATH of an ordinary user
_ENTRY = re.compile(rb"/([0-9]+)/([0-7]{6})/[0-9]+/[0-9]+/([^/]+)/([0-9]*)/\n")  # of `ls -p`
_SHORT_LINK = re.compile(rb'^Fast link dest: "(.*)"$', re.MULTILINE | re.DOTALL)  # of `stat`
_MAX_LINKS = 40  # that the kernel follows in one path
_MAX_LISTING = 1 << 22  # bytes; BOOT has a few dozen files
_MAX_TARGET = 4096  # bytes of a link's target


@dataclass(frozen=True, kw_only=True, slots=True)
class Inode:
    """A file, folder or link: its number, its mode as ``stat`` has it, its size in bytes (0 of a folder)."""

    number: int
    mode: int
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


class Ext4Image:
    """The files of an ext4 image at ``path``.

    Raises:
        UnreadableImageError: debugfs cannot read it.
        InspectionToolError: debugfs is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: dict[int, Mapping[bytes, Inode]] = {}
        if not self.folder(ROOT):
            raise UnreadableImageError("its root folder cannot be read")

    def folder(self, number: int) -> Mapping[bytes, Inode]:
        """Return name → inode of what is in a folder, without ``.`` and ``..``' meaning."""
        if number not in self._folders:
            listed = self._run(f"ls -p <{number}>", _MAX_LISTING)
            self._folders[number] = {
                name: Inode(number=int(at), mode=int(mode, 8), size=int(size or 0))
                for at, mode, name, size in _ENTRY.findall(listed)
            }
        return self._folders[number]

    def find(self, path: str) -> Inode | None:
        """Return what a path leads to, links followed; None if nothing, or out of the image.

        ``..`` of the path itself stays in the image, as the boot stage reads paths of a boot entry.
        """
        wanted = [os.fsencode(part) for part in posixpath.normpath(f"/{path}").split("/") if part]
        return self._walk(wanted)

    def _walk(self, names: list[bytes]) -> Inode | None:
        above: list[Inode] = [Inode(number=ROOT, mode=stat.S_IFDIR, size=0)]
        names, links = names[::-1], 0
        while names:
            name = names.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                above.pop()
                if not above:  # above BOOT there is the boot stage, not the image
                    return None
                continue
            found = self.folder(above[-1].number).get(name) if above[-1].is_folder else None
            if found is None:
                return None
            if not stat.S_ISLNK(found.mode):
                above.append(found)
                continue
            links += 1
            target = self._target(found)
            if links > _MAX_LINKS or target.startswith(b"/"):
                return None
            names += target.split(b"/")[::-1]
        return above[-1]

    def _target(self, link: Inode) -> bytes:
        short = _SHORT_LINK.search(self._run(f"stat <{link.number}>", _MAX_LISTING))
        return short[1] if short else self.read(link, _MAX_TARGET)

    def read(self, file: Inode, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a file, or fewer if it is shorter."""
        return self._run(f"cat <{file.number}>", limit)

    def _run(self, request: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of debugfs' answer; it ends with 0 whatever happened."""
        environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{_ADMIN_FOLDERS}",
            "LC_ALL": "C.UTF-8",
            "DEBUGFS_PAGER": "__none__",
        }
        command = [TOOL, "-R", request, str(self._path.absolute())]
        with tempfile.TemporaryFile() as errors:  # not a pipe: a full one would stop debugfs
            try:
                with subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                ) as run:
                    data = run.stdout.read(limit) if run.stdout else b""
                    if len(data) == limit:
                        run.kill()
            except FileNotFoundError as error:
                message = f"{TOOL} is not installed: {self._path} cannot be inspected"
                raise InspectionToolError(message) from error
            errors.seek(0)
            said = errors.read(_MAX_TARGET).splitlines()[1:]  # the first line is debugfs' version
        if not data and (reasons := [line for line in said if line.strip()]):
            reason = reasons[0].removeprefix(b"debugfs: ").split(b" while trying to open ")[0]
            raise UnreadableImageError(f"it cannot be read: {foreign(reason)}")
        return data
