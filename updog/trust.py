"""The repository's metadata, verified by TUF. Only this, ``tuf_dialects`` and ``channel_targets`` import tuf.

Rules it enforces, beyond the client workflow of the TUF specification (section 5), which python-tuf does:

* every refresh starts with the root shipped in the image (``bootstrap``); later roots come from the state
  folder or the network;
* the latest metadata are kept between runs, so that a rollback is detected even by a node that was off; if
  they cannot be read, the refresh ends: nothing is trusted as if they were not there;
* a node that follows a channel uses only that channel's targets, for its manifest and for every image: what
  another channel signs under the same name is ignored (:mod:`updog.channel_targets`);
* the brake of its channel counts if the snapshot lists it; without its file there is no update:
  withholding it must gain an attacker no more than withholding all. An expired brake is ignored, and logged;
* a clock that was set back does not make metadata valid again that had expired when their timestamp was
  signed: expiry is also checked against that time (ADR 0032). A time that only the clock showed counts for
  nothing later;
* reaching the limit of root rotations is an error, not the end of the root update;
* expired metadata are refused, unless an operator accepts them until a given time: then only expiry is not
  checked, and :attr:`Trust.waived` lists what had expired;
* all files are flushed to the disk before they are relied on; they lie in a private folder
  (:mod:`updog.durable`).

Exceptions of tuf do not leave this module: each becomes one of :mod:`updog.errors`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from signpost.errors import MediumError, ToolError
from signpost.medium import opened
from updog import durable
from updog.channel_targets import channel_role, channel_targets, has_brake
from updog.errors import (
    DigestError,
    EndlessDataError,
    ExpiredError,
    HttpStatusError,
    MissingTargetError,
    RollbackError,
    SignatureError,
    TrustError,
    UnreachableError,
)
from updog.tuf_dialects import malformed
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.holds import brake_role, holds_name
from updog.update_metadata.signed_time import signed_time
from updog.update_metadata.target_path import signed_sha256, target_path
from updog.update_metadata.times import readable_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tuf.api.metadata import TargetFile

    from signpost.medium import Medium
    from updog.transport import Transport

log = logging.getLogger(__name__)

MAX_ROOT_ROTATIONS = 1024  # as in tough; enough for a node that was off for 19 years of weekly rotations
MAX_METADATA_BYTES = 16 << 20  # above python-tuf's own limits per role, which are the effective ones
_ROOT_LINK = "root.json"
_ROOT = ".root.json"  # that there is no newer root is a valid result from any mirror


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A signed file of the repository: its name, length in bytes, and SHA-256, 64 hexadecimal digits."""

    name: str
    length: int
    sha256: str

    @property
    def path(self) -> str:
        """Its path below the targets URL."""
        return target_path(self.name, self.sha256)


