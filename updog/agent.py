"""The sequences of an update: choose, check, fetch, write, prove, apply, confirm or fall back.

Rules it enforces:

* nothing is written before everything that can be known is known (:mod:`updog.preflight`), and, where
  there is room, before every image lies verified on the node;
* a slot is marked valid only after the medium has returned what was signed;
* what is about to happen is remembered before the partition table is changed, so that a cut in between
  leaves a plan that the table contradicts, never a change without a cause;
* apply, revert, confirm and status never ask the network.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from signpost.app import Signpost
from signpost.errors import ToolError
from signpost.medium import OsMedium, opened
from signpost.state import Command, State, transition
from updog import health, notices, preflight, report
from updog.aftermath import Aftermath, damage, unexamined
from updog.errors import (
    DeniedVersionError,
    HealthError,
    HostError,
    NothingToDoError,
    NoWayBackError,
    ReadBackError,
)
from updog.image.install import Region, read_content
from updog.memory import Memory
from updog.outcome import Outcome
from updog.session import WRITE_ORDER, Session
from updog.spool import Spool
from updog.state import CHECKING, Code, Event, SlotRecord
from updog.trial import Patience, judge
from updog.update_metadata.times import spoken_time
from updog.vitals import Vitals, run_vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from signpost.app import View
    from signpost.bootrecord import Passed
    from signpost.medium import Medium
    from signpost.sets import Slot
    from updog.config import Config
    from updog.host import Host, Running
    from updog.installing.installer import Installer
    from updog.installing.needs import Needs
    from updog.progress import Teller
    from updog.repository import Repository
    from updog.select import Decision
    from updog.state import NodeState
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version

_NOTHING_LEFT = "Nothing needs to be done."


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the person asks for beside the configuration."""

    version: Version | None = None
    ignore_waves: bool = False
    most: int | None = None
    """Bytes that may be fetched; None for any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePlan:
    """Everything `updog plan` tells: what an update takes, and the flags of the slots before and after it."""

    update: Update
    running: Version
    slot: Slot
    needs: tuple[Needs, ...]
    before: State
    after: State


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Everything `updog status` tells."""

    running: Running
    view: View
    state: NodeState
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCheck:
    """Whether one image of a slot still is what was signed."""

    role: str
    size: int
    good: bool


