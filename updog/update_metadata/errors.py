"""Every error of the wire model, each with its exit status and its next step.

All faults of a document are reported at once: whoever corrects a manifest or a policy should not have to find
its mistakes one run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from signpost.errors import ExitStatus, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DuplicateUpdateError",
    "Fault",
    "FaultsError",
    "ManifestError",
    "MigrationError",
    "PolicyError",
    "SeedError",
    "TimeError",
    "UnknownUpdateError",
    "VersionError",
]

FAULTS_SHOWN = 10
"""Faults listed in a message; ``faults`` has all of them. A terminal has about 24 lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of a document.

    Attributes:
        path: where it is, such as ``updates[3].waves.20``; empty for the document as a whole.
        problem: what is wrong, with the value found.
    """

    path: str
    problem: str

    def under(self, parent: str) -> Fault:
        """Return the fault with its path seen from one level up, where the document is member ``parent``."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Fault(path=f"{parent}{joint}{self.path}", problem=self.problem)

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class VersionError(ToolError, ValueError):
    """The text is not a semantic version."""

    status = ExitStatus.USAGE
    code = "version-invalid"
    default_next_step = "Write it as MAJOR.MINOR.PATCH, such as 1.26.1 or 2.0.0-rc.1 (https://semver.org)."


class TimeError(ToolError, ValueError):
    """The text is not an RFC 3339 time, or not a duration such as ``4 hours``."""

    status = ExitStatus.USAGE
    code = "time-invalid"
    default_next_step = "Write a time as 2026-11-24T09:30:00Z and a duration as '4 hours'."


class SeedError(ToolError, ValueError):
    """The seed is outside 0…2047, or the machine has no machine-id to derive one from."""

    status = ExitStatus.USAGE
    code = "seed-invalid"
    default_next_step = "Set `seed` in the configuration to a whole number from 0 to 2047."


class MigrationError(ToolError):
    """No chain of migrations leads from one version to the other."""

    code = "migration-missing"
    default_next_step = "Publish a manifest with the missing migrations."


class FaultsError(ToolError):
    """A document does not follow its format.

    Attributes:
        faults: all faults, in the order found; at least one.
    """

    code = "document-invalid"
    document: ClassVar[str] = "the document"

    def __init__(self, faults: Iterable[Fault], *, next_step: str = "") -> None:
        self.faults = tuple(faults)
        if len(self.faults) == 1:
            message = f"{self.document} has a fault: {self.faults[0]}"
        else:
            lines = [f"{self.document} has {len(self.faults)} faults:"]
            lines += [f"  {fault}" for fault in self.faults[:FAULTS_SHOWN]]
            if len(self.faults) > FAULTS_SHOWN:
                lines.append(f"  … and {len(self.faults) - FAULTS_SHOWN} more")
            message = "\n".join(lines)
        super().__init__(message, next_step=next_step)


class ManifestError(FaultsError):
    """manifest.json is not a valid manifest, or a change to it was refused; nothing was changed."""

    code = "manifest-invalid"
    document = "the manifest"
    default_next_step = "Correct these fields in manifest.json and re-sign the repository."


class DuplicateUpdateError(ManifestError):
    """The manifest already has this variant, architecture and version."""

    status = ExitStatus.USAGE
    code = "update-exists"
    default_next_step = "Publish it as a new version, or withdraw the existing entry first."


class UnknownUpdateError(ManifestError):
    """The manifest does not have the update that should be changed."""

    status = ExitStatus.USAGE
    code = "update-unknown"
    default_next_step = "Check variant, architecture and version against `repo-tools waves show`."


class PolicyError(FaultsError):
    """The wave policy is invalid."""

    status = ExitStatus.USAGE
    code = "policy-invalid"
    document = "the wave policy"
    default_next_step = "Correct these fields in the policy file; nothing was published."
