"""A copy of what a repository publishes, verified as a client would: what `mirror` and `bundle` are made of.

Rules:

* trust starts at a root that the person gives, or at the ones the copy has already; the source's chain of
  roots must contain it, and everything else hangs on that chain;
* nothing expired is copied, unless the person accepts it until a moment of their own; that is recorded;
* nothing older than what the copy holds is copied (TUF specification §5.4.3, §5.5.5, §5.6.4);
* targets are compared with what was signed before they get their name; a part that was fetched before is
  continued, and fetched anew if the whole is not what was signed;
* metadata follow when all targets are there, ``timestamp.json`` last: a copy that is being served is the
  old one or the new one. Every root is kept.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from repo_tools.chain import Chain, walk
from repo_tools.errors import StaleSourceError, TargetError, UntrustedError
from repo_tools.listing import (
    TIMESTAMP,
    Listed,
    expired,
    fault_of,
    listed_targets,
    numbered_files,
    require_fresh,
)
from repo_tools.progress import Progress, Step, one_at_a_time, silent
from repo_tools.session import complete
from repo_tools.source import FolderSource, steady
from repo_tools.store import Store
from signpost.medium import OsMedium, opened
from updog import durable
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from repo_tools.chain import Source
    from updog.durable import Medium

PARTS = ".parts"
OVERRIDES = "overrides.jsonl"
_LINES = 4  # downloads at a time
_ACCEPT = "Get a newer copy; or, if there is none to be had, pass --accept-expired-until TIME."


@dataclass(frozen=True, kw_only=True, slots=True)
class Believed:
    """A source that was verified for one copy.

    Attributes:
        source: where it is. chain: its metadata. waived: files that had expired and were accepted.
        override: what is recorded about that; nothing where nothing was accepted.
    """

    source: Source
    chain: Chain
    waived: tuple[str, ...] = ()
    override: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What a copy took over.

    Attributes:
        folder: the copy. version: of its timestamp now. targets: paths that are new in it.
        length: of those together, in bytes. kept: targets that were there already.
        removed: paths that nothing leads to any more. waived: expired roles that were accepted.
    """

    folder: Path
    version: int
    targets: tuple[str, ...]
    length: int
    kept: int
    removed: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "folder": str(self.folder),
            "timestamp": self.version,
            "targets": list(self.targets),
            "bytes": self.length,
            "kept": self.kept,
            "removed": list(self.removed),
            "accepted_expired": list(self.waived),
        }


def believe(
    source: Source,
    copy: Path,
    *,
    trusted_root: bytes | None,
    now: datetime,
    accept_expired_until: datetime | None = None,
) -> Believed:
    """Return a source whose metadata may be copied to ``copy``.

    Args:
        source: verified from its first root to its targets metadata.
        copy: what it holds already must be older, or the same.
        trusted_root: root metadata that the person trusts; None where the copy has roots.
        now: what expiries are compared with.
        accept_expired_until: until when metadata that have run out are taken all the same.

    Raises:
        UntrustedError: the chain does not contain a trusted root, or there is none.
        StaleSourceError: the copy holds something newer.
        ExpiredRepositoryError, BrokenRepositoryError, RepositoryUnreachableError: as their names say.
    """
    chain = walk(source)
    complete(chain)
    before = walk(FolderSource(copy))
    _require_root(chain, before, trusted_root)
    _require_newer(chain, before)
    waived = tuple(row.name for row in expired(chain, now))
    if waived and (accept_expired_until is None or accept_expired_until <= now):
        require_fresh(chain, now, next_step=_ACCEPT)
    override = _override(chain, waived, now, accept_expired_until) if waived else {}
    return Believed(source=source, chain=chain, waived=waived, override=override)


def _override(chain: Chain, waived: Sequence[str], now: datetime, until: datetime | None) -> dict[str, Any]:
    """Return what is recorded about accepting expired metadata."""
    seen = hashlib.sha256(chain.timestamp.data).hexdigest() if chain.timestamp else None
    return {
        "time": format_time(now.replace(microsecond=0)),
        "accepted_expired": list(waived),
        "until": format_time(until) if until else None,
        "timestamp_sha256": seen,
    }


def _require_root(chain: Chain, before: Chain, trusted_root: bytes | None) -> None:
    anchors = [link.signed for link in before.roots]
    if trusted_root is not None:
        try:
            anchors.append(Metadata[Root].from_bytes(trusted_root).signed)
        except RepositoryError as error:
            raise UntrustedError(f"the trusted root cannot be read: {error.__cause__ or error}") from error
    if not anchors:
        raise UntrustedError("there is no root to trust yet")
    roots = {link.signed.version: link.signed for link in chain.roots}
    for anchor in anchors:
        if anchor.version not in roots:
            raise StaleSourceError(f"root {anchor.version} is trusted, and the source ends at {max(roots)}")
        if anchor != roots[anchor.version]:
            raise UntrustedError(f"root {anchor.version} of the source is not the one that is trusted")


def _require_newer(chain: Chain, before: Chain) -> None:
    known = {link.role: link.signed.version for link in before.verified()}
    for link in chain.verified():
        old = known.get(link.role, 0)
        if link.signed.version < old:
            raise StaleSourceError(f"{link.name} is version {link.signed.version}; the copy holds {old}")


