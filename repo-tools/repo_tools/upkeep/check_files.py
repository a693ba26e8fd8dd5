"""Check the files of a repository on this machine: who can read them, and its private keys.

Rules:

* a web server is another user: everybody can read what readers need, and pass through its folders;
* private keys are looked for only where ``repo.toml`` is: a mirror or a bundle has none. Only key files can
  be checked; a token, a key service or a variable is tried when it signs (`repo-tools refresh --dry-run`);
* a key file that another user can read or write may have been copied or replaced. Its group may read it: that
  is how a release team shares one.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from repo_tools import config
from repo_tools.errors import ConfigError
from repo_tools.keys.holders import short_keyid
from repo_tools.keys.signers import FILE_SCHEME
from repo_tools.trust.findings import Finding
from repo_tools.trust.source import FolderSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from repo_tools.trust.source import Source

_OTHERS = stat.S_IRWXO | stat.S_IWGRP
_PASS = stat.S_IROTH | stat.S_IXOTH
_TEMPORARY = ".tmp"


def faults(source: Source) -> Iterator[Finding]:
    """Yield the findings of a repository in a folder; nothing for a web server."""
    if not isinstance(source, FolderSource):
        return
    for part in ("metadata", "targets"):
        yield from _modes(source.folder, part)
    yield from _keys(source.folder)


def _modes(folder: Path, part: str) -> Iterator[Finding]:
    """Yield what a web server cannot read; of a closed folder only the folder itself."""
    closed: set[Path] = set()
    for path in sorted((folder / part, *(folder / part).rglob("*"))):
        try:
            mode = path.stat().st_mode
        except OSError:  # a link to nowhere: no file for any reader
            continue
        needed = _PASS if stat.S_ISDIR(mode) else stat.S_IROTH
        if closed.isdisjoint(path.parents) and path.suffix != _TEMPORARY and mode & needed != needed:
            closed.add(path)
            yield _unreadable(path.relative_to(folder), mode)


def _unreadable(place: Path, mode: int) -> Finding:
    return Finding(
        code="file-unreadable",
        place=str(place),
        message=f"has mode {stat.S_IMODE(mode):04o}: only its owner and group can read it",
    )


def _keys(folder: Path) -> Iterator[Finding]:
    """Yield private key files that are missing, or that other users can read or write."""
    if not (folder / config.FILE).is_file():
        return
    try:
        signers = config.load(folder).signers
    except ConfigError:  # the command reports it
        return
    for keyid, uri in signers.items():
        if not uri.startswith(FILE_SCHEME):
            continue
        path = folder / uri.removeprefix(FILE_SCHEME)
        place = f"{config.FILE} signers.{short_keyid(keyid)}"
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield Finding(code="key-missing", place=place, message=f"{path}: {error.strerror}", subject=keyid)
            continue
        if mode & _OTHERS:
            message = f"{path} has mode {stat.S_IMODE(mode):04o}: other users can read or replace it"
            yield Finding(code="key-exposed", place=place, message=message, subject=keyid)
