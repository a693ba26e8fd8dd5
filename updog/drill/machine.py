"""What a drill runs on: a node that can be switched on, given commands, and unplugged.

Rules that every machine keeps:

* its disk is a plain file whose partition table can be read at any time, and which may be changed while the
  machine is off;
* its console log holds what its screen would have shown, to the last line before a power cut;
* every wait has a limit: what does not happen within it fails the drill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from updog.drill.drill_file import Kind, Moment, Until
    from updog.update_metadata.manifest import Contents
    from updog.update_metadata.version import Version


class NodeCommand(StrEnum):
    """The commands that a node can be given."""

    UPDATE = "update"
    INSTALL = "install"
    APPLY = "apply"
    REVERT = "revert"
    ROLLBACK = "rollback"
    CONFIRM = "confirm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A command to the node.

    Attributes:
        command: what to do.
        version: the release to install.
        stop: when to interrupt it; None lets it end.
        kill: interrupt by killing the process, and leave the machine on; else its power is cut.
    """

    command: NodeCommand
    version: Version | None = None
    stop: Moment | None = None
    kill: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DrillReleases:
    """What drills are run with: a disk, a repository and the releases in it.

    Attributes:
        disk: an image with the first release in slot A; it is copied and never written.
        metadata_url: of the TUF metadata.
        targets_url: of the targets.
        root: the trusted TUF root of the node.
        roots_behind: how many versions older that root is than the repository's.
        variant: VARIANT_ID of the releases.
        arch: architecture of the releases.
        versions: the version of each kind of release.
        contents: version → sizes and digests that were signed for its images.
    """

    disk: Path
    metadata_url: str
    targets_url: str
    root: bytes
    roots_behind: int = 0
    variant: str
    arch: str
    versions: Mapping[Kind, Version]
    contents: Mapping[Version, Contents] = field(default_factory=dict)


class Machine(Protocol):
    """A node on which a drill runs."""

    @property
    def disk(self) -> Path:
        """The disk image file."""
        ...

    @property
    def log(self) -> Path:
        """The log of its console."""
        ...

    @property
    def boots(self) -> int:
        """How many times a slot was taken so far."""
        ...

    @property
    def is_on(self) -> bool:
        """Whether a system is up and takes commands."""
        ...

    def start(self, until: Until) -> bool:
        """Switch on, and let failed starts be repeated; False when no slot is left to start."""
        ...

    def restart(self, until: Until) -> bool:
        """Restart the system that is up; if none is, :meth:`start`."""
        ...

    def cut(self) -> None:
        """Cut the power."""
        ...

    def order(self, order: Order) -> int | None:
        """Carry out an order and return its exit status; None when it was interrupted."""
        ...

    def judge(self) -> bool:
        """Wait until the running system is confirmed or was left; False when no slot is left to start."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Return the document of `updog status --json`."""
        ...

    def close(self) -> None:
        """Switch off and release what it holds; its logs stay."""
        ...
