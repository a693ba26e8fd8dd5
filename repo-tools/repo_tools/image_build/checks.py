"""What keeps a tree from being a node's system. PURE but for reading small files of the tree.

Rules:

* every fault is found before anything is written, and all are told at once, each with a stable code, what is
  wrong, and what to do; the table :data:`CODES` is complete;
* a system that starts but is never confirmed, or that hangs without a restart, costs a visit: what updog and
  the watchdog need is checked as strictly as what the kernel needs;
* what only one machine may have (its ID, its host keys) must not be on every node.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from repo_tools.errors import ImageFaultsError
from repo_tools.image_build import layout
from repo_tools.image_build.initrd import ready_initrd
from repo_tools.image_build.kernels import kernels_in
from repo_tools.image_build.request import Etc, InitrdKind, is_name
from repo_tools.image_build.tree import Kind
from signpost.text import foreign
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from repo_tools.image_build.kernels import TreeKernel
    from repo_tools.image_build.request import BuildRequest
    from repo_tools.image_build.tree import Tree

CODES: Mapping[str, str] = MappingProxyType(
    {
        "os-release": "Put /usr/lib/os-release into the source: os-release(5).",
        "version": "Pass --version, or set VERSION_ID of /usr/lib/os-release to a version like 1.2.3.",
        "variant": "Pass --variant, or set VARIANT_ID of /usr/lib/os-release.",
        "no-systemd": "Install systemd (Debian: systemd and systemd-sysv).",
        "architecture": "Build from a system for x86_64 or aarch64.",
        "no-kernel": (
            "Install a kernel (Debian: linux-image-amd64, for virtual machines linux-image-cloud-amd64; "
            "Fedora: kernel-core); containers come without one."
        ),
        "several-kernels": "Pass --kernel VERSION, or remove the others.",
        "kernel-image": "Put the image into /boot/vmlinuz-VERSION or /usr/lib/modules/VERSION/vmlinuz.",
        "kernel-modules": "Install the package with all modules of this kernel, or another kernel.",
        "initrd-program": "Install the packages that are named, or pass --initrd dracut.",
        "no-initrd": "Install dracut in the source and make an initrd, or leave out --initrd dracut.",
        "mkfs": "Install e2fsprogs: PRIVATE and DATA get their file systems at the first start.",
        "no-updog": "Install updog in the source: its package, or the wheel and `updog units install`.",
        "updog-units": "Put the units where systemd looks for them and enable them: updog/systemd/README.md.",
        "updog-config": "Write etc/updog.toml into the source; `updog config --effective` shows every key.",
        "machine-id-file": (
            'Set machine_id = "/var/lib/updog/machine-id" in updog.toml, or choose another --etc: '
            "a node's place in the waves must not change when it restarts."
        ),
        "trusted-root": "Pass --trusted-root FILE: metadata/1.root.json of your repository.",
        "watchdog": (
            "Put watchdog.conf of updog's units into /usr/lib/systemd/system.conf.d: our initrd starts the "
            "watchdog, and without systemd it restarts every node after a minute."
        ),
        "fstab": "Remove the line: the boot stage says where ROOT is, and BOOT is not mounted.",
        "fstab-swap": "Remove the line: a swap partition is on the disk that the source was made on.",
        "machine-id": "Empty /etc/machine-id, or pass --reset-identity.",
        "ssh-host-keys": "Remove them and have them made at the first start, or pass --reset-identity.",
        "random-seed": "Remove the file, or pass --reset-identity.",
    }
)
"""Code of a fault → what to do about it."""

UNITS = ("updog-boot-record.service", "updog-confirm.service")
"""Without them a boot is never confirmed."""

ONE_OF_UNITS = ("updog-check.timer", "updog-update.timer", "updog-agent.service")
"""Without one of them a node never looks for an update."""

_PROGRAM_PACKAGES = {
    "busybox": "Debian: busybox-static; Fedora, Alpine: busybox",
    "veritysetup": "Debian: cryptsetup-bin; Fedora: veritysetup; Alpine: cryptsetup",
    "findfs": "util-linux",
    "mke2fs": "e2fsprogs",
}
_SYSTEM_MOUNTS = frozenset({"/", "/usr", "/boot", "/boot/efi", "/efi", "/etc"})
_NO_ID = frozenset({b"", b"uninitialized"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: its code in :data:`CODES` and what it is."""

    code: str
    message: str

    @property
    def next_step(self) -> str:
        """What to do about it."""
        return CODES[self.code]


