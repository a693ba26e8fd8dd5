"""Why an image of a release does not fit: a code, the image, a message, and what to do about it. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signpost.sets import ImageKind

_TOGETHER = "Pass the three images of one build; a boot image is built after its hash image."
_FILES = "Put the kernel and the initrd that the entry names into BOOT, and build the boot image again."
NEXT_STEPS: Mapping[str, str] = MappingProxyType(
    {
        "image-misplaced": "Check the paths given to --boot, --root and --hash.",
        "image-truncated": "Copy the image again, or build it again: it is shorter than its file system.",
        "image-unknown": "Check the paths; if it is a format that is not known here, pass --no-inspect.",
        "image-too-large": "Make the image smaller; or, if the nodes have more room, correct [slots].",
        "boot-unreadable": "Check the image with `e2fsck -fn FILE`, and build it again.",
        "boot-entry": "Correct loader/entries/*.conf in BOOT: an entry has linux, initrd and options.",
        "boot-file-missing": _FILES,
        "boot-kernel": "Build the boot image with a kernel for the architecture of the release.",
        "boot-panic": "Add panic=5 to the options of the boot entry.",
        "boot-mismatch": _TOGETHER,
        "verity-mismatch": _TOGETHER,
    }
)
"""Code of a fault → what whoever builds the images does about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFault:
    """Why an image does not fit.

    Attributes:
        code: a code of :data:`repo_tools.trust.findings.CODES`. kind: the image. message: what is wrong.
    """

    code: str
    kind: ImageKind
    message: str

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    @property
    def next_step(self) -> str:
        """What whoever builds the images does about it."""
        return NEXT_STEPS[self.code]

    def to_json(self) -> dict[str, str]:
        """Return the fault as ``inspect --json`` prints it."""
        facts = {"code": self.code, "image": str(self.kind), "message": self.message}
        return {**facts, "next_step": self.next_step}
