"""A machine in QEMU, without KVM: switched on, watched by its console, unplugged.

Unplugging is a power cut: QEMU is killed. What the guest has written is then in the image file as far as its
kernel had handed it to the disk; what it had only in memory is lost.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from updog.errors import DrillFailedError, DrillSkippedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "qemu-system-x86_64"
FIRMWARE = Path("/usr/share/OVMF")
STAGE_OPTIONS = (
    "console=ttyS0 quiet panic=1 gpt signpost.pause=1 no_timer_check mitigations=off cryptomgr.notests"
)
"""Of the boot stage, where the emulator and not firmware starts it. A busy host delivers timer interrupts
late, and the kernel is not to take that for a broken machine; an emulated processor does not speculate, and
tests the kernel's ciphers for long."""

ASSET_TAG = "updog-drill"
"""The chassis of a machine under drill says so; an image can offer a shell to such machines only."""

MEMORY_MIB = 512
NETWORK = "user,model=virtio-net-pci"
"""The host is 10.0.2.2 there."""

_LINES_SHOWN = 30
_PERIOD = 0.05
_SAVE_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What a machine is made of.

    Attributes:
        stage: folder with the boot stage (``vmlinuz``, ``initramfs.zst``); None: firmware starts the disk.
        memory: MiB.
        sector_size: of the disks, in bytes.
        network: of its card, as QEMU's ``-nic`` takes it.
        options: words for QEMU beside ours.
    """

    stage: Path | None = None
    memory: int = MEMORY_MIB
    sector_size: int = 512
    network: str = NETWORK
    options: tuple[str, ...] = ()


def require(hardware: Hardware) -> None:
    """Raise DrillSkippedError where what it takes is not installed or not there."""
    if shutil.which(PROGRAM) is None:
        raise DrillSkippedError(
            f"{PROGRAM} is not installed", next_step="Debian's package is qemu-system-x86."
        )
    if hardware.stage is None and not FIRMWARE.is_dir():
        raise DrillSkippedError(
            f"no firmware in {FIRMWARE}", next_step="Install Debian's package ovmf, or give --boot-stage."
        )


@dataclass
class Emulator:
    """A machine that can be switched on.

    Attributes:
        hardware: what it is made of.
        disks: image files, in order.
        console: its first serial port goes to the end of this file.
        shell: Unix socket of its second serial port.
    """

    hardware: Hardware
    disks: Sequence[Path]
    console: Path
    shell: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def switch_on(self, state: Path | None = None) -> None:
        """Start QEMU, from a saved state if one is given. Raises DrillFailedError."""
        self.switch_off()
        self.console.touch()
        self._monitor.unlink(missing_ok=True)
        self.shell.unlink(missing_ok=True)
        command = self._command() + (["-incoming", f"exec:cat {state}"] if state else [])
        with self.console.with_suffix(".qemu").open("ab") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self.wait_for(lambda: self.shell.exists() and self._monitor.exists(), 30, "QEMU did not start")

    def switch_off(self) -> None:
        """Cut the power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def save(self, state: Path) -> None:
        """Freeze the machine into a file and switch it off; its disks stay as they are. DrillFailedError."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            # Not stopped before: one that is restored goes on only if it was running when it was saved.
            monitor.sendall(f'migrate "exec:cat > {state}"\nquit\n'.encode())
            self.wait_for(lambda: not self.is_on, _SAVE_SECONDS, "its state could not be saved")
        self._process = None

    def wait_for(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Wait until something is true. Raises DrillFailedError, with the last lines of the console."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DrillFailedError(
                    f"{otherwise} in {seconds:.0f} s; the console ends:\n{self.last_lines()}"
                )
            time.sleep(_PERIOD)

    def last_lines(self) -> str:
        """Return the end of the console."""
        return "\n".join(self.said().splitlines()[-_LINES_SHOWN:])

    def said(self) -> str:
        """Return everything on the console."""
        return self.console.read_bytes().decode(errors="replace")

    @property
    def _monitor(self) -> Path:
        return self.shell.with_suffix(".monitor")

    def _command(self) -> list[str]:
        """Return QEMU's command line."""
        hardware = self.hardware
        command = [PROGRAM, "-accel", "tcg,tb-size=256", "-m", str(hardware.memory), "-display", "none"]
        command += ["-nodefaults", "-no-user-config", "-device", "virtio-rng-pci"]
        command += ["-smbios", f"type=3,asset={ASSET_TAG}"]
        command += [
            "-chardev",
            f"file,id=console,append=on,path={self.console}",
            "-serial",
            "chardev:console",
        ]
        command += ["-serial", f"unix:{self.shell},server=on,wait=off"]
        command += ["-monitor", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-nic", hardware.network]
        command += self._started_by_stage(hardware.stage) if hardware.stage else self._started_by_firmware()
        sizes = f"logical_block_size={hardware.sector_size},physical_block_size={hardware.sector_size}"
        for number, disk in enumerate(self.disks):
            command += ["-drive", f"file={disk},format=raw,if=none,id=disk{number}"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number},{sizes}"]
        return [*command, *hardware.options]

    def _started_by_stage(self, stage: Path) -> list[str]:
        files = ["-kernel", str(stage / "vmlinuz"), "-initrd", str(stage / "initramfs.zst")]
        return [*files, "-append", STAGE_OPTIONS]

    def _started_by_firmware(self) -> list[str]:
        variables = self.console.with_suffix(".variables")
        if not variables.exists():
            shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
        chips = (f"readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}", f"file={variables}")
        words = [word for chip in chips for word in ("-drive", f"if=pflash,format=raw,{chip}")]
        return ["-machine", "q35", *words]
