"""Bottlerocket's paths, as its apiclient and its Kubernetes operator expect them.

Facts: the apiserver of bottlerocket-core-kit (sources/api/apiserver, thar-be-updates). Errors are text. What
differs cannot be seen by a client: the state is derived from the partition table and the state of updog, so
that Staged and Ready are still true after a restart of the daemon or the machine.
"""

from __future__ import annotations

import platform
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

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
from updog.daemon.api.exchange import Request, Response, json_response
from updog.daemon.api.problems import ApiError
from updog.daemon.facts import CheckFacts
from updog.os_release import parse_os_release
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from updog.daemon.api.documents import Decision, Job
    from updog.daemon.api.v1 import Node, Params

LOCK_HELD = "Update lock held"
NOT_ALLOWED = "Update action not allowed according to update state"
GONE = "Previously chosen Update no longer exists"
NOTHING_STAGED = "No update image applied to staging partition"
UNINITIALIZED = "Update status is uninitialized, refresh-updates to initialize it"

_COMMANDS: Mapping[Do, Literal["refresh", "prepare", "activate", "deactivate"]] = {
    Do.REFRESH: "refresh",
    Do.INSTALL: "prepare",
    Do.APPLY: "activate",
    Do.UPDATE: "activate",
    Do.REVERT: "deactivate",
}
_REBOOT_SECONDS = 600.0


def refresh(node: Node, request: Request, params: Params) -> Response:
    """Ask the repository."""
    del params
    return _start(node, request, JobRequest(do=Do.REFRESH))


def prepare(node: Node, request: Request, params: Params) -> Response:
    """Install the chosen update of the last refresh."""
    del params
    _refuse_while_busy(node)
    status = _status(node)
    if status.update_state not in {"Available", "Staged"}:
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    if status.chosen_update is None:
        raise _text_error(HTTPStatus.NOT_FOUND, GONE)
    return _start(node, request, JobRequest(do=Do.INSTALL, version=status.chosen_update.version))


def activate(node: Node, request: Request, params: Params) -> Response:
    """Let the staged update boot next."""
    del params
    _refuse_while_busy(node)
    if _status(node).update_state != "Staged":
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    return _start(node, request, JobRequest(do=Do.APPLY))


def deactivate(node: Node, request: Request, params: Params) -> Response:
    """Let the running system boot next again."""
    del params
    _refuse_while_busy(node)
    if _status(node).update_state != "Ready":
        raise _text_error(HTTPStatus.CONFLICT, NOT_ALLOWED)
    return _start(node, request, JobRequest(do=Do.REVERT))


def reboot(node: Node, request: Request, params: Params) -> Response:
    """Restart the machine; answered once the restart was ordered."""
    del params
    _refuse_while_busy(node)
    job, _ = v1.start(node, request, JobRequest(do=Do.REBOOT))
    ended = node.jobs.wait(job.id, _REBOOT_SECONDS)
    if ended is None or ended.state is not JobState.SUCCEEDED:
        said = ended.error.message if ended and ended.error else "it did not end"
        raise _text_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"Failed to reboot: {said}")
    return Response(http=HTTPStatus.NO_CONTENT)


def update_status(node: Node, request: Request, params: Params) -> Response:
    """Tell how the update stands; while a job runs, that the lock is held."""
    del request, params
    _refuse_while_busy(node)
    return json_response(_status(node))


def os_fields(node: Node, request: Request, params: Params) -> Response:
    """Tell what runs: fields of os-release."""
    del request, params
    fields = parse_os_release(_os_release(node.os_release))
    named = {name: line(fields.get(name.upper(), "")) for name in Os.__struct_fields__ if name != "arch"}
    return json_response(Os(arch=platform.machine(), **named))


def _os_release(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _text_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{path}: {error.strerror}") from error


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


def _refuse_while_busy(node: Node) -> None:
    if node.jobs.is_busy:
        raise _text_error(HTTPStatus.LOCKED, LOCK_HELD)


def _text_error(http: HTTPStatus, text: str) -> ApiError:
    return ApiError(http=http, code="bottlerocket", message=text)


def _status(node: Node) -> UpdateStatus:
    """Return the status. Raises ApiError, also where the repository was never asked."""
    decision = node.reader.decision()
    if decision is None:
        raise _text_error(HTTPStatus.NOT_FOUND, UNINITIALIZED)
    last = next((job for job in node.jobs.all() if job.do in _COMMANDS), None)
    return status_of(node.reader.status(), decision, last, arch=node.arch)


def status_of(status: Mapping[str, Any], decision: Decision, last: Job | None, *, arch: str) -> UpdateStatus:
    """Return Bottlerocket's status. PURE.

    Args:
        status: the document of `updog status --json`.
        decision: what the last check found.
        last: the last job that is one of Bottlerocket's commands; None: none is known since the restart.
        arch: of the node.
    """
    variant, standing = status["running"]["variant"], Standing(status["standing"])
    facts = CheckFacts.of(
        {"summary": decision.summary, "chosen": decision.update, "releases": decision.verdicts}
    )
    is_staged, is_ready = standing is Standing.STAGED, standing is Standing.WAITING
    chosen = decision.update if standing is not Standing.TRIAL else None
    other = status["pending"] if is_staged or is_ready else None
    if standing is Standing.TRIAL and status["pending"]:
        other = {"version": status["pending"]["previous"]}

    def image(version: str) -> UpdateImage:
        return UpdateImage(arch=arch, version=version, variant=variant)

    return UpdateStatus(
        update_state="Ready" if is_ready else "Staged" if is_staged else "Available" if chosen else "Idle",
        available_updates=[str(version) for version in sorted(facts.offered, reverse=True)],
        chosen_update=image(chosen) if chosen else None,
        active_partition=Partition(image=image(status["running"]["version"]), next_to_boot=not is_ready),
        staging_partition=Partition(image=image(other["version"]), next_to_boot=is_ready) if other else None,
        most_recent_command=_command(last, decision),
    )


def _command(last: Job | None, decision: Decision) -> CommandResult:
    if last is None:
        return CommandResult(
            cmd_type="refresh", cmd_status="Success", timestamp=decision.checked_at, exit_status=0, stderr=""
        )
    is_known = last.exit_status is not None
    is_good = last.state is JobState.SUCCEEDED
    return CommandResult(
        cmd_type=_COMMANDS[last.do],
        cmd_status="Success" if is_good else "Failed" if is_known else "Unknown",
        timestamp=last.ended or last.started,
        exit_status=0 if is_good else abs(last.exit_status or 1),  # a signal by its number
        stderr=last.error.message if last.error else "",
    )
