"""Faults of a repository: each is a value with a stable code, a place and a next step.

The table :data:`CODES` is complete: a finding with a code that is not in it cannot be created.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CODES", "Finding", "Severity"]


class Severity(StrEnum):
    """An error stops nodes; a warning may stop them, now or later; a note is information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_RESTORE = "Restore the file from a mirror or a backup; if there is none, "
_PUBLISH = "publish the release again under a new version and withdraw this one."
_RESTORE_METADATA = (
    "Restore the file from a mirror or a backup; `repo-tools refresh` needs it and cannot replace it."
)

CODES: Mapping[str, tuple[Severity, str]] = MappingProxyType(
    {
        "root-missing": (_E, "Restore this root from a mirror: nodes that trust an older root need it."),
        "root-invalid": (_E, "Restore this root from a mirror: nodes cannot trust any later root."),
        "metadata-missing": (_E, _RESTORE_METADATA),
        "metadata-invalid": (_E, _RESTORE_METADATA),
        "metadata-signature": (_E, "Re-sign with the keys that `repo-tools root show` lists."),
        "metadata-digest": (_E, _RESTORE_METADATA),
        "metadata-version": (_E, _RESTORE_METADATA),
        "metadata-expired": (_E, "Run `repo-tools refresh`; nodes refuse the repository until then."),
        "root-expired": (
            _E,
            "Sign a new root with the root keys: run `repo-tools refresh` where these keys are available.",
        ),
        "expires-soon": (_N, "Run `repo-tools refresh`; a daily job re-signs in time."),
        "threshold-unreachable": (_E, "Sign a new root with more keys or a lower threshold for this role."),
        "root-key-shared": (
            _E,
            "Give root its own keys in a new root: the holder of the other role's key can sign as root.",
        ),
        "key-shared": (
            _W,
            "Give each role its own keys in a new root: a stolen key then compromises only one role.",
        ),
        "key-duplicate": (_W, "Replace one of the two keyids in a new root or delegation: they are one key."),
        "root-threshold-one": (_W, "Sign a new root with more keys and a threshold of at least 2."),
        "expires-far": (_W, "Re-sign with a shorter lifetime: see `[expires]` of repo.toml."),
        "delegation-wide": (_W, "Delegate to each channel only its own folder and the images."),
        "snapshot-shrunk": (_E, "Nodes refuse this snapshot: sign one that lists the role again."),
        "metadata-stray": (_W, "No role of this repository has this file: find out who put it there."),
        "link-outside": (_W, "Copy the file into the repository: readers may get what others change."),
        "log-invalid": (_W, "Restore the log from a backup or a mirror; find out who changed it."),
        "log-missing": (_W, "Find out who removed it; restore the log from a backup or a mirror."),
        "file-unreadable": (_W, "Let every user read it (`chmod a+rX`): the web server is another user."),
        "key-missing": (
            _W,
            "Bring the key file back, or remove its line in `[signers]` if the key is kept elsewhere.",
        ),
        "key-exposed": (
            _W,
            "Others may have copied the key: replace it, and keep the new file at mode 0600.",
        ),
        "consistent-snapshot-off": (
            _E,
            "Set consistent_snapshot in a new root; readers need the prefixed names.",
        ),
        "metadata-unnamed": (
            _N,
            "A killed publisher left it; the next one uses a higher version. Nothing to do.",
        ),
        "leftover": (_N, "A killed publisher left it; the next one removes it. Nothing to do."),
        "ranges-unsupported": (
            _W,
            "Enable Range requests on the web server; without them nodes fetch every image completely.",
        ),
        "timestamp-cached": (
            _W,
            "Set Cache-Control: no-cache on timestamp.json; otherwise withdrawals reach nodes late.",
        ),
        "target-missing": (_E, _RESTORE + _PUBLISH),
        "target-length": (_E, _RESTORE + _PUBLISH),
        "target-digest": (_E, _RESTORE + _PUBLISH),
        "target-invalid": (
            _E,
            "No client can use it: remove the entry and re-sign; find out which key holder signed it.",
        ),
        "target-orphan": (_W, "No signature covers this file: remove it, or find out who put it there."),
        "manifest-missing": (_E, "Sign a manifest: `repo-tools publish` writes one."),
        "manifest-invalid": (_E, "Correct the named fields of manifest.json, and sign it again."),
        "brake-invalid": (
            _E,
            "Nodes of the channel stop: sign it again with `repo-tools brake hold` or `release`.",
        ),
        "image-unlisted": (_E, "The manifest names an image that is not signed: " + _PUBLISH),
        "image-malformed": (_E, "Nodes cannot unpack the image: " + _PUBLISH),
        "image-too-large": (_E, "Nodes refuse the release: make the image smaller, or the partition larger."),
        "pack-unlisted": (_E, "The manifest names a file that is not signed: " + _PUBLISH),
        "index-mismatch": (_E, "Nodes cannot fetch parts of the image: " + _PUBLISH),
        "delta-mismatch": (_E, "Nodes cannot use this delta: " + _PUBLISH),
        "content-mismatch": (_E, "The unpacked image differs from what was signed: " + _PUBLISH),
        "content-unstated": (
            _N,
            "Publish with this program, so that nodes can verify a written slot against the manifest.",
        ),
        "image-misplaced": (_E, "Nodes cannot boot this release: " + _PUBLISH),
        "boot-mismatch": (_E, "Nodes cannot mount the root image of this release: " + _PUBLISH),
        "image-truncated": (_E, "Nodes cannot mount the image: " + _PUBLISH),
        "image-unknown": (
            _W,
            "If it is not a format of your own, which `validate --no-inspect` accepts: " + _PUBLISH,
        ),
        "boot-unreadable": (_E, "The boot stage passes over this release: " + _PUBLISH),
        "boot-entry": (_E, "The boot stage passes over this release: " + _PUBLISH),
        "boot-file-missing": (_E, "The boot stage cannot start this release: " + _PUBLISH),
        "boot-kernel": (_E, "The boot stage cannot start this kernel: " + _PUBLISH),
        "boot-panic": (
            _W,
            "A node whose kernel panics stays down instead of starting the other slot: " + _PUBLISH,
        ),
        "boot-not-inspected": (_N, "Install debugfs (Debian package e2fsprogs), and validate again."),
        "version-mismatch": (_W, "A node that installs it fails to confirm it: " + _PUBLISH),
        "verity-mismatch": (_E, "Nodes cannot mount the root image of this release: " + _PUBLISH),
        "waves-unordered": (_E, "Set new waves: `repo-tools waves set VERSION --waves default`."),
        "waves-far": (_W, "If it is a typing error: `repo-tools waves set VERSION --waves default`."),
        "published-ahead": (
            _W,
            "Check the clock of the machine that published it: nodes with a min_age may wait longer.",
        ),
        "hold-ahead": (_W, "Check the clock of the machine that held it; resume it, and hold it again."),
        "waves-gap": (_W, "Set new waves: `repo-tools waves set VERSION --waves default`."),
        "max-version-mixed": (
            _E,
            "Set it on all releases: `repo-tools withdraw`, or publish the next version.",
        ),
        "max-version-high": (
            _W,
            "It covers unpublished versions: a node above the newest release never goes back.",
        ),
        "nothing-on-offer": (_N, "Every release is withdrawn; publish one that is not."),
        "floor-unpublished": (
            _W,
            "Nodes below the floor need a release at or above it on offer; publish one.",
        ),
        "newest-unreachable": (
            _E,
            "Publish a release in between, at or above the floor, that these nodes can install.",
        ),
        "migration-missing": (
            _E,
            "Add the steps to the manifest's migrations; nodes at that version cannot update.",
        ),
        "migration-unlisted": (_E, "Add the migration as a target, or remove it from the manifest."),
    }
)
"""Code → severity and next step, in the order of docs/reference/findings.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        code: one of :data:`CODES`. place: a file, or a path in the manifest. message: the fault.
        subject: the role or target concerned, for programs; empty if ``place`` already says it.
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
        """The severity of the code."""
        return CODES[self.code][0]

    @property
    def next_step(self) -> str:
        """What to do about it, in one sentence."""
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