class _Fetcher(FetcherInterface):
    """Downloads for python-tuf over our transport. Keeps the last file and its URL for error messages."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.last_url = ""
        self.last = b""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file of at most ``max_length`` bytes; a longer one is cut off."""
        self.last_url = url
        try:
            blocks = self._transport.stream(url, limit=max_length, absence_is_final=url.endswith(_ROOT))
            self.last = b"".join(blocks)
        except HttpStatusError as error:
            raise tuf_errors.DownloadHTTPError(error.message, error.http_status) from error
        return self.last

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Yield a file. Required by the interface; python-tuf does not use it for metadata."""
        yield self.download_bytes(url, MAX_METADATA_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedRoot:
    """The root metadata that trust begins with: their bytes, and the file that messages name."""

    path: Path
    data: bytes


class Trust:
    """One refresh of the repository's metadata; create a new one for each, as its reference time is fixed.

    Args:
        folder: where metadata are kept between runs; created if missing.
        bootstrap: the root metadata shipped in the image.
        metadata_url: base URL of the metadata, ending in a slash.
        transport: downloads them.
        medium: flushes them to the disk.
        channel: the channel whose targets count; None: all roles that the top-level targets delegate to.

    After a refresh its verified metadata are asked for; before it there are none.

    Attributes:
        waived: descriptions of what had expired and was accepted by an operator; empty if nothing had.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bootstrap: TrustedRoot,
        metadata_url: str,
        transport: Transport,
        medium: Medium,
        channel: str | None = None,
    ) -> None:
        self._folder = folder
        self._bootstrap, self._metadata_url = bootstrap, metadata_url
        self._channel = channel
        self._signed: dict[str, Root | Timestamp | Snapshot | Targets] = {}
        self._channel_targets: Targets | None = None
        self._brake: Targets | None = None
        self._medium = medium
        self._fetcher = _Fetcher(transport)
        self.waived: tuple[str, ...] = ()
        self._clock_text = ""
        config = UpdaterConfig(max_root_rotations=MAX_ROOT_ROTATIONS, targets_max_length=MAX_METADATA_BYTES)
        for kept in (folder, folder / "root_history"):
            durable.make_private(kept)
        self._require_readable()
        self._flushed_roots = set(self._root_history())
        try:
            self._first_root = Metadata[Root].from_bytes(bootstrap.data).signed.version
            self._updater = Updater(
                str(folder), metadata_url, fetcher=self._fetcher, config=config, bootstrap=bootstrap.data
            )
        except OSError as error:
            raise _cannot_keep(folder, error) from error
        except (tuf_errors.RepositoryError, ValueError) as error:
            cause = (
                malformed(error, bootstrap.data) if isinstance(error, DeserializationError) else str(error)
            )
            raise TrustError(
                f"the trusted root {bootstrap.path} is not valid: {cause}", next_step=_NEW_ROOT
            ) from error

    def refresh(
        self,
        now: datetime,
        *,
        latest_known: datetime | None = None,
        accept_expired_until: datetime | None = None,
    ) -> None:
        """Update root, timestamp, snapshot and targets as the specification requires, and keep them.

        Args:
            now: the current time, for the second check of expiry.
            latest_known: when the last timestamp of this repository was signed that said so; it counts if the
                present one does not, and only if it is later than ``now``.
            accept_expired_until: accept expired metadata until this time.

        Raises:
            TrustError: (or a subclass) the metadata do not verify.
            UnreachableError: they could not be fetched.
        """
        self._clock_text = f"the clock shows {readable_time(now)}"

        def is_waived(latest: datetime) -> bool:
            return accept_expired_until is not None and latest < accept_expired_until

        waive = is_waived(max(now, latest_known or now))
        try:
            if waive:
                # python-tuf has no public way to skip expiry: let it compare with a time before all of them.
                # Signatures, lengths, hashes and versions are checked as ever: the same code runs (ADR 0022).
                self._updater._trusted_set.reference_time = datetime.min.replace(tzinfo=UTC)  # noqa: SLF001
            self._updater.refresh()
            self._signed = {role: self._kept(role) for role in _ROLES}
            if self._channel:
                self._channel_targets = self._load_channel_targets(self._channel)
            self._brake = self._load_brake()
        except Exception as error:  # noqa: BLE001 - _translate raises those that it does not know unchanged
            self._translate(error)
        rotations = self._signed[Root.type].version - self._first_root
        if rotations >= MAX_ROOT_ROTATIONS:  # python-tuf stops silently; there may be a newer root
            raise TrustError(f"gave up after {rotations} root rotations; ship a newer root in the image")
        signed = self.signed_time or latest_known or now
        latest = max(now, signed)
        expired = self._expired(latest)
        if expired and not (waive and is_waived(latest)):
            proof = f"the repository was signed on {readable_time(signed)}, and " if signed > now else ""
            raise ExpiredError(f"{expired[0]}; {proof}{self._clock_text}")
        if self._brake and self._brake.is_expired(latest) and not waive:
            self._log_ignored(f"it expired on {readable_time(self._brake.expires)}")
            self._brake = None
        self._flush()
        self.waived = expired

    def holds_target(self) -> Target | None:
        """Return the file of the channel's brake; None without a brake, or if it has expired.

        Raises:
            TrustError: what is signed is no name and SHA-256 of a file.
        """
        name = holds_name(self._channel)
        info = self._brake.targets.get(name) if self._brake else None
        return None if info is None else _target(name, info)

    def target(self, name: str) -> Target:
        """Return what is signed about the target ``name``.

        Raises:
            MissingTargetError: no trusted role lists it.
            TrustError: a delegated role does not verify, or what is signed is no name and SHA-256 of a file.
        """
        try:
            if self._channel_targets:
                info = self._channel_targets.targets.get(name)
            else:
                info = self._updater.get_targetinfo(name)
        except Exception as error:  # noqa: BLE001 - _translate raises those that it does not know unchanged
            self._translate(error)
        if info is None:
            raise MissingTargetError(f"the signed targets metadata does not list {name!r}")
        return _target(name, info)

    @property
    def consistent_snapshot(self) -> bool:
        """Whether the repository serves targets under names that begin with their hash (TUF spec §6.2)."""
        root = self._signed[Root.type]
        return not isinstance(root, Root) or bool(root.consistent_snapshot)

    @property
    def last_url(self) -> str:
        """The URL of the last request."""
        return self._fetcher.last_url

    @property
    def versions(self) -> dict[str, int]:
        """The version number of the trusted metadata of each top-level role."""
        return {role: signed.version for role, signed in self._signed.items()}

    @property
    def signed_time(self) -> datetime | None:
        """When the trusted timestamp was signed, as it states itself, UTC; None if it does not say so."""
        return signed_time(self._signed[Timestamp.type].unrecognized_fields)

    def _load_channel_targets(self, channel: str) -> Targets:
        """Return the targets of the node's channel; without any targets if there is no such channel."""
        manifest = f"{channel}/manifest.json"
        self._updater.get_targetinfo(manifest)  # fetches and verifies the metadata that lead to it
        top = cast("Targets", self._signed[Targets.type])
        snapshot = cast("Snapshot", self._signed[Snapshot.type])
        role = channel_role(top, channel, manifest)
        if role == channel:
            return channel_targets(self._folder, channel, snapshot, top)
        return top if role else Targets(expires=top.expires)

    def _load_brake(self) -> Targets | None:
        """Return the targets of the channel's brake; None without one, or if it has expired."""
        top = cast("Targets", self._signed[Targets.type])
        snapshot = cast("Snapshot", self._signed[Snapshot.type])
        role = brake_role(self._channel)
        if not has_brake(top, snapshot, role):
            return None
        try:
            self._updater.get_targetinfo(holds_name(self._channel))  # fetches and verifies its metadata
        except tuf_errors.ExpiredMetadataError as error:
            self._log_ignored(str(error))
            return None
        return channel_targets(self._folder, role, snapshot, top)

    def _log_ignored(self, why: str) -> None:
        """Log that the brake does not count: an expired one must not stop nodes forever (ADR 0035)."""
        log.warning("the brake %s is ignored: %s", brake_role(self._channel), why)

    def _kept(self, role: str) -> Root | Timestamp | Snapshot | Targets:
        """Return the metadata of a role from the state folder, where the updater put what it verified."""
        metadata: Metadata[Any] = Metadata.from_file(str(self._folder / f"{role}.json"))
        signed: Root | Timestamp | Snapshot | Targets = metadata.signed
        return signed

    def _expired(self, latest: datetime) -> tuple[str, ...]:
        """Describe which roles have expired at ``latest``."""
        signed = dict(self._signed)
        if self._channel_targets and self._channel:
            signed[self._channel] = self._channel_targets
        return tuple(
            f"{role}.json expired on {metadata.expires:%Y-%m-%d %H:%M} UTC"
            for role, metadata in signed.items()
            if metadata.is_expired(latest)
        )

    def _require_readable(self) -> None:
        """Refuse to go on if what is kept cannot be read: python-tuf would go on as if nothing were.

        A repository that is older than the one of the last refresh would be accepted then. A root that
        cannot be read is fetched again; opening a FIFO in its place would block forever.

        Raises:
            MediumError: a file of the state folder cannot be read, or is not a regular file.
        """
        for path in self._folder.glob("*.json"):
            if path.name != _ROOT_LINK:  # python-tuf's link to the current root: it replaces it, unread
                durable.read_own(self._medium, path)
        for path in self._root_history():
            with durable.opened_own(self._medium, path):
                pass

    def _flush(self) -> None:
        """Flush the metadata to the disk, as python-tuf does not do.

        A root never changes once it is kept, so only new ones are flushed; a damaged one is fetched again.
        """
        roots = set(self._root_history())
        for path in (*self._folder.glob("*.json"), *sorted(roots - self._flushed_roots)):
            with opened(self._medium, str(path)) as descriptor:
                self._medium.flush(descriptor)
        self._medium.flush_folder(str(self._folder / "root_history"))
        self._medium.flush_folder(str(self._folder))
        self._flushed_roots = roots

    def _root_history(self) -> Iterator[Path]:
        """Yield the path of every root that is kept."""
        return (self._folder / "root_history").glob("*.json")

    def _translate(self, error: Exception) -> NoReturn:
        """Raise the error of :mod:`updog.errors` for an error of tuf; raise others unchanged."""
        if isinstance(error, ToolError):
            raise error
        if isinstance(error, tuf_errors.UnsignedMetadataError) and (other := self._other_root()):
            raise SignatureError(other, next_step=_OTHER_ROOT) from error
        for kind, ours in _TRANSLATION:
            if isinstance(error, kind):
                clock = f"; {self._clock_text}" if ours is ExpiredError else ""
                cause = error.__cause__  # its next step is for its HTTP status
                next_step = cause.next_step if isinstance(cause, HttpStatusError) else ""
                raise ours(f"{self._explain(error)}{clock}", next_step=next_step) from error
        if isinstance(error, OSError):
            raise _cannot_keep(self._folder, error) from error
        raise error

    def _other_root(self) -> str:
        """Explain that the repository's root is not the one on this node; empty if that is not so."""
        ours = Metadata[Root].from_bytes(self._bootstrap.data).signed
        url = f"{self._metadata_url}{ours.version}.root.json"
        refused = self.last_url  # whose mirror is to be left
        try:
            theirs = Metadata[Root].from_bytes(self._fetcher.download_bytes(url, MAX_METADATA_BYTES)).signed
        except (ToolError, tuf_errors.DownloadError, DeserializationError):
            return ""
        finally:
            self._fetcher.last_url = refused
        if not isinstance(theirs, Root):  # of another type, whatever its name says
            return ""
        here, there = (_key_names(root) for root in (ours, theirs))
        if here == there:
            return ""
        return (
            f"the trusted root {self._bootstrap.path} is not of this repository: version {ours.version} "
            f"has the keys {here} there, and {there} in {url}"
        )

    def _explain(self, error: Exception) -> str:
        """Return tuf's message, with the URL if it lacks one, and the cause if that says more."""
        if isinstance(error, DeserializationError):
            return f"{self._fetcher.last_url} is not valid: {malformed(error, self._fetcher.last)}"
        if isinstance(error, tuf_errors.LengthOrHashMismatchError):
            return f"{self._fetcher.last_url}: {error}"
        return str(error)


