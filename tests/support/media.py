"""Media for tests: in memory, recording all calls, failing at a chosen call; and states after a power cut.

All implement :class:`signpost.medium.Medium`, as the operating system's does; nothing is patched.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import random
from typing import TYPE_CHECKING, NamedTuple

from signpost.errors import DiskBusyError, MediumError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from signpost.medium import Medium

MAX_EXHAUSTIVE = 600
"""If an epoch (the writes between two flushes) has at most this many states, all of them are tried."""

TEARS = 8
"""A sector is torn in its middle and at up to this many places between bytes that change."""

SAMPLES = 48
"""Otherwise all prefixes and single losses are tried, and this many seeded random states."""


class MemoryMedium:
    """Files in memory, by path. Opening a file that does not exist fails."""

    def __init__(self, files: dict[str, bytes] | None = None, *, sector_size: int | None = None) -> None:
        self.files = {path: bytearray(data) for path, data in (files or {}).items()}
        self.locked: dict[str, int] = {}
        self._sector_size = sector_size
        self._open: dict[int, str] = {}
        self._numbers = itertools.count(3)

    def path(self, descriptor: int) -> str:
        """Return the path of an open descriptor."""
        return self._open[descriptor]

    def open(self, path: str, *, write: bool) -> int:
        if path not in self.files:
            raise MediumError(f"cannot open {path}: {'for writing ' * write}no such file")
        return self._opened(path)

    def create(self, path: str, mode: int = 0o644) -> int:
        if path in self.files or mode < 0:
            raise MediumError(f"cannot create {path}: it exists")
        self.files[path] = bytearray()
        return self._opened(path)

    def close(self, descriptor: int) -> None:
        path = self._open.pop(descriptor)
        if self.locked.get(path) == descriptor:
            del self.locked[path]

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        return bytes(self.files[self.path(descriptor)][offset : offset + length])

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        file = self.files[self.path(descriptor)]
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data

    def flush(self, descriptor: int) -> None:
        self.path(descriptor)

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:  # noqa: ARG002
        self.path(descriptor)

    def rename(self, source: str, target: str) -> None:
        self.files[target] = self.files.pop(source)

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def flush_folder(self, path: str) -> None:
        if not any(name.rpartition("/")[0] == path for name in self.files):
            raise MediumError(f"cannot flush {path}: no such folder")

    def size(self, descriptor: int) -> int:
        return len(self.files[self.path(descriptor)])

    def sector_size(self, descriptor: int) -> int | None:
        self.path(descriptor)
        return self._sector_size

    def lock(self, descriptor: int) -> None:
        path = self.path(descriptor)
        if self.locked.setdefault(path, descriptor) != descriptor:
            raise DiskBusyError(f"{path} is locked by another program")

    def _opened(self, path: str) -> int:
        number = next(self._numbers)
        self._open[number] = path
        return number


class Call(NamedTuple):
    """One call of a medium: its name, the path, and for a write the offset and the data."""

    name: str
    path: str
    offset: int = 0
    data: bytes = b""


class ForwardingMedium:
    """A medium that passes every call to another one, after a call of :meth:`note`."""

    def __init__(self, inner: Medium) -> None:
        self._inner = inner
        self._paths: dict[int, str] = {}

    def note(self, call: Call) -> None:
        """Called before each call is passed on."""

    def open(self, path: str, *, write: bool) -> int:
        self.note(Call("open", path))
        return self._remembered(self._inner.open(path, write=write), path)

    def create(self, path: str, mode: int = 0o644) -> int:
        self.note(Call("create", path))
        return self._remembered(self._inner.create(path, mode), path)

    def close(self, descriptor: int) -> None:
        self.note(Call("close", self._paths.pop(descriptor)))
        self._inner.close(descriptor)

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        self.note(Call("read_at", self._paths[descriptor], offset, bytes(0)))
        return self._inner.read_at(descriptor, length, offset)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        self.note(Call("write_at", self._paths[descriptor], offset, bytes(data)))
        self._inner.write_at(descriptor, data, offset)

    def flush(self, descriptor: int) -> None:
        self.note(Call("flush", self._paths[descriptor]))
        self._inner.flush(descriptor)

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        self.note(Call("drop_cache", self._paths[descriptor]))
        self._inner.drop_cache(descriptor, offset, length)

    def rename(self, source: str, target: str) -> None:
        self.note(Call("rename", target, data=source.encode()))
        self._inner.rename(source, target)

    def remove(self, path: str) -> None:
        self.note(Call("remove", path))
        self._inner.remove(path)

    def flush_folder(self, path: str) -> None:
        self.note(Call("flush_folder", path))
        self._inner.flush_folder(path)

    def size(self, descriptor: int) -> int:
        self.note(Call("size", self._paths[descriptor]))
        return self._inner.size(descriptor)

    def sector_size(self, descriptor: int) -> int | None:
        self.note(Call("sector_size", self._paths[descriptor]))
        return self._inner.sector_size(descriptor)

    def lock(self, descriptor: int) -> None:
        self.note(Call("lock", self._paths[descriptor]))
        self._inner.lock(descriptor)

    def _remembered(self, descriptor: int, path: str) -> int:
        self._paths[descriptor] = path
        return descriptor


class RecordingMedium(ForwardingMedium):
    """Records all calls in order in ``calls``."""

    def __init__(self, inner: Medium) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []

    def note(self, call: Call) -> None:
        self.calls.append(call)

    @property
    def names(self) -> list[str]:
        """The names of the calls that change what is on the medium, or its order."""
        wanted = {"write_at", "flush", "lock", "create", "rename", "remove", "flush_folder"}
        return [call.name for call in self.calls if call.name in wanted]

    @property
    def writes(self) -> list[Call]:
        """The writes."""
        return [call for call in self.calls if call.name == "write_at"]


class FailingMedium(ForwardingMedium):
    """Fails call number ``at``, as the operating system would. Counted from 1, without ``close``.

    ``made`` is the number of calls, so that a run with ``at=0`` tells how many calls can fail.
    """

    def __init__(self, inner: Medium, *, at: int, error: int = errno.EIO) -> None:
        super().__init__(inner)
        self.made = 0
        self._at = at
        self._error = error

    def note(self, call: Call) -> None:
        if call.name == "close":
            return
        self.made += 1
        if self.made == self._at:
            cause = OSError(self._error, os.strerror(self._error))
            raise MediumError(f"cannot {call.name} {call.path}: {cause.strerror}") from cause


def crash_states(before: bytes, calls: Sequence[Call], sector_size: int) -> Iterator[bytes]:
    """Yield every state of a disk that a power cut during these calls can leave.

    Everything that was flushed is kept. Each sector written since the last flush is independently old, new,
    or torn with either part new: a superset of all prefixes, lost writes and reorderings. A sector is torn in
    its middle, and between bytes that change.
    """
    seen: set[int] = set()
    durable = before
    for epoch in _epochs(calls):
        after = bytearray(durable)
        for call in epoch:
            after[call.offset : call.offset + len(call.data)] = call.data
        for state in _mixtures(durable, bytes(after), sector_size):
            if hash(state) not in seen:
                seen.add(hash(state))
                yield state
        durable = bytes(after)


def _epochs(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """Yield the writes between flushes; the last group may not be followed by a flush."""
    epoch: list[Call] = []
    for call in calls:
        if call.name == "write_at":
            epoch.append(call)
        elif call.name == "flush":
            yield epoch
            epoch = []
    yield epoch


def _mixtures(old: bytes, new: bytes, sector_size: int) -> Iterator[bytes]:
    """Yield the mixtures of two disks, sector by sector."""
    sectors = [slice(start, start + sector_size) for start in range(0, len(old), sector_size)]
    changed = [sector for sector in sectors if old[sector] != new[sector]]
    fates = [_fates(old[sector], new[sector]) for sector in changed]
    for choice in _choices([len(each) for each in fates]):
        state = bytearray(old)
        for sector, each, fate in zip(changed, fates, choice, strict=True):
            state[sector] = each[fate]
        yield bytes(state)


def _fates(old: bytes, new: bytes) -> list[bytes]:
    """Return the possible states of one sector: old, new, and torn."""
    differing = [index for index, (before, after) in enumerate(zip(old, new, strict=True)) if before != after]
    step = -(-len(differing) // TEARS)
    tears = {len(old) // 2, *differing[1::step]}
    torn = [mixed for at in sorted(tears) for mixed in (new[:at] + old[at:], old[:at] + new[at:])]
    return list(dict.fromkeys([old, new, *torn]))


def _choices(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield a fate for each sector: all combinations, or prefixes, losses and a sample."""
    if math.prod(counts) <= MAX_EXHAUSTIVE:
        yield from itertools.product(*map(range, counts))
        return
    for length in range(len(counts) + 1):
        for torn in range(counts[length] if length < len(counts) else 1):
            yield (*[1] * length, *[torn] * (length < len(counts)), *[0] * (len(counts) - length - 1))
        yield tuple(0 if index == length else 1 for index in range(len(counts)))
    dice = random.Random(len(counts))
    for _ in range(SAMPLES):
        yield tuple(dice.randrange(count) for count in counts)


