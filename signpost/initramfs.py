"""The machine as the boot stage finds it: first process of an initial RAM file system. Edges only.

Rules it enforces:

* nothing but the kernel and the standard library: no shell, no udev, no mount program;
* BOOT is mounted read-only and without its journal, so that looking at a slot cannot change it;
* a line for people goes to the kernel's log, and so to every console there is;
* every failure of the operating system is translated where it happens, with its cause.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from signpost import blockdev, bootstage
from signpost.errors import KernelLoadError, LayoutError, MediumError, UsageError
from signpost.gpt import guid
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from signpost.gpt import Guid

MODULES = "/modules"
"""Kernel modules, named so that they sort in the order in which they must be loaded."""

BOOT_FOLDER = "/boot"
"""Where BOOT is mounted."""

EFI_VARIABLES = "/sys/firmware/efi/efivars"

# Boot Loader Interface: set by the stub of an EFI binary to the partition it was started from. The GUID is
# the vendor's, fixed by that specification; four bytes of attributes come before the value, in UTF-16.
_ORIGIN = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_VARIABLE_HEAD = 4

_SYSTEMS = (("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"))
_NOT_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")

# linux/mount.h, linux/reboot.h; the C library has no functions for the two system calls.
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_RESTART, _KEXEC = 0x0123_4567, 0x4558_4543
_NO_INITRAMFS = 0x4  # KEXEC_FILE_NO_INITRAMFS
_NODE_PATIENCE = 20  # looks of 0.1 s: the kernel makes a partition's node just after the disk's

# Loading a module: it is there already, its hardware is not, or what it needs was not loaded for that reason.
_NO_FAULTS = (errno.EEXIST, errno.ENODEV, errno.ENOENT)

_KERNEL_ERROR = 3  # priority "error": shown on the console also when the kernel is told to be quiet


class _Architecture(NamedTuple):
    """What differs between processors: the name in EFI's words, and the numbers of two system calls."""

    name: str
    finit_module: int
    kexec_file_load: int


_ARCHITECTURES = {
    "x86_64": _Architecture("x64", 313, 320),
    "aarch64": _Architecture("aa64", 273, 294),
}


def main() -> None:
    """Be the first process: prepare the machine and start the next slot."""
    machine = Initramfs()
    machine.prepare()
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
        words = file.read().split()
    bootstage.run(machine, OsMedium(), words)


