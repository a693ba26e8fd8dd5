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

from updog.child_process import signals_held_back
from updog.drill.patience import Patience
from updog.errors import DrillFailedError, DrillSkippedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "qemu-system-x86_64"
FIRMWARE = Path("/usr/share/OVMF")
STAGE_OPTIONS = (
    "console=ttyS0 quiet panic=1 gpt signpost.pause=1 no_timer_check mitigations=off cryptomgr.notests"
)
"""Of the boot stage, where the emulator and not firmware starts it. A busy host delivers timer interrupts
late, and the kernel must not take that for a broken machine; an emulated processor does not speculate, and
takes long to test the kernel's ciphers."""

ASSET_TAG = "updog-drill"
"""The chassis of a machine under drill says so; an image can offer a shell to such machines only."""

MEMORY_MIB = 512
NETWORK = "user,model=virtio-net-pci"
"""The host is 10.0.2.2 there."""

_LINES_SHOWN = 30
_LOOK_SECONDS = 0.05
_QEMU_STARTS_SECONDS = 30
_SAVE_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What a machine is made of.

    Attributes:
        stage: folder with the boot stage (``vmlinuz``, ``initramfs.zst``); None: firmware starts the disk.
        memory: MiB.
        sector_size: of the disks, in bytes.
        network: of its card, as QEMU's ``-nic`` takes it.
        options: further words for QEMU's command line.
    """

    stage: Path | None = None
    memory: int = MEMORY_MIB
    sector_size: int = 512
    network: str = NETWORK
    options: tuple[str, ...] = ()


def require(hardware: Hardware) -> None:
    """Raise DrillSkippedError where QEMU or the firmware that it needs is not installed."""
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
        log: its console, the first serial port, goes to the end of this file.
        shell: Unix socket of its second serial port.
    """

    hardware: Hardware
    disks: Sequence[Path]
    log: Path
    shell: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def switch_on(self, state: Path | None = None) -> None:
        """Start QEMU, from a saved state if one is given. Raises DrillFailedError."""
        self.switch_off()
        self.log.touch()
        self._monitor.unlink(missing_ok=True)
        self.shell.unlink(missing_ok=True)
        command = self._command() + (["-incoming", f"exec:cat {state}"] if state else [])
        with self._qemu_log.open("ab") as output, signals_held_back():
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.wait_for(self._has_sockets, _QEMU_STARTS_SECONDS, "QEMU did not start")

    def _has_sockets(self) -> bool:
        if not self.is_on:
            said = self._qemu_log.read_text(encoding="utf-8", errors="replace")
            raise DrillFailedError(f"QEMU ended as it started; it says in {self._qemu_log}:\n{said[-1000:]}")
        return self.shell.exists() and self._monitor.exists()

    def switch_off(self) -> None:
        """Cut the power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def save(self, state: Path) -> None:
        """Save the machine's state to a file and switch it off; its disks stay as they are.

        Raises DrillFailedError.
        """
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            # Stopped first: what an emulated processor writes while its memory is copied can be missing from
            # the copy, and the machine that is restored then dies within seconds.
            monitor.sendall(f'stop\nmigrate "exec:cat > {state}"\nquit\n'.encode())
            self.wait_for(lambda: not self.is_on, _SAVE_SECONDS, "its state was not saved")
        self._process = None

    def wait_for(self, condition: Callable[[], bool], silence: float, otherwise: str) -> None:
        """Wait until something is true.

        Raises DrillFailedError, with the end of the console, after so many seconds without a line on it.
        """
        patience = Patience(silence=silence)
        while not condition():
            patience.watch(self.progress())
            if patience.is_over():
                raise DrillFailedError(self.with_last_lines(f"{otherwise} in {patience.seconds:.0f} s"))
            time.sleep(_LOOK_SECONDS)

    def progress(self) -> int:
        """Return how much the console has shown, in bytes."""
        return self.log.stat().st_size

    def said(self) -> str:
        """Return everything on the console."""
        return self.log.read_bytes().decode(errors="replace") if self.log.exists() else ""

    def with_last_lines(self, message: str) -> str:
        """Return a message, and below it the end of the console."""
        lines = "\n".join(self.said().splitlines()[-_LINES_SHOWN:])
        return f"{message}; the console ({self.log}) ends:\n{lines}"

    @property
    def _monitor(self) -> Path:
        return self.shell.with_suffix(".monitor")

    @property
    def _qemu_log(self) -> Path:
        """What QEMU itself says."""
        return self.log.with_suffix(".qemu")

    def _command(self) -> list[str]:
        """Return QEMU's command line."""
        hardware = self.hardware
        command = [PROGRAM, "-accel", "tcg,tb-size=256", "-m", str(hardware.memory), "-display", "none"]
        command += ["-nodefaults", "-no-user-config", "-device", "virtio-rng-pci"]
        # A saved machine does not record that it was stopped for saving: once restored, it continues.
        command += ["-global", "migration.store-global-state=off"]
        command += ["-smbios", f"type=3,asset={ASSET_TAG}"]
        command += ["-chardev", f"file,id=console,append=on,path={self.log}", "-serial", "chardev:console"]
        command += ["-serial", f"unix:{self.shell},server=on,wait=off"]
        command += ["-monitor", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-nic", hardware.network]
        command += _started_by_stage(hardware.stage) if hardware.stage else self._started_by_firmware()
        sizes = f"logical_block_size={hardware.sector_size},physical_block_size={hardware.sector_size}"
        for number, disk in enumerate(self.disks):
            command += ["-drive", f"file={disk},format=raw,if=none,id=disk{number}"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number},{sizes}"]
        return [*command, *hardware.options]

    def _started_by_firmware(self) -> list[str]:
        variables = self.log.with_suffix(".variables")
        if not variables.exists():
            shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
        chips = (f"readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}", f"file={variables}")
        words = [word for chip in chips for word in ("-drive", f"if=pflash,format=raw,{chip}")]
        return ["-machine", "q35", *words]


def _started_by_stage(stage: Path) -> list[str]:
    files = ["-kernel", str(stage / "vmlinuz"), "-initrd", str(stage / "initramfs.zst")]
    return [*files, "-append", STAGE_OPTIONS]
