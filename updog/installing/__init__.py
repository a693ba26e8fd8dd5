"""Installing one update in the inactive slot: fetch the index, look at the slots, decide, carry out.

The steps, each of which hands a frozen value on to the next:

1. fetch what shows which bytes are missing (:mod:`.image_index`): the image's index, and the head of a delta
   from what runs, or the image's fingerprints → :class:`~.image_index.FetchedIndex`;
2. look at both slots and the spool (:mod:`.scan`) → :class:`~updog.image.plan.SlotScan`;
3. decide, PURE (:func:`updog.image.plan.plan_chunks`) → an :class:`ImagePlan`, with its
   :class:`~.estimate.Estimate` in bytes;
4. carry the plan out: keep all of it on the node, or begin (fetch and verify the first bytes), give the slot
   up, write, and prove by reading back (:mod:`.seekable`, :mod:`.stream`).

:mod:`.installer` goes through them for the three images of an update. An image is of one of two kinds:
seekable (:mod:`.seekable`), of which only missing chunks are fetched, each verified before it is written; or
one stream as upstream publishes it (:mod:`.stream`), for which steps 1 and 2 are a look into the spool.

Rules it enforces:

* what is fetched and written is what the plan says; a plan of more than ``max_bytes`` is refused before a
  write;
* the slot is given up only after the beginning of every image was fetched and verified, or, if the update is
  kept on the node first, after all of it was;
* root and hashes are written before the kernel: a half-written slot has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from updog.installing.estimate import Estimate
    from updog.update_metadata.content import Content


class ImagePlan(Protocol):
    """How one image gets into the inactive slot: computed once, never changed.

    Its properties fetch, read and write nothing; its methods carry it out, and return the next plan.
    """

    @property
    def estimate(self) -> Estimate:
        """What it takes, in bytes."""
        ...

    @property
    def spool_files(self) -> frozenset[str]:
        """Names of the spool's files that belong to the image."""
        ...

    def keep(self) -> ImagePlan:
        """Fetch and verify all of it into the spool, continuing after an earlier run.

        Returns:
            The plan that writes it from there.

        Raises:
            DigestError, ImageError, PreflightError: it cannot be installed.
            UnreachableError, MediumError: it could not be fetched, or kept; what arrived is kept.
        """
        ...

    def without_keeping(self) -> ImagePlan:
        """Return the plan for a node where nothing more is kept first."""
        ...

    def begin(self) -> ImagePlan:
        """Fetch and verify the first bytes, unless they are kept; the slot is not written.

        Raises:
            DigestError, ImageError: they are wrong. UnreachableError: they could not be fetched.
        """
        ...

    def write(self) -> Content | ImagePlan:
        """Put the image in its place and prove it by reading it back.

        Returns:
            What is there now; or a plan for the chunks that the running slot turned out not to have.

        Raises:
            DigestError, ImageError: what was fetched is not what was signed.
            ReadBackError: the medium returns something else than was written.
            UnreachableError, MediumError: something could not be fetched, or written.
        """
        ...
