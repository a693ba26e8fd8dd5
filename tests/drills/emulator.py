"""A machine in QEMU, without KVM: switched on, watched by its console, unplugged.

    with switched_on(disk, console, kernel=stage) as machine:
        machine.expect("taking slot B", "Kernel panic", "taking slot A")

Unplugging is a power cut: QEMU is killed. One machine runs at a time, whichever process runs the tests.
"""

from __future__ import annotations

import fcntl
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.bootstage.files import INITRAMFS, KERNEL
from updog.drill.patience import Patience
from updog.drill.qemu import Emulator, Hardware, require
from updog.errors import DrillSkippedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from repo_tools.bootstage.image import BootStage

SILENCE_SECONDS = 300.0
"""Without a line on the console, on the reference machine: there what is waited for takes six to thirty."""

RELAY = Path(__file__).resolve().parents[2] / "fixtures" / "node" / "relay.py"
"""Carries each connection of the node to the web server."""

_LOOK_EVERY = 0.05
_LOCK = Path(__file__).resolve().parents[2] / ".cache" / "qemu.lock"


class NotSeenError(AssertionError):
    """The console did not show what was expected; shows its last lines."""


@dataclass
class Machine:
    """A running machine.

    Attributes:
        seen: how much of the console was already read.
    """

    emulator: Emulator
    seen: int = 0

    @property
    def console(self) -> str:
        """Everything on the console since it was switched on."""
        return self.emulator.said()

    def expect(self, *texts: str) -> None:
        """Wait for texts on the console, in this order, each after the previous one."""
        for text in texts:
            self._wait_for(text)

    def _wait_for(self, text: str) -> None:
        patience = Patience(silence=SILENCE_SECONDS)
        while (found := self.console.find(text, self.seen)) < 0:
            patience.watch(self.emulator.progress())
            if patience.is_over() or not self.emulator.is_on:
                what = f"{text!r} was not shown in {patience.seconds:.0f} s"
                raise NotSeenError(self.emulator.with_last_lines(what))
            time.sleep(_LOOK_EVERY)
        self.seen = found + len(text)


def missing(*, firmware: bool = False) -> str:
    """Return what is missing for drills; empty if nothing is."""
    try:
        require(Hardware(stage=None if firmware else Path()))
    except DrillSkippedError as error:
        return error.message
    return ""


@contextmanager
def switched_on(
    disks: Sequence[Path],
    log: Path,
    *,
    stage: BootStage | None = None,
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
    hardware = Hardware(
        stage=_folder_of(stage, log.parent) if stage else None,
        memory=768,
        sector_size=sector_size,
        network=_network(port),
    )
    with one_at_a_time(), tempfile.TemporaryDirectory() as sockets:
        emulator = Emulator(hardware, disks, log, Path(sockets) / "shell")
        emulator.switch_on()
        try:
            yield Machine(emulator)
        finally:
            emulator.switch_off()


def _network(port: int | None) -> str:
    if port is None:
        return "none"
    return f"user,model=virtio-net-pci,guestfwd=tcp:10.0.2.100:80-cmd:{sys.executable} {RELAY} {port}"


def _folder_of(stage: BootStage, folder: Path) -> Path:
    """Put a boot stage into files."""
    (folder / KERNEL).write_bytes(stage.kernel)
    (folder / INITRAMFS).write_bytes(stage.initramfs)
    return folder


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the only place for an emulator: those of two tests on two cores starve each other."""
    _LOCK.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
