"""Installs updates in the inactive slot of one node: the images of an update, from preflight to proof."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from signpost.medium import opened
from signpost.state import Command
from signpost.text import size_text
from updog import preflight
from updog.errors import DigestError, ImageError, PreflightError
from updog.image.region import Region
from updog.installing.context import RunningImage, SeekableImage
from updog.installing.estimate import check_total, sentence_of
from updog.installing.seekable import plan_seekable
from updog.installing.stream import plan_stream
from updog.preflight import Placement
from updog.session import WRITE_ORDER
from updog.state import SlotRecord
from updog.update_metadata.content import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from signpost.medium import Medium
    from signpost.sets import ImageKind
    from updog.config import Config
    from updog.installing import ImagePlan
    from updog.installing.context import InstallContext
    from updog.installing.estimate import Estimate
    from updog.session import Session
    from updog.update_metadata.manifest import Update

KEPT_FIRST_BYTES = 64 << 20
"""An update that fetches no more is kept on the node and verified before the slot is given up: that costs
little then. A larger one goes straight into the slot, each chunk verified before it is written."""


class Installer:
    """Installs for one command.

    Args:
        config: the node's settings. medium: how the disk is written.
        session: what the command sees. context: what images are installed with.
    """

    def __init__(self, config: Config, medium: Medium, session: Session, context: InstallContext) -> None:
        self._config, self._medium = config, medium
        self._session, self._context = session, context

    def estimates(self, update: Update) -> tuple[Estimate, ...]:
        """Return what each image of an update takes. Raises PreflightError if it could not be installed."""
        with self._planned(update, write=False) as plans:
            return tuple(plan.estimate for plan in plans)

    def keep(self, update: Update) -> None:
        """Fetch an update into the spool, verified. Raises PreflightError if there is no room for it."""
        if not self._config.spool:
            raise PreflightError(
                f"`spool = false` in the configuration: {update.version} cannot be stored on the node first",
                next_step="Use `updog update`, which streams into the slot, or set `spool = true`.",
            )
        with self._planned(update, write=False) as plans:
            if not self._make_room(plans):
                fetch = sum(plan.estimate.fetch for plan in plans)
                raise PreflightError(
                    f"{self._config.download_dir} does not have enough free space for {update.version}: "
                    f"{size_text(fetch + preflight.SPOOL_MARGIN_BYTES)} are needed",
                    next_step="Free some space there, or use `updog update`, which can stream without it.",
                )
            for plan in plans:
                plan.keep()

    def install(self, update: Update) -> SlotRecord:
        """Write an update and prove it; return what is in the slot now.

        If a mirror sent wrong bytes, the next one is asked, and only for what is not in place already.

        Raises:
            RefusedError: (or a subclass) the update, or what was fetched of it, is refused.
            UnreachableError, MediumError: something could not be fetched, or written.
        """
        for _ in self._config.targets_mirrors:
            try:
                return self._install_once(update)
            except (DigestError, ImageError) as error:
                self._context.reporter.say(f"{error}. Trying another mirror.")
        return self._install_once(update)

    def _install_once(self, update: Update) -> SlotRecord:
        """Plan, keep or begin, give the slot up, write, prove."""
        say, max_bytes = self._context.reporter.say, self._context.max_bytes
        with preflight.inactive_slot_held(self._session.view), self._planned(update, write=True) as planned:
            fetch = sum(plan.estimate.fetch for plan in planned)
            # Streams are always worth keeping: only in the spool can they be verified in time.
            worth_keeping = update.packs is None or fetch <= KEPT_FIRST_BYTES
            keeps = worth_keeping and self._make_room(planned)
            plans = planned if keeps else [plan.without_keeping() for plan in planned]
            total = sum(plan.estimate.total for plan in plans)
            check_total(total, max_bytes)
            say(sentence_of([plan.estimate for plan in plans]))
            if keeps:
                plans = [plan.keep() for plan in plans]
            else:
                say("The update is not stored on the node first: streaming into the slot.")
            plans = [plan.begin() for plan in plans]
            self._give_up_slot()
            return SlotRecord.of(update, self._write(plans, total))

    def _write(self, plans: Sequence[ImagePlan], total: int) -> Mapping[ImageKind, Content]:
        """Carry the plans out in order, and those that follow if the running slot is not as it should be.

        Args:
            plans: of the images, in the order of writing.
            total: bytes that they fetch, or have fetched.

        Raises:
            TooManyBytesError: with a plan that follows it would be more than may be fetched.
        """
        contents = {}
        for plan in plans:
            written = plan.write()
            while not isinstance(written, Content):
                total += written.estimate.fetch
                check_total(total, self._context.max_bytes)
                written = written.write()
            contents[plan.estimate.placement.kind] = written
        return contents

    def _give_up_slot(self) -> None:
        """Make the inactive slot unbootable; until then, what is in it stays recorded."""
        self._session.signpost.apply(Command.CLEAR_INACTIVE)
        self._session.save(self._session.state.with_slot_emptied(self._session.inactive))

    def _make_room(self, plans: Sequence[ImagePlan]) -> bool:
        """Remove from the spool what these plans do not use; return whether the rest of them may be kept."""
        self._context.spool.clear(keep=frozenset().union(*(plan.spool_files for plan in plans)))
        fetch = sum(plan.estimate.fetch for plan in plans)
        return self._config.spool and preflight.room_for_spool(self._config.download_dir, fetch)

    @contextmanager
    def _planned(self, update: Update, *, write: bool) -> Iterator[Sequence[ImagePlan]]:
        """Check and plan an update, and keep the disk open for as long as the plans are used.

        Raises:
            PreflightError: it could not be installed. TooManyBytesError: it fetches too much.
            UnreachableError, DigestError, IndexFormatError, MediumError: it could not be planned.
        """
        placements = self._placements(update)
        running = self._running_images()
        with opened(self._medium, self._session.view.disk, write=write) as descriptor:
            plans = [
                self._plan_image(update, placement, running.get(placement.kind), descriptor)
                for placement in placements
            ]
            check_total(sum(plan.estimate.total for plan in plans), self._context.max_bytes)
            yield plans

    def _placements(self, update: Update) -> tuple[Placement, ...]:
        """Find every image's signed target and its partition, and make all checks. Raises PreflightError."""
        view = self._session.view
        preflight.check_slots(view)
        preflight.check_not_in_use(view)
        slot = view.slots[self._session.inactive]
        placements = tuple(
            Placement(
                kind=kind,
                target=self._context.repository.target(update.images.of(kind)),
                content=update.contents.of(kind) if update.contents else None,
                partition=slot.partition(kind),
            )
            for kind in WRITE_ORDER
        )
        preflight.check_sizes(placements)
        return placements

    def _plan_image(
        self, update: Update, placement: Placement, running: Content | None, descriptor: int
    ) -> ImagePlan:
        """Plan one image; ``running`` is the content of the running one, if it is known."""
        region = Region.of(self._medium, descriptor, placement.partition)
        if update.packs is None:
            return plan_stream(self._context, placement, region)
        pack, view = update.packs.of(placement.kind), self._session.view
        partition = view.slots[view.active].partition(placement.kind)
        running_image = RunningImage(
            region=Region.of(self._medium, descriptor, partition),
            content=running,
            delta=pack.deltas.get(self._session.running.version),
        )
        image = SeekableImage(placement=placement, region=region, pack=pack, running=running_image)
        return plan_seekable(self._context, image)

    def _running_images(self) -> Mapping[ImageKind, Content]:
        """Return what is in the running slot, as recorded here, or else as the repository says."""
        running = self._session.running
        record = self._session.state.slots.get(running.slot)
        if record is not None and record.version == running.version:
            return record.images
        update = self._context.repository.manifest().find(running.variant, self._config.arch, running.version)
        if update is None or update.contents is None:
            return {}
        return dict(update.contents.items())