def _target(name: str, info: TargetFile) -> Target:
    """Return what is signed about a target. Raises TrustError."""
    try:
        sha256 = signed_sha256(name, info.hashes)
        target_path(name, sha256)
    except FaultsError as error:
        raise TrustError(f"the signed targets metadata has a fault: {error.faults[0]}") from error
    return Target(name=name, length=info.length, sha256=sha256)


def _key_names(root: Root) -> str:
    """Return the beginning of the id of each key that signs this root, which tells them apart."""
    return ", ".join(sorted(keyid[:12] for keyid in root.roles[Root.type].keyids))


def _cannot_keep(folder: Path, error: OSError) -> MediumError:
    place = error.filename or folder
    return MediumError.of(f"cannot keep metadata in {place}: {error.strerror or error}", error)


_ROOT_SOURCE = "Get that root from its publisher, not from the server."
_NEW_ROOT = f"Set `trusted_root` to the repository's root. {_ROOT_SOURCE}"
_OTHER_ROOT = f"Correct `metadata_base_url`, or set `trusted_root` to this repository's root. {_ROOT_SOURCE}"
_ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
# The first class that matches is used, so subclasses precede their base classes.
_TRANSLATION: tuple[tuple[type[Exception], type[TrustError | UnreachableError | DigestError]], ...] = (
    (tuf_errors.ExpiredMetadataError, ExpiredError),
    (tuf_errors.BadVersionNumberError, RollbackError),
    (tuf_errors.EqualVersionNumberError, RollbackError),
    (tuf_errors.UnsignedMetadataError, SignatureError),
    (tuf_errors.LengthOrHashMismatchError, DigestError),
    (tuf_errors.DownloadLengthMismatchError, EndlessDataError),
    (tuf_errors.DownloadError, UnreachableError),
    (tuf_errors.RepositoryError, TrustError),
)
