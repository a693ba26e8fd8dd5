"""The signed repository as this node believes it; of updog only this and ``listing`` import ``tuf``.

Rules it enforces, beyond the client workflow of the TUF specification (section 5), which python-tuf does:

* the root shipped in the image starts every check (``bootstrap``); later roots come from the state
  folder or the network;
* the metadata seen last is kept between runs, so that a rollback is noticed by a node that was off;
* a node that follows a channel goes by that channel's own list of targets, for its manifest and for every
  image: what another channel signs under the same name means nothing to it (:mod:`updog.listing`);
* a clock that was set back does not bring expired metadata to life: expiry is checked once more
  against the latest time this node has known;
* running into the limit of root rotations is an error, not the end of the walk;
* expired metadata are refused, unless a person accepts them until a moment of their own choice: then
  expiry alone is not judged, and :attr:`Trust.waived` says of what;
* everything is flushed to the medium before it is relied on.

tuf's exceptions end here, each as one of :mod:`updog.errors`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from signpost.errors import MediumError, ToolError
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
from updog.listing import own_list, own_role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from signpost.medium import Medium
    from updog.transport import Transport

log = logging.getLogger(__name__)

MAX_ROOT_ROTATIONS = 1024  # as tough; a node that slept for twenty weekly-rotated years still arrives
MAX_METADATA_BYTES = 16 << 20  # above python-tuf's own limits per role, which are the ones that bite
_ROOT = ".root.json"  # that there is no newer one is an answer, which every mirror may give
_FRACTIONS = (
    "the repository writes `expires` with fractions of a second (pubsys does), which this client does not "
    "read; the publisher must sign with whole seconds"
)
_FRACTIONAL_EXPIRY = re.compile(rb'"expires"\s*:\s*"[^"]*\.[0-9]+Z"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A file the repository vouches for: its name, length in bytes, and hex SHA-256."""

    name: str
    length: int
    sha256: str

    @property
    def path(self) -> str:
        """Its name under the targets URL with consistent snapshots: the hash stands before the base name."""
        folder, slash, base = self.name.rpartition("/")
        return f"{folder}{slash}{self.sha256}.{base}"