class Agent:
    """One node.

    Args:
        config: its settings.
        host: the machine.
        clock: returns this moment, UTC.
        teller: is told about long work.
        medium: how disks and state are written.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        *,
        clock: Callable[[], datetime],
        teller: Teller,
        medium: Medium | None = None,
    ) -> None:
        self._config = config
        self._host = host
        self._clock = clock
        self._teller = teller
        self._medium = medium or OsMedium()
        self._memory = Memory(config.state_dir, medium=self._medium, clock=clock)
        self._aftermath = Aftermath(config, host, clock)
        self._spool = Spool(config.roomy_dir / "spool", self._medium)

    # -- looking ---------------------------------------------------------------------------------

    def check(self, wishes: Wishes) -> Decision:
        """Ask the repository what there is for this node and decide.

        Raises:
            UnreachableError, TrustError, ManifestError: there is nothing to decide on.
            BusyError: another updog is at work.
        """
        with self._session() as session:
            return self._decide(session, self._repository(session), wishes)

    def status(self) -> Status:
        """Say how things stand, without the network, the lock or a write."""
        running = self._host.running()
        view = self._signpost(running).view()
        state, outcome = self._aftermath.reconciled(self._memory.load(), running, view, damage=unexamined)
        return Status(running=running, view=view, state=state, outcome=outcome)

    def history(self) -> tuple[Event, ...]:
        """Return what happened on this node, oldest first."""
        return self._memory.load().history

    def verify(self, slot: Slot) -> tuple[ImageCheck, ...]:
        """Read a slot back against the sizes and hashes that were signed.

        They were recorded when updog wrote the slot. For a slot that came with the disk, the running one,
        the repository is asked for them, and they are recorded if the slot is what they say.

        Raises:
            HostError: nobody knows what should be in the slot.
            ReadBackError: something else is in it.
        """
        with self._session() as session:
            known = session.state.slots.get(slot)
            record = known or self._signed_record(session, slot)
            with opened(self._medium, session.view.disk) as descriptor:
                checks = tuple(
                    self._image_check(record, role, session.view, slot, descriptor) for role in WRITE_ORDER
                )
            if bad := [check.role for check in checks if not check.good]:
                raise ReadBackError(f"slot {slot.value} ({record.version}) is damaged: {', '.join(bad)}")
            slots = {**session.state.slots, slot: record}
            session.remember(replace(session.state, slots=slots))
            return checks

    def _signed_record(self, session: Session, slot: Slot) -> SlotRecord:
        """Ask the repository what the running version should look like. Raises HostError."""
        running = session.running
        if slot is not running.slot:
            message = f"what is in slot {slot.value} was not recorded on this node"
            raise HostError(
                message, next_step="Slots that updog writes are recorded; write it with `update`."
            )
        manifest = self._repository(session).manifest()
        update = manifest.find(running.variant, self._config.arch, running.version)
        if update is None or update.contents is None:
            raise HostError(f"the repository does not say what {running.variant} {running.version} contains")
        return SlotRecord.of(update, {role: getattr(update.contents, role) for role in WRITE_ORDER})

    def _image_check(
        self, record: SlotRecord, role: str, view: View, slot: Slot, descriptor: int
    ) -> ImageCheck:
        """Read one image of a slot back."""
        wanted = record.images[role]
        region = Region.of(self._medium, descriptor, getattr(view.slots[slot], role))
        with self._teller.phase(f"verify {role}", wanted.size) as advance:
            found = read_content(region, wanted.size, advance=advance)
        return ImageCheck(role=role, size=wanted.size, good=found == wanted)

    # -- installing ------------------------------------------------------------------------------

    def prepare(self, wishes: Wishes) -> Update:
        """Fetch and verify every image of the chosen update without touching the inactive slot.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to prepare.
            PreflightError: it could not be installed, or there is no room for it.
        """
        with self._session() as session:
            repository = self._repository(session)
            update = self._choose(session, repository, wishes)
            self._installer(session, repository, wishes).keep(update)
            return update

    def plan(self, wishes: Wishes) -> UpdatePlan:
        """Say what the chosen update would take, to the byte, and what it would change. Writes no slot.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to plan.
            PreflightError: it could not be installed.
        """
        with self._session() as session:
            repository = self._repository(session)
            update = self._choose(session, repository, wishes)
            needs = self._installer(session, repository, wishes).needs(update)
        view = session.view
        before = State(active=view.slots[view.active].flags, inactive=view.slots[session.inactive].flags)
        return UpdatePlan(
            update=update,
            running=session.running.version,
            slot=session.inactive,
            needs=needs,
            before=before,
            after=_after(before, self._config.tries),
        )

    def update_image(self, wishes: Wishes) -> Update:
        """Install the chosen update in the inactive slot and prove it; what boots next does not change.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to take.
            RefusedError: (or a subclass) it was refused; the slot is not marked valid.
            UnreachableError: it could not be had.
        """
        with self._session() as session:
            return self._install(session, wishes)

    def update(self, wishes: Wishes) -> Update:
        """Install the chosen update and make it the one that boots next. Raises as update_image."""
        with self._session() as session:
            update = self._install(session, wishes)
            self._apply(session)
            return update

    def _install(self, session: Session, wishes: Wishes) -> Update:
        """Choose an update and put it in place, unless it is there already."""
        repository = self._repository(session)
        update = self._choose(session, repository, wishes)
        if session.holds(update):
            self._teller.say(f"{update.version} is in slot {session.inactive.value} already.")
        else:
            with self._remembering_failure(session, update):
                self._put_in_place(session, self._installer(session, repository, wishes), update)
        return update

    @contextmanager
    def _remembering_failure(self, session: Session, update: Update) -> Iterator[None]:
        """Leave a trace of an update that could not be installed; once, however often it is tried."""
        try:
            yield
        except ToolError as error:
            sentence = f"{update.version} was not installed: {error}."
            event = self._event(Code.INSTALL_FAILED, update.version, sentence)
            last = session.state.history[-1] if session.state.history else None
            if last is None or replace(last, time=event.time) != event:
                with suppress(ToolError):  # what failed matters more than that it cannot be noted
                    session.remember(session.state.noting(event))
            raise

    def _put_in_place(self, session: Session, installer: Installer, update: Update) -> None:
        """Check, fetch, write, prove, mark valid, remember."""
        record = installer.install(update)
        session.signpost.apply(Command.MARK_INACTIVE_VALID, tries=self._config.tries)
        sentence = f"{update.version} was installed in slot {session.inactive.value} and read back."
        state = session.state.installed(session.inactive, record, session.running.version)
        session.remember(state.noting(self._event(Code.INSTALLED, update.version, sentence)))
        session.outcome = Outcome.STAGED
        self._spool.clear()

    def _installer(self, session: Session, repository: Repository, wishes: Wishes) -> Installer:
        from updog.installing.installer import Installer
        from updog.installing.means import Means

        means = Means(repository=repository, spool=self._spool, teller=self._teller, most=wishes.most)
        return Installer(self._config, self._medium, session, means)

    def _choose(self, session: Session, repository: Repository, wishes: Wishes) -> Update:
        """Return the update to take.

        Raises:
            NothingToDoError: there is none, and why.
            DeniedVersionError: the one that was asked for by hand fell back here.
        """
        from updog.select import VerdictCode

        decision = self._decide(session, repository, wishes)
        if decision.update is not None:
            repository.announce(decision.update.version)
            return decision.update
        denied = any(verdict.code is VerdictCode.DENIED for verdict in decision.verdicts)
        if denied and wishes.version is not None:
            raise DeniedVersionError(decision.summary)
        raise NothingToDoError(decision.summary)

    def _decide(self, session: Session, repository: Repository, wishes: Wishes) -> Decision:
        """Decide on the repository's manifest; remember that this moment was seen with valid metadata."""
        from updog.select import Node, decide

        now, running, config = self._clock(), session.running, self._config
        node = Node(
            variant=running.variant,
            arch=config.arch,
            running=running.version,
            seed=config.wave_seed(),
            version_lock=config.version_lock,
            ignore_waves=wishes.ignore_waves or config.ignore_waves,
            forced=wishes.version,
            denied=frozenset(session.state.denied),
        )
        latest = max(now, session.state.latest_time or now)
        session.remember(replace(session.state, latest_time=latest))
        return decide(repository.manifest(), node, now)

    # -- applying, confirming, going back ----------------------------------------------------------

    def apply(self) -> Version:
        """Make the installed update the one that boots next; needs no network.

        Raises:
            NothingToDoError: nothing is installed, or it boots next already.
            TransitionRefusedError: the flags on disk do not allow it.
        """
        with self._session() as session:
            return self._apply(session)

    def _apply(self, session: Session) -> Version:
        pending = session.state.pending
        if pending is None or session.outcome is Outcome.TRIAL:
            raise NothingToDoError("no update is installed and waiting to be applied")
        if session.outcome is Outcome.WAITING:
            raise NothingToDoError(
                f"{pending.version} boots next already", next_step="Restart the node to come up on it."
            )
        preflight.check_slots(session.view)
        sentence = f"{pending.version} in slot {pending.slot.value} boots next."
        event = self._event(Code.APPLIED, pending.version, sentence)
        state = session.state.applied(session.running.boot_id).having_seen(self._host.record_digests())
        session.remember(state.noting(event))
        session.signpost.apply(Command.UPGRADE_TO_INACTIVE)
        return pending.version

    def revert(self) -> Version:
        """Take back :meth:`apply` before the restart; needs no network. The update stays installed.

        Raises:
            NothingToDoError: no applied update waits for a restart.
        """
        with self._session() as session:
            pending = session.state.pending
            if pending is None or session.outcome is not Outcome.WAITING:
                raise NothingToDoError("no applied update waits for a restart")
            session.signpost.apply(Command.CANCEL_UPGRADE)
            event = self._event(Code.REVERTED, pending.version, f"{pending.version} no longer boots next.")
            session.remember(session.state.applied(None).noting(event))
            return pending.version

    def confirm(self) -> tuple[health.Finding, ...]:
        """Run the health checks, then mark this boot successful, or fall back with the cause recorded.

        Raises:
            HealthError: a required check failed; the other slot boots next.
            NoWayBackError: it did, and the other slot cannot boot: a restart would be the end.
        """
        with self._session() as session:
            if session.view.slots[session.view.active].flags.successful:
                session.signpost.repair()  # a confirm that was cut may have left one good copy of the table
                return ()
            if session.is_leaving:
                failed = f"{session.running.version} failed its health check already."
                raise HealthError(f"{failed} Slot {session.inactive.value} boots next.")
            if session.outcome is Outcome.TRIAL:
                session.remember(session.state.reaching(CHECKING))  # for whoever asks why it ended here (D41)
            findings = self._judged(session)
            if fatal := [finding for finding in findings if finding.fatal]:
                self._fall_back(session, fatal)
            session.signpost.apply(Command.MARK_SUCCESSFUL_BOOT)
            version = session.running.version
            warned = "; ".join(
                f"{finding.check} {finding.problem}" for finding in findings if finding.problem
            )
            sentence = f"{version} in slot {session.view.active.value} was confirmed"
            sentence += f", with a warning: {warned}." if warned else "."
            session.remember(self._aftermath.confirmed(session.state, session.running, sentence))
            return findings

    def _judged(self, session: Session) -> tuple[health.Finding, ...]:
        """Run the built-in and the node's own checks until they tell whether this boot is good."""
        config = self._config

        def checks(seconds: float) -> tuple[health.Finding, ...]:
            allowance = health.Allowance(each=config.health_timeout, end=time.monotonic() + seconds)
            vitals = Vitals(
                state_dir=config.roomy_dir,
                repository=config.metadata_base_url,
                now=self._clock(),
                latest_known=session.state.latest_time,
                allowance=allowance,
            )
            required = run_vitals(config.health_checks, vitals)
            own = health.run_checks(config.health_dir, allowance)
            return required + own + run_vitals(config.health_warnings, vitals, required=False)

        patience = Patience(
            deadline=config.health_deadline, window=config.stability_window, check=config.health_timeout
        )
        return judge(checks, patience, sleep=time.sleep, monotonic=time.monotonic)

    def _fall_back(self, session: Session, fatal: list[health.Finding]) -> None:
        """Record why, make the other slot boot next, and say so. Always raises HealthError."""
        version, slot = session.running.version, session.view.active
        causes = "; ".join(f"{finding.check} {finding.problem}" for finding in fatal)
        sentence = f"{version} in slot {slot.value} failed its health check: {causes}."
        event = self._event(Code.HEALTH_FAILED, version, sentence, cause=fatal[0].check)
        if version not in session.state.denied:  # a confirm that was killed may have recorded it (D40)
            session.remember(self._aftermath.left(session.state, session.running, event))
        try:
            session.signpost.apply(Command.ROLLBACK_TO_INACTIVE)
        except ToolError as error:
            raise NoWayBackError(f"{sentence} The other slot cannot take over: {error}") from error
        raise HealthError(f"{sentence} Slot {slot.other.value} boots next.")

    def settle(self) -> Outcome:
        """Work out how the last restart ended and record it: what a node does once after every start."""
        with self._session() as session:
            if session.outcome not in {Outcome.WAITING, Outcome.TRIAL}:
                # What there is by now cannot explain what happens later.
                session.remember(session.state.having_seen(self._host.record_digests()))
            for passed in session.running.passed:
                self._record_passed(session, passed)
            return session.outcome

    def _record_passed(self, session: Session, passed: Passed) -> None:
        """Remember a slot that could not be started, unless it is an update that fell back thereby."""
        record, history = session.state.slots.get(passed.slot), session.state.history
        version = record.version if record else None
        if not passed.failed or version in session.state.denied:
            return
        what = f"{version} in slot {passed.slot}" if version else f"Slot {passed.slot}"
        sentence = f"{what} was passed over at a start: {passed.meaning}."
        event = Event(
            time=self._clock(), code=Code.PASSED_OVER, version=version, sentence=sentence, cause=passed.reason
        )
        if not history or replace(history[-1], time=event.time) != event:  # once, however many starts
            session.remember(session.state.noting(event))

    def report(self) -> int:
        """Send the outcome lines that wait; return how many went. Never fails and takes little time."""
        if self._config.report_url is None or not self._memory.load().outbox:
            return 0
        with suppress(ToolError), self._session() as session:
            sent = report.send(self._config, session.running.version, session.state.outbox)
            session.remember(session.state.reported(sent))
            return len(sent)
        return 0

    def accept_disk(self) -> str:
        """Take the disk that is there for this node's own, whatever disk it ran from before; return its GUID.

        What was in the slots of the other one is forgotten; history and deny-list stay.

        Raises:
            NothingToDoError: it is the node's own disk.
        """
        with self._memory.locked():
            state, view = self._memory.load(), self._signpost(self._host.running()).view()
            if state.disk_guid in {None, view.disk_guid}:
                raise NothingToDoError("this is the disk that the node runs from", next_step=_NOTHING_LEFT)
            sentence = f"Disk {view.disk_guid} was accepted in the place of {state.disk_guid}."
            event = Event(time=self._clock(), code=Code.DISK_ACCEPTED, version=None, sentence=sentence)
            accepted = replace(state, disk_guid=view.disk_guid, slots={}, pending=None)
            self._memory.save(accepted.noting(event))
            return str(view.disk_guid)

    def accept_clock(self) -> datetime:
        """Forget the latest moment this node has known, where the clock is behind it; return this moment.

        Raises:
            NothingToDoError: the clock is not behind.
        """
        with self._session() as session:
            now, latest = self._clock(), session.state.latest_time
            if latest is None or latest <= now:
                raise NothingToDoError("the clock is not behind what was seen", next_step=_NOTHING_LEFT)
            sentence = f"The clock at {now:%Y-%m-%d %H:%M} was accepted, behind {latest:%Y-%m-%d %H:%M}."
            event = Event(time=now, code=Code.CLOCK_ACCEPTED, version=None, sentence=sentence)
            session.remember(replace(session.state, latest_time=now).noting(event))
            return now

    def clear_denial(self, version: Version) -> None:
        """Forget that ``version`` fell back here. Raises NothingToDoError if it is not denied."""
        with self._session() as session:
            if version not in session.state.denied:
                raise NothingToDoError(f"{version} is not on the deny-list")
            sentence = f"The denial of {version} was cleared by hand."
            event = self._event(Code.DENIAL_CLEARED, version, sentence)
            session.remember(session.state.cleared(version).noting(event))

    # -- common ground -----------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """Hold the lock, look at everything once, and record how the last restart ended.

        Raises:
            BusyError: another updog is at work.
            PreflightError: this is another disk than the one this node runs from.
        """
        with self._memory.locked():
            running = self._host.running()
            signpost = self._signpost(running)
            view = signpost.view()
            before = self._memory.load()
            preflight.check_disk(view, before)
            state, outcome = self._aftermath.reconciled(before, running, view, damage=damage(self._medium))
            session = Session(
                running=running,
                signpost=signpost,
                view=view,
                outcome=outcome,
                memory=self._memory,
                state=before,
            )
            session.remember(state)
            try:
                yield session
            finally:
                self._post(session)

    def _post(self, session: Session) -> None:
        """Tell login message and metrics how things stand now; that they cannot be told is no failure."""
        if self._config.motd_file is None and self._config.metrics_file is None:
            return
        with suppress(ToolError):
            view = session.signpost.view()
            state, outcome = self._aftermath.reconciled(
                session.state, session.running, view, damage=unexamined
            )
            status = Status(running=session.running, view=view, state=state, outcome=outcome)
            notices.post(self._config, status)

    def _repository(self, session: Session) -> Repository:
        """Refresh and believe the repository, or raise. Imported late: status and apply need no TUF."""
        from updog.repository import Repository, http_settings

        repository = Repository(
            self._config,
            http_settings(self._config, session.running.version),
            medium=self._medium,
            now=self._clock(),
            latest_known=session.state.latest_time,
        )
        if repository.waived:
            self._record_waiver(session, repository.waived)
        return repository

    def _record_waiver(self, session: Session, waived: tuple[str, ...]) -> None:
        """Remember, once, that expired metadata were believed because a person accepted it."""
        until = spoken_time(self._config.accept_expired_until or self._clock())
        sentence = f"Metadata were accepted until {until} though {', '.join(waived)}."
        if all(event.sentence != sentence for event in session.state.history):
            event = Event(time=self._clock(), code=Code.EXPIRED_ACCEPTED, version=None, sentence=sentence)
            session.remember(session.state.noting(event))

    def _signpost(self, running: Running) -> Signpost:
        return Signpost(self._medium, running.disk, running.slot)

    def _event(self, code: Code, version: Version, sentence: str, *, cause: str | None = None) -> Event:
        return Event(time=self._clock(), code=code, version=version, sentence=sentence, cause=cause)


def _after(state: State, tries: int) -> State:
    """Return the flags of the slots once an update is installed and applied."""
    for command in (Command.CLEAR_INACTIVE, Command.MARK_INACTIVE_VALID, Command.UPGRADE_TO_INACTIVE):
        state = transition(command, state, tries=tries)
    return state
