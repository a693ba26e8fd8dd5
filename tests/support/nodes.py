"""Real nodes for tests: a drill node in a folder, with a small real repository behind a file URL.

    node = make_node(tmp_path)                 # runs 1.0.0 from slot A, confirmed; 1.1.0 is published
    node.updog("update"); node.boot(); node.updog("confirm")

Disk, boot rule, health checks, signatures and command line are the product's. Every node is copied from one
that is made once in each process, so that a test gets its own in a few milliseconds.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from signpost import gpt, gptprio, sets
from signpost.app import DiskView, UnbootedDisk
from signpost.console import run
from signpost.errors import MediumError
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.progress import SilentReporter
from signpost.sets import Slot
from tests.support.repositories import ARCH, VARIANT, SmallRepository, make_repository
from updog import cli
from updog.agent import Agent
from updog.config import load
from updog.drill.node import DrillNode
from updog.host import Host
from updog.state_store import StateStore
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from signpost.app import PartitionView
    from signpost.medium import Medium
    from updog.drill import Stage
    from updog.drill.node import Boot
    from updog.state import NodeState

MEBIBYTE = 1 << 20
RUNNING, NEWER, NEWEST = "1.0.0", "1.1.0", "1.2.0"
CONFIRMED = Flags(priority=2, successful=True)
_NAMES = UUID("a4b53e5f-11f1-4d5a-9f0c-3b1f1d0f6a10")
_ROLES = ("boot", "root", "hash")
_ENTRIES = 16  # instead of 128: every test reads and writes the partition table often


def guid(name: str) -> gpt.Guid:
    """Return a GUID that is always the same for a name."""
    return gpt.guid(str(uuid5(_NAMES, name)))


def disk_bytes(
    images: Mapping[str, bytes],
    *,
    flags: Mapping[Slot, Flags],
    slot_size: int = MEBIBYTE,
    name: str = "disk",
    sector_size: int = 512,
) -> bytes:
    """Return an A/B disk with ``images`` (role → raw bytes) in slot A; single if ``flags`` has one slot.

    Args:
        images: the content of slot A.
        flags: of each slot.
        slot_size: bytes of each partition.
        name: determines the GUIDs.
        sector_size: of the partition table, in bytes.
    """
    types = {"boot": sets.BOOT, "root": sets.ROOT, "hash": sets.HASH}
    parts = [
        gpt.NewPartition(
            type=types[role],
            guid=guid(f"{name} {role} {slot}"),
            size=slot_size,
            name=f"{role.upper()}-{slot}",
            attributes=gptprio.with_flags(0, flags[slot]) if role == "boot" else 0,
        )
        for slot in flags
        for role in _ROLES
    ]
    parts.append(gpt.NewPartition(sets.PRIVATE, guid(f"{name} private"), MEBIBYTE, "PRIVATE"))
    size = slot_size * 3 * len(flags) + 3 * MEBIBYTE
    table = gpt.new_table(
        parts, disk_size=size, disk_guid=guid(name), sector_size=sector_size, entry_count=_ENTRIES
    )
    disk = bytearray(size)
    for offset, data in table.writes():
        disk[offset : offset + len(data)] = data
    places = table.pair.primary.extents()
    for number, role in enumerate(_ROLES, start=1):
        start = places[number].offset
        disk[start : start + len(images[role])] = images[role]
    return bytes(disk)


TWO_SLOTS = {Slot.A: CONFIRMED, Slot.B: Flags()}


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout; there must be nothing else."""
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The NDJSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def now() -> datetime:
    """Return this moment: a TUF client compares expiries with the real one."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node in a folder, on its own copy of a repository."""

    folder: Path
    repository: SmallRepository

    @property
    def disk(self) -> Path:
        """The disk image."""
        return self.folder / "disk.img"

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "updog.toml"

    @property
    def state_file(self) -> Path:
        """The file with updog's state."""
        return self.folder / "state" / "state.json"

    # -- what operators do --------------------------------------------------------------------------

    def updog(self, *words: str, options: Sequence[str] = ()) -> CommandResult:
        """Run ``updog`` on this node, in this process."""
        return command_line(["--config", str(self.config), *options, *words])

    def updog_process(self, *words: str) -> subprocess.Popen[str]:
        """Start ``updog`` on this node as a process of its own."""
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from updog.cli import main; main()",
                "--config",
                str(self.config),
                *words,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def boot(self, fail: Stage | None = None) -> CommandResult:
        """Restart the node through the command line."""
        return command_line(
            ["drill", "boot", str(self.folder), "--json", *(["--fail", fail.value] if fail else [])]
        )

    def publish(self, version: str, **facts: Any) -> None:
        """Publish the synthetic release of a version."""
        self.repository.publish(version, now=now(), **facts)

    def lose_repository(self) -> None:
        """Remove the repository, as if the network were down."""
        shutil.rmtree(self.repository.folder)

    def configure(self, **settings: object) -> None:
        """Set keys of ``updog.toml``; None removes one."""
        lines = self.config.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.partition(" =")[0] not in settings]
        added = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None]
        self.config.write_text("\n".join([*kept, *added, ""]), encoding="utf-8")

    def health_check(self, name: str, script: str, *, kind: str = "required") -> Path:
        """Add a health check."""
        return health_check(self.folder / "health.d", name, script, kind=kind)

    # -- the same without the command line -----------------------------------------------------------

    def agent(self, medium: Medium | None = None, *, clock: Callable[[], datetime] = now) -> Agent:
        """Return the agent that runs on this node; without a ``medium`` its flushes do nothing."""
        config = load(self.config)
        return Agent(
            config, Host(config), clock=clock, reporter=SilentReporter(), medium=medium or UnflushedMedium()
        )

    def start(self, fail: Stage | None = None) -> Boot:
        """Restart the node; updog does not run yet."""
        return DrillNode(self.folder, medium=UnflushedMedium(), clock=now).boot(fail)

    def copy(self, folder: Path) -> Node:
        """Return a copy of this node as it is now, with the same repository."""
        shutil.copytree(self.folder, folder, copy_function=_copy_sparse)
        return Node(folder=folder, repository=self.repository)

    # -- what can be observed ------------------------------------------------------------------------

    def view(self) -> DiskView:
        """Return the state of the disk."""
        return UnbootedDisk(OsMedium(), str(self.disk)).view()

    def flags(self, slot: Slot) -> Flags:
        """Return a slot's flags."""
        return self.view().slots[slot].flags

    def state(self) -> NodeState:
        """Return updog's state."""
        return StateStore(self.folder / "state", medium=OsMedium(), clock=now).load()

    def codes(self) -> list[str]:
        """Return the codes of the history, oldest first."""
        return [event.code.value for event in self.state().history]

    def content(self, slot: Slot, role: str, size: int) -> bytes:
        """Return the first bytes of one of a slot's partitions."""
        place: PartitionView = getattr(self.view().slots[slot], role)
        with self.disk.open("rb") as disk:
            disk.seek(place.offset)
            return disk.read(size)

    def holds(self, slot: Slot, version: str) -> bool:
        """Tell whether a slot contains the images of a version, byte for byte."""
        images = images_of(self.repository, version)
        return all(self.content(slot, role, len(data)) == data for role, data in images.items())

    def damage(self, slot: Slot, role: str, position: int = 0) -> None:
        """Invert one byte of a slot's image."""
        place: PartitionView = getattr(self.view().slots[slot], role)
        with self.disk.open("r+b") as disk:
            disk.seek(place.offset + position)
            byte = disk.read(1)[0]
            disk.seek(place.offset + position)
            disk.write(bytes([byte ^ 0xFF]))

    def disk_digest(self) -> str:
        """Return the SHA-256 of the whole disk."""
        return hashlib.sha256(self.disk.read_bytes()).hexdigest()


