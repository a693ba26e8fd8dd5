"""Every error of the node's agent, each with its exit status and its next step.

Three families, by what the operator has to do: the repository cannot be reached (5), something was
refused to protect the node (4), and the rest (1 or 2). Busy is 75 everywhere.
"""

from __future__ import annotations

from signpost.errors import ExitStatus, ToolError, UsageError


class ConfigError(UsageError):
    """The configuration file is missing, unreadable or has faults (all of them are listed)."""

    code = "config"
    default_next_step = "Correct the file; docs/reference/updog.toml.md lists every key."


class HostError(ToolError):
    """The running system does not say which version or slot it is."""

    code = "host"
    default_next_step = "Check os_release and boot_record in the configuration, or pass --active."


class BusyError(ToolError):
    """Another updog holds the node's lock."""

    status = ExitStatus.BUSY
    code = "busy"
    default_next_step = "Wait for it to end; `updog status` works meanwhile."


class NothingToDoError(ToolError):
    """There is no update to take, or nothing staged to act on; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`updog why` says what each release waits for."


class UnreachableError(ToolError):
    """The repository or a part of it could not be had."""

    status = ExitStatus.UNREACHABLE
    code = "unreachable"
    default_next_step = "Check network, proxy and configured URLs; the running system is untouched."


class HttpStatusError(UnreachableError):
    """The server answered with an HTTP error status.

    Attributes:
        http_status: the answer's status code.
    """

    code = "http-status"

    def __init__(self, url: str, http_status: int) -> None:
        super().__init__(f"{url} answered HTTP {http_status}")
        self.http_status = http_status


class RefusedError(ToolError):
    """Something was refused to protect the node."""

    status = ExitStatus.REFUSED
    code = "refused"
    default_next_step = "Nothing was marked valid; the running slot is untouched."


class TrustError(RefusedError):
    """The repository's metadata does not verify."""

    code = "untrusted"
    default_next_step = "Tell whoever publishes this repository; the node keeps what it runs."


class ExpiredError(TrustError):
    """Correctly signed metadata, too old to be believed (a freeze attack looks the same)."""

    code = "expired"
    default_next_step = (
        "Check the node's clock; if it is right, the publisher must `repo-tools refresh`. Behind an air gap "
        "`updog --accept-expired-until TIME` is the explicit way past it."
    )


class RollbackError(TrustError):
    """The repository offers older metadata than this node has already seen."""

    code = "rollback"


class SignatureError(TrustError):
    """Too few valid signatures for the role's threshold."""

    code = "signature"


class DigestError(RefusedError):
    """Bytes differ in length or SHA-256 from what was signed."""

    code = "digest"
    default_next_step = "Try again or another mirror; the slot was not marked valid."


class EndlessDataError(DigestError):
    """A download went on past its signed length and was cut off."""

    code = "endless-data"


class MissingTargetError(TrustError):
    """The manifest names a file that the signed targets metadata does not list."""

    code = "missing-target"


class ImageError(RefusedError):
    """An image is not a well-formed compressed stream, or does not fit."""

    code = "image"


class IndexFormatError(ImageError):
    """A chunk index or a delta is not what its format says; nothing was fetched or written by it."""

    code = "index"
    default_next_step = "Tell whoever publishes this repository; an update without it is still possible."


class ReadBackError(RefusedError):
    """The medium returns other bytes than were written."""

    code = "read-back"
    default_next_step = "The disk is not to be trusted: check its health (SMART) before the next try."


class PreflightError(RefusedError):
    """Something stands in the way of writing; nothing was written."""

    code = "preflight"


class TooManyBytesError(PreflightError):
    """The update takes more from the network than may be fetched; nothing was written by the plan."""

    code = "too-many-bytes"
    default_next_step = "Allow more with --max-bytes; `updog plan` says what it takes."


class UnconfirmedSlotError(PreflightError):
    """The running slot is not confirmed yet, so the other one is the only way back."""

    code = "unconfirmed"
    default_next_step = "Run `updog confirm` first; it marks this boot good or falls back."


class DeniedVersionError(RefusedError):
    """This version fell back on this node before."""

    code = "denied"
    default_next_step = "Wait for a newer version, or mend the cause and `updog deny-list --clear VERSION`."


class HealthError(RefusedError):
    """A required health check failed; the node falls back."""

    code = "unhealthy"
    default_next_step = "Reboot to come up on the previous slot; `updog history` keeps the cause."


class DrillFileError(UsageError):
    """A drill's file has faults (all of them are listed), or there is no such drill."""

    code = "drill-file"
    default_next_step = "`updog drill list` shows the drills; docs/how-to/drill.md says how to write one."


class DrillFailedError(ToolError):
    """A drill did not end as its file says it must."""

    code = "drill-failed"
    default_next_step = "Read the console log of the drill that failed; its node is kept beside it."


class DrillSkippedError(ToolError):
    """A drill cannot be played with what there is."""

    status = ExitStatus.NOTHING_TO_DO
    code = "drill-skipped"
    default_next_step = "Give it what it needs: `updog drill list` says which releases."


class NoWayBackError(HealthError):
    """A required health check failed, and the other slot cannot take over; the node stays as it is."""

    code = "no-way-back"
    default_next_step = "Do not restart: mend what the check complains of and run `updog confirm` again."
