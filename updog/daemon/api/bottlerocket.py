"""Bottlerocket's paths, as its apiclient and its Kubernetes operator expect them.

Facts: sources/api/{apiserver,thar-be-updates,apiclient} of bottlerocket-core-kit, agent/src/apiclient.rs of
bottlerocket-update-operator. Rules:

* documents are compact, errors are text, and neither ends with a line break;
* a command is answered when it has begun. While it runs the status is locked (423), which clients take as
  "wait"; afterwards the status says how it ended;
* what is not seen by a client: the state is derived from the partition table and the state of updog, so that
  Staged and Ready are still true after a restart of the daemon or the machine; and the version that the last
  refresh chose is installed, or none. It is gone once it runs, or failed here, or is no longer offered;
* a `deactivate` is told for :data:`DEACTIVATED_SECONDS`: apiclient waits for that word, and the operator's
  agent cannot read it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from signpost.errors import ExitStatus
from signpost.text import line
from updog.daemon.api import v1
from updog.daemon.api.documents import (
    CommandResult,
    Do,
    JobRequest,
    JobState,
    Os,
    Partition,
    UpdateImage,
    UpdateStatus,
)
from updog.daemon.api.exchange import Request, Response
from updog.daemon.api.problems import ApiError
from updog.daemon.facts import CheckFacts
from updog.os_release import parse_os_release
from updog.standing import Standing
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from updog.daemon.api.documents import Decision, Job
    from updog.daemon.api.v1 import Node, Params

LOCK_HELD = "Update lock held"
STATUS_LOCKED = (
    "Unable to obtain shared lock for reading update status: "
    f"{os.strerror(errno.EAGAIN)} (os error {errno.EAGAIN})"
)
NOT_ALLOWED = "Update action not allowed according to update state"
GONE = "Previously chosen Update no longer exists"
UNINITIALIZED = "Update status is uninitialized, refresh-updates to initialize it"

DEACTIVATED_SECONDS = 60.0
"""apiclient asks fifty times, every 100 ms."""

_REBOOT_SECONDS = 600.0
_COMMANDS: Mapping[Do, Literal["refresh", "prepare", "activate", "deactivate"]] = {
    Do.REFRESH: "refresh",
    Do.INSTALL: "prepare",
    Do.APPLY: "activate",
    Do.UPDATE: "activate",
    Do.REVERT: "deactivate",
}
_NOT_OPEN = {"waiting", "floor", "denied"}  # of updog.select.VerdictCode, which takes memory


def refresh(node: Node, request: Request, params: Params) -> Response:
    """Ask the repository."""
    del params
    return _start(node, request, JobRequest(do=Do.REFRESH))


def prepare(node: Node, request: Request, params: Params) -> Response:
    """Install the chosen update of the last refresh."""
    del params
    view = _view(node)
    if view.state not in {"Available", "Staged"} and not view.is_taken_back:
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    if view.chosen is None:
        raise _text_error(HTTPStatus.NOT_FOUND, GONE)
    return _start(node, request, JobRequest(do=Do.INSTALL, version=view.chosen))


def activate(node: Node, request: Request, params: Params) -> Response:
    """Let the staged update boot next."""
    del params
    if _view(node).state != "Staged":
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    return _start(node, request, JobRequest(do=Do.APPLY))


def deactivate(node: Node, request: Request, params: Params) -> Response:
    """Let the running system boot next again."""
    del params
    if _view(node).state != "Ready":
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    return _start(node, request, JobRequest(do=Do.REVERT))


def reboot(node: Node, request: Request, params: Params) -> Response:
    """Restart the machine; answered once the restart was ordered."""
    del params
    _refuse_while_busy(node)
    job, _ = v1.start(node, request, JobRequest(do=Do.REBOOT))
    ended = node.jobs.wait(job.id, _REBOOT_SECONDS)
    if ended is None or ended.state is not JobState.SUCCEEDED:
        status, said = (_exit_status(ended), _said(ended)) if ended else (1, "the job is not known any more")
        raise _text_error(
            HTTPStatus.INTERNAL_SERVER_ERROR, f"Failed to reboot, exit code: {status}, stderr: {said}"
        )
    return Response(http=HTTPStatus.NO_CONTENT)


def update_status(node: Node, request: Request, params: Params) -> Response:
    """Tell how the update stands; while a job runs, that the status is locked."""
    del request, params
    status = _view(node, locked=STATUS_LOCKED).status(node.arch)
    if status is None:
        raise _text_error(HTTPStatus.NOT_FOUND, UNINITIALIZED)
    return _answer(status)


def os_fields(node: Node, request: Request, params: Params) -> Response:
    """Tell what runs."""
    del request, params
    variant, version = node.reader.running_release()  # as updog reads them: without a `v`, or by updog.toml
    fields = parse_os_release(_os_release(node.os_release))
    named = {name: line(fields.get(name.upper(), "")) for name in ("build_id", "pretty_name")}
    return _answer(Os(arch=node.arch, variant_id=variant, version_id=version, **named))


def _os_release(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _text_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{path}: {error.strerror}") from error


def _answer(document: object) -> Response:
    return Response(body=msgspec.json.encode(document))


def _start(node: Node, request: Request, wanted: JobRequest) -> Response:
    _refuse_while_busy(node)
    try:
        v1.start(node, request, wanted)
    except ApiError as error:
        if error.status is ExitStatus.BUSY:
            raise _text_error(HTTPStatus.LOCKED, LOCK_HELD) from error
        if error.http is HTTPStatus.CONFLICT:
            raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED) from error
        raise
    return Response(http=HTTPStatus.NO_CONTENT)


def _refuse_while_busy(node: Node, text: str = LOCK_HELD) -> None:
    if node.jobs.is_busy:
        raise _text_error(HTTPStatus.LOCKED, text)


def _text_error(http: HTTPStatus, text: str) -> ApiError:
    return ApiError(http=http, code="bottlerocket", message=text)


# -- the status


def _view(node: Node, *, locked: str = LOCK_HELD) -> UpdateView:
    """Return how the node stands. Raises ApiError, with the text ``locked`` while work is done."""
    _refuse_while_busy(node, locked)
    return UpdateView(
        node=node.reader.status(),
        decision=node.reader.decision(),
        jobs=node.jobs.all(),
        now=datetime.now(UTC),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateView:
    """How a node stands in Bottlerocket's words. PURE.

    Attributes:
        node: the document of `updog status --json`.
        decision: what the last refresh found; None: there was none since the installation.
        jobs: those that are kept, newest first.
        now: the time, UTC.
    """

    node: Mapping[str, Any]
    decision: Decision | None
    jobs: Sequence[Job]
    now: datetime

    @property
    def state(self) -> Literal["Idle", "Available", "Staged", "Ready"]:
        """The state by which commands are allowed."""
        if self._standing is Standing.WAITING:
            return "Ready"
        if self._standing is Standing.STAGED:
            return "Staged"
        return "Available" if self.chosen else "Idle"

    @property
    def chosen(self) -> str | None:
        """The version that a prepare installs."""
        chosen = self._chosen_by_refresh
        return None if chosen is None or self.is_taken_back else str(chosen)

    @property
    def is_taken_back(self) -> bool:
        """Whether the last prepare found that what the refresh chose is no longer offered."""
        chosen = self._chosen_by_refresh
        return chosen is not None and any(
            job.do is Do.INSTALL
            and job.exit_status == ExitStatus.NOTHING_TO_DO
            and job.version == str(chosen)
            and self.decision is not None
            and job.started >= self.decision.checked_at
            for job in self.jobs
        )

    def status(self, arch: str) -> UpdateStatus | None:
        """Return the status of a node of this architecture; None before the first command."""
        command = self._last_command()
        if command is None:
            return None
        running, standing = self.node["running"], self._standing
        pending = self.node["pending"] or {}
        other = {
            Standing.STAGED: pending.get("version"),
            Standing.WAITING: pending.get("version"),
            Standing.TRIAL: pending.get("previous"),
        }.get(standing)

        def image(version: str) -> UpdateImage:
            return UpdateImage(arch=arch, version=version, variant=running["variant"])

        is_active_next = self.node["next"] == running["slot"]
        is_other_next = self.node["next"] is not None and not is_active_next
        return UpdateStatus(
            update_state=self.state,
            available_updates=[str(version) for version in sorted(self._open(), reverse=True)],
            chosen_update=image(self.chosen) if self.chosen else None,
            active_partition=Partition(image=image(running["version"]), next_to_boot=is_active_next),
            staging_partition=Partition(image=image(other), next_to_boot=is_other_next) if other else None,
            most_recent_command=command,
        )

    @property
    def _standing(self) -> Standing:
        return Standing(self.node["standing"])

    @property
    def _chosen_by_refresh(self) -> Version | None:
        """What the last refresh chose, unless it runs or has failed on this node since then."""
        decision = self.decision
        if decision is None or decision.update is None or self._standing is Standing.TRIAL:
            return None
        chosen = Version.parse(decision.update)
        has_failed = any(
            Version.parse(denied["version"]) == chosen
            and parse_time(denied["cause"]["time"]) > decision.checked_at
            for denied in self.node["denied"]
        )
        is_running = chosen == Version.parse(self.node["running"]["version"])
        return None if has_failed or is_running else chosen

    def _open(self) -> set[Version]:
        """Return the versions that are open to this node, older ones too."""
        if self.decision is None:
            return set()
        decision = self.decision
        facts = CheckFacts.of(
            {"summary": decision.summary, "chosen": decision.update, "releases": decision.verdicts}
        )
        closed = {each["version"] for each in decision.verdicts if each["verdict"] in _NOT_OPEN}
        return {version for version in facts.offered if str(version) not in closed}

    def _last_command(self) -> CommandResult | None:
        """Return the last command that ended; after a restart, the refresh that is remembered."""
        for job in self.jobs:
            age = self.now - (job.ended or job.started)
            is_told = job.do is not Do.REVERT or age.total_seconds() < DEACTIVATED_SECONDS
            if job.do in _COMMANDS and job.state is not JobState.RUNNING and is_told:
                return _result(job)
        if self.decision is None:
            return None
        return CommandResult(
            cmd_type="refresh",
            cmd_status="Success",
            timestamp=self.decision.checked_at,
            exit_status=0,
            stderr="",
        )


def _result(job: Job) -> CommandResult:
    is_good = job.state is JobState.SUCCEEDED and job.error is None  # a prepare of nothing is none
    return CommandResult(
        cmd_type=_COMMANDS[job.do],
        cmd_status="Success" if is_good else "Unknown" if job.state is JobState.LOST else "Failed",
        timestamp=job.ended or job.started,
        exit_status=0 if is_good else _exit_status(job),
        stderr="" if is_good else _said(job),
    )


def _exit_status(job: Job) -> int:
    """Return the status of a failed job, above 0; of one that was killed, the number of the signal."""
    return abs(job.exit_status or 1)


def _said(job: Job) -> str:
    return job.error.message if job.error else f"the job is {job.state}"
