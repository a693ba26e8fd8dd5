"""The steps of an update: choose, check, download, write, verify, apply, confirm or fall back.

Rules it enforces:

* nothing is written before all checks that are possible beforehand have passed (:mod:`updog.preflight`), and,
  if there is enough space, before every image is on the node and verified;
* a slot is marked valid only after the data read back from the disk match what was signed;
* applying and falling back are recorded in the state before the partition table is changed: an interruption
  in between leaves a record that the table contradicts, never a change without a record;
* apply, revert, confirm and status never use the network.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from signpost.app import Signpost
from signpost.errors import MediumError, ToolError
from signpost.medium import OsMedium, opened
from signpost.state import Command, State, transition
from updog import outcome_report, preflight, status_files
from updog.errors import (
    DeniedVersionError,
    HealthError,
    HostError,
    NothingToDoError,
    NoWayBackError,
    PlanChangedError,
    ReadBackError,
    RecalledError,
    RefusedError,
    UnreachableError,
)
from updog.failed_boot.cause import UNEXPLAINED
from updog.health import checks
from updog.health.builtin import BuiltinInputs, failed_units, run_builtin_checks
from updog.health.gate import GateLimits, evaluate
from updog.image.region import partition_content
from updog.reconcile import Reconciler, damage_finder, skip_damage
from updog.session import WRITE_ORDER, Session
from updog.spool import Spool
from updog.standing import Standing
from updog.state import CHECKING, Code, Event, NodeState, SlotRecord
from updog.state_store import StateStore
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.times import readable_time
from updog.views import BootOutcome, ImageCheck, Status, UpdatePlan, UpdateRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from signpost.app import RunningDiskView
    from signpost.bootrecord import Passed
    from signpost.medium import Medium
    from signpost.progress import ProgressReporter
    from signpost.sets import ImageKind, Slot
    from updog.config import Config
    from updog.host import Host, RunningSlot
    from updog.installing.installer import Installer
    from updog.repository import Repository
    from updog.select import Decision, Node
    from updog.state import PendingUpdate
    from updog.update_metadata.manifest import Update
    from updog.update_metadata.version import Version


log = logging.getLogger(__name__)

_NO_ACTION_NEEDED = "Nothing needs to be done."


class Agent:
    """One node: a method for each command.

    Args:
        config: its settings.
        host: the machine.
        clock: returns the current time, UTC.
        reporter: shows the progress of long work.
        medium: reads and writes disks and state.
        by: who asks for what is done, for the history; None: that is not known.
        daemon: returns what the running `updog agent` says of itself, for the login message; None: none runs.
    """

    def __init__(  # noqa: PLR0913 - what a node and its surroundings consist of
        self,
        config: Config,
        host: Host,
        *,
        clock: Callable[[], datetime],
        reporter: ProgressReporter,
        medium: Medium | None = None,
        by: str | None = None,
        daemon: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self._config = config
        self._host = host
        self._clock = clock
        self._reporter = reporter
        self._by = by
        self._daemon = daemon
        self._medium = medium or OsMedium()
        self._store = StateStore(config.state_dir, medium=self._medium, clock=clock)
        self._reconciler = Reconciler(config, host, clock)
        self._spool = Spool(config.download_dir / "spool", self._medium)

    # -- reading ---------------------------------------------------------------------------------

    def check(self, request: UpdateRequest) -> Decision:
        """Fetch the repository's manifest and decide which update this node takes.

        Raises:
            UnreachableError, TrustError, ManifestError: there is no manifest to decide on.
            BusyError: another updog is running.
        """
        with self._session() as session:
            return self._consult(session, request)[1]

    def status(self) -> Status:
        """Return the current status. Uses no network, takes no lock, writes nothing."""
        running = self._host.running()
        view = self._signpost(running).view()
        state, standing = self._reconciler.reconcile(
            self._store.load(), running, view, find_damage=skip_damage
        )
        state = state.with_running(running.slot, running.version)
        return Status(running=running, view=view, state=state, standing=standing)

    def history(self) -> tuple[Event, ...]:
        """Return what updog did on this node, oldest first."""
        return self._store.load().history

    def verify(self, slot: Slot) -> tuple[ImageCheck, ...]:
        """Read a slot and compare it with the sizes and hashes that were signed.

        They were recorded when updog wrote the slot. For the running slot, if it came with the disk, they are
        taken from the repository, and recorded if the slot matches them.

        Raises:
            HostError: it is not known what should be in the slot.
            ReadBackError: the slot has other content.
        """
        with self._session() as session:
            record = session.state.slots.get(slot) or self._signed_record(session, slot)
            with opened(self._medium, session.view.disk) as descriptor:
                images = tuple(
                    self._verify_image(record, kind, session.view, slot, descriptor) for kind in WRITE_ORDER
                )
            if damaged := [image.kind for image in images if not image.good]:
                raise ReadBackError(f"slot {slot.value} ({record.version}) is damaged: {', '.join(damaged)}")
            slots = {**session.state.slots, slot: record}
            session.save(replace(session.state, slots=slots))
            return images

    def _signed_record(self, session: Session, slot: Slot) -> SlotRecord:
        """Return what the repository signed for the running version. Raises HostError."""
        running = session.running
        if slot is not running.slot:
            message = f"this node has no record of what is in slot {slot.value}"
            raise HostError(message, next_step="`updog update` writes the slot and records its content.")
        manifest = self._repository(session).manifest()
        update = manifest.find(running.variant, self._config.arch, running.version)
        if update is None or update.contents is None:
            name = f"{running.variant} {running.version}"
            raise HostError(
                f"the repository does not list the contents of {name}",
                next_step="Check that its manifest has this version, with `contents`.",
            )
        return SlotRecord.of(update, dict(update.contents.items()))

    def _verify_image(
        self, record: SlotRecord, kind: ImageKind, view: RunningDiskView, slot: Slot, descriptor: int
    ) -> ImageCheck:
        """Read one image of a slot and compare it with its signed size and hash."""
        from signpost.progress import Action  # imported late: the commands of a start do not need it

        wanted = record.images[kind]
        partition = view.slots[slot].partition(kind)
        with self._reporter.phase(Action.VERIFY, kind, wanted.size) as advance:
            found = partition_content(self._medium, descriptor, partition, wanted.size, advance=advance)
        return ImageCheck(kind=kind, size=wanted.size, good=found == wanted)

    # -- installing ------------------------------------------------------------------------------

    def prepare(self, request: UpdateRequest) -> Update:
        """Download and verify every image of the chosen update without writing a slot.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to prepare.
            PreflightError: it could not be installed, or there is not enough space for it.
        """
        with self._session() as session:
            repository, update = self._choose(session, request)
            self._installer(session, repository, request).keep(update)
            return update

    def plan(self, request: UpdateRequest) -> UpdatePlan:
        """Return what the chosen update would download, to the byte, and change. Writes no slot.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to plan.
            PreflightError: it could not be installed.
        """
        with self._session() as session:
            repository, update = self._choose(session, request)
            needs = self._installer(session, repository, request).estimates(update)
        view = session.view
        before = State(active=view.slots[view.active].flags, inactive=view.slots[session.inactive].flags)
        after = before
        for command in (Command.CLEAR_INACTIVE, Command.MARK_INACTIVE_VALID, Command.UPGRADE_TO_INACTIVE):
            after = transition(command, after, tries=self._config.tries)
        return UpdatePlan(
            id=_plan_id(repository, update),
            update=update,
            running=session.running.version,
            slot=session.inactive,
            needs=needs,
            before=before,
            after=after,
        )

    def update_image(self, request: UpdateRequest) -> Update:
        """Install the chosen update in the inactive slot and verify it; what boots next does not change.

        Raises:
            NothingToDoError, DeniedVersionError: there is no update to install.
            RefusedError: (or a subclass) it was refused; the slot is not marked valid.
            UnreachableError: it could not be downloaded.
        """
        with self._session() as session:
            return self._install(session, request)

    def update(self, request: UpdateRequest) -> Update:
        """Install the chosen update and make it the one that boots next. Raises as update_image."""
        with self._session() as session:
            update = self._install(session, request)
            self._apply(session)
            return update

    def _install(self, session: Session, request: UpdateRequest) -> Update:
        """Choose an update and install it in the inactive slot, unless it already is; record a failure."""
        repository, update = self._choose(session, request)
        if session.holds(update):
            self._reporter.say(f"{update.version} is already in slot {session.inactive.value}.")
            return update
        if (denial := session.state.denied.get(update.version)) is not None:
            when = readable_time(denial.time)
            sentence = f"{update.version} fell back without a known cause on {when}; it is tried once more."
            event = self._event(Code.RETRIED, update.version, sentence)
            session.save(session.state.with_retry(update.version).with_event(event))
        try:
            record = self._installer(session, repository, request).install(update)
            session.signpost.apply(Command.MARK_INACTIVE_VALID, tries=self._config.tries)
            sentence = f"{update.version} was installed in slot {session.inactive.value} and read back."
            state = session.state.with_installed(session.inactive, record, session.running.version)
            session.save(state.with_event(self._event(Code.INSTALLED, update.version, sentence)))
            session.standing = Standing.STAGED
            self._spool.clear()
        except ToolError as error:
            sentence = f"{update.version} was not installed: {error}."
            event = self._event(Code.INSTALL_FAILED, update.version, sentence)
            last = session.state.history[-1] if session.state.history else None
            is_told = last is not None and replace(last, time=event.time, by=event.by) == event
            if not is_told:  # once, however often it is tried
                with suppress(ToolError):  # the original error matters more than one while recording it
                    session.save(session.state.with_event(event))
            raise
        return update

    def _installer(self, session: Session, repository: Repository, request: UpdateRequest) -> Installer:
        from updog.installing.context import InstallContext
        from updog.installing.installer import Installer

        context = InstallContext(
            repository=repository, spool=self._spool, reporter=self._reporter, max_bytes=request.max_bytes
        )
        return Installer(self._config, self._medium, session, context)

    def _choose(self, session: Session, request: UpdateRequest) -> tuple[Repository, Update]:
        """Return the repository and the update to install.

        Raises:
            NothingToDoError: there is none; the message says why.
            DeniedVersionError: the requested version fell back on this node.
            PlanChangedError: it is not what the request accepts.
        """
        from updog.select import VerdictCode

        repository, decision = self._consult(session, request)
        if decision.update is not None:
            accepted = request.accept_plan
            if accepted is not None and accepted != _plan_id(repository, decision.update):
                raise PlanChangedError(f"{decision.update} is not what the accepted plan says")
            repository.send_target_version(decision.update.version)
            return repository, decision.update
        verdicts = decision.verdicts
        denied = next((each for each in verdicts if each.code is VerdictCode.DENIED), None)
        if denied is None:
            raise NothingToDoError(decision.summary)
        allow = f"`updog deny-list --clear {denied.update.version}`"
        step = f"Wait for a newer version, or fix the cause and run {allow}."
        if request.version is not None:
            raise DeniedVersionError(decision.summary, next_step=step)
        raise NothingToDoError(decision.summary, next_step=step)

    def _consult(self, session: Session, request: UpdateRequest) -> tuple[Repository, Decision]:
        """Read the repository, decide on its manifest, and record how this check ended."""
        from updog.select import decide, recall_reason

        repository: Repository | None = None
        try:
            repository = self._repository(session)
            manifest = repository.manifest()
        except (UnreachableError, RefusedError, FaultsError) as error:
            with suppress(ToolError):  # the original error matters more than one while recording it
                state = self._verified_state(session.state, repository)
                session.save(state.with_failed_check(self._clock(), error.code, error.message))
            raise
        now, node = self._clock(), self._node(session, request)
        decision = decide(manifest, node, now)
        state = self._verified_state(session.state, repository)
        session.save(state.with_check(now, self._available(state, decision, request)))
        if (pending := state.pending) and session.standing in {Standing.STAGED, Standing.WAITING}:
            self._recall(session, pending, recall_reason(manifest, node, pending.version, now))
        return repository, decision

    def _verified_state(self, state: NodeState, repository: Repository | None) -> NodeState:
        """Return the state after a repository was verified, with the time at which it was signed."""
        if repository is None:
            return state
        return replace(
            state, last_check=self._clock(), signed_time=repository.signed_time or state.signed_time
        )

    @staticmethod
    def _available(state: NodeState, decision: Decision, request: UpdateRequest) -> Version | None:
        """Return what this node takes by itself; what was asked for in particular does not change that."""
        if request.version is not None or request.ignore_waves:
            return state.check.available if state.check else None
        return decision.update.version if decision.update else None

    def _node(self, session: Session, request: UpdateRequest) -> Node:
        """Return what the decision depends on."""
        from updog.select import Node

        now, running, config = self._clock(), session.running, self._config
        after = timedelta(seconds=config.retry_after)
        again = session.state.due_again(now, after, UNEXPLAINED) if after else frozenset()
        denied = {
            version: f"{readable_time(event.time)}: {event.sentence}"
            for version, event in session.state.denied.items()
            if version not in again
        }
        return Node(
            variant=running.variant,
            arch=config.arch,
            running=running.version,
            seed=config.wave_seed(),
            version_lock=config.version_lock,
            ignore_waves=request.ignore_waves or config.ignore_waves,
            forced=request.version,
            denied=denied,
        )

    def _recall(self, session: Session, pending: PendingUpdate, reason: str | None) -> None:
        """Make sure that an installed update that its publisher withdrew or held does not boot.

        The table is changed before the state is saved, unlike elsewhere (ADR 0004): that it does not boot
        matters more than that it is known why.
        """
        if reason is None:
            if pending.recalled:
                session.save(session.state.with_recalled(""))
            return
        if session.standing is Standing.WAITING:
            session.signpost.apply(Command.CANCEL_UPGRADE)
            session.standing = Standing.STAGED
        if pending.recalled != reason or pending.boot_id is not None:
            event = self._event(Code.RECALLED, pending.version, f"{reason} It does not boot next.")
            session.save(session.state.with_recalled(reason).with_event(event))

    # -- applying, confirming, falling back --------------------------------------------------------

    def apply(self) -> Version:
        """Make the installed update boot next. Needs no network.

        Raises:
            NothingToDoError: nothing is installed, or it already boots next.
            RecalledError: its publisher withdrew or held it, as the last check found.
            TransitionRefusedError: the flags on disk do not allow it.
        """
        with self._session() as session:
            return self._apply(session)

    def version_waiting_for_restart(self) -> Version | None:
        """Return the version that an update made boot next, None if none waits for a restart."""
        status = self.status()
        pending = status.state.pending
        return pending.version if pending and status.standing is Standing.WAITING else None

    def _apply(self, session: Session) -> Version:
        pending = session.state.pending
        if pending is None or session.standing is Standing.TRIAL:
            raise NothingToDoError("no update is installed and waiting to be applied")
        if pending.recalled:
            raise RecalledError(pending.recalled.removesuffix("."))
        if session.standing is Standing.WAITING:
            raise NothingToDoError(
                f"{pending.version} already boots next", next_step="Restart the node to run it."
            )
        preflight.check_slots(session.view)
        sentence = f"{pending.version} in slot {pending.slot.value} boots next."
        event = self._event(Code.APPLIED, pending.version, sentence)
        state = self._with_failed_units(session.state, since_boot=True)
        state = state.with_applied(session.running.boot_id)
        session.save(state.with_records_seen(self._host.record_digests()).with_event(event))
        session.signpost.apply(Command.UPGRADE_TO_INACTIVE)
        return pending.version

    def revert(self) -> Version:
        """Undo :meth:`apply` before the restart; the update stays installed. Needs no network.

        Raises:
            NothingToDoError: no applied update is waiting for a restart.
        """
        with self._session(must_save=False) as session:
            pending = session.state.pending
            if pending is None or session.standing is not Standing.WAITING:
                raise NothingToDoError("no applied update is waiting for a restart")
            session.signpost.apply(Command.CANCEL_UPGRADE)
            event = self._event(Code.REVERTED, pending.version, f"{pending.version} no longer boots next.")
            session.save(session.state.with_applied(None).with_event(event))
            return pending.version

    def rollback(self) -> Slot:
        """Make the other slot boot next, and never install the running version again. Needs no network.

        Returns:
            The slot that boots next.

        Raises:
            NothingToDoError: the other slot boots next already.
            TransitionRefusedError: the other slot cannot boot; nothing was changed.
        """
        with self._session(must_save=False) as session:
            version, pending = session.running.version, session.state.pending
            if session.view.next is session.inactive:
                waits = pending is not None and session.standing is Standing.WAITING
                raise NothingToDoError(
                    f"slot {session.inactive.value} boots next already"
                    + (f", with the update to {pending.version}" if pending and waits else ""),
                    next_step="Restart the node, or run `updog update-revert` to keep what runs.",
                )
            session.signpost.apply(Command.ROLLBACK_TO_INACTIVE)
            sentence = f"An operator rolled back from {version}; slot {session.inactive.value} boots next."
            event = self._event(Code.ROLLED_BACK_BY_HAND, version, sentence)
            session.save(self._reconciler.left_state(session.state, session.running, event))
            return session.inactive

    def confirm(self) -> tuple[checks.CheckResult, ...]:
        """Run the health checks, then mark this boot successful, or fall back with the cause recorded.

        Raises:
            HealthError: a required check failed; the other slot boots next.
            NoWayBackError: a required check failed, but the other slot cannot boot either: do not restart.
        """
        with self._session(must_save=False) as session:
            if session.view.slots[session.view.active].flags.successful:
                session.signpost.repair()  # an interrupted confirm may have left one good copy of the table
                session.save(self._with_failed_units(session.state))
                return ()
            if session.is_leaving:
                failed = f"{session.running.version} has already failed its health check."
                raise HealthError(f"{failed} Slot {session.inactive.value} boots next.")
            if session.standing is Standing.TRIAL:
                session.save(session.state.with_reached(CHECKING))  # explains a later interruption (D41)
            results = self._run_health_checks(session)
            if fatal := [result for result in results if result.fatal]:
                self._fall_back(session, fatal)
            session.signpost.apply(Command.MARK_SUCCESSFUL_BOOT)
            version = session.running.version
            warnings = "; ".join(f"{result.check}: {result.problem}" for result in results if result.problem)
            sentence = f"{version} in slot {session.view.active.value} was confirmed"
            sentence += f", with a warning: {warnings}." if warnings else "."
            state = self._with_failed_units(session.state)
            session.save(self._reconciler.confirmed_state(state, session.running, sentence))
            return results

    def _run_health_checks(self, session: Session) -> tuple[checks.CheckResult, ...]:
        """Run the built-in and the node's own checks until it is known whether this boot is healthy."""
        config = self._config

        def run_once(seconds: float) -> tuple[checks.CheckResult, ...]:
            budget = checks.TimeBudget(each=config.health_timeout, end=time.monotonic() + seconds)
            inputs = BuiltinInputs(
                state_dir=config.download_dir,
                repository=str(config.metadata_base_url),
                now=self._clock(),
                signed_time=session.state.signed_time,
                budget=budget,
                failed_before=session.state.failed_units,
                systemd=self._host.systemd,
            )
            required = run_builtin_checks(config.health_checks, inputs)
            own = checks.run_checks(config.health_dir, budget)
            return required + own + run_builtin_checks(config.health_warnings, inputs, required=False)

        limits = GateLimits(
            deadline=config.health_deadline, window=config.stability_window, check=config.health_timeout
        )
        return evaluate(run_once, limits, sleep=time.sleep, monotonic=time.monotonic)

    def _with_failed_units(self, state: NodeState, *, since_boot: bool = False) -> NodeState:
        """Return the state with the systemd units that have failed by now, on a boot that is confirmed.

        A later version is not judged by them. With ``since_boot`` those that had failed earlier are kept.
        """
        config = self._config
        if "failed-units" not in config.health_checks + config.health_warnings:
            return state
        failed = failed_units(config.health_timeout, systemd=self._host.systemd)
        if failed.problem:
            log.warning("it is not known which units have failed: %s", failed.problem)
            return state
        return state.with_failed_units(failed.names | (state.failed_units if since_boot else frozenset()))

    def _fall_back(self, session: Session, fatal: list[checks.CheckResult]) -> None:
        """Record the cause and make the other slot boot next. Always raises HealthError."""
        version, slot = session.running.version, session.view.active
        causes = "; ".join(f"{result.check}: {result.problem}" for result in fatal)
        sentence = f"{version} in slot {slot.value} failed its health check: {causes}."
        event = self._event(Code.HEALTH_FAILED, version, sentence, cause=fatal[0].check)
        if version not in session.state.denied:  # a confirm that was killed may have recorded it (D40)
            session.save(self._reconciler.left_state(session.state, session.running, event))
        try:
            session.signpost.apply(Command.ROLLBACK_TO_INACTIVE)
        except ToolError as error:
            raise NoWayBackError(f"{sentence} The other slot cannot take over: {error}") from error
        raise HealthError(f"{sentence} Slot {slot.other.value} boots next.")

    def record_boot(self) -> BootOutcome:
        """Find out how the last restart ended and record it; a node does this once after every start."""
        try:
            self._host.keep_machine_id(self._medium)
        except (MediumError, OSError) as error:  # it must not hide how the restart ended
            log.warning("the machine-id may not survive a power cut: %s", error)
        with self._session() as session:
            if session.standing not in {Standing.WAITING, Standing.TRIAL}:
                # Records that exist by now cannot explain a later failure.
                session.save(session.state.with_records_seen(self._host.record_digests()))
            for passed in session.running.passed:
                self._record_passed_over(session, passed)
            known = frozenset(session.loaded.history)
            events = tuple(event for event in session.state.history if event not in known)
            return BootOutcome(standing=session.standing, events=events)

    def _record_passed_over(self, session: Session, passed: Passed) -> None:
        """Record a slot that could not be started, unless it is an update that was recorded as a fallback."""
        record, history = session.state.slots.get(passed.slot), session.state.history
        version = record.version if record else None
        if not passed.failed or version in session.state.denied:
            return
        what = f"{version} in slot {passed.slot}" if version else f"Slot {passed.slot}"
        sentence = f"{what} was skipped by the boot stage: {passed.meaning}."
        event = Event(
            time=self._clock(), code=Code.PASSED_OVER, version=version, sentence=sentence, cause=passed.reason
        )
        if not history or replace(history[-1], time=event.time) != event:  # once, however many starts
            session.save(session.state.with_event(event))

    def report(self) -> int:
        """Send the queued outcome lines; return how many were sent. Never fails, and its time is limited."""
        if self._config.report_url is None:
            return 0
        with suppress(ToolError):
            if not self._store.load().outbox:
                return 0
        with suppress(ToolError), self._session() as session:
            sent = outcome_report.send(self._config, session.running.version, session.state.outbox)
            session.save(session.state.without_reports(sent))
            return len(sent)
        return 0

    def accept_disk(self) -> str:
        """Accept the present disk as this node's own, whichever disk it ran from before; return its GUID.

        What was recorded of the slots of the other disk is dropped; history and deny-list are kept.

        Raises:
            NothingToDoError: it is already the node's own disk.
        """
        with self._store.locked():
            state, view = self._store.load(), self._signpost(self._host.running()).view()
            if state.disk_guid in {None, view.disk_guid}:
                raise NothingToDoError("this is already the node's own disk", next_step=_NO_ACTION_NEEDED)
            sentence = f"Disk {view.disk_guid} was accepted in place of {state.disk_guid}."
            event = self._event(Code.DISK_ACCEPTED, None, sentence)
            accepted = replace(state, disk_guid=view.disk_guid, slots={}, pending=None)
            self._store.save(accepted.with_event(event))
            return str(view.disk_guid)

    def accept_clock(self) -> datetime:
        """Accept a clock that is behind the time at which the repository was signed; return the clock's time.

        The next check compares with what the repository's timestamp says then.

        Raises:
            NothingToDoError: the clock is not behind.
        """
        with self._session() as session:
            now, signed = self._clock(), session.state.signed_time
            if signed is None or signed <= now:
                message = "the clock is not behind the time at which the repository was signed"
                raise NothingToDoError(message, next_step=_NO_ACTION_NEEDED)
            sentence = f"The clock at {readable_time(now)} was accepted, behind {readable_time(signed)}."
            event = self._event(Code.CLOCK_ACCEPTED, None, sentence)
            session.save(replace(session.state, signed_time=now).with_event(event))
            return now

    def clear_denial(self, version: Version) -> None:
        """Remove ``version`` from the deny-list. Raises NothingToDoError if it is not on it."""
        with self._session() as session:
            if version not in session.state.denied:
                raise NothingToDoError(f"{version} is not on the deny-list")
            sentence = f"{version} was removed from the deny-list by an operator."
            event = self._event(Code.DENIAL_CLEARED, version, sentence)
            session.save(session.state.without_denial(version).with_event(event))

    # -- shared by all -----------------------------------------------------------------------------

    @contextmanager
    def _session(self, *, must_save: bool = True) -> Iterator[Session]:
        """Take the lock, read disk and state once, and record how the last restart ended.

        Args:
            must_save: False for a command whose work is in the partition table alone: it does not depend on
                whether the state can be locked, read or written (ADR 0004).

        Raises:
            BusyError: another updog is running.
            PreflightError: this is another disk than the node's own.
            MediumError, StateFormatError: the state cannot be read or written, and ``must_save`` is set.
        """
        with self._store.locked() if must_save else self._store.locked_if_possible():
            running = self._host.running()
            signpost = self._signpost(running)
            view = signpost.view()
            before = self._load_state(must_load=must_save)
            preflight.check_disk(view, before)
            state, standing = self._reconciler.reconcile(
                before, running, view, find_damage=damage_finder(self._medium)
            )
            session = Session(
                running=running,
                signpost=signpost,
                view=view,
                standing=standing,
                store=self._store,
                state=before,
                loaded=before,
                must_save=must_save,
            )
            session.save(state.with_running(running.slot, running.version))
            try:
                with closing(self._reporter):  # what was done is reported before its result, or its error
                    yield session
            finally:
                self._write_status_files(session)

    def _load_state(self, *, must_load: bool) -> NodeState:
        """Return the saved state, or an empty one where it cannot be read and need not be."""
        try:
            return self._store.load()
        except ToolError as error:
            if must_load:
                raise
            log.warning("going on without the recorded state: %s", error)
            return NodeState()

    def _write_status_files(self, session: Session) -> None:
        """Update the login message and the metrics; an error here does not fail the command."""
        if self._config.motd_file is None and self._config.metrics_file is None:
            return
        with suppress(ToolError):
            view = session.signpost.view()
            state, standing = self._reconciler.reconcile(
                session.state, session.running, view, find_damage=skip_damage
            )
            status = Status(running=session.running, view=view, state=state, standing=standing)
            status_files.post(self._config, status, self._daemon(), self._clock())

    def _repository(self, session: Session) -> Repository:
        """Return the repository, refreshed and verified. Imported late: status and apply need no TUF."""
        from updog.repository import Repository, http_settings

        repository = Repository(
            self._config,
            http_settings(self._config, session.running.version, variant=session.running.variant),
            medium=self._medium,
            now=self._clock(),
            latest_known=session.state.signed_time,
        )
        if repository.waived:
            until = readable_time(self._config.accept_expired_until or self._clock())
            sentence = f"Metadata are accepted until {until} although {', '.join(repository.waived)}."
            if all(event.sentence != sentence for event in session.state.history):  # recorded once
                event = self._event(Code.EXPIRED_ACCEPTED, None, sentence)
                session.save(session.state.with_event(event))
        return repository

    def _signpost(self, running: RunningSlot) -> Signpost:
        return Signpost(self._medium, running.disk, running.slot)

    def _event(
        self, code: Code, version: Version | None, sentence: str, *, cause: str | None = None
    ) -> Event:
        """Return the event of something that was asked for; what is only found has nobody who asked."""
        now = self._clock()
        return Event(time=now, code=code, version=version, sentence=sentence, cause=cause, by=self._by)


def _plan_id(repository: Repository, update: Update) -> str:
    """Return the id of what installing ``update`` puts into a slot: it names the signed images' hashes."""
    import hashlib
    import json

    images = {kind: repository.target(name).sha256 for kind, name in update.images.items()}
    named = {"variant": update.variant, "arch": update.arch, "version": str(update.version), "images": images}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
