"""What the API sends and receives: the names and types of all members.

The OpenAPI document is made of these types, and requests are parsed by them: an unknown member, or a value of
another type, is refused. Times are RFC 3339, UTC; sizes are bytes, rates bytes per second.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

# msgspec reads these annotations when the program runs, so their names cannot be imported for types only.

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not such a document."""

Json = dict[str, Any]
"""An object whose members another reference page describes."""


Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 with a time zone."""


def _doc(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Document(msgspec.Struct, kw_only=True):
    """An answer."""


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""


# -- jobs


class Do(StrEnum):
    """What a job does, by the command of the same meaning."""

    REFRESH = "refresh"
    PLAN = "plan"
    PREPARE = "prepare"
    INSTALL = "install"
    APPLY = "apply"
    REVERT = "revert"
    UPDATE = "update"
    CONFIRM = "confirm"
    ROLLBACK = "rollback"
    VERIFY = "verify"
    REBOOT = "reboot"


class JobState(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


_Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
_END = r"$(?!\n)"  # in Python $ is also before a last line break
_VersionText = Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z.+-]{1,128}" + _END)]


class JobRequest(Body):
    """A job to start. Members that its work does not take are refused."""

    do: Do
    version: Annotated[_VersionText | None, _doc("exactly this version")] = None
    ignore_waves: Annotated[bool, _doc("do not wait for this node's wave")] = False
    max_bytes: Annotated[_Positive | None, _doc("refuse an update that downloads more")] = None
    limit_rate: Annotated[_Positive | None, _doc("download at most so many bytes per second")] = None
    accept_plan: Annotated[
        Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}" + _END)] | None,
        _doc("the `id` of a plan: anything else is refused with code plan-changed"),
    ] = None


class By(Document):
    """Who asked: by the kernel's word, not the client's."""

    uid: int
    gid: int
    pid: int
    comm: Annotated[str, _doc("name of the process; empty if it was gone")]


class Problem(Document):
    """An error, as the command line prints it with `--json`."""

    code: Annotated[str, _doc("stable name, as the command line has it")]
    message: str
    next_step: str
    status: Annotated[int, _doc("exit status of the command")]


class ErrorDocument(Document):
    """Any answer that is not a success."""

    error: Problem


class Job(Document):
    """A job, also after its end. The last ones are kept until the machine restarts."""

    id: str
    do: Do
    state: JobState
    started: Time
    by: By
    pid: Annotated[int, _doc("process of the work")]
    ended: Time | None = None
    version: Annotated[str | None, _doc("what was asked for, then what was chosen")] = None
    step: Annotated[str | None, _doc("what happens now, in words")] = None
    phase: Annotated[str | None, _doc("such as `write root`")] = None
    done: Annotated[int | None, _doc("bytes of the phase so far")] = None
    total: Annotated[int | None, _doc("bytes of the phase")] = None
    rate: Annotated[float | None, _doc("bytes per second")] = None
    eta: Annotated[float | None, _doc("seconds left of the phase")] = None
    exit_status: Annotated[int | None, _doc("0 done, 3 nothing to do; null: not known")] = None
    error: Problem | None = None
    result: Annotated[Json | None, _doc("last document of the command")] = None


class Jobs(Document):
    """The jobs that are kept, newest first."""

    jobs: list[Job]


# -- the node


class Index(Document):
    """What the API is, and where things are."""

    api: Annotated[int, _doc("version of the paths: /v1")]
    updog: Annotated[str, _doc("version of updog")]
    links: dict[str, str]


class Status(Document):
    """The document of `updog status --json` with three members more."""

    running: Json
    disk: Json
    slots: dict[str, Json]
    next: str | None
    standing: Annotated[str, _doc("of the pending update")]
    pending: Json | None
    denied: list[Json]
    last_rollback: Json | None
    last_event: Json | None
    confirmed_at: str | None
    checked_at: Annotated[str | None, _doc("when a repository was last verified")]
    check: Annotated[Json | None, _doc("how the last check ended")]
    available: Annotated[str | None, _doc("what the last check that succeeded found for this node")]
    outcomes_unsent: int
    auto: Annotated[Json | None, _doc("`updog agent status --json`, without `events`: the history has them")]
    job: Annotated[Job | None, _doc("the job that runs")]
    api_revision: Annotated[str, _doc("changes with the document; also the ETag")]


class Decision(Document):
    """What the last check found."""

    checked_at: Time
    summary: str
    update: Annotated[str | None, _doc("the version that was chosen for this node")]
    verdicts: Annotated[list[Json], _doc("`releases` of `updog why --json`")]


class History(Document):
    """Events of the node, oldest first."""

    events: list[Json]
    last: Annotated[str | None, _doc("`id` of the last event: ask with `after` for those that follow")]
    gap: Annotated[bool, _doc("the event of `after` is no longer kept: events can be missing")]


class Setting(Document):
    """One key of the effective configuration, without secrets."""

    name: str
    value: Any
    is_from_file: bool


class Settings(Document):
    """The effective configuration."""

    path: str
    settings: list[Setting]


# -- automatic updates


class Permit(Body):
    """Updates may install and restart until a time."""

    until: Time
    even_frozen: bool = False
    without_lock: bool = False


class Postpone(Body):
    """No restart before a time, at most seven days from now."""

    until: Time


class Hold(Body):
    """Nothing is installed or restarted until the hold is deleted."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Asked(Document):
    """What an operator asks for now."""

    sentence: str


# -- events


class EventName(StrEnum):
    """What an event of the stream tells; its `data` is the document of that kind."""

    STATE = "state"
    JOB = "job"
    STEP = "step"
    PROGRESS = "progress"
    HISTORY = "history"
    AUTO = "auto"
    GAP = "gap"


class StreamEvent(Document):
    """A line of the event stream as NDJSON; server-sent events have the same members as fields."""

    id: Annotated[str, _doc("for Last-Event-ID")]
    event: EventName
    data: Json | msgspec.Raw


# -- Bottlerocket's


class UpdateImage(Document):
    """A release, as Bottlerocket names it."""

    arch: str
    version: str
    variant: str


class Partition(Document):
    """A set of partitions and what is in it."""

    image: UpdateImage
    next_to_boot: bool


class CommandResult(Document):
    """How the last command ended."""

    cmd_type: Literal["refresh", "prepare", "activate", "deactivate"]
    cmd_status: Literal["Success", "Failed", "Unknown"]
    timestamp: Time
    exit_status: Annotated[int, msgspec.Meta(ge=0)]
    stderr: str


class UpdateStatus(Document):
    """Bottlerocket's `GET /updates/status`."""

    update_state: Literal["Idle", "Available", "Staged", "Ready"]
    available_updates: list[str]
    chosen_update: UpdateImage | None
    active_partition: Partition
    staging_partition: Partition | None
    most_recent_command: CommandResult


class Os(Document):
    """Bottlerocket's `GET /os`: fields of os-release."""

    arch: str
    build_id: str
    pretty_name: str
    variant_id: str
    version_id: str