def folder_crash_states(before: dict[str, bytes], calls: Sequence[Call]) -> Iterator[dict[str, bytes]]:
    """Yield what a folder can have, path → content, if the power is cut after any of these calls.

    Names are journaled: those made, renamed and removed since the folder was last flushed are there up to
    any of them. The content of a file that was not flushed is empty, cut, or whole, whatever its name.
    """
    files: list[bytes] = list(before.values())  # by number, as written
    unsure = set[int]()  # written since they were flushed
    names = {path: number for number, path in enumerate(before)}
    durable, pending = dict(names), list[dict[str, int]]()
    for call in calls:
        if call.name == "create":
            files.append(b"")
            names[call.path] = len(files) - 1
        elif call.name == "write_at":
            number = names[call.path]
            old = files[number]
            files[number] = old[: call.offset].ljust(call.offset, b"\0") + call.data
            files[number] += old[call.offset + len(call.data) :]
            unsure.add(number)
        elif call.name == "flush" and call.path in names:
            unsure.discard(names[call.path])
        elif call.name == "rename":
            names[call.path] = names.pop(call.data.decode())
        elif call.name == "remove":
            names.pop(call.path, None)
        elif call.name == "flush_folder":
            durable, pending = dict(names), []
        if call.name in {"create", "rename", "remove"}:
            pending.append(dict(names))
        for view, halves in itertools.product((durable, *pending), range(3)):
            yield {
                path: files[number][: len(files[number]) * halves // 2] if number in unsure else files[number]
                for path, number in view.items()
            }
