"""Small real repositories for anybody's tests: made, signed and published by the public functions.

    repository = make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"])
    with repository.served() as url: ...

Images come from :func:`fixtures.os.synthetic.synthetic_release`; keys are test keys; the clock is the real
one unless ``now`` is given, because a TUF client compares expiries with the real one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fixtures.os.synthetic import synthetic_release
from repo_tools import new, release
from repo_tools.config import parse_expires
from repo_tools.images import Packing
from repo_tools.serve import serving
from signpost.errors import MediumError
from signpost.medium import OsMedium
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fixtures.os.release import Release
    from repo_tools.release import Outcome
    from updog.durable import Medium

VARIANT = "synthetic"
ARCH = "x86_64"
QUICK = Packing(compression="zstd", level=1)


@dataclass(kw_only=True)
class SmallRepository:
    """A repository in a folder, and the raw images of what was published in it.

    Attributes:
        folder: the repository. now: when it was made, and when :meth:`publish` signs unless told otherwise.
        images: version → the raw images, beside the repository in ``<folder>.images/<version>``.
    """

    folder: Path
    now: datetime
    images: dict[str, Release] = field(default_factory=dict)

    @property
    def root_json(self) -> bytes:
        """Root version 1: what a node of this repository is shipped with."""
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def synthesize(self, version: str, *, seed: int = 0, sizes: Mapping[str, int] | None = None) -> Release:
        """Return the raw images of a version, made if need be; ``sizes`` are ``boot_size`` and so on."""
        if version not in self.images:
            folder = self.folder.with_name(f"{self.folder.name}.images") / version
            self.images[version] = synthetic_release(folder, version, seed=seed, **(sizes or {}))
        return self.images[version]

    def new_release(self, version: str, **facts: Any) -> release.NewRelease:
        """Return what :func:`repo_tools.release.publish` takes for the synthetic release of a version."""
        images = self.synthesize(version)
        values: dict[str, Any] = {"variant": VARIANT, "arch": ARCH, "waves": "none", "packing": QUICK} | facts
        return release.NewRelease(
            version=Version.parse(version),
            boot=images.boot,
            root=images.root,
            hash=images.hash,
            **values,
        )

    def publish(
        self, version: str, *, now: datetime | None = None, medium: Medium | None = None, **facts: Any
    ) -> Outcome:
        """Publish the synthetic release of a version; ``facts`` are fields of ``NewRelease``."""
        wanted = self.new_release(version, **facts)
        return release.publish(self.folder, wanted, now=now or self.now, medium=medium)

    def served(self) -> AbstractContextManager[str]:
        """Serve it on a free loopback port for the length of a ``with`` block; gives the base URL."""
        return serving(self.folder)


def make_repository(
    folder: Path,
    *,
    versions: Sequence[str] = ("1.0.0",),
    now: datetime | None = None,
    expires: Sequence[str] = (),
    **facts: Any,
) -> SmallRepository:
    """Make a repository in ``folder`` with these synthetic releases, open to everybody at once.

    Args:
        folder: is created.
        versions: published in this order; none at all leaves the manifest empty.
        now: when everything is signed; the real time unless given.
        expires: ``ROLE=7d`` words.
        **facts: fields of ``NewRelease`` for all of them, such as ``variant`` or ``waves="default"``.
    """
    moment = now or datetime.now(UTC)
    new.create(folder, now=moment, plan=new.Plan(expires=parse_expires(expires)))
    repository = SmallRepository(folder=folder, now=moment)
    for version in versions:
        repository.publish(version, **facts)
    return repository


def tree_digest(folder: Path) -> str:
    """Return one SHA-256 over the names, modes and contents of everything below a folder, locks apart."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.name != ".lock":
            content = path.read_bytes() if path.is_file() else b""
            facts = (str(path.relative_to(folder)), path.stat().st_mode, hashlib.sha256(content).hexdigest())
            digest.update(repr(facts).encode())
    return digest.hexdigest()


class KilledError(BaseException):
    """What a test's SIGKILL looks like from inside: nobody handles it."""


class KillingMedium(OsMedium):
    """The real storage, until the program is killed just before its step number ``at`` (from 0).

    A step is a create, write, flush, rename, remove or folder flush. From then on nothing works any more,
    so that no ``finally`` can tidy up as it could not after a real SIGKILL. With ``torn`` a write that is
    killed has done its first half.

    Attributes:
        steps: what was done, in order: the call's name and the file's.
    """

    def __init__(self, at: int | None = None, *, torn: bool = False) -> None:
        self.at = at
        self.torn = torn
        self.steps: list[tuple[str, str]] = []
        self._names: dict[int, str] = {}

    def _step(self, name: str, place: str) -> None:
        if self.at is not None and len(self.steps) >= self.at:
            raise KilledError(f"before step {self.at}: {name} {place}")
        self.steps.append((name, place))

    def open(self, path: str, *, write: bool) -> int:
        descriptor = super().open(path, write=write)
        self._names[descriptor] = path
        return descriptor

    def create(self, path: str, mode: int = 0o644) -> int:
        self._step("create", path)
        descriptor = super().create(path, mode)
        self._names[descriptor] = path
        return descriptor

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        if self.torn and self.at == len(self.steps):
            super().write_at(descriptor, data[: len(data) // 2], offset)
        self._step("write", self._names[descriptor])
        super().write_at(descriptor, data, offset)

    def flush(self, descriptor: int) -> None:
        self._step("flush", self._names[descriptor])
        super().flush(descriptor)

    def rename(self, source: str, target: str) -> None:
        self._step("rename", target)
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self._step("remove", path)
        super().remove(path)

    def flush_folder(self, path: str) -> None:
        self._step("flush folder", path)
        super().flush_folder(path)


class FailingMedium(KillingMedium):
    """The real storage, of which step number ``at`` fails, as on a full disk; everything else works."""

    def _step(self, name: str, place: str) -> None:
        self.steps.append((name, place))
        if len(self.steps) - 1 == self.at:
            raise MediumError(f"cannot {name} {place}: No space left on device")


def kill_points(steps: Sequence[object]) -> Iterator[tuple[int, bool]]:
    """Yield every (step, torn) at which a run that did ``steps`` can be killed; torn ones for writes only."""
    for number, step in enumerate(steps):
        yield number, False
        if isinstance(step, tuple) and step[0] == "write":
            yield number, True


def later(moment: datetime, **span: float) -> datetime:
    """Return a time this much later."""
    return moment + timedelta(**span)
