"""What a drill is played on: a node that can be switched on, told something, and unplugged.

Rules that every machine keeps:

* its disk is a plain file whose partition table can be read at any moment, and which may be changed while the
  machine is off;
* what a person in front of it would have seen is in its console log, to the last line before a power cut;
* nothing is waited for without end: what does not come in its time fails the drill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from updog.drill.script import Kind, Moment, Until
    from updog.update_metadata.content import Content
    from updog.update_metadata.version import Version


class Command(StrEnum):
    """What a node can be told."""

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
        version: which one to install.
        stop: when to stop it half way; None lets it end.
        kill: stop the process and leave the machine on; else its power is cut.
    """

    command: Command
    version: Version | None = None
    stop: Moment | None = None
    kill: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """What drills are played with.

    Attributes:
        disk: an image with the first release in slot A; it is copied, never written to.
        metadata_url: where the TUF metadata is.
        targets_url: where the targets are.
        root: the trusted TUF root of the node.
        roots_behind: how many versions newer the repository's root is.
        variant: VARIANT_ID of the releases.
        arch: architecture of the releases.
        releases: the version of each kind there is.
        contents: version → image → what was signed.
    """

    disk: Path
    metadata_url: str
    targets_url: str
    root: bytes
    roots_behind: int = 0
    variant: str
    arch: str
    releases: Mapping[Kind, Version]
    contents: Mapping[Version, Mapping[str, Content]] = field(default_factory=dict)


class Machine(Protocol):
    """A node under drill."""

    @property
    def disk(self) -> Path:
        """The disk image file."""
        ...

    @property
    def console(self) -> Path:
        """The log of its console."""
        ...

    @property
    def boots(self) -> int:
        """How many times a slot was taken so far."""
        ...

    @property
    def is_on(self) -> bool:
        """Whether a system is up and can be told something."""
        ...

    def start(self, until: Until) -> bool:
        """Switch on, let starts fail and be repeated; False when nothing is left to start."""
        ...

    def restart(self, until: Until) -> bool:
        """Restart the system that is up, else as :meth:`start`."""
        ...

    def cut(self) -> None:
        """Cut the power."""
        ...

    def order(self, order: Order) -> int | None:
        """Carry an order out and return its exit status; None when it was stopped half way."""
        ...

    def judge(self) -> bool:
        """Wait until the running system is confirmed or was left; False when nothing is left to start."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Return the document of `updog status --json`."""
        ...

    def close(self) -> None:
        """Switch off and give back what it holds, its logs apart."""
        ...
