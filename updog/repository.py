"""The repository as one check sees it: trusted metadata, the manifest, and targets as verified streams."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from updog import durable
from updog.errors import DigestError, RefusedError, TrustError
from updog.image.codec import verified
from updog.transport import HttpTransport, Settings
from updog.trust import Trust
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from signpost.medium import Medium
    from updog.config import Config
    from updog.image.index import Span
    from updog.transport import Ranges
    from updog.trust import Target
    from updog.update_metadata.version import Version

log = logging.getLogger(__name__)


def http_settings(config: Config, running: Version) -> Settings:
    """Return how to talk to the servers of this configuration, counting parameters included."""
    query = {"seed": str(config.wave_seed()), "version": str(running)} if config.send_query else {}
    return Settings(
        connect_timeout=config.connect_timeout,
        stall_timeout=config.stall_timeout,
        minimum_rate=config.minimum_rate,
        limit_rate=config.limit_rate,
        tries=config.download_tries,
        https_proxy=config.https_proxy,
        no_proxy=config.no_proxy,
        ca_file=_text(config.ca_file),
        client_certificate=_text(config.client_certificate),
        client_key=_text(config.client_key),
        query=query,
        mirrors=_mirrors(config),
    )


def _mirrors(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the mirrors of each base URL; both kinds may have the same one."""
    found: dict[str, tuple[str, ...]] = {}
    for base, others in (
        (config.metadata_base_url, config.metadata_mirrors),
        (config.targets_base_url, config.targets_mirrors),
    ):
        found[base] = found.get(base, ()) + others
    return found


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


class Repository:
    """A repository that was refreshed and believed at one moment.

    Args:
        config: where it is and which root to start from.
        settings: how to talk to its servers.
        medium: how its metadata is kept.
        now: this moment.
        latest_known: the latest moment this node has known.

    Raises:
        UnreachableError: it could not be had.
        TrustError: it is not to be believed.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings,
        *,
        medium: Medium,
        now: datetime,
        latest_known: datetime | None,
    ) -> None:
        self._config = config
        self._medium = medium
        self._transport = HttpTransport(settings)
        self._trust = self._believed(now, latest_known)

    def _believed(self, now: datetime, latest_known: datetime | None) -> Trust:
        """Return the first metadata that is believed, mirror by mirror (D65); expired only in the end."""
        bootstrap = durable.read_bytes(self._medium, self._config.trusted_root)
        for _ in self._config.metadata_mirrors:
            trust = self._new_trust(bootstrap)
            try:
                trust.refresh(now, latest_known=latest_known)
            except RefusedError as error:
                log.warning("%s: %s", trust.last_url, error.message)
                self._transport.blame(trust.last_url)
            else:
                return trust
        trust = self._new_trust(bootstrap)
        waiver = self._config.accept_expired_until
        trust.refresh(now, latest_known=latest_known, accept_expired_until=waiver)
        return trust

    def _new_trust(self, bootstrap: bytes) -> Trust:
        return Trust(
            self._config.state_dir / "tuf",
            bootstrap=bootstrap,
            metadata_url=self._config.metadata_base_url,
            transport=self._transport,
            medium=self._medium,
            channel=self._config.channel,
        )

    @property
    def waived(self) -> tuple[str, ...]:
        """What had expired, in words, and was believed because a person accepted it."""
        return self._trust.waived

    def manifest(self) -> Manifest:
        """Return the manifest of the node's channel; fetched only when it is not the one kept here.

        Raises:
            MissingTargetError, DigestError, UnreachableError, ManifestError: there is none to go by.
        """
        target = self._trust.target(self._config.manifest_name)
        if target.length > MAX_MANIFEST_BYTES:
            raise TrustError(f"{target.name} is signed as {target.length} bytes, too many for a manifest")
        return Manifest.from_json(self._kept(target) or self._fetch_whole(target))

    def announce(self, version: Version) -> None:
        """Send the chosen version along with what is fetched from now on, as upstream does, if at all."""
        if self._config.send_query:
            self._transport.announce({"target": str(version)})

    def target(self, name: str) -> Target:
        """Return what is signed about a target. Raises MissingTargetError or TrustError."""
        return self._trust.target(name)

    def stream(self, target: Target, start: int = 0) -> Iterator[bytes]:
        """Yield a target's unverified bytes from ``start``. Raises UnreachableError, EndlessDataError."""
        return self._transport.stream(self._url(target), limit=target.length, start=start)

    def ranges(self, target: Target, spans: Sequence[Span]) -> Ranges:
        """Return the unverified bytes of each of a target's ``spans``; several threads may share it."""
        return self._transport.ranges(self._url(target), spans, length=target.length)

    def blame(self, target: Target) -> None:
        """Put the mirror that served the target last behind the others: its bytes were wrong."""
        self._transport.blame(self._url(target))

    @property
    def received(self) -> int:
        """Bytes of bodies that have crossed so far."""
        return self._transport.received

    def _url(self, target: Target) -> str:
        return self._config.targets_base_url + target.path

    def verified(self, target: Target) -> Iterator[bytes]:
        """Yield a whole target; its length and SHA-256 are compared at the end.

        Raises:
            DigestError: it is not what was signed; the mirror it came from is not the next one to be asked.
            UnreachableError: it could not be had.
        """
        blocks = self.stream(target)
        try:
            yield from verified(blocks, name=target.name, length=target.length, sha256=target.sha256)
        except DigestError:
            self.blame(target)
            raise

    def _manifest_path(self, target: Target) -> Path:
        return self._config.state_dir / "manifest" / target.sha256

    def _kept(self, target: Target) -> bytes:
        """Return the kept manifest if it is still the one that is signed, else nothing."""
        path = self._manifest_path(target)
        if not path.exists():
            return b""
        data = durable.read_bytes(self._medium, path)
        return data if hashlib.sha256(data).hexdigest() == target.sha256 else b""

    def _whole(self, target: Target) -> bytes:
        """Return a small target from the first mirror whose bytes are right (D65)."""
        for _ in self._config.targets_mirrors:
            with suppress(DigestError):
                return b"".join(self.verified(target))
        return b"".join(self.verified(target))

    def _fetch_whole(self, target: Target) -> bytes:
        """Fetch and keep a small target; the one kept before goes."""
        data = self._whole(target)
        path = self._manifest_path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("*"):
            self._medium.remove(str(old))
        durable.write_bytes(self._medium, path, data)
        return data
