"""Installs updates in the inactive slot of one node: the checks before, the mirrors, what is kept first."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from signpost.medium import opened
from signpost.state import Command
from updog import preflight
from updog.errors import DigestError, ImageError, PreflightError
from updog.image.install import Region
from updog.installing.assembly import Base, assemble
from updog.installing.needs import Needs, sentence_of
from updog.preflight import Placement
from updog.session import WRITE_ORDER
from updog.state import SlotRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from signpost.medium import Medium
    from updog.config import Config
    from updog.installing import Installation
    from updog.installing.means import Means
    from updog.session import Session
    from updog.update_metadata.content import Content
    from updog.update_metadata.manifest import Update


class Installer:
    """One command's way to the inactive slot.

    Args:
        config: the node's settings. medium: how the disk is written.
        session: what the command sees. means: what images are installed with.
    """

    def __init__(self, config: Config, medium: Medium, session: Session, means: Means) -> None:
        self._config, self._medium = config, medium
        self._session, self._means = session, means

    def needs(self, update: Update) -> tuple[Needs, ...]:
        """Say what an update takes. Raises PreflightError if it could not be installed."""
        with self._installation(update, write=False) as installation:
            return installation.needs()

    def keep(self, update: Update) -> None:
        """Bring an update here, verified. Raises PreflightError where there is no room for it."""
        with self._installation(update, write=False) as installation:
            if not self._kept(installation, installation.needs()):
                raise PreflightError(
                    f"no room to keep {update.version} in {self._config.roomy_dir}, or `spool = false`",
                    next_step="Free some space there; `updog update` can also stream without it.",
                )

    def install(self, update: Update) -> SlotRecord:
        """Install; where a mirror sent wrong bytes, the next one goes on from what is there already."""
        for _ in self._config.targets_mirrors:
            try:
                return self._installed(update)
            except (DigestError, ImageError) as error:
                self._means.teller.say(f"{error}. Asking another mirror.")
        return self._installed(update)

    def _installed(self, update: Update) -> SlotRecord:
        """Fetch, write and prove; return what is in the slot now."""
        with self._installation(update, write=True) as installation:
            needs = installation.needs()
            self._means.teller.say(sentence_of(needs))
            if not (installation.is_worth_keeping(needs) and self._kept(installation, needs)):
                self._means.teller.say("Not kept here first: streaming into the slot.")
            return SlotRecord.of(update, installation.write(self._give_up))

    def _give_up(self) -> None:
        """Let the inactive slot boot no more; while it can, what is in it stays known."""
        self._session.signpost.apply(Command.CLEAR_INACTIVE)
        self._session.remember(self._session.state.emptied(self._session.inactive))

    def _placements(self, update: Update) -> tuple[Placement, ...]:
        """Find every image's signed target and its partition, and make all checks. Raises PreflightError."""
        preflight.check_slots(self._session.view)
        preflight.check_not_in_use(self._session.view)
        slot = self._session.view.slots[self._session.inactive]
        placements = tuple(
            Placement(
                role=role,
                target=self._means.repository.target(getattr(update.images, role)),
                content=getattr(update.contents, role) if update.contents else None,
                partition=getattr(slot, role),
            )
            for role in WRITE_ORDER
        )
        preflight.check_sizes(placements)
        return placements

    @contextmanager
    def _installation(self, update: Update, *, write: bool) -> Iterator[Installation]:
        """Open the disk and put together what an installation needs, for the length of a ``with`` block."""
        placements = self._placements(update)
        slot = self._session.view.slots[self._session.view.active]
        base = Base(
            version=self._session.running.version,
            partitions={role: getattr(slot, role) for role in WRITE_ORDER},
            images=self._running_images(),
        )
        with opened(self._medium, self._session.view.disk, write=write) as descriptor:
            region_of = partial(Region.of, self._medium, descriptor)
            yield assemble(self._means, update, placements, base, region_of)

    def _running_images(self) -> Mapping[str, Content]:
        """Return what is in the running slot, as recorded here or else as the repository says."""
        running = self._session.running
        record = self._session.state.slots.get(running.slot)
        if record is not None and record.version == running.version:
            return record.images
        update = self._means.repository.manifest().find(running.variant, self._config.arch, running.version)
        if update is None or update.contents is None:
            return {}
        return {role: getattr(update.contents, role) for role in WRITE_ORDER}

    def _kept(self, installation: Installation, needs: tuple[Needs, ...]) -> bool:
        """Bring an update here and verify it; False, with nothing done, where there is no room."""
        self._means.spool.clear(keep=installation.spooled)
        room = preflight.room_for_spool(self._config.roomy_dir, sum(need.fetch for need in needs))
        if not (self._config.spool and room):
            return False
        installation.keep()
        return True