def require_sound(faults: Iterable[Fault]) -> None:
    """Refuse a tree with faults. Raises ImageFaultsError, which tells all of them."""
    lines = [f"{fault.code}: {fault.message}\n  {fault.next_step}" for fault in faults]
    if lines:
        count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
        raise ImageFaultsError("\n".join([f"the source has {count}:", *lines]))


def find_faults(tree: Tree, request: BuildRequest) -> list[Fault]:
    """Return all that keeps a tree from being a node's system.

    Raises:
        ImageSourceError: a file of the tree cannot be read.
    """
    return [
        *_identity(tree, request),
        *_init(tree),
        *_kernel(tree, request),
        *_initrd(tree, request),
        *_mkfs(tree),
        *_updog(tree, request),
        *_fstab(tree),
        *([] if request.reset_identity else _of_one_machine(tree)),
    ]


def trusted_root_fault(data: bytes) -> str:
    """Return why a file is not the root role of a TUF repository, "" if it may be one."""
    try:
        kind = json.loads(data)["signed"]["_type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "is not a root.json"
    return "" if kind == "root" else f"is the {foreign(str(kind))} of a repository, not its root"


def _identity(tree: Tree, request: BuildRequest) -> Iterator[Fault]:
    fields = layout.os_release(tree)
    if fields is None:
        yield Fault("os-release", "there is no /usr/lib/os-release that can be read")
        return
    if request.version is None:
        text = fields.get("VERSION_ID", "")
        try:
            Version.parse(text)
        except VersionError:
            is_there = f"its VERSION_ID is {foreign(text)}, not a semantic version"
            yield Fault("version", is_there if text else "its os-release has no VERSION_ID")
    if request.variant is None and not is_name(fields.get("VARIANT_ID", "")):
        text = fields.get("VARIANT_ID", "")
        is_there = f"its VARIANT_ID is {foreign(text)}, which cannot be a part of a file name"
        yield Fault("variant", is_there if text else "its os-release has no VARIANT_ID")


def _init(tree: Tree) -> Iterator[Fault]:
    path = layout.systemd(tree)
    if not path:
        there = [f"/{name}" for name in ("sbin/init", "sbin/openrc") if tree.find(name) is not None]
        others = f"; its init is {there[-1]}" if there else ""
        yield Fault("no-systemd", f"there is no /usr/lib/systemd/systemd{others}")
        return
    if not layout.architecture(tree):
        yield Fault("architecture", f"/{path} is not a program for x86_64 or aarch64")


def _kernel(tree: Tree, request: BuildRequest) -> Iterator[Fault]:
    kernels = kernels_in(tree)
    names = ", ".join(kernel.version for kernel in kernels)
    chosen = [kernel for kernel in kernels if request.kernel in {None, kernel.version}]
    if not kernels:
        yield Fault("no-kernel", "there is no folder with modules in /usr/lib/modules")
    elif not chosen:
        yield Fault("no-kernel", f"there is no kernel {foreign(request.kernel or '')}, only {names}")
    elif len(chosen) > 1:
        yield Fault("several-kernels", f"there are {len(chosen)} kernels: {names}")
    else:
        yield from _one_kernel(tree, chosen[0], request)


def _one_kernel(tree: Tree, kernel: TreeKernel, request: BuildRequest) -> Iterator[Fault]:
    if not kernel.image:
        yield Fault("kernel-image", f"there are modules of the kernel {kernel.version}, but not its image")
    if request.initrd is InitrdKind.DRACUT:
        if not layout.program(tree, "dracut") and ready_initrd(tree, kernel) is None:
            yield Fault("no-initrd", f"there is no initrd for the kernel {kernel.version}, and no dracut")
        return
    wanted = [*layout.needed_modules(request.etc), *request.modules]
    missing = [name for name in wanted if not kernel.has(name.replace("-", "_"))]
    if missing:
        yield Fault("kernel-modules", f"the kernel {kernel.version} has no module {', '.join(missing)}")


def _initrd(tree: Tree, request: BuildRequest) -> Iterator[Fault]:
    if request.initrd is not InitrdKind.BUILTIN:
        return
    for name in layout.programs(request.etc):
        if not layout.program(tree, name):
            yield Fault(
                "initrd-program", f"{name} is missing, which our initrd needs ({_PROGRAM_PACKAGES[name]})"
            )


def _mkfs(tree: Tree) -> Iterator[Fault]:
    if not layout.program(tree, "mkfs.ext4"):
        yield Fault("mkfs", "there is no mkfs.ext4")


def _updog(tree: Tree, request: BuildRequest) -> Iterator[Fault]:
    if not layout.is_program(tree, "usr/bin/updog"):
        yield Fault("no-updog", "there is no program /usr/bin/updog")
    missing = [unit for unit in UNITS if not layout.is_enabled(tree, unit)]
    if not any(layout.is_enabled(tree, unit) for unit in ONE_OF_UNITS):
        missing.append(f"one of {', '.join(ONE_OF_UNITS)}")
    if missing:
        yield Fault("updog-units", f"not enabled: {'; '.join(missing)}")
    if not layout.has_watchdog(tree):
        yield Fault("watchdog", "systemd is not told to keep the watchdog alive (RuntimeWatchdogSec=)")
    try:
        settings = layout.settings(tree)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield Fault("updog-config", f"/{layout.SETTINGS} is not TOML: {error}")
        return
    if settings is None:
        yield Fault("updog-config", f"there is no /{layout.SETTINGS}")
        return
    yield from _settings(settings, request)
    yield from _trusted_root(tree, layout.trusted_root(settings), request)


def _settings(settings: Mapping[str, object], request: BuildRequest) -> Iterator[Fault]:
    missing = [key for key in ("metadata_base_url", "targets_base_url") if not settings.get(key)]
    if missing:
        yield Fault("updog-config", f"/{layout.SETTINGS} does not say {' and '.join(missing)}")
    if request.etc is Etc.READ_ONLY and "machine_id" not in settings:
        what = f"/{layout.SETTINGS} has no machine_id, and /{layout.MACHINE_ID} is new at each start"
        yield Fault("machine-id-file", what)


def _trusted_root(tree: Tree, place: str, request: BuildRequest) -> Iterator[Fault]:
    data = request.trusted_root if request.trusted_root is not None else tree.read(place)
    if data is None:
        yield Fault("trusted-root", f"there is no /{place}")
    elif fault := trusted_root_fault(data):
        name = f"/{place}" if request.trusted_root is None else "the file of --trusted-root"
        yield Fault("trusted-root", f"{name} {fault}")


def _fstab(tree: Tree) -> Iterator[Fault]:
    for device, point, kind in layout.fstab(tree):
        if kind == "swap":
            yield Fault("fstab-swap", f"/etc/fstab has swap on {foreign(device)}")
        elif point in _SYSTEM_MOUNTS:
            yield Fault("fstab", f"/etc/fstab mounts {foreign(device)} on {point}")


def _of_one_machine(tree: Tree) -> Iterator[Fault]:
    if (tree.read(layout.MACHINE_ID) or b"").strip() not in _NO_ID:
        yield Fault("machine-id", f"/{layout.MACHINE_ID} has the ID of one machine")
    keys = layout.host_keys(tree)
    if keys:
        yield Fault("ssh-host-keys", f"{', '.join(f'/{key}' for key in keys)}: all nodes would have the same")
    for path in layout.SEEDS:
        inode = tree.find(path)
        if inode is not None and inode.kind is Kind.FILE:
            yield Fault("random-seed", f"/{path} would be the same on all nodes")
