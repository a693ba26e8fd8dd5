"""Where a system keeps what matters here. PURE but for reading small files of a tree."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from repo_tools.image_build.elf import read_elf
from repo_tools.image_build.kernels import MOST_KERNEL
from repo_tools.image_build.request import Etc
from repo_tools.image_build.tree import Kind
from updog.os_release import parse_os_release

if TYPE_CHECKING:
    from repo_tools.image_build.tree import Tree

OS_RELEASE, OS_RELEASE_LINK = "usr/lib/os-release", "etc/os-release"
SETTINGS = "etc/updog.toml"
TRUSTED_ROOT = "usr/share/updog/root.json"
"""Where updog looks for it unless ``trusted_root`` of updog.toml says otherwise."""

MACHINE_ID = "etc/machine-id"
DBUS_MACHINE_ID = "var/lib/dbus/machine-id"
SEEDS = ("var/lib/systemd/random-seed", "var/lib/urandom/random-seed")
FSTAB = "etc/fstab"
DATA, PRIVATE = "BOTTLEROCKET-DATA", "BOTTLEROCKET-PRIVATE"
UNIT_FOLDERS = (
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)

_SYSTEMD = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
_PROGRAM_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin")
_MANAGER = tuple(f"{folder}/systemd/system.conf" for folder in ("etc", "usr/lib", "lib"))
_WATCHDOG = re.compile(r"^\s*RuntimeWatchdogSec\s*=\s*(\S+)", re.MULTILINE)
_NO_WATCHDOG = frozenset({"0", "off", "infinity"})
_HOST_KEY = re.compile(r"ssh_host_\w+_key(?:\.pub)?")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def os_release(tree: Tree) -> dict[str, str] | None:
    """Return the fields of os-release as systemd finds it, None if there is none that can be read."""
    for path in (OS_RELEASE_LINK, OS_RELEASE):
        data = tree.read(path)
        if data is not None:
            try:
                return parse_os_release(data.decode())
            except ValueError:  # an open quote, or not UTF-8
                return None
    return None


def systemd(tree: Tree) -> str:
    """Return the path of systemd, "" if it is not there."""
    return next((path for path in _SYSTEMD if is_program(tree, path)), "")


def architecture(tree: Tree) -> str:
    """Return the architecture of systemd as publishers name it, "" if it is another one, or not a program."""
    path = systemd(tree)
    elf = read_elf(tree.read(path, most=MOST_KERNEL) or b"") if path else None
    return elf.machine if elf else ""


def is_program(tree: Tree, path: str) -> bool:
    """Return whether a path leads to a file that can be run."""
    inode = tree.find(path)
    return inode is not None and inode.kind is Kind.FILE and bool(inode.mode & 0o111)


def program(tree: Tree, name: str) -> str:
    """Return the path of a program, "" if it is not there."""
    paths = (f"{folder}/{name}" for folder in _PROGRAM_FOLDERS)
    return next((path for path in paths if is_program(tree, path)), "")


def programs(etc: Etc) -> tuple[str, ...]:
    """Return the names of the programs that our initrd takes from the tree."""
    persistent = ("mke2fs",) if etc is Etc.PERSISTENT else ()
    return ("busybox", "veritysetup", "findfs", *persistent)


def needed_modules(etc: Etc) -> tuple[str, ...]:
    """Return the modules without which our initrd cannot hand over."""
    writable = () if etc is Etc.READ_ONLY else ("overlay", "ext4")  # ext4 is that of PRIVATE
    return ("dm_verity", "erofs", *writable)


def is_enabled(tree: Tree, unit: str) -> bool:
    """Return whether something wants a unit that is there and not masked."""
    if _is_masked(tree, unit) or not any(tree.find(f"{folder}/{unit}") for folder in UNIT_FOLDERS):
        return False
    wanting = (
        f"{folder}/{name}/{unit}"
        for folder in UNIT_FOLDERS
        for name in tree.names(folder)
        if name.endswith((".wants", ".requires", ".upholds"))
    )
    return any(tree.get(tree.place(path) or path) is not None for path in wanting)


def has_watchdog(tree: Tree) -> bool:
    """Return whether systemd is told to keep the watchdog alive; the last word of its settings counts."""
    found = []
    for main in reversed(_MANAGER):
        pieces = [f"{main}.d/{name}" for name in tree.names(f"{main}.d") if name.endswith(".conf")]
        for path in (main, *pieces):
            text = (tree.read(path) or b"").decode(errors="replace")
            found += _WATCHDOG.findall(text)
    return bool(found) and found[-1].lower() not in _NO_WATCHDOG


def settings(tree: Tree) -> dict[str, Any] | None:
    """Return updog.toml, None if there is none. Raises TOMLDecodeError or UnicodeDecodeError."""
    data = tree.read(SETTINGS)
    return tomllib.loads(data.decode()) if data is not None else None


def trusted_root(found: dict[str, Any] | None) -> str:
    """Return where updog looks for the root of trust, as updog.toml says."""
    place = (found or {}).get("trusted_root", "")
    return place.strip("/") if isinstance(place, str) and place.strip("/") else TRUSTED_ROOT


def fstab(tree: Tree) -> list[tuple[str, str, str]]:
    """Return the device, the mount point and the type of each line of ``/etc/fstab``."""
    text = (tree.read(FSTAB) or b"").decode(errors="replace")
    lines = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [(_plain(device), _plain(point), kind) for device, point, kind, *_ in filter(_is_mount, lines)]


def host_keys(tree: Tree) -> list[str]:
    """Return the paths of ssh host keys."""
    return [f"etc/ssh/{name}" for name in tree.names("etc/ssh") if _HOST_KEY.fullmatch(name)]


def _is_mount(words: list[str]) -> bool:
    return len(words) >= len(("device", "point", "type"))


def _plain(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


def _is_masked(tree: Tree, unit: str) -> bool:
    inode = tree.get(tree.place(f"{UNIT_FOLDERS[0]}/{unit}") or "")
    return inode is not None and inode.kind is Kind.LINK and inode.target == "/dev/null"
