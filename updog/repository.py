"""The repository as one command uses it: verified metadata, the manifest, and targets as streams."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from updog import durable
from updog.errors import DigestError, HttpStatusError, RefusedError, TrustError, UnreachableError
from updog.image.codec import verified
from updog.transport import HttpTransport, TransportSettings
from updog.trust import Trust, TrustedRoot
from updog.update_metadata.errors import SeedError
from updog.update_metadata.holds import MAX_HOLDS_BYTES, Holds
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES, Manifest
from updog.update_metadata.outcomes import pseudonym

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


def http_settings(config: Config, running: Version, *, variant: str | None = None) -> TransportSettings:
    """Return the transport settings of a configuration, with the query parameters that identify the node.

    Args:
        config: the node's configuration.
        running: the version that the node runs.
        variant: the variant that it runs; None for the configured one.
    """
    query = _node_query(config, running, variant or config.variant) if config.send_query else {}
    metadata, targets = config.metadata_base_url, config.targets_base_url
    mirrors = {str(metadata): tuple(map(str, config.metadata_mirrors))}  # both may have the same base URL
    mirrors[str(targets)] = mirrors.get(str(targets), ()) + tuple(map(str, config.targets_mirrors))
    return TransportSettings(
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
        mirrors=mirrors,
        urls=(metadata, targets, *config.metadata_mirrors, *config.targets_mirrors),
    )


def _node_query(config: Config, running: Version, variant: str | None) -> dict[str, str]:
    """Return the query parameters of every request; those whose value is unknown are left out.

    ``node`` is the pseudonym of the outcome lines: a node keeps it when its address changes.
    """
    node: str | None = None
    with suppress(OSError, UnicodeDecodeError, SeedError):  # a node without a machine-id is updated as well
        node = pseudonym(config.read_machine_id())
    values = {
        "seed": str(config.wave_seed()),
        "version": str(running),
        "node": node,
        "variant": variant,
        "arch": config.arch,
        "channel": config.channel,
    }
    return {name: value for name, value in values.items() if value}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


class Repository:
    """A repository whose metadata were refreshed and verified when it was created.

    Args:
        config: where it is and which root to start with.
        settings: how to connect to its servers.
        medium: keeps its metadata.
        now: the current time.
        latest_known: when the last timestamp was signed that said so.

    Raises:
        UnreachableError: its metadata could not be fetched.
        TrustError: (or a subclass) they do not verify.
    """

    def __init__(
        self,
        config: Config,
        settings: TransportSettings,
        *,
        medium: Medium,
        now: datetime,
        latest_known: datetime | None,
    ) -> None:
        self._config = config
        self._medium = medium
        self._transport = HttpTransport(settings)
        self._trust = self._refreshed(now, latest_known)

    def _refreshed(self, now: datetime, latest_known: datetime | None) -> Trust:
        """Return the metadata of the first mirror whose metadata verify; accept expired ones last (D65)."""
        path = self._config.trusted_root
        bootstrap = TrustedRoot(path=path, data=durable.read_bytes(self._medium, path))
        for _ in self._config.metadata_mirrors:
            trust = self._new_trust(bootstrap)
            try:
                trust.refresh(now, latest_known=latest_known)
            except RefusedError as error:
                log.warning("%s: %s", trust.last_url, error.message)
                self._transport.demote_mirror(trust.last_url)
            else:
                return trust
        trust = self._new_trust(bootstrap)
        accept_until = self._config.accept_expired_until
        trust.refresh(now, latest_known=latest_known, accept_expired_until=accept_until)
        return trust

    def _new_trust(self, bootstrap: TrustedRoot) -> Trust:
        return Trust(
            self._config.state_dir / "tuf",
            bootstrap=bootstrap,
            metadata_url=str(self._config.metadata_base_url),
            transport=self._transport,
            medium=self._medium,
            channel=self._config.channel,
        )

    @property
    def waived(self) -> tuple[str, ...]:
        """Descriptions of what had expired and was accepted by an operator."""
        return self._trust.waived

    @property
    def signed_time(self) -> datetime | None:
        """When the repository's timestamp was signed, UTC; None if it does not say so."""
        return self._trust.signed_time

    def manifest(self) -> Manifest:
        """Return the manifest of the node's channel, with the holds of the channel's brake.

        Both are kept, and fetched only if they have changed.

        Raises:
            MissingTargetError, DigestError, UnreachableError, ManifestError: there is no valid manifest, or
                the brake's file is not there or not valid.
        """
        target = self._trust.target(self._config.manifest_name)
        manifest = Manifest.from_json(self._kept("manifest", target, MAX_MANIFEST_BYTES))
        brake = self._trust.holds_target()
        if brake is None:
            return manifest
        return Holds.from_json(self._kept("brake", brake, MAX_HOLDS_BYTES)).applied_to(manifest)

    def _kept(self, folder: str, target: Target, limit: int) -> bytes:
        """Return a small target, from a folder of the state folder or from a server."""
        if target.length > limit:
            raise TrustError(f"{target.name} is signed as {target.length} bytes, too many for a {folder}")
        path = self._config.state_dir / folder / target.sha256
        if path.parent.exists():
            durable.require_private(path.parent)
        kept = durable.read_own(self._medium, path) if os.path.lexists(path) else b""
        if kept and hashlib.sha256(kept).hexdigest() == target.sha256:
            return kept
        try:
            data = self._fetch(target)
        except HttpStatusError as error:
            if self._trust.consistent_snapshot:
                raise
            raise UnreachableError(
                f"{error.message}: this repository does not use consistent snapshots (its root says so)",
                next_step="Ask the publisher to set consistent_snapshot in a new root; nodes need it.",
            ) from error
        durable.make_private(path.parent)
        durable.remove_files(self._medium, path.parent)
        durable.write_bytes(self._medium, path, data)
        return data

    def send_target_version(self, version: Version) -> None:
        """Send the chosen version with every later request, as upstream does, unless it is configured off."""
        if self._config.send_query:
            self._transport.add_query({"target": str(version)})

    def target(self, name: str) -> Target:
        """Return the signed length and hash of a target. Raises MissingTargetError or TrustError."""
        return self._trust.target(name)

    def stream(self, target: Target, start: int = 0) -> Iterator[bytes]:
        """Yield a target's unverified bytes from ``start``. Raises UnreachableError, EndlessDataError."""
        return self._transport.stream(self._url(target), limit=target.length, start=start)

    def ranges(self, target: Target, spans: Sequence[Span]) -> Ranges:
        """Return the unverified bytes of each of a target's ``spans``; several threads may share it."""
        return self._transport.ranges(self._url(target), spans, length=target.length)

    def demote_mirror(self, target: Target) -> None:
        """Put the mirror that served the target last behind the others, because its content was wrong."""
        self._transport.demote_mirror(self._url(target))

    @property
    def received(self) -> int:
        """Bytes of response bodies received so far."""
        return self._transport.received

    def _url(self, target: Target) -> str:
        return self._config.targets_base_url.below(target.path)

    def verified(self, target: Target) -> Iterator[bytes]:
        """Yield a whole target; its length and SHA-256 are compared at the end.

        Raises:
            DigestError: it differs from what was signed; the mirror that served it now comes last.
            UnreachableError: it could not be fetched.
        """
        blocks = self.stream(target)
        try:
            yield from verified(blocks, name=target.name, length=target.length, sha256=target.sha256)
        except DigestError:
            self.demote_mirror(target)
            raise

    def _fetch(self, target: Target) -> bytes:
        """Return a small target from the first mirror whose content is right (D65)."""
        for _ in self._config.targets_mirrors:
            with suppress(DigestError):
                return b"".join(self.verified(target))
        return b"".join(self.verified(target))
