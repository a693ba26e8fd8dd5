"""The machine on which the boot stage runs, as the first process of an initramfs. Edges only.

Rules it enforces:

* it uses only the kernel and the standard library: no shell, no udev, no mount program;
* BOOT is mounted read-only and without its journal, so that reading a slot cannot change it;
* messages go to the kernel's log, and so to every console;
* every error of the operating system is translated where it occurs, with its cause.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from signpost import blockdev, bootstage
from signpost.errors import KernelLoadError, LayoutError, MediumError, UsageError
from signpost.gpt import guid
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from signpost.gpt import Guid

MODULES = "/modules"
"""Folder of the kernel modules; the names sort in the order in which the modules must be loaded."""

BOOT_FOLDER = "/boot"
"""Where BOOT is mounted."""

EFI_VARIABLES = "/sys/firmware/efi/efivars"

# Boot Loader Interface: the stub of an EFI binary sets it to the partition it was started from. The GUID is
# the vendor GUID in that specification. The value follows four bytes of attributes and is in UTF-16.
_ORIGIN = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ATTRIBUTES_BYTES = 4

_KERNEL_FILE_SYSTEMS = (("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"))
_NOT_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")

# linux/mount.h, linux/reboot.h, linux/kexec.h.
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_RESTART, _KEXEC = 0x0123_4567, 0x4558_4543
_NO_INITRAMFS = 0x4  # KEXEC_FILE_NO_INITRAMFS
_NODE_ATTEMPTS = 20  # every 0.1 s: the kernel creates a partition's node shortly after the disk's

# The module is already loaded, its hardware is absent, or a module it needs was not loaded because of that.
_NOT_FAULTS = (errno.EEXIST, errno.ENODEV, errno.ENOENT)

_KERNEL_ERROR = 3  # priority "error": shown on the console even with the parameter `quiet`


class _Architecture(NamedTuple):
    """A processor: EFI's name, and the numbers of two system calls for which libc has no function."""

    name: str
    finit_module: int
    kexec_file_load: int


_ARCHITECTURES = {
    "x86_64": _Architecture("x64", 313, 320),
    "aarch64": _Architecture("aa64", 273, 294),
}


def main() -> None:
    """Run as the first process: prepare the machine and start the next slot."""
    machine = Initramfs()
    machine.prepare()
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
        words = file.read().split()
    bootstage.run(machine, OsMedium(), words)


class Initramfs:
    """The real :class:`signpost.bootstage.BootMachine`."""

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in _ARCHITECTURES:
            raise UsageError(f"the boot stage does not support the processor {machine}")
        self._numbers = _ARCHITECTURES[machine]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.architecture = self._numbers.name

    def prepare(self) -> None:
        """Mount the kernel's file systems and load the modules; those for absent hardware are skipped."""
        for kind, folder in _KERNEL_FILE_SYSTEMS:
            os.makedirs(folder, exist_ok=True)
            self._mount(kind, folder, kind, _MS_NOSUID)
        for name in sorted(os.listdir(MODULES)) if os.path.isdir(MODULES) else ():
            try:
                with open(os.path.join(MODULES, name), "rb") as module:
                    self._system_call(self._numbers.finit_module, module.fileno(), b"", 0)
            except OSError as error:
                if error.errno not in _NOT_FAULTS:
                    self.say(f"module {name} cannot be loaded: {error.strerror}")

    def say(self, line: str) -> None:
        """Show a line on every console, if the kernel takes it: a boot does not depend on who reads it."""
        with suppress(OSError), open("/dev/kmsg", "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"<{_KERNEL_ERROR}>signpost: {line}\n")

    def disks(self) -> Sequence[str]:
        """Return the device nodes of the disks that the kernel has found."""
        names = sorted(name for name in os.listdir("/sys/block") if not name.startswith(_NOT_DISKS))
        return [os.path.join("/dev", name.replace("!", "/")) for name in names]

    def firmware_partition(self) -> Guid | None:
        """Return the GUID of the partition the EFI binary was started from; None if it is not known."""
        try:
            if not os.path.exists(os.path.join(EFI_VARIABLES, _ORIGIN)):
                self._mount("efivarfs", EFI_VARIABLES, "efivarfs", _MS_RDONLY)
            with open(os.path.join(EFI_VARIABLES, _ORIGIN), "rb") as file:
                value = file.read()[_ATTRIBUTES_BYTES:]
            return guid(value.decode("utf-16-le").rstrip("\0"))
        except (OSError, MediumError, UnicodeDecodeError, UsageError):
            return None

    @contextmanager
    def mounted(self, disk: str, number: int) -> Iterator[str]:
        """Mount a partition read-only for a ``with`` block. Raises MediumError, LayoutError."""
        os.makedirs(BOOT_FOLDER, exist_ok=True)
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        self._mount(_partition_node(disk, number), BOOT_FOLDER, "ext4", flags, "noload")
        try:
            yield BOOT_FOLDER
        finally:
            self._libc.umount2(BOOT_FOLDER.encode(), 0)

    def load(self, kernel: str, initrds: Sequence[str], options: str) -> None:
        """Load a kernel, with all initrds concatenated to one. Raises KernelLoadError."""
        line = options.encode() + b"\0"
        flags = 0 if initrds else _NO_INITRAMFS
        try:
            with open(kernel, "rb") as image, _concatenated(initrds) as initrd:
                number = self._numbers.kexec_file_load
                self._system_call(number, image.fileno(), initrd, len(line), line, flags)
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
            raise MediumError.of(f"cannot mount {source} as {kind}: {error.strerror}", error) from error

    def _system_call(self, number: int, *arguments: int | bytes) -> None:
        """Make a system call; each number is passed as a full register. Raises OSError."""
        words = (ctypes.c_long(word) if isinstance(word, int) else word for word in (number, *arguments))
        self._call(self._libc.syscall, *words)

    def _call(self, function: Callable[..., int], *arguments: object) -> None:
        """Call a function of the C library; a negative result is an error. Raises OSError."""
        if function(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _partition_node(disk: str, number: int) -> str:
    """Return a partition's device node; wait until the kernel has created it. Raises LayoutError."""
    device = blockdev.device_of_node(disk)
    for _ in range(_NODE_ATTEMPTS if device else 0):
        node = blockdev.partition_nodes("/sys", device).get(number) if device else None
        if node and os.path.exists(node):
            return node
        time.sleep(0.1)
    raise LayoutError(
        f"{disk}: the kernel has found no partition {number}",
        next_step="If the primary table is damaged, add `gpt` to the kernel command line to use the backup.",
    )


@contextmanager
def _concatenated(paths: Sequence[str]) -> Iterator[int]:
    """Return the descriptor of all files in one, each padded to the four bytes at which an archive starts."""
    with open(os.memfd_create("initrd"), "wb") as whole:
        for path in paths:
            with open(path, "rb") as source:
                data = source.read()
            whole.write(data + bytes(-len(data) % 4))
        whole.flush()
        yield whole.fileno()
