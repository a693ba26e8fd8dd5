"""What a person may choose about the images that are built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from repo_tools.config import target_word
from signpost.errors import UsageError
from signpost.text import foreign
from updog.update_metadata.errors import FaultsError

if TYPE_CHECKING:
    from updog.update_metadata.version import Version

DEFAULT_OPTIONS = "ro console=tty0 console=ttyS0 panic=5 oops=panic softlockup_panic=1 systemd.gpt_auto=no"
"""Whatever the kernel cannot go on from ends in a restart, so that the boot stage takes the other slot."""

COMPRESSIONS = ("none", "lz4", "lz4hc")
"""What every mkfs.erofs has; a level may follow (``lz4hc,12``)."""

_COMPRESSION = re.compile(r"(?:none|(?:lz4|lz4hc)(?:,[0-9]{1,2})?)")
_PANIC = re.compile(r"(?:^|\s)panic=\S+")
_RESERVED = re.compile(r"(?:^|\s)(roothash|slot|signpost\.\w+|systemd\.verity_root_\w+)=")


class Etc(StrEnum):
    """Whether and where the node's ``/etc`` can be written.

    READ_ONLY: it is the image's. TRANSIENT: what is written is gone after a restart. PERSISTENT: what is
    written is kept on PRIVATE and lies over every release from then on.
    """

    READ_ONLY = "read-only"
    TRANSIENT = "transient"
    PERSISTENT = "persistent"


class InitrdKind(StrEnum):
    """Which initrd BOOT has.

    BUILTIN: ours. DRACUT: the source's own, which is ready in it or is made by its dracut.
    """

    BUILTIN = "builtin"
    DRACUT = "dracut"


def is_name(variant: str) -> bool:
    """Return whether ``publish`` takes this as the name of a variant."""
    try:
        target_word(variant)
    except FaultsError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What a person may choose.

    Attributes:
        version, variant: written into the image's os-release; None takes them from there.
        trusted_root: content of the root.json that nodes trust; None takes what is in the source.
        kernel: its version, if the source has several.
        etc: whether its /etc can be written; our initrd does it, so with another one it is read-only.
        initrd: which one BOOT has.
        modules: kernel modules that our initrd loads besides the usual ones.
        options: the kernel's command line; the root hash is added, and ``panic=5`` if it has none.
        compression: of ROOT, one of :data:`COMPRESSIONS`, maybe with a level.
        reset_identity: remove what only one machine may have, instead of refusing it.

    Raises:
        UsageError: ``variant``, ``options``, ``compression``, or ``etc`` with an initrd of dracut.
    """

    version: Version | None = None
    variant: str | None = None
    trusted_root: bytes | None = None
    kernel: str | None = None
    etc: Etc = Etc.TRANSIENT
    initrd: InitrdKind = InitrdKind.BUILTIN
    modules: tuple[str, ...] = ()
    options: str = DEFAULT_OPTIONS
    compression: str = "none"
    reset_identity: bool = False

    def __post_init__(self) -> None:
        if self.variant is not None and not is_name(self.variant):
            raise UsageError(
                f"{foreign(self.variant)} cannot be a variant",
                next_step="Use letters, digits, '.', '_', '-'.",
            )
        if not _COMPRESSION.fullmatch(self.compression):
            raise UsageError(
                f"{self.compression!r} is not a compression",
                next_step=f"Use one of {', '.join(COMPRESSIONS)}; a level may follow, as in lz4hc,12.",
            )
        if found := _RESERVED.search(self.options):
            raise UsageError(
                f"the options of the kernel have {found[1]}=",
                next_step="Leave it out: the build and the boot stage add it.",
            )
        if self.initrd is InitrdKind.DRACUT and self.etc is not Etc.READ_ONLY:
            raise UsageError(
                f"an initrd of dracut does not make /etc {self.etc}",
                next_step="Pass --etc read-only, or leave out --initrd dracut.",
            )
        if not self.options.isprintable():
            raise UsageError("the options of the kernel have a line break or a control character")

    @property
    def kernel_options(self) -> str:
        """The kernel's command line with a restart after a panic, without the root hash."""
        return self.options if _PANIC.search(self.options) else f"{self.options} panic=5".strip()
