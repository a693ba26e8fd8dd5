"""Installing one update: what it needs, bringing it here, putting it in the inactive slot, proving it.

Three images, each of which is one of two kinds behind the Protocol :class:`Image`: seekable ones
(:mod:`.seekable`), of which only the missing chunks are fetched and each is verified before it is written,
and whole ones as upstream publishes them (:mod:`.whole`).

Rules it enforces:

* what is fetched and written is what the plan says; a plan beyond ``most`` bytes is refused before a write;
* the slot is given up only after the beginning of every image was fetched and found to be good, or, when the
  update is kept on the node first, after all of it was;
* root and hashes are written before the kernel: a half-written slot has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from updog.installing.needs import Needs, check_total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from updog.update_metadata.content import Content

SPOOL_BYTES = 64 << 20
"""An update of which no more has to be fetched is kept on the node and verified before the slot is given up:
that costs little then. A larger one goes straight into the slot, each chunk verified before it is written."""


class Image(Protocol):
    """One image on its way into the inactive slot."""

    def needs(self) -> Needs:
        """Say what it takes; the index is fetched and the slots are looked at, once."""
        ...

    def keep(self) -> None:
        """Fetch and verify all that has to be fetched into the spool; a later run continues."""
        ...

    def prime(self) -> None:
        """Make sure that the image can be had and begins well, without writing to the slot."""
        ...

    def write(self) -> Content:
        """Put the image in its place, prove it by reading it back, and return what it is."""
        ...

    @property
    def spooled(self) -> frozenset[str]:
        """Names of the spool's files that belong to it."""
        ...


class Installation:
    """The images of one update and their way into the inactive slot.

    Args:
        images: role → image, in the order of writing.
        most: bytes that may be fetched; None for any number.
        seekable: whether a good piece of the images can be told from a bad one.
    """

    def __init__(self, images: Mapping[str, Image], *, most: int | None, seekable: bool) -> None:
        self._images = images
        self._most = most
        self._seekable = seekable

    def needs(self) -> tuple[Needs, ...]:
        """Say what each image takes. Raises TooManyBytesError if it is more than may be fetched."""
        needs = tuple(image.needs() for image in self._images.values())
        check_total(needs, self._most)
        return needs

    @property
    def spooled(self) -> frozenset[str]:
        """Names of the spool's files that belong to this update."""
        return frozenset(name for image in self._images.values() for name in image.spooled)

    def is_worth_keeping(self, needs: tuple[Needs, ...]) -> bool:
        """Tell whether to keep it on the node before the slot is given up, if there is room.

        Whole images always are: only there can they be verified in time.
        """
        return not self._seekable or sum(need.fetch for need in needs) <= SPOOL_BYTES

    def keep(self) -> None:
        """Bring all of it here, verified."""
        for image in self._images.values():
            image.keep()

    def write(self, give_up: Callable[[], None]) -> dict[str, Content]:
        """Write and prove every image; ``give_up`` is called just before the first write.

        Returns:
            Role → what is there now.
        """
        for image in self._images.values():
            image.prime()
        give_up()
        return {role: image.write() for role, image in self._images.items()}
