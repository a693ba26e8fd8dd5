"""What is wrong with a repository: one value a fault, with a stable code, a place and a next step.

The table :data:`CODES` is the whole list; a finding whose code is not in it cannot be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(StrEnum):
    """How bad it is: an error stops nodes, a warning will or may, a note is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_RESTORE = "Restore the file from a mirror or a backup; if there is none, "
_PUBLISH = "publish the release again under a new version and withdraw this one."

CODES: Mapping[str, tuple[Severity, str]] = MappingProxyType(
    {
        "root-missing": (_E, "Restore this root from a mirror: a node that slept for long walks through it."),
        "root-invalid": (_E, "Restore this root from a mirror; no node can walk past it."),
        "metadata-missing": (_E, _RESTORE + "sign anew with `repo-tools refresh`."),
        "metadata-invalid": (_E, _RESTORE + "sign anew with `repo-tools refresh`."),
        "metadata-signature": (_E, "Sign anew with the keys that `repo-tools root show` lists."),
        "metadata-digest": (_E, _RESTORE + "sign anew with `repo-tools refresh`."),
        "metadata-version": (_E, _RESTORE + "sign anew with `repo-tools refresh`."),
        "metadata-expired": (_E, "Run `repo-tools refresh`; nodes refuse the repository until then."),
        "root-expired": (
            _E,
            "Sign a new root with the root keys: `repo-tools refresh` where they are at hand.",
        ),
        "expires-soon": (_N, "Run `repo-tools refresh`; a daily job does it in time."),
        "threshold-unreachable": (_E, "Sign a new root with more keys or a lower threshold for this role."),
        "root-key-shared": (
            _E,
            "Give root keys of its own in a new root: who has the other role's key speaks for root.",
        ),
        "key-shared": (
            _W,
            "Give each role keys of its own in a new root: one stolen key then costs one role.",
        ),
        "consistent-snapshot-off": (
            _E,
            "Set consistent_snapshot in a new root; readers need the prefixed names.",
        ),
        "metadata-unnamed": (
            _N,
            "Left by a publisher that was killed; the next one goes past it. Nothing to do.",
        ),
        "leftover": (_N, "Left by a publisher that was killed; the next one removes it. Nothing to do."),
        "ranges-unsupported": (
            _W,
            "Let the web server answer Range requests; without them nodes fetch all of every image.",
        ),
        "timestamp-cached": (
            _W,
            "Set Cache-Control: no-cache on timestamp.json; else withdrawals come late.",
        ),
        "target-missing": (_E, _RESTORE + _PUBLISH),
        "target-length": (_E, _RESTORE + _PUBLISH),
        "target-digest": (_E, _RESTORE + _PUBLISH),
        "target-orphan": (_W, "No signature covers this file: remove it, or find out who put it there."),
        "manifest-missing": (_E, "Sign a manifest: `repo-tools publish` writes one."),
        "manifest-invalid": (_E, "Correct manifest.json in the fields named, and sign it again."),
        "image-unlisted": (_E, "The manifest names an image that is not signed: " + _PUBLISH),
        "image-malformed": (_E, "Nodes cannot unpack the image: " + _PUBLISH),
        "image-too-large": (_E, "Nodes refuse the release: make the image smaller, or the partition larger."),
        "pack-unlisted": (_E, "The manifest names a file that is not signed: " + _PUBLISH),
        "index-mismatch": (_E, "Nodes cannot fetch parts of the image: " + _PUBLISH),
        "delta-mismatch": (_E, "Nodes cannot use this delta: " + _PUBLISH),
        "content-mismatch": (_E, "The image unpacks to something else than signed: " + _PUBLISH),
        "content-unstated": (
            _N,
            "Publish with this program, so that nodes can read a slot back against the manifest.",
        ),
        "waves-unordered": (_E, "Set them anew: `repo-tools waves set VERSION --policy default`."),
        "waves-gap": (_W, "Set them anew: `repo-tools waves set VERSION --policy default`."),
        "max-version-mixed": (_E, "Set it on all: `repo-tools withdraw`, or publish the next version."),
        "max-version-high": (
            _W,
            "It covers versions nobody publishes: nodes above the newest release never go back.",
        ),
        "nothing-on-offer": (_N, "Every release is withdrawn; publish one that is not."),
        "floor-unpublished": (
            _W,
            "Nodes below the floor need a release at or above it on offer; publish one.",
        ),
        "newest-unreachable": (
            _E,
            "Publish a release between, at or above the floor, that these nodes can take.",
        ),
        "migration-missing": (
            _E,
            "Add the hops to the manifest's migrations; nodes at that version cannot update.",
        ),
        "migration-unlisted": (_E, "Add the migration as a target, or take it out of the manifest."),
    }
)
"""Code → severity and next step, in the order of docs/reference/findings.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        code: one of :data:`CODES`. place: a file, or a path in the manifest. message: what is wrong there.
        subject: the role or target concerned, for programs; empty where the place says it all.
    """

    code: str
    place: str
    message: str
    subject: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not in the table of findings")

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code][0]

    @property
    def next_step(self) -> str:
        """What to do now, in one sentence."""
        return CODES[self.code][1]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as ``--json`` prints it."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "place": self.place,
            "message": self.message,
            "next_step": self.next_step,
        }
