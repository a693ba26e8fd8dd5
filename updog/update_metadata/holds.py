"""holds.json: the releases that a channel's brake holds back. PURE.

A brake is a role of its own with keys of its own, delegated by the top-level targets: ``brake-<channel>``, or
``brake-targets`` for the releases of no channel. It signs one target, ``brake-<channel>/holds.json``.

Rules:
* A brake can only hold. A release that the brake names is held for nodes of that channel, as if the manifest
  held it; nothing else about the manifest changes, and a release that it does not name is as it was.
* A hold of the manifest itself stays: its time and reason count.
* A release that the manifest does not have is ignored, so that a brake can be set before a release arrives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from updog.update_metadata import fields
from updog.update_metadata.errors import FaultsError, ManifestError
from updog.update_metadata.manifest import Hold
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from updog.update_metadata.manifest import Manifest
    from updog.update_metadata.version import Version

BRAKE_PREFIX = "brake-"
"""The start of the name of every brake's role; no channel's name starts so."""

HOLDS = "holds.json"
MAX_HOLDS_BYTES = 256 * 1024
"""Size of holds.json: a thousand releases with reasons."""

MAX_HOLDS = 1024
"""Releases that one brake holds."""

_TOP_LEVEL = "targets"


def brake_role(channel: str | None) -> str:
    """Return the name of the role that is the brake of a channel; None: of the releases of no channel."""
    return f"{BRAKE_PREFIX}{channel or _TOP_LEVEL}"


def holds_name(channel: str | None) -> str:
    """Return the target name of a brake's file."""
    return f"{brake_role(channel)}/{HOLDS}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseHold:
    """One release that a brake holds."""

    variant: str
    arch: str
    version: Version
    hold: Hold

    @property
    def key(self) -> tuple[str, str, Version]:
        """What identifies the release: variant, architecture and version."""
        return (self.variant, self.arch, self.version)

    def to_json(self) -> dict[str, Any]:
        """Return the hold as JSON values."""
        reason = {"reason": self.hold.reason} if self.hold.reason else {}
        return {
            "variant": self.variant,
            "arch": self.arch,
            "version": str(self.version),
            "since": format_time(self.hold.since),
            **reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Holds:
    """The whole of holds.json."""

    releases: tuple[ReleaseHold, ...] = ()

    @classmethod
    def from_json(cls, data: bytes) -> Holds:
        """Return the holds in ``data``. Raises ManifestError, which lists every fault."""
        try:
            members = fields.Fields(fields.decode_json(data, limit=MAX_HOLDS_BYTES))
            releases = members.required(
                "holds", lambda value: fields.array(value, _release_hold, limit=MAX_HOLDS)
            )
            members.raise_faults()
        except FaultsError as error:
            raise ManifestError(fault.under(HOLDS) for fault in error.faults) from error
        return cls(releases=releases)

    def to_json(self) -> bytes:
        """Return the content of the file; the inverse of :meth:`from_json`."""
        document = {"holds": [release.to_json() for release in self.releases]}
        return (json.dumps(document, indent=1) + "\n").encode()

    def find(self, key: tuple[str, str, Version]) -> ReleaseHold | None:
        """Return the hold of a release, None if the brake does not hold it."""
        return next((release for release in self.releases if release.key == key), None)

    def with_hold(self, release: ReleaseHold) -> Holds:
        """Return the holds with one more release."""
        return Holds(releases=(*self.without(release.key).releases, release))

    def without(self, key: tuple[str, str, Version]) -> Holds:
        """Return the holds without a release."""
        return Holds(releases=tuple(release for release in self.releases if release.key != key))

    def applied_to(self, manifest: Manifest) -> Manifest:
        """Return a manifest in which the releases that the brake names are held."""
        # reversed: of two holds of one release the first counts
        return manifest.with_holds({release.key: release.hold for release in reversed(self.releases)})


def _release_hold(value: object) -> ReleaseHold:
    members = fields.Fields(value)
    release = ReleaseHold(
        variant=members.required("variant", fields.text),
        arch=members.required("arch", fields.text),
        version=members.required("version", fields.version),
        hold=Hold(
            since=members.required("since", fields.time),
            reason=members.optional("reason", fields.text) or "",
        ),
    )
    members.raise_faults()
    return release
