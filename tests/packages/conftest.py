"""The Debian packages of this tree, and a fresh Debian 12: both are made once, whichever test asks first."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from fixtures.os.cache import kept, locked
from tests.support.chroots import Chroot, make_base
from tools import packages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CACHE = packages.ROOT / ".cache/packages"
DATE = 1_800_000_000  # not the commit's: what the tests build depends on nothing but the files
_SOURCES = (
    "signpost",
    "updog",
    "repo-tools",
    "packaging",
    "tools",
    "pyproject.toml",
    "CHANGELOG.md",
    "LICENSE",
)


def release(architecture: str = "amd64") -> packages.Release:
    """Return what the tests build of this tree."""
    return packages.Release(
        architecture=architecture, date=DATE, maintainer="updog developers <updog@packages.invalid>"
    )


@pytest.fixture(scope="session")
def built() -> dict[str, Path]:
    """Return the packages by name."""
    return _made(f"built/{_digest()}", _build_all)


@pytest.fixture
def debian(tmp_path: Path) -> Chroot:
    """Return a fresh Debian 12 with systemd and Python, in a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can change its root folder")
    (base,) = _made("debian/base", make_base).values()
    return Chroot.unpacked(base, tmp_path / "debian")


def _made(name: str, make: Callable[[Path], None]) -> dict[str, Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE):
        folder = kept(CACHE / name, make)
    return {path.name.partition("_")[0]: path for path in sorted(folder.iterdir())}


def _build_all(folder: Path) -> None:
    for name in packages.EXTRAS:
        packages.build_package(name, release(), folder, quick=True)


def _digest() -> str:
    """Return what decides about the packages: the content of every file that goes in, and of the tools."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_SOURCES]
    listed = subprocess.run(words, cwd=packages.ROOT, capture_output=True, check=True, text=True)
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        path = packages.ROOT / name
        if path.is_file():
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
