"""The repository as one check sees it: trusted metadata, the manifest, and targets as verified streams."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from updog import durable
from updog.errors import TrustError
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


def http_settings(config: Config, running: Version) -> Settings:
    """Return how to talk to the servers of this configuration, counting parameters included."""
    query = {"seed": str(config.wave_seed()), "version": str(running)} if config.send_query else {}
    return Settings(
        connect_timeout=config.connect_timeout,
        stall_timeout=config.stall_timeout,
        minimum_rate=config.minimum_rate,
        tries=config.download_tries,
        https_proxy=config.https_proxy,
        no_proxy=config.no_proxy,
        query=query,
    )


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
        self._trust = Trust(
            config.state_dir / "tuf",
            bootstrap=durable.read_bytes(medium, config.trusted_root),
            metadata_url=config.metadata_base_url,
            transport=self._transport,
            medium=medium,
        )
        self._trust.refresh(now, latest_known=latest_known, accept_expired_until=config.accept_expired_until)

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
        """Yield a whole target; its length and SHA-256 are compared at the end. Raises DigestError too."""
        blocks = self.stream(target)
        return verified(blocks, name=target.name, length=target.length, sha256=target.sha256)

    def _manifest_path(self, target: Target) -> Path:
        return self._config.state_dir / "manifest" / target.sha256

    def _kept(self, target: Target) -> bytes:
        """Return the kept manifest if it is still the one that is signed, else nothing."""
        path = self._manifest_path(target)
        if not path.exists():
            return b""
        data = durable.read_bytes(self._medium, path)
        return data if hashlib.sha256(data).hexdigest() == target.sha256 else b""

    def _fetch_whole(self, target: Target) -> bytes:
        """Fetch and keep a small target; the one kept before goes."""
        data = b"".join(self.verified(target))
        path = self._manifest_path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("*"):
            self._medium.remove(str(old))
        durable.write_bytes(self._medium, path, data)
        return data
