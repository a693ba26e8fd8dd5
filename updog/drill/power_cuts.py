"""A medium that loses power: the calls before the cut are done, the call at the cut by half, none after it.

Whatever the process does after the cut (``finally``, ``except``) does not reach the medium, as after a real
one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from signpost.medium import OsMedium
from updog.drill.drill_file import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

TABLE_BYTES = 1 << 20
"""At the beginning and the end of the disk, where the copies of the partition table are."""


class PowerCutError(BaseException):
    """The power is cut. Not an Exception: no error handler may catch it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call that changes durable data: its file, and whether it writes into a slot of the disk."""

    path: str
    in_slot: bool = False


@dataclass
class CuttingMedium(OsMedium):
    """The real storage until call number ``at``, counted from 0; None: no cut. Threads may share it.

    Attributes:
        calls: those that were done.
    """

    disk: Path
    at: int | None = None
    calls: list[Call] = field(default_factory=list)
    _dead: bool = False
    _paths: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, path: str, *, write: bool) -> int:
        """Open a file; not counted, as it changes nothing."""
        self._alive()
        descriptor = super().open(path, write=write)
        self._paths[descriptor] = path
        return descriptor

    def create(self, path: str, mode: int = 0o644) -> int:
        """Create a file."""
        self._count(Call(path=path))
        descriptor = super().create(path, mode)
        self._paths[descriptor] = path
        return descriptor

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write; at the cut, the first half."""
        path = self._paths[descriptor]
        on_disk = path == str(self.disk)
        in_slot = on_disk and TABLE_BYTES <= offset < self.disk.stat().st_size - TABLE_BYTES
        write = super().write_at
        self._count(
            Call(path=path, in_slot=in_slot), lambda: write(descriptor, data[: len(data) // 2], offset)
        )
        write(descriptor, data, offset)

    def flush(self, descriptor: int) -> None:
        """Flush a file."""
        self._count(Call(path=self._paths[descriptor]))
        super().flush(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Rename a file."""
        self._count(Call(path=target))
        super().rename(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._count(Call(path=path))
        super().remove(path)

    def flush_folder(self, path: str) -> None:
        """Flush a folder."""
        self._count(Call(path=path))
        super().flush_folder(path)

    def _count(self, call: Call, half: Callable[[], None] = lambda: None) -> None:
        """Count a call; at the cut do ``half`` of it, and after it nothing."""
        with self._lock:
            self._alive()
            if len(self.calls) == self.at:
                self._dead = True
                half()
            self._alive()
            self.calls.append(call)

    def _alive(self) -> None:
        """Raise PowerCutError after the cut, so that no cleaning up is done."""
        if self._dead:
            raise PowerCutError


def cut_points(calls: Sequence[Call], moment: Moment, spool: Path) -> list[int]:
    """Return the numbers of the calls that are a cut at this moment. PURE."""
    matches: Mapping[Moment, Callable[[Call], bool]] = {
        Moment.DOWNLOAD: lambda call: call.path.startswith(f"{spool}/"),
        Moment.WRITE: lambda call: call.in_slot,
        Moment.ANYWHERE: lambda _call: True,
    }
    return [number for number, call in enumerate(calls) if matches[moment](call)]