class _Fetcher(FetcherInterface):
    """python-tuf's port to the network, over our transport. Remembers the last file for messages."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.last_url = ""
        self.last = b""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file of at most ``max_length`` bytes; the line is closed as soon as it goes on."""
        self.last_url = url
        try:
            blocks = self._transport.stream(url, limit=max_length, absence_counts=url.endswith(_ROOT))
            self.last = b"".join(blocks)
        except HttpStatusError as error:
            raise tuf_errors.DownloadHTTPError(error.message, error.http_status) from error
        return self.last

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Yield a file: what the port asks for, and python-tuf does not use for metadata."""
        yield self.download_bytes(url, MAX_METADATA_BYTES)


class Trust:
    """One check of the repository; make a new one for each (its reference time is fixed).

    Args:
        folder: where metadata is kept between runs; made if missing.
        bootstrap: the root metadata shipped in the image.
        metadata_url: base URL of the metadata, ending in a slash.
        transport: how bytes are had.
        medium: how they are kept.
        channel: whose list of targets counts; None for whatever the top-level targets lead to.

    Attributes:
        waived: what had expired, in words, and was believed all the same; nothing where nothing had.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bootstrap: bytes,
        metadata_url: str,
        transport: Transport,
        medium: Medium,
        channel: str | None = None,
    ) -> None:
        self._folder = folder
        self._channel = channel
        self._own: Targets | None = None
        self._medium = medium
        self._fetcher = _Fetcher(transport)
        self.waived: tuple[str, ...] = ()
        config = UpdaterConfig(max_root_rotations=MAX_ROOT_ROTATIONS, targets_max_length=MAX_METADATA_BYTES)
        self._flushed_roots = set(self._root_history())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._first_root = Metadata[Root].from_bytes(bootstrap).signed.version
            self._updater = Updater(
                str(folder), metadata_url, fetcher=self._fetcher, config=config, bootstrap=bootstrap
            )
        except OSError as error:
            raise _unkept(folder, error) from error
        except (tuf_errors.RepositoryError, ValueError) as error:
            cause = _FRACTIONS if _FRACTIONAL_EXPIRY.search(bootstrap) else str(error)
            raise TrustError(f"the trusted root is not valid: {cause}") from error

    def refresh(
        self,
        now: datetime,
        *,
        latest_known: datetime | None = None,
        accept_expired_until: datetime | None = None,
    ) -> None:
        """Walk root, timestamp, snapshot and targets as the specification says, and keep them.

        Args:
            now: this moment, for the second look at expiry.
            latest_known: the latest moment this node has known; a clock before it is not believed.
            accept_expired_until: until when expired metadata are believed all the same.

        Raises:
            TrustError: (or a subclass) the metadata is not to be believed.
            UnreachableError: it could not be had.
        """
        latest = max(now, latest_known or now)
        waive = accept_expired_until is not None and latest < accept_expired_until
        try:
            if waive:
                self._judge_no_expiry()
            self._updater.refresh()
            if self._channel:
                self._own = self._own_targets(self._channel)
        except Exception as error:  # noqa: BLE001 - sorted by _translate, which raises what it does not know
            self._translate(error)
        self._check_root_walk()
        expired = self._expired(latest)
        if expired and not waive:
            raise ExpiredError(f"{expired[0]}; this node has known {latest:%Y-%m-%d %H:%M} UTC")
        self._flush()
        self.waived = expired

    def target(self, name: str) -> Target:
        """Return what is signed about the target ``name``.

        Raises:
            MissingTargetError: no trusted role lists it.
            TrustError: a delegated role does not verify, or the target has no SHA-256.
        """
        try:
            info = self._own.targets.get(name) if self._own else self._updater.get_targetinfo(name)
        except Exception as error:  # noqa: BLE001 - sorted by _translate, which raises what it does not know
            self._translate(error)
        if info is None:
            raise MissingTargetError(f"the signed targets metadata does not list {name!r}")
        sha256 = info.hashes.get("sha256")
        if sha256 is None:
            raise TrustError(f"target {name!r} is signed without a SHA-256")
        return Target(name=name, length=info.length, sha256=sha256)

    @property
    def last_url(self) -> str:
        """What was asked for last."""
        return self._fetcher.last_url

    @property
    def versions(self) -> dict[str, int]:
        """The version number of each top-level role that is believed now."""
        return {role: self._signed(role).version for role in _ROLES}

    def _own_targets(self, channel: str) -> Targets:
        """Return what the node's channel lists; nothing where there is no such channel."""
        manifest = f"{channel}/manifest.json"
        self._updater.get_targetinfo(manifest)  # fetches and verifies whatever leads to it
        top = cast("Targets", self._signed(Targets.type))
        snapshot = cast("Snapshot", self._signed(Snapshot.type))
        role = own_role(top, channel, manifest)
        if role == channel:
            return own_list(self._folder, channel, snapshot, top)
        return top if role else Targets(expires=top.expires)

    def _signed(self, role: str) -> Root | Timestamp | Snapshot | Targets:
        """Return the metadata of a role as it lies, verified, in the state folder."""
        metadata: Metadata[Any] = Metadata.from_file(str(self._folder / f"{role}.json"))
        signed: Root | Timestamp | Snapshot | Targets = metadata.signed
        return signed

    def _check_root_walk(self) -> None:
        """Reaching the limit of rotations is silent in python-tuf: the newest root may be further on."""
        walked = self.versions[Root.type] - self._first_root
        if walked >= MAX_ROOT_ROTATIONS:
            raise TrustError(f"gave up after {walked} root rotations; ship a newer root in the image")

    def _judge_no_expiry(self) -> None:
        """Let python-tuf compare expiries with a time before all of them; it has no public way to say so.

        Signatures, lengths, hashes and versions are judged as ever: the same code runs. (Decision 0022.)
        """
        self._updater._trusted_set.reference_time = datetime.min.replace(tzinfo=UTC)  # noqa: SLF001

    def _expired(self, latest: datetime) -> tuple[str, ...]:
        """Say which roles have expired by the latest known time: the clock may have been set back."""
        signed = {role: self._signed(role) for role in _ROLES}
        if self._own and self._channel:
            signed[self._channel] = self._own
        return tuple(
            f"{role}.json expired on {metadata.expires:%Y-%m-%d %H:%M} UTC"
            for role, metadata in signed.items()
            if metadata.is_expired(latest)
        )

    def _flush(self) -> None:
        """python-tuf does not fsync what it keeps; do so before anything relies on it.

        Roots never change once they are kept, so only new ones are flushed; a damaged one is fetched again.
        """
        roots = set(self._root_history())
        for path in (*self._folder.glob("*.json"), *sorted(roots - self._flushed_roots)):
            descriptor = self._medium.open(str(path), write=False)
            self._medium.flush(descriptor)
            self._medium.close(descriptor)
        self._medium.flush_folder(str(self._folder / "root_history"))
        self._medium.flush_folder(str(self._folder))
        self._flushed_roots = roots

    def _root_history(self) -> Iterator[Path]:
        """Yield every root that is kept."""
        return (self._folder / "root_history").glob("*.json")

    def _translate(self, error: Exception) -> NoReturn:
        """Raise the error of ours that says what tuf's error means to an operator; ours as they are."""
        if isinstance(error, ToolError):
            raise error
        for kind, ours in _TRANSLATION:
            if isinstance(error, kind):
                raise ours(self._explain(error)) from error
        if isinstance(error, OSError):
            raise _unkept(self._folder, error) from error
        raise error

    def _explain(self, error: Exception) -> str:
        """Return tuf's message, or explain what it cannot: pubsys writes fractions of a second."""
        if isinstance(error, tuf_errors.RepositoryError) and _FRACTIONAL_EXPIRY.search(self._fetcher.last):
            return _FRACTIONS
        return f"{self._fetcher.last_url}: {error}" if isinstance(error, _NAMELESS) else str(error)


def _unkept(folder: Path, error: OSError) -> MediumError:
    """Say that metadata could not be kept."""
    return MediumError(f"cannot keep metadata in {folder}: {error.strerror or error}")


# What python-tuf says about these names no file.
_NAMELESS = (tuf_errors.LengthOrHashMismatchError, DeserializationError)
_ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
# The first kind that fits wins, so the special stand before the general.
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