def copy(
    believed: Believed,
    folder: Path,
    targets: Sequence[Listed],
    *,
    delete: bool = False,
    medium: Medium | None = None,
    progress: Progress = silent,
) -> Copied:
    """Bring ``targets`` and all metadata of a believed source into ``folder``.

    Args:
        believed: the source.
        folder: the copy; made if need be.
        targets: which of those that the source leads to.
        delete: afterwards remove targets that neither the copy's old nor its new metadata lead to.
        medium: written through.
        progress: told after every block.

    Raises:
        TargetError: the source has a target not, or not as it was signed; readers see no change.
        RepositoryUnreachableError, RepositoryBusyError, MediumError: as their names say.
    """
    store = Store(folder, medium or OsMedium())
    store.lay_out()
    with store.writing():
        before = walk(store.source)
        missing = [item for item in targets if store.source.size(item.path) != item.length]
        fetching = _Fetching(believed.source, store, one_at_a_time(progress))
        with ThreadPoolExecutor(_LINES) as pool:
            for _done in pool.map(fetching.fetch, missing):
                pass
        for place in {str((folder / item.path).parent) for item in missing}:
            store.medium.flush_folder(place)
        if believed.override:
            _record(store, believed.override)
        _write(store, believed.chain)
        fetching.clear_up()
        removed = _remove_unlisted(store, [before, believed.chain]) if delete else ()
    return Copied(
        folder=folder,
        version=believed.chain.timestamp.signed.version if believed.chain.timestamp else 0,
        targets=tuple(item.path for item in missing),
        length=sum(item.length for item in missing),
        kept=len(targets) - len(missing),
        removed=removed,
        waived=believed.waived,
    )


def _write(store: Store, chain: Chain) -> None:
    """Write the metadata that differ from the copy's, the timestamp last."""
    last = {TIMESTAMP: chain.timestamp.data} if chain.timestamp else {}
    for path, data in (numbered_files(chain) | last).items():
        place = store.folder / path
        if not place.is_file() or place.read_bytes() != data:
            durable.write_bytes(store.medium, place, data)


def _remove_unlisted(store: Store, chains: Collection[Chain]) -> tuple[str, ...]:
    """Remove targets that no chain leads to: a reader may still be on the way that the older one showed."""
    listed = {item.path for chain in chains for item in listed_targets(chain)}
    places = [path for path in sorted(store.targets.rglob("*")) if path.is_file()]
    paths = [str(path.relative_to(store.folder)) for path in places]
    gone = tuple(path for path in paths if path not in listed)
    for path in gone:
        store.medium.remove(str(store.folder / path))
    return gone


class _Fetching:
    """Fetches targets into a copy, one by one, from several threads."""

    def __init__(self, source: Source, store: Store, progress: Progress) -> None:
        self._source = source
        self._store = store
        self._parts = store.folder / PARTS
        self._progress = progress
        self._parts.mkdir(exist_ok=True)

    def fetch(self, item: Listed) -> None:
        """Bring one target to its place, verified. Raises TargetError, RepositoryUnreachableError."""
        part = self._parts / quote(item.path.removeprefix("targets/"), safe="")  # names may share a content
        resumed = part.is_file() and part.stat().st_size > 0
        self._complete(part, item)
        fault = fault_of(part, item)
        if fault and resumed:  # the part may be of another day: once more from nothing
            part.unlink()
            self._complete(part, item)
            fault = fault_of(part, item)
        if fault:
            part.unlink()
            raise TargetError(
                f"the source's {fault}", next_step="Tell whoever runs the source, or use another one."
            )
        place = self._store.folder / item.path
        place.parent.mkdir(parents=True, exist_ok=True)
        self._store.medium.rename(str(part), str(place))

    def clear_up(self) -> None:
        """Remove parts of targets that nobody wants any more."""
        for part in self._parts.iterdir():
            self._store.medium.remove(str(part))
        with suppress(OSError):
            self._parts.rmdir()

    def _complete(self, part: Path, item: Listed) -> None:
        """Append to a part until it is as long as signed, and no more than a byte longer."""
        step = Step(action="fetch", item=item.name, total=item.length)
        part.touch()
        with opened(self._store.medium, str(part), write=True) as descriptor:
            position = self._store.medium.size(descriptor)
            for block in self._rest(item, position):
                data = block[: item.length - position + 1]
                self._store.medium.write_at(descriptor, data, position)
                position += len(data)
                self._progress(step.at(min(position, item.length)))
                if position > item.length:
                    break
            self._store.medium.flush(descriptor)

    def _rest(self, item: Listed, start: int) -> Iterator[bytes]:
        if start >= item.length:  # nothing to ask for; it only has to be compared
            return iter(())
        blocks = steady(self._source, item.path, item.length, start)
        if blocks is None:
            raise TargetError(
                f"the source does not have {item.path}",
                next_step="It is half uploaded, or was cleared away: try again later.",
            )
        return blocks


def _record(store: Store, override: Mapping[str, Any]) -> None:
    """Add a line to the copy's record of overrides, durably. Raises MediumError."""
    place = store.folder / OVERRIDES
    before = durable.read_bytes(store.medium, place) if place.exists() else b""
    durable.write_bytes(store.medium, place, before + json.dumps(override).encode() + b"\n")
