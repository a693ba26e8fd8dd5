"""Work that clients ask for: one job at a time, done by a child, followed by its lines.

Rules:

* the same request as that of the running job returns that job; another one has to wait (there is no queue: a
  client that waits sees what the first job changed before it asks again);
* a job outlives the client, and the child outlives the daemon: the next daemon goes on to follow it;
* jobs are kept in a file that is forgotten at a restart of the machine; what is true of the node stands in
  its partition table and its state, not here.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from signpost.errors import ExitStatus
from signpost.text import line
from updog import status_files
from updog.daemon.api import problems
from updog.daemon.api.documents import UNREADABLE, Do, EventName, Job, JobState, Problem
from updog.daemon.api.tail import Tail
from updog.daemon.caller import described

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from updog.daemon.api.documents import By, JobRequest
    from updog.daemon.api.events import Events
    from updog.daemon.api.problems import ApiError
    from updog.daemon.children import Children

log = logging.getLogger(__name__)

KEPT = 32
KILL_SECONDS = 10.0
"""From the request to end a job to the kill of its process."""

_KIND = "api-job"
_LOOK_SECONDS = 0.25  # at most four progress events a second
_MAX_RESULT = 1 << 16  # bytes of the result that is kept


class Work(NamedTuple):
    """How a job is done: the words of the command, and the members of the request that it takes."""

    words: tuple[str, ...]
    takes: frozenset[str] = frozenset()


_LIMIT = frozenset({"version", "ignore_waves", "max_bytes"})
_DOWNLOAD = _LIMIT | {"limit_rate", "accept_plan"}

WORK: Mapping[Do, Work] = {
    Do.REFRESH: Work(("why",)),  # what it chooses is what the node would take by itself
    Do.PLAN: Work(("plan",), _LIMIT),
    Do.PREPARE: Work(("prepare",), _DOWNLOAD),
    Do.INSTALL: Work(("update-image",), _DOWNLOAD),
    Do.APPLY: Work(("update-apply",)),
    Do.REVERT: Work(("update-revert",)),
    Do.UPDATE: Work(("update",), _DOWNLOAD),
    Do.CONFIRM: Work(("confirm",)),
    Do.ROLLBACK: Work(("rollback",)),
    Do.VERIFY: Work(("verify",)),
    Do.REBOOT: Work(("agent", "restart")),
}


def words_of(request: JobRequest) -> tuple[str, ...]:
    """Return the command that does what is asked for. Raises ApiError for a member that it does not take."""
    work = WORK[request.do]
    options = {
        "version": request.version is not None and f"--image={request.version}",
        "ignore_waves": request.ignore_waves and "--ignore-waves",
        "max_bytes": request.max_bytes is not None and f"--max-bytes={request.max_bytes}",
        "limit_rate": request.limit_rate is not None and f"--limit-rate={request.limit_rate}",
        "accept_plan": request.accept_plan is not None and f"--accept-plan={request.accept_plan}",
    }
    given = {name: word for name, word in options.items() if word}
    if unknown := sorted(given.keys() - work.takes):
        raise problems.usage(f"a job `{request.do}` takes no {' and no '.join(unknown)}")
    return (*work.words, *given.values(), "--json")


class JobRunner:
    """Starts jobs, follows them and remembers them. Any thread may call.

    Args:
        children: do the work; the one for jobs is used here only.
        path: the file that keeps the jobs.
        events: gets what happens.
        is_busy: tells whether automatic work runs.
        on_end: is called with a job that has ended and its last document.
    """

    def __init__(
        self,
        children: Children,
        path: Path,
        events: Events,
        *,
        is_busy: Callable[[], bool],
        on_end: Callable[[Job, Mapping[str, Any]], None],
    ) -> None:
        self._children = children
        self._path = path
        self._events = events
        self._is_busy = is_busy
        self._on_end = on_end
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._jobs: dict[str, Job] = {}  # oldest first
        self._request: JobRequest | None = None  # of the running job
        self._cancelled = False
        self._load()

    # -- asked by clients

    def all(self) -> list[Job]:
        """Return the jobs that are kept, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, job_id: str) -> Job | None:
        """Return a job by its id; None if it is not known."""
        return self._jobs.get(job_id)

    @property
    def running(self) -> Job | None:
        """The job that runs, if one does."""
        with self._lock:
            last = next(reversed(self._jobs.values()), None)
        return last if last is not None and last.state is JobState.RUNNING else None

    @property
    def is_busy(self) -> bool:
        """Whether a job or automatic work runs."""
        return self._obstacle() is not None

    def wait(self, job_id: str, seconds: float) -> Job | None:
        """Return a job once it has ended; as it is then if that takes longer than ``seconds``."""
        with self._ended:
            self._ended.wait_for(lambda: self.running is None or self.running.id != job_id, seconds)
            return self._jobs.get(job_id)

    def start(self, request: JobRequest, by: By) -> tuple[Job, bool]:
        """Start a job; return it, and whether it is new: the same request may run already.

        Raises:
            ApiError: it takes no such members, or other work runs.
        """
        words = words_of(request)
        with self._lock:
            running = self.running
            if running is not None and request == self._request:
                return running, False
            if obstacle := self._obstacle():
                raise obstacle
            who = described(by.uid, by.pid)
            log.info("job %s, asked for by %s", request.do.value, who)
            try:
                self._children.start(_KIND, words, environment={"UPDOG_BY": who})
            except OSError as error:
                raise problems.of_document({}, f"cannot start the job: {error.strerror}") from error
            job = Job(
                id=secrets.token_hex(8),
                do=request.do,
                state=JobState.RUNNING,
                started=datetime.now(UTC),
                by=by,
                pid=self._children.pid(_KIND),
                version=request.version,
            )
            self._request, self._cancelled = request, False
            self._keep(job)
        threading.Thread(target=self._follow, args=(job,), name=f"job-{job.id}", daemon=True).start()
        return job, True

    def _obstacle(self) -> ApiError | None:
        """Return why no job can be started now; None if one can."""
        running = self.running
        if running is not None:
            step = f"Wait for its end: GET /v1/jobs/{running.id}, or /v1/events."
            return problems.busy(f"a job `{running.do}` runs", step)
        if self._is_busy():
            step = "Wait for its end: GET /v1/status, or /v1/events."
            return problems.busy("the agent is at work by itself", step)
        if self._children.has_orphans((_KIND,)):
            return problems.busy("a job of an earlier agent runs", "Wait for its end.")
        return None

    def cancel(self, job_id: str) -> Job | None:
        """Tell a job to end; return it, None if it is not known. One that has ended stays as it is."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state is not JobState.RUNNING:
                return job
            self._cancelled = True
            _signal(job.pid, signal.SIGTERM)
        timer = threading.Timer(KILL_SECONDS, self._kill, (job.id,))
        timer.daemon = True
        timer.start()
        return job

    def _kill(self, job_id: str) -> None:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.state is JobState.RUNNING:
                _signal(job.pid, signal.SIGKILL)

    # -- following

    def _follow(self, job: Job) -> None:
        """Turn the lines of a child into events until it has ended."""
        tail = Tail(self._children.output(_KIND))
        while not self._children.has_ended(_KIND):
            time.sleep(_LOOK_SECONDS)
            self._report(job.id, tail.lines())
        self._report(job.id, tail.lines())
        ended = self._children.wait(_KIND)
        self._end(job.id, ended.status, ended.document)

    def _follow_orphan(self, job: Job) -> None:
        """Follow the child of an earlier daemon: often only its last line is known, not its exit status."""
        tail = Tail(self._children.output(_KIND))
        while self._children.has_orphans((_KIND,)):
            time.sleep(_LOOK_SECONDS)
            self._report(job.id, tail.lines())
        self._report(job.id, tail.lines())
        self._end(job.id, _reaped(job.pid), self._children.last_document(_KIND))

    def _report(self, job_id: str, lines: list[dict[str, Any]]) -> None:
        """Tell what is new, and remember it with the job."""
        news = tell(self._events, lines, job_id)
        with self._lock:
            self._jobs[job_id] = msgspec.structs.replace(self._jobs[job_id], **news)

    def _end(self, job_id: str, status: int | None, last: Mapping[str, Any]) -> None:
        is_unfinished = last.get("event") in {EventName.STEP, EventName.PROGRESS}  # it was killed
        document = {} if is_unfinished else dict(last)
        error = _problem_in(document)
        with self._lock:
            job = self._jobs[job_id]
            job = msgspec.structs.replace(
                job,
                state=_state(status, document, is_cancelled=self._cancelled),
                ended=max(datetime.now(UTC), job.started),
                version=_version_in(document) or job.version,
                exit_status=status,
                error=error,
                result=None if error else _short(job.do, document),
                step=None,
                eta=None,
            )
        try:
            self._on_end(job, document)
        except Exception:  # whatever it is, the job has ended
            log.exception("after the end of a job")
        with self._lock:
            self._request = None
            self._keep(job)
            self._ended.notify_all()
        log.info("job %s %s", job.do.value, job.state.value)

    # -- keeping

    def _keep(self, job: Job) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > KEPT:
            del self._jobs[next(iter(self._jobs))]
        self._events.add(EventName.JOB, job)
        status_files.replace(self._path, msgspec.json.encode(list(self._jobs.values())), mode=0o600)

    def _load(self) -> None:
        """Read the jobs of an earlier daemon; one that runs is followed, or lost if it is gone."""
        try:
            jobs = msgspec.json.decode(self._path.read_bytes(), type=list[Job])
        except FileNotFoundError:
            return
        except (OSError, *UNREADABLE) as error:
            log.warning("cannot read %s: %s", self._path, error)
            return
        self._jobs = {job.id: job for job in jobs[-KEPT:]}
        job = self.running
        if job is not None:
            threading.Thread(
                target=self._follow_orphan, args=(job,), name=f"job-{job.id}", daemon=True
            ).start()


def tell(events: Events, lines: Sequence[Mapping[str, Any]], job_id: str | None) -> dict[str, Any]:
    """Tell of steps, and of the last progress of each phase; return what is new of the job, by its members.

    Args:
        events: get what is told.
        lines: of a command's output (docs/reference/events.md).
        job_id: of the job; None: automatic work.
    """
    now: dict[str, Any] = {}
    progress: dict[Any, Mapping[str, Any]] = {}
    for each in lines:
        if each.get("event") == EventName.STEP:
            now["step"] = line(str(each.get("sentence", "")))
            events.add(EventName.STEP, {"job": job_id, **each})
        elif each.get("event") == EventName.PROGRESS:
            progress[each.get("phase")] = each
    for each in progress.values():
        now |= {name: each.get(name) for name in ("phase", "done", "total", "rate", "eta")}
        events.add(EventName.PROGRESS, {"job": job_id, **each})
    return now


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(OSError):
        os.kill(pid, number)


def _reaped(pid: int) -> int | None:
    """Return the exit status of an ended process; None if it is not a child of this one.

    It is one where the daemon has started itself again with a new configuration.
    """
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _state(status: int | None, document: Mapping[str, Any], *, is_cancelled: bool) -> JobState:
    is_good = status in {ExitStatus.DONE, ExitStatus.NOTHING_TO_DO}
    if is_good:
        return JobState.SUCCEEDED
    if is_cancelled:
        return JobState.CANCELLED
    if status is None and "error" not in document:
        return JobState.SUCCEEDED if document else JobState.LOST
    return JobState.FAILED


def _problem_in(document: Mapping[str, Any]) -> Problem | None:
    if "error" not in document:
        return None
    error = problems.of_document(document, "")
    return Problem(
        code=error.code, message=error.message, next_step=error.next_step, status=int(error.status)
    )


def _version_in(document: Mapping[str, Any]) -> str | None:
    version = document.get("version") or document.get("chosen")
    return line(version) if isinstance(version, str) else None


def _short(do: Do, document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the last document of a child, without what is to be had elsewhere and may be long."""
    if do is Do.REFRESH:
        document = {name: document.get(name) for name in ("summary", "chosen")}
    return document if document and len(msgspec.json.encode(document)) <= _MAX_RESULT else None
