"""Every error of the wire model, each with its exit status and its next step.

A document with faults is reported once, with all of them: a person who mends a manifest or a policy
should not have to find its mistakes one run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from signpost.errors import ExitStatus, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterable

FAULTS_SHOWN = 10
"""Faults named in a message; all of them are in ``faults``. A terminal has some 24 lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing wrong with a document.

    Attributes:
        path: where it is, such as ``updates[3].waves.20``; empty for the document as a whole.
        problem: what is wrong there, with the value found.
    """

    path: str
    problem: str

    def under(self, parent: str) -> Fault:
        """Return the same fault seen from one level up, where its document is the member ``parent``."""
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
    """The seed is outside 0…2047, or the machine has no id to take one from."""

    status = ExitStatus.USAGE
    code = "seed-invalid"
    default_next_step = "Set `seed` in the configuration to a whole number from 0 to 2047."


class MigrationError(ToolError):
    """No chain of migrations leads from one version to the other."""

    code = "migration-missing"
    default_next_step = "Publish a manifest whose migrations close the gap."


class FaultsError(ToolError):
    """A document is not what it should be.

    Attributes:
        faults: everything wrong with it, in the order found; at least one.
    """

    code = "document-invalid"
    document: ClassVar[str] = "the document"

    def __init__(self, faults: Iterable[Fault], *, next_step: str = "") -> None:
        self.faults = tuple(faults)
        super().__init__(_told(self.document, self.faults), next_step=next_step)


class ManifestError(FaultsError):
    """manifest.json is not a manifest, or a change of it was refused; nothing was changed."""

    code = "manifest-invalid"
    document = "the manifest"
    default_next_step = "Correct the fields named above in manifest.json and sign the repository again."


class DuplicateUpdateError(ManifestError):
    """The manifest has this variant, architecture and version already."""

    status = ExitStatus.USAGE
    code = "update-exists"
    default_next_step = "Publish under a new version, or withdraw the old entry first."


class UnknownUpdateError(ManifestError):
    """The manifest does not have the update that was to be changed."""

    status = ExitStatus.USAGE
    code = "update-unknown"
    default_next_step = "Check variant, architecture and version against `repo-tools waves show`."


class PolicyError(FaultsError):
    """The wave policy cannot be used."""

    status = ExitStatus.USAGE
    code = "policy-invalid"
    document = "the wave policy"
    default_next_step = "Correct the fields named above in the policy file; nothing was published."


def _told(document: str, faults: tuple[Fault, ...]) -> str:
    if len(faults) == 1:
        return f"{document} has a fault: {faults[0]}"
    lines = [f"{document} has {len(faults)} faults:"]
    lines += [f"  {fault}" for fault in faults[:FAULTS_SHOWN]]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN} more")
    return "\n".join(lines)