class Initramfs:
    """The real :class:`signpost.bootstage.Machine`."""

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in _ARCHITECTURES:
            raise UsageError(f"the boot stage does not know the processor {machine}")
        self._numbers = _ARCHITECTURES[machine]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.architecture = self._numbers.name

    def prepare(self) -> None:
        """Mount what the kernel offers, and load the modules. A module for absent hardware is no fault."""
        for kind, folder in _SYSTEMS:
            os.makedirs(folder, exist_ok=True)
            self._mount(kind, folder, kind, _MS_NOSUID)
        for name in sorted(os.listdir(MODULES)) if os.path.isdir(MODULES) else ():
            self._insert(os.path.join(MODULES, name))

    def say(self, line: str) -> None:
        """Show a line on every console."""
        with open("/dev/kmsg", "w", encoding="utf-8", errors="replace") as log:
            log.write(f"<{_KERNEL_ERROR}>signpost: {line}\n")

    def disks(self) -> Sequence[str]:
        """Return the nodes of the disks that the kernel knows."""
        names = sorted(name for name in os.listdir("/sys/block") if not name.startswith(_NOT_DISKS))
        return [os.path.join("/dev", name.replace("!", "/")) for name in names]

    def firmware_partition(self) -> Guid | None:
        """Return the partition that the EFI binary was started from; None without EFI, or if it is unsaid."""
        try:
            if not os.path.exists(os.path.join(EFI_VARIABLES, _ORIGIN)):
                self._mount("efivarfs", EFI_VARIABLES, "efivarfs", _MS_RDONLY)
            with open(os.path.join(EFI_VARIABLES, _ORIGIN), "rb") as file:
                value = file.read()[_VARIABLE_HEAD:]
            return guid(value.decode("utf-16-le").rstrip("\0"))
        except (OSError, MediumError, UnicodeDecodeError, UsageError):
            return None

    @contextmanager
    def mounted(self, disk: str, number: int) -> Iterator[str]:
        """Mount a partition read-only for the length of a ``with`` block. Raises MediumError, LayoutError."""
        os.makedirs(BOOT_FOLDER, exist_ok=True)
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        self._mount(_partition(disk, number), BOOT_FOLDER, "ext4", flags, "noload")
        try:
            yield BOOT_FOLDER
        finally:
            self._libc.umount2(BOOT_FOLDER.encode(), 0)

    def load(self, kernel: str, initrds: Sequence[str], options: str) -> None:
        """Load a kernel, and its initial RAM disks as one. Raises KernelLoadError."""
        line = options.encode() + b"\0"
        flags = 0 if initrds else _NO_INITRAMFS
        try:
            with open(kernel, "rb") as image, _joined(initrds) as ramdisk:
                number = self._numbers.kexec_file_load
                self._system_call(number, image.fileno(), ramdisk, len(line), line, flags)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise KernelLoadError(f"{kernel} cannot be loaded: {error.strerror}{where}") from error

    def start(self) -> None:
        """Start the loaded kernel. Raises KernelLoadError."""
        os.sync()
        try:
            self._call(self._libc.reboot, ctypes.c_int(_KEXEC))
        except OSError as error:
            raise KernelLoadError(f"the loaded kernel cannot be started: {error.strerror}") from error

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def reset(self) -> None:
        """Restart the machine."""
        os.sync()
        self._libc.reboot(ctypes.c_int(_RESTART))

    def _mount(self, source: str, folder: str, kind: str, flags: int, options: str = "") -> None:
        """Mount a file system. Raises MediumError."""
        texts = [text.encode() for text in (source, folder, kind)]
        try:
            self._call(self._libc.mount, *texts, ctypes.c_ulong(flags), options.encode())
        except OSError as error:
            raise MediumError(f"cannot mount {source} as {kind}: {error.strerror}") from error

    def _insert(self, path: str) -> None:
        """Load a module; say so if the kernel does not take it for another reason than absent hardware."""
        try:
            with open(path, "rb") as module:
                self._system_call(self._numbers.finit_module, module.fileno(), b"", 0)
        except OSError as error:
            if error.errno not in _NO_FAULTS:
                self.say(f"module {os.path.basename(path)}: {error.strerror}")

    def _system_call(self, number: int, *arguments: int | bytes) -> None:
        """Make a system call; a number fills a whole register. Raises OSError."""
        words = (ctypes.c_long(word) if isinstance(word, int) else word for word in (number, *arguments))
        self._call(self._libc.syscall, *words)

    def _call(self, function: Callable[..., int], *arguments: object) -> None:
        """Call a function of the C library. Raises OSError."""
        if function(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _partition(disk: str, number: int) -> str:
    """Return a partition's node, once the kernel has made it. Raises LayoutError."""
    device = blockdev.of_node(disk)
    for _ in range(_NODE_PATIENCE if device else 0):
        node = blockdev.partition_nodes("/sys", device).get(number) if device else None
        if node and os.path.exists(node):
            return node
        time.sleep(0.1)
    raise LayoutError(
        f"{disk}: the kernel sees no partition {number}",
        next_step="Is the primary table damaged? With `gpt` on its command line the kernel reads the backup.",
    )


@contextmanager
def _joined(paths: Sequence[str]) -> Iterator[int]:
    """Give the descriptor of all files in one, each padded to the four bytes that an archive starts at."""
    with open(os.memfd_create("initrd"), "wb") as whole:
        for path in paths:
            with open(path, "rb") as source:
                data = source.read()
            whole.write(data + bytes(-len(data) % 4))
        whole.flush()
        yield whole.fileno()
