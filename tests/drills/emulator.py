"""A machine in QEMU, without KVM: switched on, watched by its console, unplugged.

    with switched_on(disk, console, kernel=stage) as machine:
        machine.expect("taking slot B", "Kernel panic", "taking slot A")

Unplugging is a power cut: QEMU is killed. One machine runs at a time, whoever runs the tests.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from repo_tools.bootstage.image import Stage

PROGRAM = "qemu-system-x86_64"
FIRMWARE = Path("/usr/share/OVMF")
OPTIONS = "console=ttyS0 quiet panic=1 gpt signpost.pause=1"
"""Of the boot stage, where the emulator and not firmware starts it."""

PATIENCE = 300.0
"""Seconds to wait for what takes six to thirty on a quiet machine; others may be at work on this one."""

RELAY = Path(__file__).resolve().parents[2] / "fixtures" / "node" / "relay.py"
"""Carries each connection of the node to the web server."""

_LOOK_EVERY = 0.05
_LINES_SHOWN = 40
_LOCK = Path(__file__).resolve().parents[2] / ".cache" / "qemu.lock"


class NotSeenError(AssertionError):
    """The console did not show what was expected; shows its last lines."""


@dataclass
class Machine:
    """A machine that is on.

    Attributes:
        console: what it showed so far.
    """

    process: subprocess.Popen[bytes]
    log: Path
    seen: int = 0

    @property
    def console(self) -> str:
        """Everything on the console since it was switched on."""
        return self.log.read_bytes().decode(errors="replace")

    def expect(self, *texts: str) -> None:
        """Wait for texts on the console, one after another, each behind the one before."""
        for text in texts:
            self._wait_for(text)

    def _wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := self.console.find(text, self.seen)) < 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                last = "\n".join(self.console.splitlines()[-_LINES_SHOWN:])
                raise NotSeenError(f"{text!r} is not on the console ({self.log}):\n{last}")
            time.sleep(_LOOK_EVERY)
        self.seen = found + len(text)


def missing(*, firmware: bool = False) -> str:
    """Say which package is missing for drills; empty if none."""
    if shutil.which(PROGRAM) is None:
        return "qemu-system-x86 is not installed"
    return "ovmf is not installed" if firmware and not FIRMWARE.is_dir() else ""


@contextmanager
def switched_on(
    disks: Sequence[Path],
    log: Path,
    *,
    stage: Stage | None = None,
    sector_size: int = 512,
    port: int | None = None,
) -> Iterator[Machine]:
    """Run a machine for the length of a ``with`` block.

    Args:
        disks: disk images, in order.
        log: where its console is kept.
        stage: the boot stage to start; without one firmware starts what is on the disks.
        sector_size: of the disks.
        port: of a web server on this machine, which the node reaches as 10.0.2.100; None leaves it without
            a network.
    """
    started = _started_by_emulator(log.parent, stage) if stage else _started_by_firmware(log.parent)
    command = [PROGRAM, "-accel", "tcg", "-m", "768", "-display", "none", "-monitor", "none"]
    command += ["-nic", _network(port), "-serial", f"file:{log}", *started]
    for number, disk in enumerate(disks):
        command += ["-drive", f"file={disk},format=raw,if=none,id=disk{number}"]
        sizes = f"logical_block_size={sector_size},physical_block_size={sector_size}"
        command += ["-device", f"virtio-blk-pci,drive=disk{number},{sizes}"]
    log.touch()
    with _one_at_a_time(), (log.with_suffix(".qemu")).open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield Machine(process, log)
        finally:
            process.kill()
            process.wait()


def _network(port: int | None) -> str:
    if port is None:
        return "none"
    return f"user,model=virtio-net-pci,guestfwd=tcp:10.0.2.100:80-cmd:{sys.executable} {RELAY} {port}"


def _started_by_emulator(folder: Path, stage: Stage) -> list[str]:
    kernel, initramfs = folder / "stage.kernel", folder / "stage.initramfs"
    kernel.write_bytes(stage.kernel)
    initramfs.write_bytes(stage.initramfs)
    return ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", OPTIONS]


def _started_by_firmware(folder: Path) -> list[str]:
    variables = folder / "firmware.variables"
    shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    chips = (f"readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}", f"file={variables}")
    return [
        "-machine",
        "q35",
        *(word for chip in chips for word in ("-drive", f"if=pflash,format=raw,{chip}")),
    ]


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold the one place there is for a machine: two emulators on two cores starve each other."""
    _LOCK.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
