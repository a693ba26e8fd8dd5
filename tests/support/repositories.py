"""Small real repositories for tests: created, signed and published by the public functions.

    repository = make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"])
    with repository.served() as url: ...

Images come from :func:`fixtures.os.synthetic.synthetic_release`; keys are test keys; the clock is the real
one unless ``now`` is given, because a TUF client compares expirations with the real time.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fixtures.os.synthetic import synthetic_release
from repo_tools.ceremony import new_repository
from repo_tools.cli import cli
from repo_tools.config import parse_expires
from repo_tools.copies.serve import serving
from repo_tools.images.packing import Packing
from repo_tools.releases import publish
from repo_tools.releases.release import NewRelease
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.console import run
from signpost.errors import MediumError
from signpost.medium import OsMedium
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fixtures.os.release import Release
    from repo_tools.releases.release import ReleaseChange
    from updog.durable import Medium

VARIANT = "synthetic"
ARCH = "x86_64"
QUICK = Packing(compression="zstd", level=1)


@dataclass(kw_only=True)
class SmallRepository:
    """A repository in a folder, and the raw images of what was published in it.

    Attributes:
        folder: the repository.
        now: when it was created, and the default time at which :meth:`publish` signs.
        images: version → the raw images, next to the repository in ``<folder>.images/<version>``.
    """

    folder: Path
    now: datetime
    images: dict[str, Release] = field(default_factory=dict)

    @property
    def root_json(self) -> bytes:
        """Root version 1, with which a node of this repository is shipped."""
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def synthesize(self, version: str, *, seed: int = 0, sizes: Mapping[str, int] | None = None) -> Release:
        """Return the raw images of a version; create them if needed. ``sizes``: ``boot_size`` and so on."""
        if version not in self.images:
            folder = self.folder.with_name(f"{self.folder.name}.images") / version
            self.images[version] = synthetic_release(folder, version, seed=seed, **(sizes or {}))
        return self.images[version]

    def new_release(self, version: str, **facts: Any) -> NewRelease:
        """Return the argument of :func:`~repo_tools.releases.publish.publish` for a synthetic release."""
        images = self.synthesize(version)
        values: dict[str, Any] = {"variant": VARIANT, "arch": ARCH, "waves": "none", "packing": QUICK}
        files = {"boot": images.boot, "root": images.root, "hash": images.hash}
        return NewRelease(version=Version.parse(version), **{**values, **files, **facts})

    def publish(
        self, version: str, *, now: datetime | None = None, medium: Medium | None = None, **facts: Any
    ) -> ReleaseChange:
        """Publish the synthetic release of a version; ``facts`` are fields of ``NewRelease``."""
        wanted = self.new_release(version, **facts)
        return publish.publish(self.folder, wanted, now=now or self.now, medium=medium)

    def copied(self, folder: Path) -> SmallRepository:
        """Return a copy of it, with the same images, that does not change with it."""
        shutil.copytree(self.folder, folder)
        return SmallRepository(folder=folder, now=self.now, images=dict(self.images))

    def served(self) -> AbstractContextManager[str]:
        """Serve it on a free loopback port for a ``with`` block, which gets the base URL."""
        return serving(self.folder)


def make_repository(
    folder: Path,
    *,
    versions: Sequence[str] = ("1.0.0",),
    now: datetime | None = None,
    expires: Sequence[str] = (),
    **facts: Any,
) -> SmallRepository:
    """Create a repository in ``folder`` with these synthetic releases, without waves.

    Args:
        folder: where it is created.
        versions: published in this order; without any the manifest is empty.
        now: when everything is signed; default: the real time.
        expires: lifetimes as ``ROLE=7d``.
        **facts: fields of ``NewRelease`` for all releases, such as ``variant`` or ``waves="default"``.
    """
    moment = now or datetime.now(UTC)
    new_repository.create(
        folder, now=moment, plan=new_repository.RepositoryPlan(expires=parse_expires(expires))
    )
    repository = SmallRepository(folder=folder, now=moment)
    for version in versions:
        repository.publish(version, **facts)
    return repository


def tree_digest(folder: Path) -> str:
    """Return a SHA-256 of the names, modes and contents of everything below a folder, without lock files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.name != ".lock":
            content = path.read_bytes() if path.is_file() else b""
            facts = (str(path.relative_to(folder)), path.stat().st_mode, hashlib.sha256(content).hexdigest())
            digest.update(repr(facts).encode())
    return digest.hexdigest()


def run_on(repository: SmallRepository, *words: str) -> int:
    """Run repo-tools on a repository; return its exit status."""
    return run(cli, ["--repo", str(repository.folder), *words])


def finding_codes(repository: SmallRepository) -> list[str]:
    """Return the codes of everything that validate finds in a repository."""
    return [finding.code for finding in check(FolderSource(repository.folder), now=repository.now).findings]


class KilledError(BaseException):
    """Simulates SIGKILL from inside: no handler catches it."""


class KillingMedium(OsMedium):
    """The real storage, until the program is killed just before step number ``at`` (from 0).

    A step is a create, write, flush, rename, remove or folder flush. All later steps fail too, so that no
    ``finally`` can clean up, as none could after a real SIGKILL. With ``torn``, a write that is killed has
    written its first half.

    Attributes:
        steps: the steps that were done, in order: the name of the call and the file.
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
    """The real storage, but step number ``at`` fails, as on a full disk; all other steps succeed."""

    def _step(self, name: str, place: str) -> None:
        self.steps.append((name, place))
        if len(self.steps) - 1 == self.at:
            raise MediumError(f"cannot {name} {place}: No space left on device")


def kill_points(steps: Sequence[object]) -> Iterator[tuple[int, bool]]:
    """Yield every (step, torn) at which a run with these ``steps`` can be killed; only writes can be torn."""
    for number, step in enumerate(steps):
        yield number, False
        if isinstance(step, tuple) and step[0] == "write":
            yield number, True


def later(moment: datetime, **span: float) -> datetime:
    """Return a time this much later."""
    return moment + timedelta(**span)