def command_line(words: Sequence[str]) -> CommandResult:
    """Run ``updog`` in this process and return its result."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(cli.program, list(words))
    return CommandResult(status=status, out=out.getvalue(), err=err.getvalue())


def images_of(repository: SmallRepository, version: str) -> dict[str, bytes]:
    """Return the raw images of a version, by role."""
    release = repository.synthesize(version)
    return {
        "boot": release.boot.read_bytes(),
        "root": release.root.read_bytes(),
        "hash": release.hash.read_bytes(),
    }


def health_check(folder: Path, name: str, script: str, *, kind: str = "required") -> Path:
    """Write an executable shell script into ``folder``/``kind``; return its path."""
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def make_node(folder: Path, *, published: Sequence[str] = (NEWER,), **settings: object) -> Node:
    """Return a node in ``folder``/node that runs 1.0.0 from slot A, confirmed.

    Args:
        folder: an empty folder.
        published: the versions that its repository offers besides 1.0.0.
        **settings: keys of its ``updog.toml``.
    """
    template = _template()
    repository = SmallRepository(folder=folder / "repo", now=now(), images=dict(template.repository.images))
    shutil.copytree(template.repository.folder, repository.folder)
    for version in published:
        repository.publish(version)
    shutil.copytree(template.folder, folder / "node", copy_function=_copy_sparse)
    node = Node(folder=folder / "node", repository=repository)
    node.configure(**{**urls(repository), **settings})
    return node


def _copy_sparse(source: str, target: str) -> str:
    """Copy a file and leave holes for zeros, which are most of a disk image and would have to be flushed."""
    data, step = Path(source).read_bytes(), 1 << 16
    with Path(target).open("wb") as file:
        file.truncate(len(data))
        for start in range(0, len(data), step):
            block = data[start : start + step]
            if block.strip(b"\0"):
                file.seek(start)
                file.write(block)
    shutil.copymode(source, target)
    return target


def urls(repository: SmallRepository) -> dict[str, str]:
    """Return the keys of ``updog.toml`` that say where a repository is."""
    base = repository.folder.as_uri()
    return {"metadata_base_url": f"{base}/metadata/", "targets_base_url": f"{base}/targets/"}


@cache
def _template() -> Node:
    """Return the node from which all others are copied."""
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    repository = make_repository(folder / "repo", versions=[RUNNING])
    for version in (NEWER, NEWEST):
        repository.synthesize(version)
    node = Node(folder=folder / "node", repository=repository)
    node.folder.mkdir()
    node.disk.write_bytes(disk_bytes(images_of(repository, RUNNING), flags=TWO_SLOTS))
    _set_up(node)
    return node


# -- media that fail -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Step:
    """A call of a medium: its name, the file, the offset in it, and the data that was written.

    A rename has the new name as ``path`` and the old name as ``source``.
    """

    name: str
    path: str
    offset: int = 0
    data: bytes = b""
    source: str = ""


class UnflushedMedium(OsMedium):
    """The real storage, but flushing does nothing: it would only cost time, as no real power cut happens."""

    def flush(self, descriptor: int) -> None:
        del descriptor

    def flush_folder(self, path: str) -> None:
        del path


class FailingMedium(UnflushedMedium):
    """The real storage, but call number ``at`` and all later calls fail; with ``once`` only that one.

    Args:
        at: number of the first call that fails, from 0; None: none fails.
        errno: the error number with which it fails.
        only: the names of the calls that are counted, such as ``write``; empty: all.
        once: later calls succeed.

    Attributes:
        steps: the calls that were counted, in order.
    """

    def __init__(
        self, at: int | None = None, *, errno: int = errno.EIO, only: Sequence[str] = (), once: bool = False
    ) -> None:
        self.steps: list[Step] = []
        self._at = at
        self._errno = errno
        self._only = only
        self._once = once
        self._paths: dict[int, str] = {}

    def _step(
        self, name: str, where: int | str, offset: int = 0, data: bytes | memoryview = b"", source: str = ""
    ) -> None:
        """Count a call and fail if its number is reached."""
        if self._only and name not in self._only:
            return
        path = where if isinstance(where, str) else self._paths.get(where, "")
        number = len(self.steps)
        self.steps.append(Step(name=name, path=path, offset=offset, data=bytes(data), source=source))
        if self._at is not None and (number == self._at or (number > self._at and not self._once)):
            cause = OSError(self._errno, os.strerror(self._errno))
            raise MediumError(f"cannot {name} {path}: {cause.strerror}") from cause

    def open(self, path: str, *, write: bool) -> int:
        descriptor = super().open(path, write=write)
        self._paths[descriptor] = path
        return descriptor

    def create(self, path: str, mode: int = 0o644) -> int:
        self._step("create", path)
        descriptor = super().create(path, mode)
        self._paths[descriptor] = path
        return descriptor

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        self._step("read", descriptor, offset)
        return super().read_at(descriptor, length, offset)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        self._step("write", descriptor, offset, data)
        super().write_at(descriptor, data, offset)

    def flush(self, descriptor: int) -> None:
        self._step("flush", descriptor)
        super().flush(descriptor)

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        self._step("drop_cache", descriptor)
        super().drop_cache(descriptor, offset, length)

    def rename(self, source: str, target: str) -> None:
        self._step("rename", target, source=source)
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self._step("remove", path)
        super().remove(path)

    def flush_folder(self, path: str) -> None:
        self._step("flush folder", path)
        super().flush_folder(path)


class LyingMedium(OsMedium):
    """A disk that returns one byte different from what was written (D79).

    Args:
        position: offset of the byte on the disk.
    """

    def __init__(self, position: int) -> None:
        self._position = position

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        data = bytearray(super().read_at(descriptor, length, offset))
        place = self._position - offset
        if 0 <= place < len(data):
            data[place] ^= 0x01
        return bytes(data)


class DecayedMedium(OsMedium):
    """A disk with a sector that cannot be read until it is written, as a disk renews it then.

    Args:
        path: of the disk. position: offset of the sector on it, bytes.
    """

    def __init__(self, path: Path, position: int) -> None:
        self._path, self._position = str(path), position
        self.is_decayed = True
        self.refused = 0

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        if self.is_decayed and self._has(descriptor, length, offset):
            self.refused += 1
            raise MediumError(f"cannot read {self._path}: Input/output error")
        return super().read_at(descriptor, length, offset)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        super().write_at(descriptor, data, offset)
        if self._has(descriptor, len(data), offset):
            self.is_decayed = False

    def _has(self, descriptor: int, length: int, offset: int) -> bool:
        return (
            offset < self._position + 512
            and self._position < offset + length
            and str(Path(f"/proc/self/fd/{descriptor}").readlink()) == self._path
        )


class LosingMedium(OsMedium):
    """A disk that loses one byte, behind a kernel that has a copy of what was written to it.

    Reading returns the kernel's copy for as long as there is one: the loss is seen only after what was
    written was flushed *and* the copy dropped.

    Args:
        path: of the disk. position: offset of the byte on it.
    """

    def __init__(self, path: Path, position: int) -> None:
        self._path, self._position = str(path), position
        self._copy: int | None = None
        self._is_flushed = False
        self._lock = threading.Lock()

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        place = self._place(descriptor, len(data), offset)
        with self._lock:
            super().write_at(descriptor, data, offset)
            if place is not None:
                self._copy, self._is_flushed = data[place], False
                super().write_at(descriptor, bytes([data[place] ^ 0x01]), self._position)

    def flush(self, descriptor: int) -> None:
        with self._lock:
            self._is_flushed = self._is_flushed or self._place(descriptor, 1, self._position) is not None

    def drop_cache(self, descriptor: int, offset: int = 0, length: int = 0) -> None:
        with self._lock:
            covers = offset <= self._position and (not length or self._position < offset + length)
            if covers and self._is_flushed and self._place(descriptor, 1, self._position) is not None:
                self._copy = None

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        with self._lock:
            data = bytearray(super().read_at(descriptor, length, offset))
            place = self._place(descriptor, len(data), offset)
            if place is not None and self._copy is not None:
                data[place] = self._copy
            return bytes(data)

    def _place(self, descriptor: int, length: int, offset: int) -> int | None:
        """Return where in these bytes the lost one is, None if it is not there."""
        place = self._position - offset
        if 0 <= place < length and str(Path(f"/proc/self/fd/{descriptor}").readlink()) == self._path:
            return place
        return None


def replayed(steps: Sequence[Step], before: Node, folder: Path, *, keep_unflushed: bool) -> Node:
    """Return the node, in ``folder``, that a power cut after ``steps`` makes of a node like ``before``.

    What did not go through the medium (folders, locks, the files of the TUF library) counts as lost.

    Args:
        steps: of a run on a copy of ``before``.
        before: the node before the run.
        folder: where the node is created.
        keep_unflushed: whether writes and renames that were not flushed before the cut are kept.
    """
    node = before.copy(folder)
    for number, step in enumerate(steps):
        if keep_unflushed or _is_flushed(step, steps[number + 1 :]):
            _play(step, folder)
    return node


def _is_flushed(step: Step, later: Sequence[Step]) -> bool:
    """Tell whether a later step flushes this one."""
    if step.name == "write":
        return any(other.name == "flush" and other.path == step.path for other in later)
    folder = os.path.dirname(step.path)  # noqa: PTH120 - a Medium takes strings
    return any(other.name == "flush folder" and other.path == folder for other in later)


def _play(step: Step, folder: Path) -> None:
    """Repeat one recorded step on the node in ``folder``."""

    def here(path: str) -> Path:
        below = path.rpartition("/node/")[2]
        return folder / below

    path = here(step.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if step.name == "create":
        path.write_bytes(b"")
    elif step.name == "write":
        path.touch()
        with path.open("r+b") as file:
            file.seek(step.offset)
            file.write(step.data)
    elif step.name == "rename" and here(step.source).exists():
        here(step.source).replace(path)
    elif step.name == "remove":
        path.unlink(missing_ok=True)


def make_large_node(folder: Path, *, root_size: int, deltas: int = 3) -> Node:
    """Return a node that runs 1.0.0; its repository offers 1.1.0 with an incompressible root image."""
    repository = make_repository(folder / "repo", versions=[])
    for version in (RUNNING, NEWER):
        release = repository.synthesize(version)
        release.root.write_bytes(random.Random(version).randbytes(root_size))
        repository.publish(version, deltas=deltas)
    node = Node(folder=folder / "node", repository=repository)
    node.folder.mkdir()
    slot_size = -(-root_size // MEBIBYTE) * MEBIBYTE
    node.disk.write_bytes(
        disk_bytes(images_of(repository, RUNNING), flags=TWO_SLOTS, slot_size=slot_size, name="large")
    )
    _set_up(node)
    return node


def _set_up(node: Node) -> None:
    """Make a running node from a folder that contains its disk."""
    repository = node.repository
    DrillNode(node.folder, medium=OsMedium(), clock=now).create(
        variant=VARIANT,
        version=Version.parse(RUNNING),
        root=repository.root_json,
        settings={**urls(repository), "arch": ARCH, "seed": 7, "send_query": False},
    )
    agent = node.agent()
    agent.verify(Slot.A)
